"""Augments the training images, one batch at a time: `--augment hflip,crop,jitter`.

Every random number is a function of (seed, epoch, dataset index), so a resumed run sees the same images as an
uninterrupted one. Validation and test images are never augmented. All geometric transforms of an image are multiplied
into one matrix, so that pixels are interpolated only once. RandAugment and TrivialAugment come from
torchvision.transforms.v2.

To change a strength, edit its constant below. To add an augmentation, write one function and its entry in
`AUGMENTATIONS`: a `Move` returns matrices (see `augmentation.Pixels.affine`), a `Paint` new images, a `Mix` the weight
of each pixel. B, H, W: images are (B, 3, H, W) uint8 RGB in any memory format, on any device. Draws are NumPy arrays
(B,).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from MLPipeline.augmentation.KeyedDraws import Draws
from MLPipeline.augmentation.Pixels import affine, boxes, mix, move, recolour
from MLPipeline.Errors import UsageError, did_you_mean

if TYPE_CHECKING:  # importing torchvision takes 0.25 s; only RandAugment and TrivialAugment need it
    from torchvision.transforms import v2

FLIP_CHANCE = 0.5
ROTATE_DEGREES = 15.0  # at most, in either direction
TRANSLATE = 1 / 8  # at most, as a share of the side of the image: 4 of 32 pixels
CROP_AREA = (0.35, 1.0)  # share of the area of the image
CROP_ASPECT = 4 / 3  # at most, width to height or height to width
BRIGHTNESS = CONTRAST = SATURATION = 0.25  # at most, up or down
HUE_DEGREES = 8.0  # at most, in either direction of the colour wheel
ERASE_CHANCE = 0.5
ERASE_AREA = (0.02, 0.33)  # share of the area of the image
ERASE_ASPECT = 3.3  # at most
RANDAUGMENT_NUM, RANDAUGMENT_MAGNITUDE = 2, 9  # operations per image, and their magnitude, 0 to 30
MIXUP_SHARE = (0.0, 1.0)  # weight of the image itself; uniform, like the paper's Beta(1, 1)
CUTMIX_SHARE = (0.0, 1.0)
FILL = [124, 116, 104]  # ImageNet's mean colour, for pixels that RandAugment and TrivialAugment leave empty


@dataclass(frozen=True)
class Move:
    """An augmentation that moves pixels; all moves in a list are applied in one step."""

    about: str
    matrices: Callable[[Draws, int, int], np.ndarray]  # draws, height, width -> (B, 3, 3)


@dataclass(frozen=True)
class Paint:
    """An augmentation that changes the colours of pixels."""

    about: str
    images: Callable[[Tensor, Draws], Tensor]  # (B, 3, H, W) uint8, draws -> the same


@dataclass(frozen=True)
class Mix:
    """An augmentation that mixes images and targets; if a list has several, one of them is drawn for each image."""

    about: str
    keep: Callable[[Draws, int, int], np.ndarray]  # draws, height, width -> (B, H, W) or (B, 1, 1), 0 to 1


def hflip(draws: Draws, height: int, width: int) -> np.ndarray:
    """Return matrices that mirror some images left to right."""
    return affine(len(draws), xx=np.where(draws.chance("hflip", FLIP_CHANCE), -1.0, 1.0))


def vflip(draws: Draws, height: int, width: int) -> np.ndarray:
    """Return matrices that mirror some images top to bottom."""
    return affine(len(draws), yy=np.where(draws.chance("vflip", FLIP_CHANCE), -1.0, 1.0))


def crop(draws: Draws, height: int, width: int) -> np.ndarray:
    """Return matrices that crop and enlarge a window of random position, area and aspect ratio (arXiv:1409.4842)."""
    area = draws.uniform("crop.area", *CROP_AREA)
    aspect = CROP_ASPECT ** draws.uniform("crop.aspect", -1, 1)
    across, down = np.minimum(1, np.sqrt(area * aspect)), np.minimum(1, np.sqrt(area / aspect))
    dx = draws.uniform("crop.x", -0.5, 0.5) * width * (1 - across)
    dy = draws.uniform("crop.y", -0.5, 0.5) * height * (1 - down)
    return affine(len(draws), xx=across, yy=down, dx=dx, dy=dy)


def translate(draws: Draws, height: int, width: int) -> np.ndarray:
    """Return matrices that shift by whole pixels, like padding and a random crop (arXiv:1512.03385, section 4.2)."""
    most_x, most_y = int(TRANSLATE * width), int(TRANSLATE * height)
    dx = np.floor(draws.uniform("translate.x", -most_x, most_x + 1))
    dy = np.floor(draws.uniform("translate.y", -most_y, most_y + 1))
    return affine(len(draws), dx=dx, dy=dy)


def rotate(draws: Draws, height: int, width: int) -> np.ndarray:
    """Return matrices that rotate the images about their centres."""
    angles = np.deg2rad(draws.uniform("rotate", -ROTATE_DEGREES, ROTATE_DEGREES))
    cos, sin = np.cos(angles), np.sin(angles)
    return affine(len(draws), xx=cos, xy=-sin, yx=sin, yy=cos)


def randaugment(images: Tensor, draws: Draws) -> Tensor:
    """Return images transformed by torchvision's RandAugment (arXiv:1909.13719)."""
    from torchvision.transforms import v2

    bilinear = v2.InterpolationMode.BILINEAR
    transform = v2.RandAugment(RANDAUGMENT_NUM, RANDAUGMENT_MAGNITUDE, interpolation=bilinear, fill=FILL)
    return _apply_to_each(transform, images, draws.bits("randaugment"))


