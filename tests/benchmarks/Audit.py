"""Times the whole `audit` process on a new folder, then again with its cache, and the minimum time of its parts.

    python -m tests.benchmarks.Audit ../shared/data/clothing

The minimum: importing torch, inspecting every file, and the network's forward pass alone on pixels in memory. The rest
of the audit is decoding for the network, the evaluation of labels, the learning curve, duplicates and the page.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from MLPipeline.commands.AuditImages import IMAGE_SIZE, NETWORK
from MLPipeline.Device import choose_device
from MLPipeline.frozen.FastForward import FastForward
from MLPipeline.images.Inspect import inspect_images
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.images.ScanFolders import scan_folders
from MLPipeline.Models import build_model

PROJECT = Path(__file__).parents[2]
BATCHES = 60


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def process(*command: str) -> float:
    return seconds(lambda: subprocess.run([sys.executable, *command], check=True, capture_output=True))


def forward_rate() -> float:
    """Return the images per second of the network alone, with a separate batch on each core."""
    choose_device("cpu")
    model = build_model(NETWORK, 2, IMAGE_SIZE)
    model.freeze("backbone")
    forward = FastForward(model.eval(), IMAGE_SIZE)
    pixels = torch.randint(0, 256, (forward.batch_size, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=torch.uint8).numpy()
    took = seconds(lambda: list(forward.stream((number, pixels) for number in range(BATCHES))))
    return BATCHES * forward.batch_size / took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    index = scan_folders(data)
    with tempfile.TemporaryDirectory() as folder:
        audit = [str(PROJECT / "Engine.py"), "audit", "--data", str(data), "--output", folder]
        cold, again = process(*audit), min(process(*audit) for _ in range(3))
        cache, workers = Path(folder) / "new", decoding_threads(None)
        parts = {
            "import torch": process("-c", "import torch"),
            "inspection": seconds(lambda: inspect_images(index, cache, workers)),
            f"pure forward, {NETWORK} at {IMAGE_SIZE}": len(index) / forward_rate(),
        }
    print(f"{len(index):,} images, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"  audit, nothing cached           {cold:6.1f} s\n  audit again                     {again:6.1f} s")
    for name, took in parts.items():
        print(f"  {name:31} {took:6.1f} s")
    print(f"  the three parts together        {sum(parts.values()):6.1f} s")


if __name__ == "__main__":
    main()
