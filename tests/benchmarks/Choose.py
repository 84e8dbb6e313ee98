"""Measures whether `choose` is right: the time it takes, what it chooses, and what full training gives for each model.

    python -m tests.benchmarks.Choose --data Photos [--output output --minutes 5]
    python -m tests.benchmarks.Choose --data Photos --per-class 20 --draws 10

The first form runs the commands, on split folders or on splits that training draws. Training is that of the default
command, the head alone, with `--seeds` seeds.

The second form takes so many images of each class at random, chooses on them and fits the head of each model on the
same images; all images that were not drawn, nor are copies of a drawn one, are the test.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from MLPipeline.choosing.Backbones import Backbone, named_backbones
from MLPipeline.choosing.Choice import Result, choose_result, difference_of
from MLPipeline.choosing.Prober import Cost, Place, Prober, Tested, out_of_fold
from MLPipeline.Config import Config
from MLPipeline.Device import choose_device
from MLPipeline.heads.HeadImages import HeadImages
from MLPipeline.heads.SolveHead import AUTO, solve
from MLPipeline.images.Inspect import inspect_images
from MLPipeline.images.ScanFolders import TRAIN
from MLPipeline.steps.Prepare import list_images, preprocessing_of, split

ENGINE = [sys.executable, "Engine.py"]


def whole(flags: argparse.Namespace) -> None:
    """Print what `choose` chooses, and the validation and test accuracy of each model after training."""
    shared = ["--data", str(flags.data), "--output", str(flags.output)]
    start = time.perf_counter()
    words = ["choose", "--models", flags.models, "--minutes", str(flags.minutes), *shared]
    subprocess.run([*ENGINE, *words], check=True)
    print(f"choose took {time.perf_counter() - start:.1f} s in all, with the start and the inspection", flush=True)
    chosen = json.loads((flags.output / "choose" / "choice.json").read_text(encoding="utf-8"))["chosen"]["model"]
    found = {}
    for model in flags.models.split(","):
        scores = []
        for seed in range(flags.seeds):
            name = f"{model}-{seed}"
            words = ["--model", model, "--seed", str(seed), "--name", name, *shared]
            subprocess.run([*ENGINE, *words], check=True, stdout=subprocess.DEVNULL)
            metrics = json.loads((sorted(flags.output.glob(f"*-{name}"))[-1] / "metrics.json").read_text("utf-8"))
            scores.append([100 * metrics[each]["accuracy"] for each in ("val", "test")])
        found[model] = np.mean(scores, 0)
        print(f"{model:20} val {found[model][0]:.2f} %, test {found[model][1]:.2f} %, {flags.seeds} seeds", flush=True)
    best = max(found, key=lambda model: found[model][1])
    print(f"chosen {chosen}; best in the test {best}: {'right' if chosen == best else 'not the best'}")


def features_of(backbones: list[Backbone], flags: argparse.Namespace) -> tuple[dict[Backbone, HeadImages], list[Cost]]:
    """Return the features of all images by each backbone, and what each costs."""
    config = Config(data=flags.data, output=flags.output)
    index, cache = list_images(config), config.output / "cache"
    inspection = inspect_images(index, cache, workers=2)
    index = split(index, inspection, config)
    how = preprocessing_of(config, index, inspection)
    index = replace(index, splits=np.where(index.splits >= 0, TRAIN, index.splits).astype(np.int8))
    place = Place(cache, choose_device())
    prober = Prober(index, inspection.row_keys(how.levels), how, place, seed=0)
    everything = np.arange(len(prober.positions))
    images = {each: prober.features(each, everything)[1] for each in backbones}
    return images, [prober.measure(each) for each in backbones]


def drawn(flags: argparse.Namespace) -> None:
    """Print what the choice on a few images per class loses, and what two other rules would lose."""
    backbones = named_backbones(flags.models)
    images, costs = features_of(backbones, flags)
    first = images[backbones[0]]
    lost: dict[str, list[float]] = {"the rule": [], "the most accurate": [], "the fastest not significantly worse": []}
    for seed in range(flags.draws):
        order = np.random.default_rng(seed).permutation(len(first))
        members = [order[first.labels[order] == label][: flags.per_class] for label in range(first.num_classes)]
        chosen = np.sort(np.concatenate(members))
        held_out = ~np.isin(first.groups, first.groups[chosen])
        scores = {}
        for each in backbones:
            logits = solve(images[each].only(chosen), AUTO, seed).head.logits(images[each].rows)
            scores[each] = 100 * (logits.argmax(1) == first.labels)[held_out].mean()
        results = results_of({each: tested(images[each].only(chosen), seed) for each in backbones}, costs)
        close = [each for each in results if not (each.difference and each.difference.is_significant)]
        picked = (choose_result(results), results[0], min(close, key=lambda each: each.cost.seconds_per_image))
        for losses, result in zip(lost.values(), picked, strict=True):
            losses.append(max(scores.values()) - scores[result.backbone])
        shown = ", ".join(f"{each.model} {scores[each]:.2f}" for each in backbones)
        print(f"draw {seed}: {picked[0].backbone.model}; test {shown}", flush=True)
    for name, losses in lost.items():
        print(f"{name}: the best in {losses.count(0)} of {flags.draws}, {np.mean(losses):.2f} points lost on average")


def results_of(tests: dict[Backbone, Tested], costs: list[Cost]) -> list[Result]:
    """Return the results as `choose` has them, the best first."""
    best = max(tests, key=lambda each: tests[each].accuracy)
    results = []
    for (each, test), cost in zip(tests.items(), costs, strict=True):
        difference = None if each == best else difference_of(test, tests[best])
        results.append(Result(each, cost, test.num_images, test.num_tested, test.accuracy, difference, True))
    return sorted(results, key=lambda each: each.difference is not None)


def tested(images: HeadImages, seed: int) -> Tested:
    """Return the result of a backbone on these images."""
    return Tested(len(images), out_of_fold(images, seed))


def main() -> None:
    """Run the comparison that the flags ask for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("output"))
    parser.add_argument("--models", default="efficientnet_lite0,efficientnet_lite1,efficientnet_lite2")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--per-class", type=int, default=0)
    parser.add_argument("--draws", type=int, default=10)
    flags = parser.parse_args()
    drawn(flags) if flags.per_class else whole(flags)


if __name__ == "__main__":
    main()
