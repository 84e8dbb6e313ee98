"""Measures how often the 95 % interval of `--folds` holds the accuracy on images that were left out.

    python -m tests.benchmarks.Folds --data Photos [--images 300 --folds 5 --draws 40 --output output]

Each draw takes a random subset of the images, cross-validates it, and fits a head on all of it; the truth is the
accuracy of that head on all other images. 92 to 98 % of the intervals should hold it.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from MLPipeline.heads.CrossValidate import Answer, cross_validate, widened
from MLPipeline.heads.HeadImages import HeadImages, rooted
from MLPipeline.heads.SolveHead import solve
from MLPipeline.scoring.Intervals import wilson_interval
from tests.benchmarks.Heads import problem_of


def main() -> None:
    """Print each interval with the truth, and how many hold it: of the folds, and of independent predictions."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("output"))
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--head", default="auto", choices=("ridge", "logistic", "auto"))
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=40)
    flags = parser.parse_args()
    images, num_held = problem_of(flags).images, np.zeros(2, int)
    images = replace(images, rows=rooted(images.rows))
    for seed in range(flags.draws):
        drawn = np.random.default_rng(seed).permutation(len(images))[: flags.images]
        others = images.only(~np.isin(images.groups, images.groups[drawn]))
        subset = images.only(drawn)

        def fit(part: HeadImages, seed: int = seed) -> Answer:
            return solve(part, flags.head, seed).head.logits

        found = cross_validate(subset, fit, flags.folds, seed)
        is_right = found.logits.argmax(1) == subset.labels[found.tested]
        plain = wilson_interval(int(is_right.sum()), len(is_right))
        wide = widened({"accuracy": is_right.mean(), "accuracy_ci95": plain}, flags.folds)["accuracy_ci95"]
        truth = (fit(subset)(others.rows).argmax(1) == others.labels).mean()
        num_held += [low <= truth <= high for low, high in (wide, plain)]
        low, high = wide
        print(f"{seed} {is_right.mean():.4f} ({low:.4f} to {high:.4f}) truth {truth:.4f}", flush=True)
    print(f"held: {num_held[0]} of {flags.draws}; by intervals of independent predictions: {num_held[1]}")


if __name__ == "__main__":
    main()
