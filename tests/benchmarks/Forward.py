"""Compares feature extraction with its upper bounds: images/s, best of several alternating rounds.

    python -m tests.benchmarks.Forward --data Photos [--model resnet50] [--openvino]

plain: torchvision's network in fp32. fused: our network on random pixels in memory. extraction: ours, from files on
disk to stored rows, and the same with `predict`; "and on": without the time of a first batch, which is a constant cost
for preparing the network. OpenVINO: bf16, in throughput mode (pip install openvino).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from MLPipeline.Checkpoint import ModelCard
from MLPipeline.Classifier import Classifier
from MLPipeline.Device import choose_device
from MLPipeline.Features import extract
from MLPipeline.frozen.FastForward import FastForward
from MLPipeline.images.ScanFolders import scan_folders
from MLPipeline.images.SplitImages import split_images
from MLPipeline.Models import build_model, find_model
from MLPipeline.Predict import ImageClassifier
from MLPipeline.Weights import load_weights

SIZE, ROUNDS = 200, 5


def best_seconds(candidates: dict[str, tuple[Callable[[], object], int]]) -> dict[str, float]:
    """Return the best time in seconds of each candidate in `ROUNDS` alternating rounds: load affects all equally."""
    seconds = dict.fromkeys(candidates, float("inf"))
    for _ in range(ROUNDS):
        for name, (run, _) in candidates.items():
            start = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def openvino_forward(model: Classifier, batch: torch.Tensor, times: int) -> Callable[[], None]:
    import openvino

    converted = openvino.convert_model(model.backbone, example_input=model.normalize(batch))
    settings = {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "THROUGHPUT"}
    queue = openvino.AsyncInferQueue(openvino.Core().compile_model(converted, "CPU", settings))
    images = model.normalize(batch).numpy()

    def run() -> None:
        for _ in range(times):
            queue.start_async([images])
        queue.wait_all()

    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--openvino", action="store_true")
    flags = parser.parse_args()
    choose_device("cpu")
    index = split_images(scan_folders(flags.data), 0, 0, 0)
    model = build_model(flags.model, len(index.classes), SIZE)
    load_weights(model, find_model(flags.model), "none" if flags.model != "efficientnet_lite0" else "auto")
    model.freeze("backbone")
    fast = FastForward(model.eval(), SIZE)
    batch = torch.randint(0, 256, (fast.batch_size, SIZE, SIZE, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    card = ModelCard(flags.model, index.classes, SIZE, {})

    @torch.inference_mode()
    def repeat(forward: Callable[[torch.Tensor], object], times: int) -> None:
        for _ in range(times):
            forward(batch)

    def extraction(number: int) -> None:
        splits = np.where(np.arange(len(index)) < number, index.splits, -1)
        with tempfile.TemporaryDirectory() as cache:
            extract(model, replace(index, splits=splits), SIZE, Path(cache))

    def prediction(number: int) -> None:
        ImageClassifier(model, card).predict([index.path(position) for position in range(number)])

    one, many = len(batch), flags.limit
    candidates: dict[str, tuple[Callable[[], object], int]] = {
        "plain": (partial(repeat, model.frozen_features, 6), 6 * one),
        "fused": (partial(repeat, fast, 24), 24 * one),
        "extraction": (partial(extraction, many), many),
        "first batch of extraction": (partial(extraction, one), one),
        "predict": (partial(prediction, many), many),
        "first batch of predict": (partial(prediction, one), one),
    }
    if flags.openvino:
        candidates["OpenVINO"] = (openvino_forward(model, batch, 24), 24 * one)
    seconds = best_seconds(candidates)
    rates = {name: number / seconds[name] for name, (_, number) in candidates.items()}
    for name in ("extraction", "predict"):
        rates[f"{name}, and on"] = (many - one) / (seconds[name] - seconds[f"first batch of {name}"])
    threads, version = torch.get_num_threads(), torch.__version__
    print(f"{flags.model}, {SIZE} pixels, batch {one}, {threads} threads, torch {version}")
    for name, rate in rates.items():
        print(f"  {name:26}{rate:8.1f} images/s   of fused {rate / rates['fused']:.2f}")


if __name__ == "__main__":
    main()
