"""How near the extraction of features comes to its ceilings: images/s, in turns, the best of several rounds.

    python -m tests.benchmarks.Forward --data Photos [--model resnet50] [--openvino]

plain: the network as torchvision has it, fp32. fused: ours on random pixels in memory. extraction: ours, from files on
the disk to stored rows, and the same through `predict`. OpenVINO: bf16, in throughput mode (pip install openvino).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from MLPipeline.Checkpoint import ModelCard
from MLPipeline.Classifier import Classifier
from MLPipeline.fast.FastForward import FastForward
from MLPipeline.Features import extract
from MLPipeline.images.ScanFolders import scan_folders
from MLPipeline.Models import build_model, find_model
from MLPipeline.Predict import predict
from MLPipeline.SplitImages import split_images
from MLPipeline.Weights import load_weights

SIZE, ROUNDS = 200, 5


def best_rate(measure: dict[str, Callable[[], int]]) -> dict[str, float]:
    """Return images/s of each entrant: its best of `ROUNDS`, in turns, so that all meet the machine's good moments."""
    rates = dict.fromkeys(measure, 0.0)
    for _ in range(ROUNDS):
        for name, run in measure.items():
            start = time.perf_counter()
            number = run()
            rates[name] = max(rates[name], number / (time.perf_counter() - start))
    return rates


def openvino_forward(model: Classifier, batch: torch.Tensor) -> Callable[[], int]:
    import openvino

    converted = openvino.convert_model(model.backbone, example_input=model.normalize(batch))
    settings = {"INFERENCE_PRECISION_HINT": "bf16", "PERFORMANCE_HINT": "THROUGHPUT"}
    queue = openvino.AsyncInferQueue(openvino.Core().compile_model(converted, "CPU", settings))
    images = model.normalize(batch).numpy()

    def run() -> int:
        for _ in range(12):
            queue.start_async([images])
        queue.wait_all()
        return 12 * len(images)

    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--openvino", action="store_true")
    flags = parser.parse_args()
    index = split_images(scan_folders(flags.data), 0, 0, 0)
    index.splits[flags.limit :] = -1
    files = [index.path(position) for position in range(flags.limit)]
    model = build_model(flags.model, len(index.classes), SIZE)
    load_weights(model, find_model(flags.model), "none" if flags.model != "efficientnet_lite0" else "auto")
    model.freeze("backbone")
    fast = FastForward(model.eval(), SIZE)
    batch = torch.randint(0, 256, (fast.batch_size, SIZE, SIZE, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    card = ModelCard(flags.model, index.classes, SIZE, {})

    @torch.inference_mode()
    def repeat(forward: Callable[[torch.Tensor], object], times: int) -> int:
        for _ in range(times):
            forward(batch)
        return times * len(batch)

    def extraction() -> int:
        with tempfile.TemporaryDirectory() as cache:
            return extract(model, index, SIZE, Path(cache)).num_computed

    entrants: dict[str, Callable[[], int]] = {
        "plain": lambda: repeat(model.frozen_features, 6),
        "fused": lambda: repeat(fast, 24),
        "extraction": extraction,
        "predict": lambda: sum(1 for _ in predict(model, card, files)),
    }
    if flags.openvino:
        entrants["OpenVINO"] = openvino_forward(model, batch)
    rates = best_rate(entrants)
    threads, version = torch.get_num_threads(), torch.__version__
    print(f"{flags.model}, {SIZE} pixels, batch {len(batch)}, {threads} threads, torch {version}")
    for name, rate in rates.items():
        print(f"  {name:12}{rate:8.1f} images/s   of fused {rate / rates['fused']:.2f}")


if __name__ == "__main__":
    main()
