"""Predicts time, disk space and memory of a run with N images and R ranks from rates measured here, and checks it.

    python -m tests.benchmarks.CostModel --data Photos --model efficientnet_lite0 --limit 256 --check

The run trains the head for 3 epochs on stored features, then all layers for 5. Ranks are like those measured (one core
each), on shared storage that is never the bottleneck; `--gigabit` is the network bandwidth between machines. `--check`
times a small and a larger run: the first gives the start-up time, the second tests the prediction. It also measures the
memory of the ranks for 100,000 images (see IndexMemory).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from MLPipeline.decoding.ReadImage import cv2
from MLPipeline.images.ScanFolders import scan_folders
from tests.benchmarks.IndexMemory import growths
from tests.benchmarks.Ranks import ROOT, arguments, rates

HEAD_EPOCHS, TUNED_EPOCHS = 3, 5
SCORED = 0.15 / 0.7  # validation images per training image
SCORING = 1 / 3  # time to score an image, relative to training on it
TRAINED = 0.7  # share of the images that are training images
# Memory per image. In files that the ranks of a machine map, so that the system may drop the pages: path (40) and its
# end, class, splits before and after, group; fingerprint and its row; row of the features. While a store is open, also
# its keys and their order.
SHARED_BYTES = (40 + 8 + 4 + 2 + 4) + (65 + 4) + 8
OPEN_STORE_BYTES = 24 + 8
# In every rank: the rows of the features before they are shared, all positions, and the rank's share of them; a mark
# for each row of an open store. An epoch takes less: a position and a place in the order (4 + 4).
PRIVATE_BYTES, SHARE_BYTES = 8 + 8 + 1, 8
# In the first rank of each machine: hashes and their bits, sorted copies and pairs of the search for duplicates; the
# listing and the split take less. On return, Linux gets them back.
COMPUTING_BYTES = 110
FINGERPRINT_BYTES = 4400  # on disk, with the small grey image
LINKED = 1_000_000  # images whose memory `--check` measures
COPIES_OF_WEIGHTS = 5  # weights, gradients, two averages of AdamW, best weights
TABLE = [(10**5, 2), (10**6, 16), (10**7, 64), (10**8, 512), (10**9, 2048)]


@dataclass(frozen=True)
class Cost:
    """The cost of a run."""

    seconds: float
    disk_bytes: float
    private_bytes: float  # memory of each rank
    shared_bytes: float  # of all ranks of a machine together; the system may drop it
    first_bytes: float  # that the first rank of a machine needs in addition, for a time


def predict(num_images: float, num_ranks: int, rate: Mapping[str, float], batch: int, network: float) -> Cost:
    """Return the cost of a run; `rate` is of one rank, `network` in bytes/s; more ranks share a larger batch.

    A sum over ranks sends 2 (R - 1) / R of the gradients through each rank (ring all-reduce).
    """
    epochs = TRAINED * num_images * (1 + SCORED * SCORING)
    sent = 2 * (num_ranks - 1) / num_ranks * rate["parameter_bytes"]
    steps = TUNED_EPOCHS * TRAINED * num_images / (batch * num_ranks)
    once = num_images / rate["inspected"] + num_images / rate["extracted"] + num_images / rate["decoded"]
    trained = HEAD_EPOCHS * epochs / rate["extracted_epoch"] + TUNED_EPOCHS * epochs / rate["tuned"]
    seconds = (once + trained) / num_ranks + steps * sent / network
    rows = FINGERPRINT_BYTES + rate["extracted_row_bytes"] + rate["tuned_row_bytes"]
    private = rate["peak_bytes"] + COPIES_OF_WEIGHTS * rate["parameter_bytes"]
    private += (PRIVATE_BYTES + SHARE_BYTES / num_ranks) * num_images
    shared, first = ((SHARED_BYTES + 2 * OPEN_STORE_BYTES) * num_images, COMPUTING_BYTES * num_images)
    return Cost(seconds, num_images * rows + 4 * rate["parameter_bytes"], private, shared, first)


def timed_run(flags: argparse.Namespace, num_images: int) -> tuple[float, int]:
    """Return the seconds of a run on a stratified subset of the images, and the number of images in it."""
    index = scan_folders(flags.data)
    chosen = np.random.default_rng(0).permutation(len(index))[:num_images].tolist()
    with tempfile.TemporaryDirectory() as folder:
        for position in chosen:
            link = Path(folder, "Data", index.name(position))
            link.parent.mkdir(parents=True, exist_ok=True)
            link.write_bytes(index.path(position).read_bytes())
        command = [sys.executable, ROOT / "Engine.py", "--model", flags.model, "--device", "cpu", "-j", 1]
        command += ["--image-size", flags.image_size, "-b", flags.batch_size, "--data", f"{folder}/Data"]
        command += [
            "--freeze",
            "none",
            "--unfreeze-after",
            HEAD_EPOCHS,
            "--epochs",
            HEAD_EPOCHS + TUNED_EPOCHS,
            "--output",
            folder,
        ]
        started = time.perf_counter()
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return time.perf_counter() - started, len(chosen)


def check(flags: argparse.Namespace, rate: Mapping[str, float]) -> None:
    """Print the predicted and the measured time of a run."""
    small_s, small = timed_run(flags, flags.limit // 2)
    start_s = small_s - predict(small, 1, rate, flags.batch_size, 1).seconds
    large_s, large = timed_run(flags, 2 * flags.limit)
    predicted_s = start_s + predict(large, 1, rate, flags.batch_size, 1).seconds
    print(
        f"check: {large} images, predicted {predicted_s:.0f} s, took {large_s:.0f} s ({predicted_s / large_s - 1:+.0%})"
    )
    for num_ranks, growth in growths(flags.data, LINKED):
        if num_ranks == 1:  # what ranks share counts as private there
            continue
        private, shared = growth[-1, -1]  # of the last rank, which has computed nothing for the others
        print(f"check: {LINKED:,} images, {num_ranks} ranks, bytes per image of the last rank:")
        print(f"  private, predicted {PRIVATE_BYTES + SHARE_BYTES / num_ranks:.0f} at most, measured {private:.0f}")
        print(f"  shared, predicted {SHARED_BYTES}, measured {shared:.0f}")


def main() -> None:
    parser = arguments("the cost of a run")
    parser.add_argument("--gigabit", type=float, default=10.0, help="per second, between machines")
    parser.add_argument("--check", action="store_true")
    flags = parser.parse_args()
    together = rates(2, flags)
    per_image = ("inspected", "decoded", "extracted", "extracted_epoch", "tuned")
    rate = {name: value / 2 if name in per_image else value for name, value in together.items()}
    print(f"rates of one rank, {flags.model}, {flags.image_size} pixels, OpenCV {cv2.__version__}:")
    print("  " + ", ".join(f"{name} {rate[name]:.1f} images/s" for name in per_image))
    print(f"  sums over two ranks of this machine: {together['summed_bytes'] / 1e9:.2f} GB/s")
    if flags.check:
        alone = rates(1, flags)
        check(flags, alone)
    network = flags.gigabit / 8 * 1e9
    print(
        "\nMemory: private of each rank; shared by the ranks of a machine; of its first rank in addition, for a time."
    )
    print(
        "| images | ranks | time | disk | private | shared | first rank |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    for num_images, num_ranks in TABLE:
        cost = predict(num_images, num_ranks, rate, flags.batch_size, network)
        memory = (cost.private_bytes, cost.shared_bytes, cost.first_bytes)
        cells = " | ".join(f"{number / 1e9:.1f} GB" for number in memory)
        hours, disk = cost.seconds / 3600, cost.disk_bytes / 1e12
        print(f"| {num_images:.0e} | {num_ranks} | {hours:.1f} h | {disk:.2f} TB | {cells} |")


if __name__ == "__main__":
    main()
