"""Compares heads on features in 8 bits with heads on features in fp32: test accuracy, and cosine of the features.

    python -m tests.benchmarks.Int8Accuracy --data Photos [--models efficientnet_lite0,efficientnet_lite2] [--seeds 3]

All images are split again for each seed, 70 % for training and 15 % for testing; the network is calibrated on training
images of that split. "crossed": the head that was trained on features in 8 bits, tested on features in fp32.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from MLPipeline.Classifier import Classifier
from MLPipeline.Config import Config
from MLPipeline.Device import choose_device
from MLPipeline.Features import Dataset, extract
from MLPipeline.frozen.DecodeOnce import PixelKeeper
from MLPipeline.heads.HeadImages import plain_images, rooted
from MLPipeline.heads.LinearHead import LinearHead
from MLPipeline.heads.SolveHead import AUTO, solve
from MLPipeline.images.Inspect import inspect_images
from MLPipeline.images.ScanFolders import TEST, TRAIN, UNSPLIT, ImageIndex, scan_folders
from MLPipeline.images.SplitImages import split_images
from MLPipeline.Models import build_model, find_model
from MLPipeline.scoring.Intervals import paired_interval
from MLPipeline.steps.Quantize import quantize_frozen
from MLPipeline.Weights import load_weights

SIZE = 200


def in_split(dataset: Dataset, index: ImageIndex, split: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the features (N, D) and labels (N,) of the images of one split."""
    positions = index.positions(split)
    return dataset.rows.take(positions).numpy(), index.labels[positions].astype(np.int64)


def fitted(rows: np.ndarray, labels: np.ndarray, num_classes: int, seed: int) -> LinearHead:
    return solve(plain_images(rooted(rows), labels, num_classes), AUTO, seed).head


def compare(model: Classifier, config: Config, index: ImageIndex, cache: Path) -> None:
    """Print the figures of one split."""
    inspection = inspect_images(index, cache)
    index = split_images(index, 0.15, 0.15, config.seed, np.where(inspection.is_readable, np.arange(len(index)), -1))
    model.quantized = None
    exact = extract(model, index, SIZE, cache, "fp32")
    quantize_frozen(config, index, inspection, model, PixelKeeper(SIZE, config.fit, 0))
    int8 = extract(model, index, SIZE, cache, "int8")
    heads, num_classes = [], len(index.classes)
    for dataset in (exact, int8):
        heads.append(fitted(*in_split(dataset, index, TRAIN), num_classes, config.seed))
    (rows, labels), (rounded, _) = (in_split(each, index, TEST) for each in (exact, int8))
    tested = ((heads[0], rows), (heads[1], rounded), (heads[1], rows))
    first, second, crossed = (head.logits(rooted(each)).argmax(axis=1) == labels for head, each in tested)
    both, lost, won = (int(each.sum()) for each in (first & second, first & ~second, ~first & second))
    low, high = paired_interval(both, lost, won, len(labels) - both - lost - won)
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(rounded, axis=1)
    cosine = (rows * rounded).sum(axis=1) / lengths
    accuracies = (
        f"fp32 {100 * first.mean():.2f} %, int8 {100 * second.mean():.2f} %, crossed {100 * crossed.mean():.2f} %"
    )
    interval = f"95 % interval of int8 - fp32 {100 * low:+.1f} to {100 * high:+.1f} points"
    similar = f"cosine mean {cosine.mean():.4f}, worst {cosine.min():.4f}"
    print(f"  seed {config.seed}: {len(labels)} test images, {accuracies}, {interval}; {similar}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", default="efficientnet_lite0,efficientnet_lite2")
    parser.add_argument("--seeds", type=int, default=3)
    flags = parser.parse_args()
    choose_device("cpu")
    found = scan_folders(flags.data)
    index = replace(found, splits=np.full(len(found), UNSPLIT, np.int8))
    with tempfile.TemporaryDirectory() as folder:
        for name in flags.models.split(","):
            model = build_model(name, len(index.classes), SIZE)
            load_weights(model, find_model(name), "auto")
            model.freeze("backbone")
            print(f"{name}, {SIZE} pixels, torch {torch.__version__}", flush=True)
            for seed in range(flags.seeds):
                config = Config(model=name, image_size=SIZE, seed=seed, precision="int8", output=Path(folder))
                compare(model.eval(), config, index, Path(folder) / "cache")


if __name__ == "__main__":
    main()
