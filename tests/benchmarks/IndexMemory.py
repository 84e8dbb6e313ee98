"""Measures the memory of each rank for a million images: listed, inspected, split, and read in the order of an epoch.

    python -m tests.benchmarks.IndexMemory --data Photos --images 1000000

The images are hard links to small versions (64 pixels) of the photographs, so that few are decoded, but each path is
listed, opened, recorded and drawn as in a training. `private` is the memory of a rank that no other process shares, its
USS: Private_Clean + Private_Dirty in /proc/PID/smaps_rollup, so Linux only. `shared` is Shared_Clean + Shared_Dirty. A
page of a file that only one process maps counts as private, though the system may drop it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from MLPipeline.Config import Config
from MLPipeline.decoding.EncodeImage import encode_jpeg
from MLPipeline.decoding.ReadImage import read_image
from MLPipeline.Device import join_ranks
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Features import extract
from MLPipeline.images.ScanFolders import TRAIN
from MLPipeline.steps.Prepare import build, inspect, list_images, split

ROOT = Path(__file__).resolve().parents[2]
SIDE, NUM_CLASSES = 64, 10
FEW = NUM_FILES = 1_000  # each file has 1,000 links of a million
STEPS = ("listed", "inspected", "split", "stored", "epoch")


def link_images(photographs: list[Path], root: Path, number: int) -> None:
    """Make `number` images in class folders below `root`: hard links to small versions of the photographs."""
    small = root / "small"
    small.mkdir()
    for place, path in enumerate(photographs):
        (small / f"{place}.jpg").write_bytes(encode_jpeg(read_image(path, (SIDE, SIDE)).pixels, 85))
    for label in range(NUM_CLASSES):
        (root / "Data" / f"class{label}").mkdir(parents=True)
    for image in range(number):
        place = image % len(photographs)
        name = f"class{place % NUM_CLASSES}/photograph_{image:08}.jpg"  # copies are in one class
        os.link(small / f"{place}.jpg", root / "Data" / name)


def memory() -> dict[str, int]:
    """Return the private and the shared memory of this process, in bytes."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: 1024 * int(size.split()[0]) for name, _, size in (line.partition(":") for line in lines)}
    return {
        kind: sum(sizes[f"{kind.title()}_{state}"] for state in ("Clean", "Dirty")) for kind in ("private", "shared")
    }


def measure(folder: Path, output: Path) -> list[dict[str, int]]:
    """Return the memory of this rank after each of `STEPS`; runs in the worker."""
    join_ranks("cpu")
    config, found = Config(model="cnn", image_size=16, data=folder / "Data", output=output, workers=1), []
    index = list_images(config)
    found.append(memory())
    model, config, _ = build(config, len(index.classes), torch.device("cpu"))
    inspection, _ = inspect(index, model, config)
    found.append(memory())
    index = split(index, inspection, config)
    found.append(memory())
    contents = inspection.row_keys(None)
    dataset = extract(model, index, config.image_size, output / "cache", workers=1, contents=contents)
    found.append(memory())
    epoch = dataset.batches(TRAIN, 256, seed=0).epoch(1)
    num_read = sum(len(rows) for rows, _ in epoch)
    found.append(memory())
    assert ranks.sum(num_read) == [len(index.positions(TRAIN))], num_read
    return found


def run(num_ranks: int, folder: Path, output: str) -> np.ndarray:
    """Return (num_ranks, steps, 2) private and shared bytes, for the images in `folder` and the cache in `output`."""
    command = [sys.executable, "-m"]
    if num_ranks > 1:
        command += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks), "-m"]
    command += ["tests.benchmarks.IndexMemory", "--worker", str(folder), "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(done.stderr)
    return np.array(json.loads(done.stdout.splitlines()[-1]))


def growths(data: Path, number: int, folder: Path | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield 1 and 2, each with what `number` images take: (num_ranks, steps, 2) private and shared bytes per image."""
    photographs = sorted(data.rglob("*.jpg"))[:NUM_FILES]
    with tempfile.TemporaryDirectory(dir=folder) as few, tempfile.TemporaryDirectory(dir=folder) as many:
        for root, num_links in ((few, FEW), (many, number)):
            link_images(photographs, Path(root), num_links)
        for num_ranks in (1, 2):
            with tempfile.TemporaryDirectory(dir=folder) as output:
                before = run(num_ranks, Path(few), output)  # decodes every file, so that its links are only read
                yield num_ranks, (run(num_ranks, Path(many), output) - before) / (number - FEW)


def work(flags: argparse.Namespace) -> None:
    """Measure this rank; rank 0 prints what all have measured, as JSON."""
    found = [[step["private"], step["shared"]] for step in measure(flags.worker, flags.output)]
    everyone = ranks.gather(found)
    if ranks.is_first:
        print(json.dumps(everyone))
    ranks.leave()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="for the links: on a disk, not in memory")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        work(flags)
        return
    print(f"bytes per image, beyond those of a run with {FEW:,} images; {flags.images:,} images:")
    print(f"{'':15}" + "".join(f"{step:>22}" for step in STEPS))
    for num_ranks, everyone in growths(flags.data, flags.images, flags.folder):
        for rank, steps in enumerate(everyone):
            cells = "".join(f"{private:8.0f} +{shared:5.0f} shared" for private, shared in steps)
            print(f"rank {rank} of {num_ranks}:   {cells}", flush=True)


if __name__ == "__main__":
    main()
