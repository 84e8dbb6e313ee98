from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as one_image

from MLPipeline.augmentation import Pixels
from MLPipeline.augmentation.Pixels import affine, boxes, mix, move, recolour


def photos(number: int, height: int = 24, width: int = 24) -> Tensor:
    """Smooth images (B, 3, H, W) uint8 in channels-last memory, not two alike, mid-tones only."""
    draw = torch.Generator().manual_seed(number)
    coarse = 60 + 120 * torch.rand(number, 3, 4, 4, generator=draw)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return fine.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def noise(number: int, height: int, width: int) -> Tensor:
    draw = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (number, height, width, 3), dtype=torch.uint8, generator=draw).permute(0, 3, 1, 2)


def largest_difference(first: Tensor, second: Tensor) -> int:
    return int((first.int() - second.int()).abs().max())


def pure_moves(number: int, height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(0)
    flip_x, flip_y = random.choice([-1.0, 1.0], (2, number))
    return affine(
        number,
        xx=flip_x,
        yy=flip_y,
        dx=random.integers(-width, width + 1, number).astype(float),
        dy=random.integers(-height, height + 1, number).astype(float),
    )


@pytest.mark.parametrize("size", [(8, 8), (7, 12), (1, 1), (1, 5), (200, 200)])
def test_flips_and_whole_shifts_are_copies_mirrored_at_the_edges(size: tuple[int, int]) -> None:
    images = noise(6, *size)
    matrices = pure_moves(6, *size)
    expected = []
    for image, matrix in zip(images.numpy(), matrices, strict=True):
        height, width = size
        padded = np.pad(image, ((0, 0), (height, height), (width, width)), mode="symmetric")
        dx, dy = matrix[:2, 2].astype(int)
        window = padded[:, height + dy : 2 * height + dy, width + dx : 2 * width + dx]
        expected.append(window[:, :: int(matrix[1, 1]), :: int(matrix[0, 0])])
    np.testing.assert_array_equal(move(images, matrices).numpy(), np.stack(expected))


@pytest.mark.parametrize("size", [(8, 8), (7, 12), (1, 1), (1, 5), (200, 200)])
def test_interpolating_a_whole_shift_is_the_copy(size: tuple[int, int]) -> None:
    """So an image is the same whether or not another of its batch is rotated."""
    images, matrices = noise(6, *size), pure_moves(6, *size)
    assert torch.equal(Pixels._interpolate(images, matrices), move(images, matrices))


def test_only_what_falls_between_pixels_is_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    row = torch.tensor([0, 10, 20, 40], dtype=torch.uint8).expand(1, 3, 1, 4)
    assert move(row, affine(1, dx=0.5))[0, 0, 0].tolist() == [5, 15, 30, 40]
    monkeypatch.setattr(Pixels, "_interpolate", None)
    assert move(row, affine(1, xx=-1.0, dx=1.0))[0, 0, 0].tolist() == [40, 40, 20, 10]


def test_a_rotation_is_torchvisions() -> None:
    images = photos(3, 31, 40)
    angles = np.array([-30.0, 10.0, 90.0])
    cos, sin = np.cos(np.deg2rad(angles)), np.sin(np.deg2rad(angles))
    ours = move(images, affine(3, xx=cos, xy=-sin, yx=sin, yy=cos))
    inner = (..., slice(10, 21), slice(14, 26))  # what comes from inside of the image
    for image, turned, angle in zip(images, ours, angles, strict=True):
        theirs = one_image.rotate(image, angle, InterpolationMode.BILINEAR)
        assert largest_difference(turned[inner], theirs[inner]) <= 1


def test_a_window_is_torchvisions_resized_crop() -> None:
    images = photos(1, 24, 24)
    ours = move(images, affine(1, xx=0.5, yy=0.75, dx=2.0, dy=-3.0))  # 12 wide, 18 high, about (14, 9)
    theirs = one_image.resized_crop(images, 0, 8, 18, 12, [24, 24], antialias=False)
    inner = (..., slice(2, 22), slice(2, 22))  # at its edges ours sees what is beside the window
    assert largest_difference(ours[inner], theirs[inner]) <= 1


def test_moves_do_the_first_first() -> None:
    images = noise(1, 16, 16)
    shift, flip = affine(1, dx=3.0), affine(1, xx=-1.0)
    assert torch.equal(move(images, shift @ flip), move(move(images, shift), flip))
    assert not torch.equal(move(images, shift @ flip), move(images, flip @ shift))


NEUTRAL = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue_degrees": 0.0}


def recoloured(images: Tensor, **strengths: float) -> Tensor:
    return recolour(images, **{name: np.full(len(images), value) for name, value in (NEUTRAL | strengths).items()})


@pytest.mark.parametrize("size", [(200, 200), (1, 1), (3, 8)])
def test_no_change_of_colour_changes_no_pixel(size: tuple[int, int]) -> None:
    images = noise(3, *size)
    assert torch.equal(recoloured(images), images)


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_each_change_of_colour_is_torchvisions(name: str, factor: float) -> None:
    images = photos(3)
    theirs = getattr(one_image, f"adjust_{name}")(images, factor)
    assert largest_difference(recoloured(images, **{name: factor}), theirs) <= 1  # it rounds down, we to the nearest


def test_changes_of_colour_together_are_torchvisions_in_turn() -> None:
    images = photos(3).float() / 255  # theirs rounds down at every step
    theirs = one_image.adjust_brightness(images, 1.2)
    theirs = one_image.adjust_saturation(one_image.adjust_contrast(theirs, 0.8), 1.3)
    ours = recoloured(photos(3), brightness=1.2, contrast=0.8, saturation=1.3)
    assert largest_difference(ours, (255 * theirs).round().to(torch.uint8)) <= 1


def test_values_are_rounded_and_stay_within_bytes() -> None:
    images = torch.tensor([0, 1, 101, 255], dtype=torch.uint8).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    assert recoloured(images, brightness=1.25)[0, 0, 0].tolist() == [0, 1, 126, 255]
    assert recoloured(images, contrast=3.0)[0, 0, 0].tolist() == [0, 0, 124, 255]  # about a mean of 89.25


def test_hue_keeps_greys_and_brightness_and_turns_colours() -> None:
    grey = torch.arange(0, 256, 5, dtype=torch.uint8).view(1, 1, 1, -1).expand(1, 3, 1, -1)
    assert torch.equal(recoloured(grey, hue_degrees=40.0), grey)
    images = photos(2)
    turned = recoloured(images, hue_degrees=40.0)
    assert largest_difference(turned, images) > 20
    assert largest_difference(one_image.rgb_to_grayscale(turned), one_image.rgb_to_grayscale(images)) <= 1
    reddish = torch.tensor([150, 100, 100], dtype=torch.uint8).view(1, 3, 1, 1)
    assert recoloured(reddish, hue_degrees=120.0).flatten().argmax() != 0


def test_boxes_are_cut_at_the_edges() -> None:
    inside = boxes(np.array([-1.0, 2.0]), np.array([1.0, 3.0]), np.array([2.0, 9.0]), np.array([2.0, 0.0]), (4, 5))
    assert inside.shape == (2, 4, 5)
    assert np.argwhere(inside).tolist() == [[0, 0, 1], [0, 0, 2]]


def test_images_and_targets_are_mixed_by_the_same_share() -> None:
    images = torch.tensor([10, 50, 200], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    keep = np.array([[[1.0, 1.0], [1.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]], [[1.0, 1.0], [1.0, 1.0]]])
    mixed, targets = mix(images, torch.eye(3), keep)
    assert mixed[0, 0].tolist() == [[10, 10], [10, 200]]  # the one before the first is the last
    assert mixed[1, 2].tolist() == [[30, 30], [30, 30]]
    assert torch.equal(mixed[2], images[2])
    assert targets.tolist() == [[0.75, 0, 0.25], [0.5, 0.5, 0], [0, 0, 1]]
