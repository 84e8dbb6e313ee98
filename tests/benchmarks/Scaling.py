"""Measures how extraction scales with the number of images: seconds, peak memory, and a small plot of both.

    python -m tests.benchmarks.Scaling --data Photos --plot scaling.png

The photographs are repeated as small JPEGs (64 pixels, each with unique bytes after its end, so that each is computed):
the benchmark is about costs that grow with the number of images, not about the network. One process per size.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from MLPipeline.decoding.EncodeImage import encode_jpeg
from MLPipeline.decoding.ReadImage import read_image

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
SIDE = 64
NUM_CLASSES = 10
EXTRACT = """
import resource, sys, time
from pathlib import Path
from MLPipeline.Device import choose_device
choose_device("cpu")
from MLPipeline.Features import extract
from MLPipeline.images.ScanFolders import scan_folders
from MLPipeline.Models import build_model
from MLPipeline.images.SplitImages import split_images
root, side = Path(sys.argv[1]), int(sys.argv[2])
start = time.perf_counter()
index = split_images(scan_folders(root / "images"), 0.15, 0.15, 0)
model = build_model("efficientnet_lite0", len(index.classes), side)
model.freeze("backbone")
dataset = extract(model, index, side, root / "cache")
assert dataset.num_computed == len(index), dataset.num_computed
seconds = time.perf_counter() - start
print(f"seconds={seconds:.2f} peak_mb={resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")
"""


def write_images(photographs: list[Path], root: Path, number: int) -> None:
    """Write `number` distinct files into class folders in `root`."""
    small = [encode_jpeg(read_image(path, (SIDE, SIDE)).pixels, 85) for path in photographs]
    for label in range(NUM_CLASSES):
        (root / str(label)).mkdir(parents=True)
    for image in range(number):
        data = small[image % len(small)] + image.to_bytes(8, "little")
        (root / str(image % NUM_CLASSES) / f"{image:07}.jpg").write_bytes(data)


def draw(figures: np.ndarray, path: Path) -> None:
    """Plot seconds and gigabytes against the number of images, from `figures` (N, 3)."""
    number, seconds, peak_mb = figures.T
    _, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    left.plot(number, seconds, "o-")
    left.set(xscale="log", yscale="log", xlabel="images", ylabel="seconds", title="time")
    left.plot(number, seconds[-1] / number[-1] * number, "--", color="grey", label="in proportion")
    left.legend()
    right.plot(number, peak_mb / 1024, "o-")
    right.set(xscale="log", ylim=(0, 2.6), xlabel="images", ylabel="GB at most", title="memory of the process")
    plt.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--plot", type=Path)
    flags = parser.parse_args()
    photographs, rows = sorted(flags.data.rglob("*.jpg"))[:1000], []
    for number in SIZES:
        with tempfile.TemporaryDirectory() as root:
            write_images(photographs, Path(root) / "images", number)
            command = [sys.executable, "-c", EXTRACT, root, str(SIDE)]
            environment = os.environ | {"PYTHONPATH": os.getcwd()}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        seconds, peak_mb = (float(found) for found in re.findall(r"=([\d.]+)", done.stdout))
        rows.append((number, seconds, peak_mb))
        print(f"{number:7d} images  {seconds:7.1f} s  {number / seconds:6.0f} images/s  {peak_mb:6.0f} MB", flush=True)
    if flags.plot:
        draw(np.array(rows), flags.plot)


if __name__ == "__main__":
    main()