def trivial(images: Tensor, draws: Draws) -> Tensor:
    """Return images transformed by torchvision's TrivialAugment (arXiv:2103.10158)."""
    from torchvision.transforms import v2

    transform = v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR, fill=FILL)
    return _apply_to_each(transform, images, draws.bits("trivial"))


def jitter(images: Tensor, draws: Draws) -> Tensor:
    """Return images with changed brightness, contrast, saturation and hue."""
    return recolour(
        images,
        brightness=draws.uniform("jitter.brightness", 1 - BRIGHTNESS, 1 + BRIGHTNESS),
        contrast=draws.uniform("jitter.contrast", 1 - CONTRAST, 1 + CONTRAST),
        saturation=draws.uniform("jitter.saturation", 1 - SATURATION, 1 + SATURATION),
        hue_degrees=draws.uniform("jitter.hue", -HUE_DEGREES, HUE_DEGREES),
    )


def erase(images: Tensor, draws: Draws) -> Tensor:
    """Return images, some of them with a box of noise (Random Erasing, arXiv:1708.04896)."""
    height, width = images.shape[2:]
    area = draws.uniform("erase.area", *ERASE_AREA) * draws.chance("erase", ERASE_CHANCE)
    aspect = ERASE_ASPECT ** draws.uniform("erase.aspect", -1, 1)
    heights = np.rint(height * np.minimum(1, np.sqrt(area / aspect)))
    widths = np.rint(width * np.minimum(1, np.sqrt(area * aspect)))
    top = np.floor(draws.uniform("erase.y") * (height - heights + 1))
    left = np.floor(draws.uniform("erase.x") * (width - widths + 1))
    image, row, column = boxes(top, left, heights, widths, (height, width)).nonzero()
    noise = torch.from_numpy(draws.colours("erase.noise", image, row * width + column)).to(images.device)
    erased = images.clone()
    erased.permute(0, 2, 3, 1)[image, row, column] = noise
    return erased


def mixup(draws: Draws, height: int, width: int) -> np.ndarray:
    """Return one weight (B, 1, 1) for all pixels of an image (arXiv:1710.09412)."""
    return draws.uniform("mixup", *MIXUP_SHARE)[:, None, None]


def cutmix(draws: Draws, height: int, width: int) -> np.ndarray:
    """Return weights of 0 in a box around a random centre, clipped at the edges, and 1 outside (arXiv:1905.04899)."""
    side = np.sqrt(1 - draws.uniform("cutmix", *CUTMIX_SHARE))
    heights, widths = np.rint(side * height), np.rint(side * width)
    top = np.floor(draws.uniform("cutmix.y") * height - heights / 2)
    left = np.floor(draws.uniform("cutmix.x") * width - widths / 2)
    return (~boxes(top, left, heights, widths, (height, width))).astype(np.float32)


