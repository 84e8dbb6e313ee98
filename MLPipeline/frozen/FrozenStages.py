"""Decoded images -> the rows stored of them: features, activations at the frozen boundary, or the pixels themselves.

    stages = FrozenStages(model, image_size=200, precision="auto")     # those of `model` that are frozen now
    for item, rows in stages.stream(batches): ...                      # batches of (item, pixels (B, H, W, 3) uint8)
    stages.store(cache)                                                # where such rows are stored

A row depends on the image, the frozen weights, the code of the network, the image size, the number format and the
decoder; the name of the store depends on all but the image.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from MLPipeline.Classifier import Classifier
from MLPipeline.decoding.Fit import STRETCH
from MLPipeline.decoding.ReadImage import DECODER
from MLPipeline.Device import fast_dtypes
from MLPipeline.Errors import UsageError
from MLPipeline.files.Cache import RowStore
from MLPipeline.frozen.FastForward import FastForward, forward_batch, int8_network
from MLPipeline.images.ReadAhead import decoding_threads

METHOD = 3  # increases with every change to the numbers that `FastForward` returns
Item = TypeVar("Item")


class FrozenStages:
    """Pixels (B, H, W, 3) uint8 -> the rows to store, and everything that these depend on.

    Raises:
        UsageError: `precision` is int8, and the frozen stages are not quantized.
    """

    def __init__(self, model: Classifier, image_size: int, precision: str, fit: str = STRETCH) -> None:
        self.model, self.image_size, self.precision = model, image_size, precision
        self._pixels = f"{image_size} {DECODER}" + (f" {fit}" if fit != STRETCH else "")
        self.stores_nothing = False
        self.keep_pixels()
        if model.num_frozen_stages:
            self.batch_size = forward_batch(model.mean.device, image_size)
            network = f"{frozen_hash(model)} {code_hash(model)}"
            self.kind, self._identity = "features", f"{self._pixels} {_format(model, precision)} {network}"
            self._row_shape = model.frozen_shape(image_size)

    def keep_pixels(self) -> None:
        """Compute nothing: each row is a decoded image."""
        self.kind, self.batch_size = "pixels", 16  # written together

    def label(self, view: int) -> str:
        """Return what is being computed, for a progress bar."""
        return f"{self.kind}, view {view}" if view else self.kind

    def store(self, cache: Path) -> RowStore:
        """Return the store of the rows."""
        if self.kind == "pixels":
            shape = (self.image_size, self.image_size, 3)
            return RowStore(cache, self.kind, self._pixels, shape, np.dtype(np.uint8))
        return RowStore(cache, self.kind, self._identity, self._row_shape, np.dtype(np.float16))

    def stream(self, batches: Iterator[tuple[Item, np.ndarray]]) -> Iterator[tuple[Item, np.ndarray]]:
        """Yield the batches with rows (B, ...) in place of their pixels, in order."""
        if self.kind == "pixels" or (first := next(batches, None)) is None:
            yield from batches  # where the cache has all rows, no network is prepared
            return
        forward = FastForward(self.model, self.image_size, self.precision)
        for item, rows in forward.stream(itertools.chain([first], batches)):
            yield item, rows.numpy()


def _format(model: Classifier, precision: str) -> str:
    """Return what the numbers depend on besides weights and pixels.

    Raises:
        UsageError: int8 is stated, and there is no network in 8 bits.
    """
    if network := int8_network(model, precision):
        return f"{METHOD} int8 {network.digest} {torch.__version__}"
    if precision == "int8":
        what = "--precision int8: is for a backbone that was quantized when its head was trained"
        raise UsageError(what, "Leave it out, or train with --precision int8")
    dtypes = fast_dtypes(model.mean.device, precision)  # those that the processor multiplies, with auto
    name = "fp32" if dtypes == [torch.float32] else f"{precision} {dtypes}"
    return f"{METHOD} {name} {torch.__version__}"


def frozen_hash(model: Classifier) -> str:
    """Return a hash of what the frozen stages consist of: structure, parameters, buffers, normalisation."""
    frozen = model.backbone[: model.num_frozen_stages]
    tensors = (model.mean, model.std, *frozen.state_dict().values())
    with ThreadPoolExecutor(decoding_threads(None)) as threads:
        parts = [str(frozen).encode(), *threads.map(_hash, tensors)]
    return hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()


def code_hash(model: Classifier) -> str:
    """Return a hash of the files that define the classes of the frozen stages, but for those of torch.

    A file is edited more often than a module gets another name: `y.mean((2, 3))` becomes `y.amax((2, 3))`.
    """
    frozen = model.backbone[: model.num_frozen_stages]
    names = {each.__module__ for module in frozen.modules() for each in type(module).__mro__}
    own = sorted(name for name in names if name.partition(".")[0] not in ("builtins", "torch", "torchvision"))
    files = [Path(getattr(sys.modules.get(name), "__file__", None) or "") for name in own]
    contents = (file.read_bytes() for file in files if file.is_file())
    return hashlib.blake2b(b"".join(contents), digest_size=16).hexdigest()


def _hash(tensor: Tensor) -> bytes:
    return hashlib.blake2b(tensor.detach().cpu().contiguous().numpy().reshape(-1).view(np.uint8).data).digest()
