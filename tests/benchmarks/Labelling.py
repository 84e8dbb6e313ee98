"""How many labels `label` saves: simulated with the true labels of photographs as the answers.

    python -m tests.benchmarks.Labelling --data ../shared/data/clothing [--output output] [--seeds 5]

Training images are labelled in the order in which `label` shows them, or in a random one, and heads are scored on the
validation and test splits, of which nothing is learned. The labels that `label` spends on its random sample count,
although no head learns from them. Two heads:

    label       the head of `label`, which uses the unlabelled pictures as well
    logistic    logistic regression on the labels alone, as training does

A figure is the number of labels from which on the accuracy, averaged over three evaluations in a row, has reached a
goal: mean over the seeds, with the 95 % interval of the mean (Student's t).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from MLPipeline.commands.LabelImages import NETWORK
from MLPipeline.console.Console import progress
from MLPipeline.Device import choose_device
from MLPipeline.Features import extract
from MLPipeline.images.ListImages import index_images
from MLPipeline.images.ScanFolders import TRAIN
from MLPipeline.labelling.Learner import UNLABELLED, Learner
from MLPipeline.labelling.Study import Known, choose, study
from MLPipeline.labelling.Turns import SAMPLE_EVERY
from MLPipeline.similarity.FeatureNetwork import pretrained_network

EVERY, MOST = 30, 1410  # labels
GOALS = (0.80, 0.84)
HEADS = ("label", "logistic")
PENALTY = 1e-4  # on the squared weights: of 1e-3, 1e-4 and 1e-5 the best with 60 to 3,068 labels
AT = (40, 120, 240, 420, 700, 1200)


def features_of(data: Path, output: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features (N, D), labels (N,) and splits (N,) of all images in split folders."""
    index = index_images(data)
    network = pretrained_network(NETWORK, choose_device("auto"))
    dataset = extract(network.model, index, network.origin.image_size, output / "cache", progress=progress)
    positions = np.flatnonzero(dataset.index.splits >= 0)
    rows = dataset.rows.take(positions, 0).numpy()
    return rows, dataset.index.labels[positions].astype(np.int64), dataset.index.splits[positions]


class Simulation:
    """Labelling of one set of pictures, in one of the two orders."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, splits: np.ndarray, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(np.flatnonzero(splits == TRAIN))
        self.features, self.truth = features[order], labels[order]
        self.tests, self.test_labels = features[splits != TRAIN], labels[splits != TRAIN]
        self.num_classes, self.seed = int(labels.max()) + 1, seed

    def accuracies(self, known: Known, learner: Learner) -> list[float]:
        """Return the test accuracy of both heads."""
        own, chosen = learner.fit(known.labels, known.num_classes), np.flatnonzero(known.labels != UNLABELLED)
        logistic = logistic_regression(known.features[chosen], known.labels[chosen], known.num_classes)
        return [float((head(self.tests).argmax(axis=1) == self.test_labels).mean()) for head in (own.logits, logistic)]

    def run(self, is_random: bool) -> np.ndarray:
        """Return the numbers of labels and the accuracies of both heads (M, 3), after every EVERY labels."""
        num_sample = 0 if is_random else len(self.features) * 15 // 100  # as the page sets aside
        features, truth = self.features[num_sample:], self.truth[num_sample:]
        learner, labels = Learner(), np.full(len(features), UNLABELLED)
        learner.take(features)
        known = Known(features, labels, labels.copy(), features[:0], truth[:0], labels < 0, self.num_classes)
        queue, found = list(range(len(features))) if is_random else [], []
        for number in range(1, MOST + 1):
            if is_random or number % SAMPLE_EVERY:
                if not queue:
                    queue = choose(learner, known, self.seed + number).tolist()
                first = queue.pop(0)
                labels[first] = truth[first]
            if number % EVERY == 0 and known.can_learn:
                found.append([number, *self.accuracies(known, learner)])
        return np.array(found)


def logistic_regression(
    features: np.ndarray, labels: np.ndarray, num_classes: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the head that L-BFGS fits on standardised features (N, D)."""
    means, scales = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6) * features.shape[1] ** 0.5
    rows, targets = torch.from_numpy((features - means) / scales), torch.from_numpy(labels)
    layer = torch.nn.Linear(features.shape[1], num_classes)
    torch.nn.init.zeros_(layer.weight)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(layer(rows), targets) + PENALTY / 2 * layer.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return lambda others: layer(torch.from_numpy((others - means) / scales)).detach().numpy()


