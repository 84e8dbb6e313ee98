from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from MLPipeline import Augment
from MLPipeline.Augment import AUGMENTATIONS, Mix, make_augmentation
from MLPipeline.augmentation.KeyedDraws import Draws
from MLPipeline.Errors import UsageError

OF_ONE_IMAGE = [name for name, step in AUGMENTATIONS.items() if not isinstance(step, Mix)]
MIXES = ["mixup", "cutmix", "mixup,cutmix"]
LISTS = [*OF_ONE_IMAGE, *MIXES, "hflip,translate", "hflip,vflip,crop,translate,rotate,jitter,erase,mixup,cutmix"]
MANY = Draws(0, 0, np.arange(2000))


def batch(number: int = 12, height: int = 20, width: int = 20) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, 3, H, W) uint8 in channels-last memory, targets of 5 classes, indices."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (number, height, width, 3), dtype=torch.uint8, generator=draw)
    return images.permute(0, 3, 1, 2), torch.eye(5)[torch.arange(number) % 5], 1000 + torch.arange(number)


def run(names: str, *, seed: int = 0, epoch: int = 0, size: tuple[int, ...] = (12, 20, 20)) -> tuple[Tensor, Tensor]:
    images, targets, indices = batch(*size)
    return make_augmentation(names)(images, targets, seed, epoch, indices)


@pytest.mark.parametrize("names", OF_ONE_IMAGE)
def test_an_image_is_the_same_in_every_batch(names: str) -> None:
    images, targets, indices = batch()
    augmentation = make_augmentation(names)
    together, _ = augmentation(images, targets, 3, 4, indices)
    for chosen in ([5], [5, 0], list(range(11, -1, -1)), [1, 2, 3, 4, 5, 6, 7]):
        apart, same_targets = augmentation(images[chosen], targets[chosen], 3, 4, indices[chosen])
        assert torch.equal(apart, together[chosen])
        assert torch.equal(same_targets, targets[chosen])


@pytest.mark.parametrize("names", LISTS)
def test_equal_keys_give_equal_images_and_other_keys_do_not(names: str) -> None:
    images, targets = run(names)
    again, same_targets = run(names)
    assert torch.equal(images, again) and torch.equal(targets, same_targets)
    for other in (run(names, epoch=1), run(names, seed=1), run(names, seed=2**64 - 1)):
        assert not torch.equal(images, other[0])


@pytest.mark.parametrize("names", LISTS)
def test_global_generators_are_neither_used_nor_moved(names: str) -> None:
    torch.manual_seed(5)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = run(names)[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == numpy_before
    torch.manual_seed(6)
    assert torch.equal(run(names)[0], first)


@pytest.mark.parametrize("names", LISTS)
@pytest.mark.parametrize("size", [(4, 8, 8), (3, 1, 1), (1, 20, 20), (2, 9, 30), (0, 20, 20)])
def test_any_size_of_image_and_batch_will_do(names: str, size: tuple[int, int, int]) -> None:
    images, targets = run(names, size=size)
    assert images.shape == (size[0], 3, *size[1:]) and images.dtype == torch.uint8
    assert targets.shape == (size[0], 5) and targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(size[0]))
    assert (targets >= 0).all()


@pytest.mark.parametrize("names", LISTS)
def test_memory_format_makes_no_difference_and_what_is_given_is_kept(names: str) -> None:
    images, targets, indices = batch()
    kept = images.clone(), targets.clone(), indices.clone()
    augmentation = make_augmentation(names)
    expected, mixed = augmentation(images, targets, 0, 0, indices)
    every_other = torch.zeros(24, 3, 20, 40, dtype=torch.uint8)[::2, :, :, ::2].copy_(images)
    for same in (images.contiguous(), every_other):
        result, same_mixed = augmentation(same, targets, 0, 0, indices)
        assert torch.equal(result, expected) and torch.equal(same_mixed, mixed)
    assert all(torch.equal(now, then) for now, then in zip((images, targets, indices), kept, strict=True))


def test_none_changes_nothing_and_is_false() -> None:
    images, targets, indices = batch()
    augmentation = make_augmentation(" None ")
    assert not augmentation and str(augmentation) == augmentation.describe() == "none"
    result, same_targets = augmentation(images, targets, 0, 0, indices)
    assert result is images and same_targets is targets


