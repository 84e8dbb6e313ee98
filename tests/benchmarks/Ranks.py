"""Throughput of ranks: two processes with one thread each against one process with two threads, alternately.

    python -m tests.benchmarks.Ranks --data Photos --model efficientnet_lite0 --limit 256

A single process uses all cores; with N ranks, each has its share of them. Rates are images/s of all ranks together,
best of several rounds; `kept` is the rate of the ranks divided by that of the single process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from MLPipeline.Config import NEUTRAL, Config
from MLPipeline.Device import join_ranks
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Features import Dataset, extract
from MLPipeline.images.Inspect import inspect_images
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.images.ScanFolders import TRAIN, VAL, scan_folders
from MLPipeline.images.SplitImages import split_images
from MLPipeline.Models import build_model
from MLPipeline.Train import fit

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 3
SUMMED_BYTES = 2**24


def rates(num_ranks: int, flags: argparse.Namespace) -> dict[str, float]:
    """Return the rates that a single process, or a group of ranks, measures."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m"]
        if num_ranks > 1:
            command += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks), "-m"]
        command += [__spec__.name, "--worker", cache]
        for name in ("data", "model", "limit", "image_size", "batch_size"):
            command += [f"--{name.replace('_', '-')}", str(getattr(flags, name))]
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def measure(flags: argparse.Namespace) -> dict[str, float]:
    """Return the rates of this group of ranks; runs in the worker."""
    device, cache, found = join_ranks("cpu"), Path(flags.worker), {}
    index = split_images(scan_folders(flags.data), 0, 0, 0)
    draw = torch.randperm(len(index), generator=torch.Generator().manual_seed(0)).numpy()
    index.splits[draw[flags.limit :]] = -1
    num_images = int((index.splits >= 0).sum())
    torch.manual_seed(0)
    model = build_model(flags.model, len(index.classes), flags.image_size).to(memory_format=torch.channels_last)
    started = time.perf_counter()
    inspect_images(index, cache, decoding_threads(None))
    found["inspected"] = len(index) / (time.perf_counter() - started)
    for name, freeze, epochs in (("extracted", "backbone", 5), ("tuned", "none", 2)):
        model.freeze(freeze)
        started = time.perf_counter()
        dataset = extract(model, index, flags.image_size, cache)
        found[name] = num_images / (time.perf_counter() - started)
        found[f"{name}_row_bytes"] = dataset.rows.row_bytes
        found[f"{name}_epoch"] = num_images / epoch_s(model.trainable_part(), dataset, flags, epochs, device)
    found["decoded"], found["tuned"] = found.pop("tuned"), found.pop("tuned_epoch")
    found["parameter_bytes"] = sum(4 * parameter.numel() for parameter in model.parameters())
    found["summed_bytes"] = SUMMED_BYTES / min(sum_s() for _ in range(5)) if ranks.size > 1 else 0.0
    found["peak_bytes"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found


def epoch_s(part: nn.Module, dataset: Dataset, flags: argparse.Namespace, epochs: int, device: torch.device) -> float:
    stated = {"epochs": epochs, "batch_size": flags.batch_size, "optimizer": "adamw", "lr": 0.001}
    train, val = dataset.batches(TRAIN, flags.batch_size, seed=0), dataset.batches(VAL, flags.batch_size)
    return min(record.seconds for record in fit(part, train, val, Config(**{**NEUTRAL, **stated}), device))


def sum_s() -> float:
    """Return the seconds it takes to sum a large tensor over all ranks."""
    numbers = torch.ones(SUMMED_BYTES // 4)
    ranks.wait()
    started = time.perf_counter()
    ranks.reduce(numbers)
    return time.perf_counter() - started


def arguments(about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--limit", type=int, default=256, help="images used")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("-b", "--batch-size", type=int, default=32)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    flags = arguments("two ranks against one process").parse_args()
    if flags.worker:
        found = measure(flags)
        if ranks.is_first:
            print(json.dumps(found))
        ranks.leave()  # together: a rank aborts if the other one exits before it
        return
    best: dict[int, Mapping[str, float]] = {1: {}, 2: {}}
    for _ in range(ROUNDS):
        for number in best:
            new = rates(number, flags)
            best[number] = {name: max(rate, best[number].get(name, 0.0)) for name, rate in new.items()}
    print(f"{flags.model}, {flags.image_size} pixels, batch {flags.batch_size}, torch {torch.__version__}")
    for name in ("inspected", "decoded", "extracted", "tuned"):
        one, two = best[1][name], best[2][name]
        print(f"  {name:10} one process {one:8.1f} images/s   two ranks {two:8.1f} images/s   kept {two / one:4.0%}")


if __name__ == "__main__":
    main()
