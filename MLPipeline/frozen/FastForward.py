"""Runs the frozen stages of a classifier fast: fused kernels, the fastest safe number format, one batch per core.

The number format is chosen by a check, not by timing, so that a machine always computes the same features: the fastest
one that agrees with fp32 on a few generated images.
"""

from __future__ import annotations

import copy
import logging
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from itertools import chain, islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate

from MLPipeline.Classifier import Classifier
from MLPipeline.Device import fast_dtypes, start_threads
from MLPipeline.onednn.FuseConvolutions import Means, fuse, mean_inputs
from MLPipeline.onednn.Int8Backbone import in_8_bits
from MLPipeline.onednn.Int8Network import Int8Network

_MIN_COSINE = 0.999
_MAX_ERROR, _MAX_LENGTH_ERROR = 0.001, 0.05  # relative to the features: of fp32, and of their length in other formats
_MOST_EXACT_STAGES = 3
_NUM_DRAWN = 4  # images
_CPU_BATCHES, _CPU_PIXELS = (2, 32), 1_100_000  # images of a batch, at least and at most; pixels of a batch
_LARGEST = torch.finfo(torch.float16).max

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


def forward_batch(device: torch.device, image_size: int) -> int:
    """Return how many images to run at once: on a CPU a power of two, 16 of 200 pixels; many on a GPU.

    A call of a kernel takes 40 microseconds besides its work: EfficientNet-Lite0 in 8 bits computes 590 images of 200
    pixels a second in batches of 8, 670 in batches of 16, and 710 in batches of 32. But what a small set of images
    lacks of a full batch is computed as well.
    """
    if device.type != "cpu":
        return 128
    least, most = _CPU_BATCHES
    return min(most, max(least, 2 ** int(math.log2(max(1, _CPU_PIXELS // image_size**2)))))


class FastForward:
    """`model.frozen_features` of images (B, 3, H, W) uint8, as float16 rows on the CPU.

    Half precision keeps 11 bits of what was computed with 8 (bf16), or from pixels with far more noise.
    `batch_size` is the number of images to pass at once.
    """

    def __init__(self, model: Classifier, image_size: int, precision: str = "auto") -> None:
        self.device = model.mean.device
        self.batch_size = forward_batch(self.device, image_size)
        self._compute: Callable[[Tensor], Tensor]  # images uint8 -> rows
        if quantized := int8_network(model, precision):
            self._compute = in_8_bits(model.backbone, model.normalization, quantized)
        else:
            network, normalize = _choose_network(model, image_size, precision), model.normalize
            self._compute = lambda images: network(normalize(images))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Return float16 (B, D), or (B, ...) activations where some stages are not frozen."""
        return self._rows(self.padded(images))[: len(images)]

    def alone(self, image: Tensor) -> Tensor:
        """Return the row (1, ...) of one image (1, 3, H, W) as soon as possible, with all cores of this thread.

        The rest of the batch is not computed. On CPUs, the kernels for one image add in the same order: with seven
        networks in fp32 and bf16 and 1 to 4 threads, the rows were equal to the last bit. CUDA's kernels depend on the
        size of the batch, and with them the rounding in half precision, so the batch is computed there.
        """
        return self(image) if self.device.type == "cuda" else self._rows(image)

    def padded(self, rows: Tensor) -> Tensor:
        """Return `rows` (B, ...) followed by as many rows of zeros as a full batch lacks.

        Weights are packed for one shape, and an image gets the same bits in any batch.
        """
        return torch.cat([rows, rows.new_zeros(max(0, self.batch_size - len(rows)), *rows.shape[1:])])

    @torch.inference_mode()
    def _rows(self, images: Tensor) -> Tensor:
        rows = self._compute(images.to(self.device, non_blocking=True))
        return rows.float().clamp(-_LARGEST, _LARGEST).half().cpu()  # only random weights exceed it

    def stream(self, batches: Iterable[tuple[Item, np.ndarray]]) -> Generator[tuple[Item, Tensor], None, None]:
        """Yield `(item, rows (B, ...))` in order for each `(item, pixels (B, H, W, 3) uint8)`, read as needed."""
        return self.map(lambda rows: rows, batches)

    def map(
        self, finish: Callable[[Tensor], Result], batches: Iterable[tuple[Item, np.ndarray]]
    ) -> Generator[tuple[Item, Result], None, None]:
        """Yield `(item, finish(rows (B, ...)))` in order for each `(item, pixels (B, H, W, 3) uint8)`.

        On a CPU every core runs a batch of its own, and `finish` on its rows. If the cores shared one batch, they would
        wait for each other after each layer, and for the core that is decoding images: that took half of the time. Only
        where there are fewer batches than cores, they share them. Several threads may do this at the same time.
        """
        num_streams = torch.get_num_threads() if self.device.type == "cpu" else 1
        running: deque[tuple[Item, Future[Result]]] = deque()
        batches = iter(batches)
        ahead = list(islice(batches, max(2, num_streams)))
        if len(ahead) < 2:
            yield from ((item, self._finished(pixels, finish)) for item, pixels in ahead)
            return
        num_streams = min(num_streams, len(ahead))
        pool = start_threads(num_streams)
        try:
            for item, pixels in chain(ahead, batches):
                running.append((item, pool.submit(self._finished, pixels, finish)))
                if len(running) > num_streams:
                    yield running[0][0], running.popleft()[1].result()
            for item, result in running:
                yield item, result.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _finished(self, pixels: np.ndarray, finish: Callable[[Tensor], Result]) -> Result:
        return finish(self(torch.from_numpy(pixels).permute(0, 3, 1, 2)))


def int8_network(model: Classifier, precision: str) -> Int8Network | None:
    """Return the network in 8 bits that computes the frozen stages of `model`; None if torch computes them."""
    is_whole = 0 < model.num_frozen_stages == len(model.stages)
    return model.quantized if precision in ("auto", "int8") and is_whole else None


class _Cast(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, activations: Tensor) -> Tensor:
        return activations.to(self.dtype)


@torch.inference_mode()
def _choose_network(model: Classifier, image_size: int, precision: str) -> nn.Module:
    """Return the fastest form of the frozen stages that is exact enough; its input is normalised float32 images."""
    frozen = model.backbone[: model.num_frozen_stages].eval()
    dtypes = fast_dtypes(model.mean.device, precision)
    # One image shows whether a fused network is still the same in fp32; what rounding does takes several.
    number = 1 if dtypes == [torch.float32] else _NUM_DRAWN
    images = model.normalize(drawn_images(number, image_size).to(model.mean.device))
    sample = images
    if number > 1 and images.device.type == "cpu":  # weights are packed for its size: a batch
        sample = images[torch.arange(max(number, forward_batch(images.device, image_size))) % number]
    with mean_inputs(frozen) as means:
        exact, pass_tensors = images.clone(), True  # which the first stage may change in place
        for stage in frozen:
            exact = stage(exact)
            pass_tensors = pass_tensors and isinstance(exact, Tensor)
        exact = exact.flatten(1).cpu().double()  # Apple's GPU has no float64
    stages = frozen if pass_tensors else nn.Sequential(frozen)  # which is then fused as one
    for dtype in dtypes:
        is_stated = precision != "auto" and dtype != torch.float32
        for num_exact, (network, rows) in enumerate(_candidates(stages, dtype, sample, means)):
            found = rows[:number].flatten(1).cpu().double()
            similarity = cosine_similarity(found, exact).mean().item()
            if (similarity > _MIN_COSINE or is_stated) and _agrees(found, exact, dtype):
                return network
            logger.info("%s after %d exact stages not used: cosine %.4f", dtype, num_exact, similarity)
    return frozen


def _agrees(found: Tensor, exact: Tensor, dtype: torch.dtype) -> bool:
    """Return whether features in `dtype` are as long as the exact ones, which a cosine does not see.

    What tracing makes of a network may lack something. In fp32, where nothing is rounded, all of it has to agree.
    """
    if dtype == torch.float32:
        return bool((found - exact).norm() <= _MAX_ERROR * exact.norm())
    return bool((found.norm() - exact.norm()).abs() <= _MAX_LENGTH_ERROR * exact.norm())


def _candidates(
    frozen: nn.Sequential, dtype: torch.dtype, images: Tensor, means: Means
) -> Iterator[tuple[nn.Module, Tensor]]:
    """Yield the stages in `dtype` with their output for `images`; then with the first one, two, ... stages in fp32.

    Rounding costs most in the first stages, where each value is a sum of few terms: the features of a MobileNetV3 with
    random weights have a mean cosine to fp32 of 0.9977 in bf16, and of 0.9992 with the first stage in fp32.
    """
    rounded, exact, rows, activations = [], [], images.to(dtype, copy=True), images.clone()
    for stage in frozen:
        fused, rows = fuse(*_copied(stage, means), dtype, rows)
        rounded.append(fused)
    yield nn.Sequential(_Cast(dtype), *rounded), rows
    for number, stage in enumerate(frozen[:_MOST_EXACT_STAGES], start=1):
        fused, activations = fuse(*_copied(stage, means), torch.float32, activations)
        exact.append(fused)
        rest = nn.Sequential(_Cast(dtype), *rounded[number:])
        yield nn.Sequential(*exact, *rest), rest(activations)


def _copied(stage: nn.Module, means: Means) -> tuple[nn.Module, Means]:
    """Return a copy of a stage, and the mean inputs of its convolutions."""
    copied = copy.deepcopy(stage).to(memory_format=torch.channels_last)
    return copied, {
        twin: means[each] for each, twin in zip(stage.modules(), copied.modules(), strict=True) if each in means
    }


def drawn_images(number: int, size: int) -> Tensor:
    """Return images (B, 3, size, size) uint8 of random blobs at all scales, rough like photographs; always the same."""
    draw = torch.Generator().manual_seed(0)
    images = torch.zeros(number, 3, size, size)
    for cells in (2, 4, 8, 16, 32, 64, 128):
        blots = torch.randn(number, 3, cells, cells, generator=draw) / cells**0.7
        images += interpolate(blots, size, mode="bicubic")
    darkest, brightest = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (255 * (images - darkest) / (brightest - darkest)).to(torch.uint8)
