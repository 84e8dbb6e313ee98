"""Shows which pixels a prediction is based on: Grad-CAM heat maps, and pictures with a heat map overlaid.

Source: R. Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization,
arXiv:1610.02391, section 3. B images, C classes, K channels, h x w pixels of the activations.
"""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from MLPipeline.Classifier import Classifier
from MLPipeline.decoding.Preprocessing import PLAIN, Preprocessing
from MLPipeline.decoding.ReadImage import UnreadableImage
from MLPipeline.Device import autocast, training_dtype
from MLPipeline.Errors import UsageError
from MLPipeline.images.ScanFolders import ImageIndex
from MLPipeline.scoring.Predictions import in_eval_mode

_SHADES = (  # 16 colours of matplotlib's inferno (upper 3/4): importing matplotlib would take as long as the heat maps
    "57106e 6a176e 7f1e6c 932667 a82e5f bc3754 cc4248 dd513a ea632a f37819 f98e09 fca50a fbbe23 f6d746 f1ef75 fcffa4"
)
_DIMMED, _FULL_GLOW = 0.75, 0.45  # brightness of pixels without heat; the heat from which on only the colour is visible
_IMAGES_AT_ONCE = 8


def heat_maps(model: Classifier, images: Tensor, classes: Tensor | None = None, precision: str = "auto") -> Tensor:
    """Return how much each pixel supports a class: (B, H, W) float32 on the CPU, 0 to 1 (its maximum).

    The activations of the last stage with spatial extent are summed over their channels, each weighted by the mean
    gradient of the class's logit; negative sums are set to 0. The map is all zero if nothing supports the class.
    `model` is not changed: its modes, gradients and `requires_grad` flags stay as they were.

    Args:
        model: any classifier whose backbone has a stage that returns (B, K, h, w).
        images: (B, 3, H, W) uint8.
        classes: (B,) int64; by default the predicted classes.
        precision: as for `--precision`; the precision in which the activations are computed.

    Raises:
        UsageError: no stage returns a feature map with more than one position.
    """
    images = images.to(model.mean.device)
    with in_eval_mode(model):
        # ResNet50 in bf16 takes half the time; the maps correlate with those in fp32 by 0.9999.
        dtype = training_dtype(images.device, model, precision)
        with autocast(images.device, dtype):
            activations, rest = _last_map(model, images)
        with torch.enable_grad():
            activations = activations.detach().float().clone().requires_grad_()
            # A copy: the next stage may modify its input in place, which autograd forbids for a leaf.
            logits = model.head(rest(activations.clone())).float()
            chosen = logits.argmax(dim=1) if classes is None else classes.to(logits.device)
            (slopes,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), activations)
    weights = slopes.mean(dim=(2, 3), keepdim=True)  # (B, K, 1, 1)
    heat = (weights * activations.detach()).sum(dim=1, keepdim=True).relu().float()
    heat = interpolate(heat, images.shape[-2:], mode="bicubic", align_corners=False).clamp_min(0)[:, 0]
    hottest = heat.amax(dim=(1, 2), keepdim=True)
    return (heat / hottest.where(hottest > 0, 1)).cpu()


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return `image` (H, W, 3) uint8 RGB in grey, coloured by its `heat` (H, W), 0 to 1.

    The colours go from purple through red to yellow with increasing lightness (matplotlib's inferno), so that they can
    be distinguished by colour-blind readers and in print.
    """
    grey = (image @ np.array([0.299, 0.587, 0.114], np.float32))[:, :, None]  # so that colour shows nothing but heat
    glow = 0.5 * grey + 0.6 * _colours()[(255 * heat).astype(np.uint8)]
    share = np.minimum(heat / _FULL_GLOW, 1)[:, :, None]
    return (share * glow + (1 - share) * _DIMMED * grey).clip(0, 255).astype(np.uint8)


@functools.cache
def _colours() -> np.ndarray:
    """Return the colour map (256, 3) float32 RGB, from no heat to the highest."""
    shades = np.array([list(bytes.fromhex(shade)) for shade in _SHADES.split()])
    places = np.linspace(0, 1, len(shades))
    return np.stack([np.interp(np.linspace(0, 1, 256), places, each) for each in shades.T], axis=1).astype(np.float32)


def explain_images(
    model: Classifier,
    index: ImageIndex,
    positions: np.ndarray,
    image_size: int,
    precision: str = "auto",
    preprocessing: Preprocessing = PLAIN,
) -> dict[int, np.ndarray]:
    """Return {position: picture (H, W, 3) uint8} with heat maps of the predicted classes; omits unreadable files."""
    pictures: dict[int, np.ndarray] = {}
    for position in positions.tolist():
        with contextlib.suppress(UnreadableImage):
            pictures[position] = preprocessing.read(index.path(position), image_size).pixels
    shown = list(pictures)
    for first in range(0, len(shown), _IMAGES_AT_ONCE):
        batch = shown[first : first + _IMAGES_AT_ONCE]
        drawn = draw_heat(model, np.stack([pictures[position] for position in batch]), precision)
        pictures |= dict(zip(batch, drawn, strict=True))
    return pictures


def draw_heat(model: Classifier, pixels: np.ndarray, precision: str = "auto") -> list[np.ndarray]:
    """Return the pictures `pixels` (B, H, W, 3) uint8 RGB, each overlaid with the heat map of its predicted class."""
    heat = heat_maps(model, torch.from_numpy(pixels).permute(0, 3, 1, 2), precision=precision).numpy()
    return [overlay(*pair) for pair in zip(pixels, heat, strict=True)]


@torch.no_grad()
def _last_map(model: Classifier, images: Tensor) -> tuple[Tensor, nn.Module]:
    """Return the activations (B, K, h, w) of the last stage with more than one position, and the stages after it."""
    activations, found = model.normalize(images), None
    for number, stage in enumerate(model.backbone, start=1):
        activations = stage(activations)
        if (
            isinstance(activations, Tensor)
            and activations.ndim == 4
            and activations.shape[2] * activations.shape[3] > 1
        ):
            found = activations.clone(), model.backbone[number:]  # a copy: the next stage may work in place
    if found is None:
        raise UsageError("--heatmap: no stage of this model returns a feature map", "Use larger images, or a CNN")
    return found
