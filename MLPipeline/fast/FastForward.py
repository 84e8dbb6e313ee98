"""Runs the frozen stages of a classifier at the processor's speed: same features, fewer and better instructions.

The number format is chosen by a check, not by a clock, so the same machine always gives the same features: of the
formats this processor computes fast, the first whose features agree with fp32's on a few drawn images.
"""

from __future__ import annotations

import copy
import logging

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate

from MLPipeline.Classifier import Classifier
from MLPipeline.Device import fast_dtypes
from MLPipeline.fast.FuseConvolutions import fuse

# On a CPU small batches stay in the cache; a GPU wants to be filled.
FORWARD_BATCH = {"cpu": 16}
_GPU_BATCH = 128
_MIN_COSINE = 0.999
_LARGEST = torch.finfo(torch.float16).max

logger = logging.getLogger(__name__)


class FastForward:
    """What `model.frozen_features` gives for images (B, 3, H, W) uint8, as float16 rows on the CPU.

    Half precision keeps 11 bits of what was computed with 8 (bf16), or with far more noise in the pixels.
    `dtype` is the format computed in; `batch_size` the number of images to give at once.
    """

    def __init__(self, model: Classifier, image_size: int, precision: str = "auto") -> None:
        self.device = model.mean.device
        self.batch_size = FORWARD_BATCH.get(self.device.type, _GPU_BATCH)
        self.normalize = model.normalize
        self.dtype, self.network = _choose(model, image_size, precision)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Return float16 (B, D), or (B, ...) activations where some stages are not frozen."""
        rows = self.network(self.normalize(images.to(self.device, non_blocking=True)).to(self.dtype))
        return rows.float().clamp(-_LARGEST, _LARGEST).half().cpu()  # random weights may exceed it, trained ones do not


class FastClassifier(nn.Module):
    """Logits (B, C) float32 of a trained `model`, whose backbone runs by `FastForward`; inference only."""

    def __init__(self, model: Classifier, image_size: int, precision: str = "auto") -> None:
        super().__init__()
        model.freeze("backbone")
        self.head = model.head
        self.rows = FastForward(model, image_size, precision)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits for `images` (B, 3, H, W) uint8."""
        return self.head(self.rows(images).to(self.rows.device).float())


@torch.inference_mode()
def _choose(model: Classifier, image_size: int, precision: str) -> tuple[torch.dtype, nn.Module]:
    """Return the dtype to compute in, and the frozen stages made ready for it."""
    frozen = model.backbone[: model.num_frozen_stages].eval()
    images = model.normalize(_drawn_images(image_size).to(model.mean.device))
    exact = frozen(images).flatten(1).double()
    for dtype in fast_dtypes(model.mean.device, precision):
        network = fuse(copy.deepcopy(frozen).to(dtype).to(memory_format=torch.channels_last), images.to(dtype))
        similarity = cosine_similarity(network(images.to(dtype)).flatten(1).double(), exact).min().item()
        if similarity > _MIN_COSINE or precision != "auto":
            return dtype, network
        logger.info("%s not used: its features differ (cosine %.4f)", dtype, similarity)
    return torch.float32, frozen


def _drawn_images(size: int) -> Tensor:
    """Return images (4, 3, size, size) uint8: black, white, noise, and smooth blots, always the same."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (1, 3, size, size), generator=draw).float()
    blots = interpolate(torch.randint(0, 256, (1, 3, 6, 6), generator=draw).float(), size, mode="bicubic").clamp(0, 255)
    return torch.cat([torch.zeros_like(noise), torch.full_like(noise, 255), noise, blots]).to(torch.uint8)
