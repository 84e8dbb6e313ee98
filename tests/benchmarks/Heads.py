"""Measures heads fitted on few images: gradient descent as in the recipe, and each `--head`, over random draws.

    python -m tests.benchmarks.Heads --data Photos [--per-class 20 --draws 10 --output output]

Each draw takes so many images of each class, of which 15 % choose the epoch of gradient descent; all heads are fitted
on the rest, and tested on all images that were not drawn. Copies of a drawn image are left out of the test.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from MLPipeline.Config import Config
from MLPipeline.CreateDataset import Batches
from MLPipeline.Features import extract
from MLPipeline.Head import own_dropout
from MLPipeline.heads.GatherFeatures import gather
from MLPipeline.heads.HeadImages import HeadImages, plain_images, rooted
from MLPipeline.heads.SolveHead import solve
from MLPipeline.images.ScanFolders import TRAIN, VAL, ImageIndex
from MLPipeline.steps.FoldHead import FoldRows
from MLPipeline.steps.Prepare import build, inspect, list_images, preprocessing_of, split
from MLPipeline.Train import fit

VAL_SHARE = 0.15
KINDS = ("ridge", "logistic", "auto")


@dataclass(frozen=True)
class Problem:
    """The features of all images, and the untrained head for them."""

    images: HeadImages
    head: nn.Module
    index: ImageIndex
    config: Config


def problem_of(flags: argparse.Namespace) -> Problem:
    """Return the features of the images below `--data`, computed or from the cache."""
    config = Config(model=flags.model, data=flags.data, output=flags.output, head="linear")
    index = list_images(config)
    model, config, _ = build(config, len(index.classes), torch.device("cpu"))
    inspection, _ = inspect(index, model, config)
    index = split(index, inspection, config)
    how = preprocessing_of(config, index, inspection)
    cache, keys = config.output / "cache", inspection.row_keys(how.levels)
    dataset = extract(model, index, config.image_size, cache, config.precision, contents=keys, preprocessing=how)
    positions = np.flatnonzero(dataset.index.splits >= 0)
    assert index.groups is not None
    labels, groups = (each[positions].astype(np.int64) for each in (index.labels, index.groups))
    images = plain_images(gather(model, dataset, positions), labels, len(index.classes), groups)
    return Problem(images, model.head, index, config)


def by_descent(problem: Problem, images: HeadImages, is_val: np.ndarray, seed: int) -> np.ndarray:
    """Return the logits of all images by a head that is trained as the recipe says."""
    index = replace(problem.index, labels=images.labels, splits=np.where(is_val, VAL, TRAIN).astype(np.int8))
    torch.manual_seed(seed)
    head = nn.Sequential(nn.Dropout(own_dropout(problem.head)), nn.Linear(images.rows.shape[1], len(index.classes)))
    part = nn.Sequential(nn.Sequential(), head)
    rows, config = FoldRows(torch.from_numpy(images.rows)), replace(problem.config, seed=seed)
    train, val = (Batches(rows, index, each, config.batch_size, seed) for each in (TRAIN, VAL))
    for _ in fit(part, train, val, config, torch.device("cpu")):
        pass
    with torch.inference_mode():
        return part.eval()(torch.from_numpy(problem.images.rows)).numpy()


def main() -> None:
    """Print the accuracy of each head, mean and standard deviation over the draws."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("output"))
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--draws", type=int, default=10)
    flags = parser.parse_args()
    problem = problem_of(flags)
    images, of_roots = problem.images, replace(problem.images, rows=rooted(problem.images.rows))
    found: dict[str, list[float]] = {name: [] for name in ("linear", *KINDS)}
    for seed in range(flags.draws):
        order = np.random.default_rng(seed).permutation(len(images))
        members = [order[images.labels[order] == label][: flags.per_class] for label in range(images.num_classes)]
        drawn = np.concatenate(members)
        is_val = np.concatenate([np.arange(len(each)) < VAL_SHARE * len(each) for each in members])
        tested = ~np.isin(images.groups, images.groups[drawn])
        logits = {"linear": by_descent(problem, images.only(drawn), is_val, seed)}
        for kind in KINDS:
            logits[kind] = solve(of_roots.only(drawn[~is_val]), kind, seed).head.logits(of_roots.rows)
        for name, each in logits.items():
            found[name].append(100 * (each.argmax(1) == images.labels)[tested].mean())
        print(seed, " ".join(f"{name} {values[-1]:.2f}" for name, values in found.items()), flush=True)
    for name, values in found.items():
        print(f"{name:10} {np.mean(values):.2f} +- {np.std(values):.2f} %")


if __name__ == "__main__":
    main()