def _apply_to_each(transform: v2.Transform, images: Tensor, seeds: np.ndarray) -> Tensor:
    """Return each image transformed by `transform`, with random numbers seeded by its entry in `seeds` (B,) uint64.

    The transform draws from torch's global CPU generator, whose state is restored; torch.manual_seed would also seed
    the GPUs.
    """
    changed = []
    with torch.random.fork_rng(devices=[]):
        for image, seed in zip(images, seeds.tolist(), strict=True):
            torch.default_generator.manual_seed(seed)
            changed.append(transform(image))
    return torch.stack(changed)


# In the order of application, except that moves always come first and mixes last.
AUGMENTATIONS: dict[str, Move | Paint | Mix] = {
    "hflip": Move(f"mirrored left to right ({FLIP_CHANCE:.0%} of the images)", hflip),
    "vflip": Move(f"mirrored top to bottom ({FLIP_CHANCE:.0%} of the images)", vflip),
    "crop": Move(f"cropped to {CROP_AREA[0]:.0%}-{CROP_AREA[1]:.0%} of the area", crop),
    "translate": Move(f"shifted by up to {TRANSLATE:.1%} of the side", translate),
    "rotate": Move(f"rotated by up to {ROTATE_DEGREES:g} degrees", rotate),
    "randaugment": Paint(f"RandAugment({RANDAUGMENT_NUM}, {RANDAUGMENT_MAGNITUDE})", randaugment),
    "trivial": Paint("TrivialAugment", trivial),
    "jitter": Paint(
        f"brightness, contrast and colour changed by up to {max(BRIGHTNESS, CONTRAST, SATURATION):.0%}", jitter
    ),
    "erase": Paint(f"a box of noise ({ERASE_CHANCE:.0%} of the images)", erase),
    "mixup": Mix("blended with another image", mixup),
    "cutmix": Mix("a box replaced by that of another image", cutmix),
}


@dataclass(frozen=True)
class Augmentation:
    """The augmentations of one `--augment` list, in order of application; false if there are none."""

    names: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.names)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with other images of the batch."""
        return any(isinstance(AUGMENTATIONS[name], Mix) for name in self.names)

    def __str__(self) -> str:
        return ",".join(self.names) or "none"

    def describe(self) -> str:
        """Return a description of the augmentations for the console."""
        return ", ".join(AUGMENTATIONS[name].about for name in self.names) or "none"

    def __call__(
        self, images: Tensor, targets: Tensor, seed: int, epoch: int, indices: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return augmented images (B, 3, H, W) uint8 and targets (B, C) float32; the inputs are not modified.

        Only mixup and cutmix change targets. They depend on the batch: each image is mixed with the one before it.

        Args:
            images: (B, 3, H, W) uint8; B may be 0.
            targets: (B, C) float32 one-hot.
            seed: of the run, 0 to 2**64 - 1.
            epoch: from 0.
            indices: (B,) int64 positions in the dataset, on any device.
        """
        if not self.names or not len(images):
            return images, targets
        draws, size = Draws(seed, epoch, indices.cpu().numpy()), images.shape[2:]
        steps = [AUGMENTATIONS[name] for name in self.names]
        moves = [step.matrices(draws, *size) for step in steps if isinstance(step, Move)]
        if moves:
            images = move(images, functools.reduce(np.matmul, moves))
        for step in steps:
            if isinstance(step, Paint):
                images = step.images(images, draws)
        keeps = [step.keep(draws, *size) for step in steps if isinstance(step, Mix)]
        if keeps:
            which = np.floor(draws.uniform("mix", 0, len(keeps))).astype(np.int64)
            images, targets = mix(images, targets, np.choose(which[:, None, None], keeps))
        return images, targets


def make_augmentation(names: str) -> Augmentation:
    """Return the augmentation for a comma-separated list such as `hflip,crop`, or `none`; the order does not matter.

    Raises:
        UsageError: a name is unknown, or `none` is combined with other names.
    """
    chosen = [name.strip().lower() for name in names.split(",")]
    if chosen == ["none"]:
        return Augmentation(())
    known = [*AUGMENTATIONS, "none"] if len(chosen) == 1 else AUGMENTATIONS
    for name in chosen:
        if name not in AUGMENTATIONS:
            raise UsageError(f"--augment {name}: no such augmentation", did_you_mean(name, known))
    return Augmentation(tuple(name for name in AUGMENTATIONS if name in chosen))