def test_names_come_in_any_order_and_case() -> None:
    augmentation = make_augmentation("jitter, HFLIP,crop,hflip")
    assert augmentation and augmentation == make_augmentation("crop,hflip,jitter")
    assert str(augmentation) == "hflip,crop,jitter"
    assert augmentation.describe() == (
        "mirrored left to right (50% of the images), cropped to 35%-100% of the area, "
        "brightness, contrast and colour changed by up to 25%"
    )


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError) as error:
        make_augmentation("hflip,rotat")
    listed = "crop, cutmix, erase, hflip, jitter, mixup, randaugment, rotate, translate, trivial, vflip"
    hint = f"Did you mean 'rotate'? Choose from: {listed}"
    assert str(error.value) == f"--augment rotat: no such augmentation. {hint}"


@pytest.mark.parametrize("names", ["", "hflip,,crop", "hflip,none", "none,none", "nonne"])
def test_what_is_no_list_of_names_is_refused(names: str) -> None:
    with pytest.raises(UsageError, match=r"^--augment .*: no such augmentation\. .*Choose from: "):
        make_augmentation(names)


def test_moves_are_interpolated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = []
    monkeypatch.setattr(Augment, "move", lambda images, given: matrices.append(given) or images)
    run("rotate,crop,hflip,translate")
    assert len(matrices) == 1
    first_two = Augment.hflip, Augment.crop
    draws = Draws(0, 0, batch()[2].numpy())
    flip, window = (step(draws, 20, 20) for step in first_two)
    later = Augment.translate(draws, 20, 20) @ Augment.rotate(draws, 20, 20)
    np.testing.assert_allclose(matrices[0], flip @ window @ later)


@pytest.mark.parametrize("name", ["hflip", "vflip"])
def test_half_of_the_images_are_flipped_exactly(name: str) -> None:
    images = batch()[0]
    flipped = images.flip(3 if name == "hflip" else 2)
    results = [run(name, epoch=epoch)[0] for epoch in range(50)]
    are_flipped = torch.stack([(result == flipped).flatten(1).all(dim=1) for result in results])
    are_kept = torch.stack([(result == images).flatten(1).all(dim=1) for result in results])
    assert (are_flipped ^ are_kept).all()
    assert are_flipped.float().mean().item() == pytest.approx(0.5, abs=0.08)


def test_shifts_are_whole_pixels_evenly_within_an_eighth() -> None:
    shifts = Augment.translate(MANY, 32, 17)[:, :2, 2]
    numbers, counts = np.unique(shifts[:, 0], return_counts=True)
    assert numbers.tolist() == [-2, -1, 0, 1, 2] and counts.min() > 330
    numbers, counts = np.unique(shifts[:, 1], return_counts=True)
    assert numbers.tolist() == list(range(-4, 5)) and counts.min() > 170


def test_windows_lie_within_the_image_and_have_the_stated_areas() -> None:
    matrices = Augment.crop(MANY, 30, 50)
    across, down, dx, dy = matrices[:, 0, 0], matrices[:, 1, 1], matrices[:, 0, 2], matrices[:, 1, 2]
    assert (np.abs(dx) <= 25 * (1 - across) + 1e-9).all() and (np.abs(dy) <= 15 * (1 - down) + 1e-9).all()
    area, aspect = across * down, across / down
    assert 0.3 < area.min() < 0.4 and area.max() > 0.95  # a window too long for the image is cut
    assert 0.75 <= aspect.min() < 0.8 and 1.25 < aspect.max() <= 4 / 3 + 1e-9
    assert np.abs(dx).max() > 5 and abs(dx.mean()) < 0.3
    free = (across < 1) & (down < 1)
    assert abs(np.corrcoef(dx[free] / (1 - across[free]), dy[free] / (1 - down[free]))[0, 1]) < 0.1


def test_rotations_are_up_to_fifteen_degrees_either_way() -> None:
    matrices = Augment.rotate(MANY, 20, 20)
    angles = np.rad2deg(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert -15 <= angles.min() < -14.9 and 14.9 < angles.max() < 15
    np.testing.assert_allclose(np.linalg.det(matrices), 1)


def test_changes_of_colour_have_the_stated_strengths_and_are_unrelated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Augment, "recolour", lambda images, **strengths: strengths)
    drawn = Augment.jitter(torch.empty(0), MANY)
    for name in ("brightness", "contrast", "saturation"):
        assert 0.249 < np.abs(drawn[name] - 1).max() <= 0.25
    assert 7.9 < np.abs(drawn["hue_degrees"]).max() <= 8
    assert np.abs(np.corrcoef(list(drawn.values())) - np.eye(4)).max() < 0.1