def labels_for(curve: np.ndarray, goal: float) -> float:
    """Return the number of labels at which the mean of three evaluations has reached `goal`; MOST if it never has."""
    means = np.convolve(curve[:, 1], np.ones(3) / 3, "valid")
    reached = np.flatnonzero(means >= goal)
    return float(curve[reached[0] + 1, 0]) if len(reached) else float(MOST)


def with_interval(values: list[float]) -> str:
    """Return the mean with its 95 % interval."""
    spread = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else np.nan
    return f"{np.mean(values):5.0f} ({np.mean(values) - spread:.0f} to {np.mean(values) + spread:.0f})"


def main() -> None:
    """Print the accuracy after some numbers of labels, and the labels that each goal takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("output"))
    parser.add_argument("--seeds", type=int, default=5)
    stated = parser.parse_args()
    parts = features_of(stated.data, stated.output)
    print(
        f"{len(parts[0])} images, {int((parts[2] == TRAIN).sum())} to label, {int((parts[2] != TRAIN).sum())} to test"
    )
    curves: dict[str, list[np.ndarray]] = {}
    for seed in range(stated.seeds):
        simulation = Simulation(*parts, seed)
        for order in ("label", "random"):
            curve = simulation.run(order == "random")
            for column, head in enumerate(HEADS, start=1):
                curves.setdefault(f"order {order:<7} head {head:<8}", []).append(curve[:, [0, column]])
        print(f"seed {seed} done", flush=True)
    print(f"{'accuracy in % after this many labels':<32}" + "".join(f"{number:>8}" for number in AT))
    for name, each in curves.items():
        means = [np.mean([np.interp(number, curve[:, 0], curve[:, 1]) for curve in each]) for number in AT]
        print(f"{name:<32}" + "".join(f"{100 * mean:8.1f}" for mean in means))
    for goal in GOALS:
        needed = {name: [labels_for(curve, goal) for curve in each] for name, each in curves.items()}
        print(f"labels for {100 * goal:.0f} %")
        for name, values in needed.items():
            never = sum(value >= MOST for value in values)
            print(f"  {name:<30}{with_interval(values)}{f', {never} not within {MOST}' if never else ''}")
        ours = needed["order label   head label   "]
        others = {
            "by the same head": "order random  head label   ",
            "by logistic regression": "order random  head logistic",
        }
        for what, name in others.items():
            share = np.mean(ours) / np.mean(needed[name])
            ratios = ", ".join(f"{one / other:.2f}" for one, other in zip(ours, needed[name], strict=True))
            print(f"  share of what random order takes {what}: {share:.2f} (seeds: {ratios})")
    show_cost(parts)


def show_cost(parts: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """Print the processor time of one round of learning after 400 labels."""
    simulation = Simulation(*parts, 0)
    labels = np.where(np.arange(len(simulation.features)) < 400, simulation.truth, UNLABELLED)
    sample, learner = np.arange(400, 450), Learner()
    known = Known(
        simulation.features,
        labels,
        np.arange(len(labels)),
        simulation.features[sample],
        simulation.truth[sample],
        labels < 0,
        simulation.num_classes,
    )
    study(learner, known)  # sums up the features, which happens as they come in
    start = time.perf_counter(), time.process_time()
    study(learner, known)
    wall, spent = time.perf_counter() - start[0], time.process_time() - start[1]
    print(f"learning from a label, {len(labels)} pictures: {wall:.2f} s, {spent:.2f} s of processor time")
    print(f"{torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
