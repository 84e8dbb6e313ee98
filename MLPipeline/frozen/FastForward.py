"""Runs the frozen stages of a classifier fast: fused kernels, the fastest safe number format, one batch per core.

The number format is chosen by a check, not by timing, so that a machine always computes the same features: the fastest
one that agrees with fp32 on a few generated images.
"""

from __future__ import annotations

import copy
import logging
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate

from MLPipeline.Classifier import Classifier
from MLPipeline.Device import fast_dtypes
from MLPipeline.frozen.FuseConvolutions import Means, fuse, mean_inputs

_MIN_COSINE = 0.999
_MOST_EXACT_STAGES = 3
_NUM_DRAWN = 4  # twice as many are a CPU's batch, for which weights are packed
_LARGEST = torch.finfo(torch.float16).max

Item = TypeVar("Item")

logger = logging.getLogger(__name__)


def forward_batch(device: torch.device) -> int:
    """Return how many images to run at once: few on a CPU, so that they stay in its cache; many on a GPU."""
    return 8 if device.type == "cpu" else 128


class FastForward:
    """`model.frozen_features` of images (B, 3, H, W) uint8, as float16 rows on the CPU.

    Half precision keeps 11 bits of what was computed with 8 (bf16), or from pixels with far more noise.
    `batch_size` is the number of images to pass at once.
    """

    def __init__(self, model: Classifier, image_size: int, precision: str = "auto") -> None:
        self.device = model.mean.device
        self.batch_size = forward_batch(self.device)
        self.normalize = model.normalize
        self.network = _choose_network(model, image_size, precision)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Return float16 (B, D), or (B, ...) activations where some stages are not frozen."""
        number = len(images)
        if number < self.batch_size:  # weights are packed for one shape; and an image gets the same bits in any batch
            images = torch.cat([images, images.new_zeros(self.batch_size - number, *images.shape[1:])])
        rows = self.network(self.normalize(images.to(self.device, non_blocking=True)))[:number]
        return rows.float().clamp(-_LARGEST, _LARGEST).half().cpu()  # only random weights exceed it

    def stream(self, batches: Iterable[tuple[Item, np.ndarray]]) -> Generator[tuple[Item, Tensor], None, None]:
        """Yield `(item, rows (B, ...))` in order for each `(item, pixels (B, H, W, 3) uint8)`, read as needed.

        On a CPU every core runs a batch of its own. If they shared one batch, they would wait for each other after
        each layer, and for the core that is decoding images: that took half of the time.
        """
        cores = torch.get_num_threads()
        num_streams = cores if self.device.type == "cpu" else 1
        running: deque[tuple[Item, Future[Tensor]]] = deque()
        with ThreadPoolExecutor(
            num_streams, initializer=torch.set_num_threads, initargs=(cores // num_streams,)
        ) as pool:
            try:
                for item, pixels in batches:
                    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
                    running.append((item, pool.submit(self, images)))
                    if len(running) > num_streams:
                        yield running[0][0], running.popleft()[1].result()
                for item, rows in running:
                    yield item, rows.result()
            finally:
                pool.shutdown(cancel_futures=True)
                torch.set_num_threads(cores)  # else later threads would start with what the pool's threads have set


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
    images = model.normalize(drawn_images(_NUM_DRAWN, image_size).to(model.mean.device))
    with mean_inputs(frozen) as means:
        exact = frozen(images).flatten(1).cpu().double()  # Apple's GPU has no float64
    for dtype in fast_dtypes(model.mean.device, precision):
        for num_exact, (network, rows) in enumerate(_candidates(frozen, dtype, torch.cat([images, images]), means)):
            similarity = cosine_similarity(rows[:_NUM_DRAWN].flatten(1).cpu().double(), exact).mean().item()
            if similarity > _MIN_COSINE or precision != "auto":
                return network
            logger.info("%s after %d exact stages not used: cosine %.4f", dtype, num_exact, similarity)
    return frozen


def _candidates(
    frozen: nn.Sequential, dtype: torch.dtype, images: Tensor, means: Means
) -> Iterator[tuple[nn.Module, Tensor]]:
    """Yield the stages in `dtype` with their output for `images`; then with the first one, two, ... stages in fp32.

    Rounding costs most in the first stages, where each value is a sum of few terms: the features of a MobileNetV3 with
    random weights have a mean cosine to fp32 of 0.9977 in bf16, and of 0.9992 with the first stage in fp32.
    """
    rounded, exact, rows, activations = [], [], images.to(dtype), images
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
