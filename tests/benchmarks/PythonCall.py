"""Compares `predict` of one image with the bare forward pass of one image: milliseconds, median of alternating rounds.

    python -m tests.benchmarks.PythonCall --run output/001-efficientnet_lite0 --image Data/others/027.jpg

The bare forward passes start from pixels in memory, of the model's size: `model(images)` is the trained network as
torch runs it, `fused` our form of its backbone without the head. `predict` returns a finished answer; `embed` features.
The last lines are whole processes: seconds from the start of Python to the first answer.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from MLPipeline.Checkpoint import load_checkpoint
from MLPipeline.decoding.ReadImage import read_image
from MLPipeline.files.RunFolder import find_run
from MLPipeline.frozen.FastForward import FastForward
from MLPipeline.Predict import load

ROUNDS, WARM_UP, PROCESSES = 60, 5, 3


def median_ms(candidates: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median time of each candidate in milliseconds; they take turns, so that load affects all equally."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(WARM_UP + ROUNDS):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            if number >= WARM_UP:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(each) for name, each in times.items()}


def seconds_to_first_answer(run: Path, image: Path) -> float:
    """Return the best time of a process that loads the run and prints one answer."""
    script = f"from MLPipeline.Predict import load; load({str(run)!r}).predict({str(image)!r})[0].predicted"
    taken = []
    for _ in range(PROCESSES):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", script], check=True)
        taken.append(time.perf_counter() - start)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--image", type=Path, required=True)
    flags = parser.parse_args()
    classifier = load(flags.run, device="cpu")
    model, card = load_checkpoint(find_run(Path(), str(flags.run)).model_file)
    pixels = read_image(flags.image, (card.image_size, card.image_size)).pixels
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
    model.freeze("backbone")
    fast = FastForward(model.eval(), card.image_size)
    with torch.inference_mode():
        taken = median_ms(
            {
                "model(images)": lambda: model(images),
                "fused": lambda: fast.alone(images),
                "predict(array)": lambda: classifier.predict(pixels),
                "predict(path)": lambda: classifier.predict(flags.image),
                "embed(array)": lambda: classifier.embed(pixels),
            }
        )
    print(f"{card.model}, {card.image_size} pixels, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, ms in taken.items():
        against = f"{ms / taken['model(images)']:5.2f} x model(images)  {ms / taken['fused']:5.2f} x fused"
        print(f"{name:16}{ms:8.2f} ms  {against}")
    print(f"first answer of a new process {seconds_to_first_answer(flags.run.resolve(), flags.image.resolve()):.2f} s")


if __name__ == "__main__":
    main()
