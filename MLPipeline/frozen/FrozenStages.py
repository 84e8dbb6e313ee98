"""Decoded images -> the rows that are kept of them: features, activations, or the pixels themselves.

    compute = FrozenStages(model, image_size=200)                       # as `model` is frozen now
    for item, rows in compute.stream(batches): ...                     # batches of (item, pixels (B, H, W, 3) uint8)
    compute.store(cache)                                               # where such rows are kept

A row depends on the image, on the frozen weights, the size, the number format and the decoder; the store's name on all
but the first.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from MLPipeline.Classifier import Classifier
from MLPipeline.Device import fast_dtypes
from MLPipeline.files.Cache import RowStore
from MLPipeline.frozen.FastForward import FastForward, forward_batch
from MLPipeline.images.Fit import STRETCH
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.images.ReadImage import DECODER

METHOD = 2  # goes up with every change of the numbers that `FastForward` gives
Item = TypeVar("Item")


class FrozenStages:
    """Pixels (B, H, W, 3) -> the rows to keep, and all that these depend on."""

    def __init__(self, model: Classifier, image_size: int, precision: str, fit: str = STRETCH) -> None:
        self.model, self.image_size, self.precision = model, image_size, precision
        self._pixels = f"{image_size} {DECODER}" + (f" {fit}" if fit != STRETCH else "")
        self.keeps_nothing = False
        self.keep_pixels()
        if model.num_frozen_stages:
            self.batch_size = forward_batch(model.mean.device)
            # The numbers depend on the processor too: it decides on the number format.
            machine = f"{METHOD} {precision} {fast_dtypes(model.mean.device, precision)} {torch.__version__}"
            self.kind, self._identity = "features", f"{self._pixels} {machine} {frozen_hash(model)}"
            with torch.inference_mode():
                blank = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=model.mean.device)
                self._row_shape = tuple(model.frozen_features(blank).shape[1:])

    def keep_pixels(self) -> None:
        """Compute nothing: a row is a decoded image."""
        self.kind, self.batch_size = "pixels", 16  # that many are written at once

    def label(self, view: int) -> str:
        """Return what is being computed, for a progress bar."""
        return f"{self.kind}, view {view}" if view else self.kind

    def store(self, cache: Path) -> RowStore:
        """Return where the rows are kept."""
        if self.kind == "pixels":
            shape = (self.image_size, self.image_size, 3)
            return RowStore(cache, self.kind, self._pixels, shape, np.dtype(np.uint8))
        return RowStore(cache, self.kind, self._identity, self._row_shape, np.dtype(np.float16))

    def stream(self, batches: Iterator[tuple[Item, np.ndarray]]) -> Iterator[tuple[Item, np.ndarray]]:
        """Yield the batches with rows (B, ...) in place of their pixels, in order."""
        if self.kind == "pixels" or (first := next(batches, None)) is None:
            yield from batches  # where the cache has all rows, no network is made ready
            return
        forward = FastForward(self.model, self.image_size, self.precision)
        for item, rows in forward.stream(itertools.chain([first], batches)):
            yield item, rows.numpy()


def frozen_hash(model: Classifier) -> str:
    """Return a hash of everything the frozen stages compute with: structure, parameters, buffers, normalisation."""
    frozen = model.backbone[: model.num_frozen_stages]
    tensors = (model.mean, model.std, *frozen.state_dict().values())
    with ThreadPoolExecutor(decoding_threads(None)) as threads:
        parts = [str(frozen).encode(), *threads.map(_hash, tensors)]
    return hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()


def _hash(tensor: Tensor) -> bytes:
    return hashlib.blake2b(tensor.detach().cpu().contiguous().numpy().reshape(-1).view(np.uint8).data).digest()