def test_half_of_the_images_lose_a_box_of_the_stated_size() -> None:
    white = torch.full((1000, 3, 40, 40), 255, dtype=torch.uint8)
    erased = Augment.erase(white, Draws(0, 0, np.arange(1000)))
    holes = (erased != 255).any(dim=1)
    areas = holes.flatten(1).float().mean(dim=1)
    assert (areas > 0).float().mean().item() == pytest.approx(0.5, abs=0.06)
    assert 0.01 < areas[areas > 0].min() < 0.03 and 0.28 < areas.max() < 0.35
    rows, columns = holes.any(dim=2).sum(dim=1), holes.any(dim=1).sum(dim=1)
    # A noise pixel is white in all three colours once in 16 million: the hole is the whole box.
    assert torch.equal(rows * columns, holes.flatten(1).sum(dim=1))
    reached = holes.any(dim=0)
    assert reached[0].any() and reached[-1].any() and reached[:, 0].any() and reached[:, -1].any()


@pytest.mark.parametrize("names", ["randaugment", "trivial"])
def test_automatic_augmentation_is_torchvisions_own(names: str) -> None:
    images, targets, indices = batch()
    result, _ = make_augmentation(names)(images, targets, 1, 2, indices)
    transform = {
        "randaugment": v2.RandAugment(2, 9, interpolation=v2.InterpolationMode.BILINEAR, fill=[124, 116, 104]),
        "trivial": v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR, fill=[124, 116, 104]),
    }[names]
    for position, key in enumerate(Draws(1, 2, indices.numpy()).bits(names).tolist()):
        torch.manual_seed(key)
        assert torch.equal(result[position], transform(images[position]))


def test_cutmix_targets_are_the_exact_shares_of_pixels() -> None:
    number = 200
    images = torch.arange(number, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 10, 10)
    mixed, targets = make_augmentation("cutmix")(images, torch.eye(number), 0, 0, torch.arange(number))
    for position in range(number):
        own = (mixed[position] == position).float().mean().item()
        others = (mixed[position] == (position - 1) % number).float().mean().item()
        assert own + others == pytest.approx(1)
        assert targets[position, position].item() == pytest.approx(own, abs=1e-6)
        assert targets[position, position - 1].item() == pytest.approx(others, abs=1e-6)
    assert targets.diagonal().min() < 0.2 and targets.diagonal().max() > 0.9


def test_cutmix_boxes_have_the_papers_sizes() -> None:
    """A box of side s keeps s - s^2/4 of it within the image on average; s^2 is uniform: 1 - 1/2 + 1/5 - 1/48."""
    assert Augment.cutmix(MANY, 40, 40).mean() == pytest.approx(0.679, abs=0.02)


def test_mixup_blends_images_as_it_blends_targets() -> None:
    number = 100
    images = (2 * torch.arange(number, dtype=torch.uint8)).view(-1, 1, 1, 1).repeat(1, 3, 4, 4)
    mixed, targets = make_augmentation("mixup")(images, torch.eye(number), 0, 0, torch.arange(number))
    expected = targets @ (2.0 * torch.arange(number))
    assert (mixed.float() - expected.view(-1, 1, 1, 1)).abs().max() <= 0.5001
    assert targets.diagonal().mean().item() == pytest.approx(0.5, abs=0.1)


def test_of_two_mixtures_each_image_gets_one() -> None:
    mixup, cutmix, both = (run(names)[0] for names in MIXES)
    is_mixup = (both == mixup).flatten(1).all(dim=1)
    is_cutmix = (both == cutmix).flatten(1).all(dim=1)
    assert (is_mixup | is_cutmix).all() and is_mixup.any() and is_cutmix.any()


@pytest.mark.parametrize("names", MIXES)
def test_a_batch_of_one_mixes_with_itself(names: str) -> None:
    images, targets, _ = batch(1)
    result, same_targets = run(names, size=(1, 20, 20))
    assert torch.equal(result, images)
    torch.testing.assert_close(same_targets, targets)


def test_one_entry_adds_an_augmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AUGMENTATIONS, "negative", Augment.Paint("as a negative", lambda images, draws: 255 - images))
    assert torch.equal(run("negative")[0], 255 - batch()[0])
