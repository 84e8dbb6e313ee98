"""Training speed in images/s: the usual script against ours, best of several alternating rounds.

    python -m tests.benchmarks.Training --data Photos/train --model resnet50 --stage layer3
    python -m tests.benchmarks.Training --data cifar10/train --model cnn --image-size 32 -b 20 --limit 10000

plain: PlainWay.py --train-all (ImageFolder, PIL, fp32, default memory format). ours: every layer, from stored pixels.
stage: only the layers after `--stage`, from stored activations. For both, the rate of the network alone is shown:
repeated forward and backward passes over one batch, without loading images, computing metrics or moving weights.
whole: with torch's own gradients of wide depthwise filters, instead of those in strips (`training/DepthwiseGradient`).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from MLPipeline.Config import NEUTRAL, Config
from MLPipeline.Device import autocast, choose_device, training_dtype
from MLPipeline.Features import extract
from MLPipeline.images.ScanFolders import TRAIN, VAL, scan_folders
from MLPipeline.images.SplitImages import split_images
from MLPipeline.Models import build_model
from MLPipeline.Train import fit

PLAIN = Path(__file__).parent / "PlainWay.py"
ROUNDS, BARE_STEPS = 3, 12


def plain_rate(flags: argparse.Namespace) -> float:
    command = [sys.executable, PLAIN, "--train-all", "--model", flags.model, "--train", flags.data]
    command += ["--limit", flags.limit, "--image-size", flags.image_size, "--batch-size", flags.batch_size]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    found = re.search(r"images_per_s=([\d.]+)", done.stdout)
    assert found, done.stdout
    return float(found[1])


def whole_rate(flags: argparse.Namespace, cache: Path) -> float:
    """Return the images per second of training the last layers with torch's own gradients of depthwise filters."""
    with patch("MLPipeline.Train.fast_depthwise", lambda model: nullcontext()):
        return our_rates(flags, flags.stage or "none", cache)[0]


def our_rates(flags: argparse.Namespace, freeze: str, cache: Path) -> tuple[float, float]:
    """Return the images per second of training and of the network alone."""
    device = choose_device("cpu")
    index = split_images(scan_folders(flags.data), 0, 0, 0)
    draw = torch.randperm(len(index), generator=torch.Generator().manual_seed(0)).numpy()
    index.splits[draw[flags.limit :]] = -1
    model = build_model(flags.model, len(index.classes), flags.image_size).to(memory_format=torch.channels_last)
    model.freeze(freeze)
    dataset = extract(model, index, flags.image_size, cache)
    config = Config(**{**NEUTRAL, "epochs": 2, "batch_size": flags.batch_size, "optimizer": "adam", "lr": 0.001})
    train, val = dataset.batches(TRAIN, flags.batch_size, seed=0), dataset.batches(VAL, flags.batch_size)
    records = list(fit(model.trainable_part(), train, val, config, device))
    inputs, targets = next(iter(train.epoch(1)))
    return flags.limit / min(record.seconds for record in records), bare_rate(model.trainable_part(), inputs, targets)


def bare_rate(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    dtype = training_dtype(inputs.device, model)
    seconds = []
    for _ in range(BARE_STEPS):
        start = time.perf_counter()
        model.zero_grad()
        with autocast(inputs.device, dtype):
            logits = model(inputs)
        cross_entropy(logits.float(), targets).backward()
        seconds.append(time.perf_counter() - start)
    return len(inputs) / sorted(seconds)[len(seconds) // 2]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--stage", default="", help="also train only what comes after this stage")
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=200)
    parser.add_argument("-b", "--batch-size", type=int, default=8)
    flags = parser.parse_args()
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(ROUNDS):
            found = {"plain": plain_rate(flags)}
            found["ours"], found["ours, network alone"] = our_rates(flags, "none", Path(cache))
            if flags.stage:
                name = f"after {flags.stage}"
                found[name], found[f"{name}, network alone"] = our_rates(flags, flags.stage, Path(cache))
            if flags.model.startswith("efficientnet"):
                found[f"{f'after {flags.stage}' if flags.stage else 'ours'}, whole"] = whole_rate(flags, Path(cache))
            rates = {name: max(rate, rates.get(name, 0.0)) for name, rate in found.items()}
    print(f"{flags.model}, {flags.image_size} pixels, batch {flags.batch_size}, torch {torch.__version__}")
    for name, rate in rates.items():
        ratios = f"{rate / rates['plain']:5.2f} x plain  {rate / rates['ours']:5.2f} x ours"
        print(f"  {name:27}{rate:9.1f} images/s  {ratios}")


if __name__ == "__main__":
    main()
