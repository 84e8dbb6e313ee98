"""How fast two or more forms of a model are, side by side on this machine: latency of one image, images per second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from MLPipeline.Classifier import Classifier
from MLPipeline.frozen.FastForward import FastForward

BATCH_SIZE = 32  # two batches of `FastForward`, or more
_SECONDS = 0.8  # for each form, both measurements together
_MIN_ROUNDS, _CALLS = 3, 3
_REST_S = 0.05  # before each turn

Run = Callable[[np.ndarray], object]  # pixels (B, S, S, 3) uint8 -> outputs


@dataclass(frozen=True)
class Speed:
    """Medians over alternating rounds."""

    one_image_ms: float
    images_per_s: float


def in_torch(model: Classifier, image_size: int) -> Run:
    """Return the forward pass as in `predict --precision fp32`: one image with all cores, else a batch per core."""
    forward = FastForward(model, image_size, "fp32")

    def run(pixels: np.ndarray) -> object:
        if len(pixels) == 1:
            return forward.alone(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        parts = range(0, len(pixels), forward.batch_size)
        return list(forward.stream((start, pixels[start : start + forward.batch_size]) for start in parts))

    return run


def measure(forms: Mapping[str, Run], image_size: int, seconds: float = _SECONDS) -> dict[str, Speed]:
    """Return the speed of each form; they take turns, so that what else the machine does meets all of them alike."""
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH_SIZE, image_size, image_size, 3), np.uint8)
    one, many = (_median_seconds(forms, pixels[:number], seconds / 2) for number in (1, BATCH_SIZE))
    return {name: Speed(1000 * one[name], BATCH_SIZE / many[name]) for name in forms}


def _median_seconds(forms: Mapping[str, Run], pixels: np.ndarray, seconds: float) -> dict[str, float]:
    """Return the median duration of one call; in each turn of a form, its first call is not counted.

    The threads of onnxruntime and of OpenMP keep their cores busy for a while after a call, waiting for the next one:
    they would slow down the form whose turn is next.
    """
    taken: dict[str, list[float]] = {name: [] for name in forms}
    end = time.perf_counter() + seconds * len(forms)
    while time.perf_counter() < end or len(min(taken.values(), key=len)) < _MIN_ROUNDS * _CALLS:
        for name, run in forms.items():
            time.sleep(_REST_S)
            run(pixels)
            for _ in range(_CALLS):
                start = time.perf_counter()
                run(pixels)
                taken[name].append(time.perf_counter() - start)
    return {name: float(np.median(each)) for name, each in taken.items()}
