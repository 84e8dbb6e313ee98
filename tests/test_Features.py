"""One stored row per image: computed once, found again by content, and what the frozen stages give."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from MLPipeline.Classifier import Classifier
from MLPipeline.decoding.ReadImage import read_image
from MLPipeline.Errors import DataError
from MLPipeline.Features import Dataset, extract
from MLPipeline.images.ImageWalk import Skipped
from MLPipeline.images.ScanFolders import TRAIN, UNSPLIT, ImageIndex, scan_folders
from MLPipeline.images.SplitImages import split_images
from tests.support.made_up_net import build

SIZE = 16


@pytest.fixture
def root(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path / "Data", {"cat": 9, "dog": 9}, size=24)


def a_model(freeze: str = "backbone", num_classes: int = 2) -> Classifier:
    torch.manual_seed(3)
    model = build(num_classes)
    model.backbone.one[1].running_mean += torch.tensor([1.0, -1.0, 0.5, 2.0])  # as training leaves it
    model.freeze(freeze)
    return model.eval()


def split(root: Path) -> ImageIndex:
    return split_images(scan_folders(root), 0.2, 0.2, seed=0)


def extracted(root: Path, model: Classifier | None = None, size: int = SIZE, precision: str = "fp32") -> Dataset:
    return extract(model or a_model(), split(root), size, root.parent / "cache", precision, workers=2)


def rows_by_name(dataset: Dataset) -> dict[str, np.ndarray]:
    used = np.flatnonzero(dataset.index.splits >= 0)
    return dict(zip(map(dataset.index.name, used.tolist()), dataset.rows.take(used).numpy(), strict=True))


def images_of(dataset: Dataset, size: int = SIZE) -> torch.Tensor:
    """Return all images of the index (N, 3, H, W), read afresh."""
    pixels = [read_image(dataset.index.path(position), (size, size)).pixels for position in range(len(dataset.index))]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


def change_one_pixel(path: Path) -> None:
    image = cv2.imread(str(path))
    image[12, 12] = 255 - image[12, 12]
    cv2.imwrite(str(path), image)


# ---- what a row costs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("freeze", ["none", "one", "backbone"])
def test_the_second_time_nothing_is_computed_and_rows_are_bit_equal(root, freeze):
    first, second = extracted(root, a_model(freeze)), extracted(root, a_model(freeze))
    assert (first.num_computed, second.num_computed) == (18, 0)
    one, other = rows_by_name(first), rows_by_name(second)
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
    assert len({row.tobytes() for row in one.values()}) == 18


@pytest.mark.parametrize("freeze", ["none", "backbone"])
def test_one_changed_pixel_costs_one_row(root, freeze):
    before = rows_by_name(extracted(root, a_model(freeze)))
    change_one_pixel(root / "cat/003.png")
    after = extracted(root, a_model(freeze))
    assert after.num_computed == 1
    changed = [name for name, row in rows_by_name(after).items() if not np.array_equal(row, before[name])]
    assert changed == ["cat/003.png"]


def test_a_renamed_or_copied_image_costs_nothing(root):
    extracted(root)
    (root / "cat/000.png").rename(root / "cat/renamed.png")
    shutil.copy(root / "cat/001.png", root / "dog/copy.png")
    dataset = extracted(root)
    rows = rows_by_name(dataset)
    assert dataset.num_computed == 0 and np.array_equal(rows["cat/001.png"], rows["dog/copy.png"])


def test_a_new_class_costs_its_own_images(root, make_images):
    before = rows_by_name(extracted(root))
    make_images(root, {"emu": 5}, size=24)
    dataset = extracted(root, a_model(num_classes=3))
    assert dataset.num_computed == 5
    rows = rows_by_name(dataset)
    assert len(rows) == 23 and all(np.array_equal(rows[name], before[name]) for name in before)


def test_a_damaged_row_costs_one_row(root):
    before = rows_by_name(extracted(root))
    (stored,) = (root.parent / "cache").glob("features-*/rows.bin")
    content = bytearray(stored.read_bytes())
    content[-1] ^= 64
    stored.write_bytes(content)
    dataset = extracted(root)
    assert dataset.num_computed == 1
    assert all(np.allclose(row, before[name], atol=1e-3) for name, row in rows_by_name(dataset).items())


def move_weight(model: Classifier) -> None:
    model.backbone.two[0].weight.data[0, 0, 0, 0] += 1e-4


def move_norm(model: Classifier) -> None:
    model.backbone.one[1].running_var[0] += 1e-4


def move_mean(model: Classifier) -> None:
    model.mean[0] += 1


@pytest.mark.parametrize("move", [move_weight, move_norm, move_mean])
def test_whatever_the_frozen_stages_compute_with_makes_all_rows_anew(root, move):
    extracted(root)
    moved = a_model()
    move(moved)
    assert extracted(root, moved).num_computed == 18
    assert extracted(root).num_computed == extracted(root, moved).num_computed == 0


def test_what_is_not_frozen_makes_no_row_anew(root):
    extracted(root, a_model("one"))
    moved = a_model("one")
    move_weight(moved)
    moved.head.weight.data += 1
    assert extracted(root, moved).num_computed == 0


def test_another_image_size_or_precision_makes_all_rows_anew(root):
    for options in ({}, {"size": SIZE + 4}, {"precision": "bf16"}):
        assert extracted(root, **options).num_computed == 18
        assert extracted(root, **options).num_computed == 0
    assert extracted(root, a_model("none")).num_computed == 18
    assert extracted(root, a_model("none"), size=SIZE + 4).num_computed == 18


# ---- what a row is ----------------------------------------------------------------------------------------


def test_another_way_to_compute_makes_all_rows_anew(root, monkeypatch):
    assert extracted(root).num_computed == 18
    monkeypatch.setattr("MLPipeline.frozen.FrozenStages.METHOD", 0)
    assert extracted(root).num_computed == 18 and extracted(root).num_computed == 0


@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-3), ("bf16", 3e-2), ("auto", 3e-2)])
@pytest.mark.parametrize("freeze, shape", [("one", (18, 4, 14, 14)), ("backbone", (18, 5))])
def test_rows_are_what_the_frozen_stages_give(root, freeze, shape, precision, tolerance):
    model = a_model(freeze)
    dataset = extracted(root, model, precision=precision)
    rows = dataset.rows.take(np.arange(18))
    assert rows.shape == shape and rows.dtype == torch.float32
    with torch.inference_mode():
        expected = model.frozen_features(images_of(dataset))
    assert (rows - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("freeze, tolerance", [("none", 0), ("one", 1e-3), ("backbone", 1e-3)])
def test_pixels_activations_and_features_train_alike(root, freeze, tolerance):
    model = a_model(freeze)
    dataset = extracted(root, model)
    for inputs, targets in dataset.batches(TRAIN, batch_size=4, seed=1).epoch(1):
        logits = model.trainable_part()(inputs)
        assert logits.shape == targets.shape and logits.requires_grad
    with torch.inference_mode():
        logits = model.trainable_part()(dataset.rows.take(np.arange(18)))
        assert torch.allclose(logits, model(images_of(dataset)), atol=tolerance)


def test_batches_hold_the_pixels_of_read_image_with_red_first(root):
    red = np.zeros((30, 50, 3), np.uint8)
    red[:, :, 2] = 200  # OpenCV writes BGR
    for number in range(9):
        (root / f"cat/00{number}.png").unlink()
        assert cv2.imwrite(str(root / f"cat/{number}.png"), red + np.uint8(number))
    dataset = extracted(root, a_model("none"))
    batches = dataset.batches(TRAIN, batch_size=4, seed=1)
    drawn = batches.epoch(1)
    positions = batches.positions[batches.order(1)]
    images = torch.cat([images for images, _ in drawn])
    labels = torch.cat([one_hot for _, one_hot in drawn]).argmax(1)
    assert images.dtype == torch.uint8 and torch.equal(images, images_of(dataset)[positions])
    assert labels.tolist() == dataset.index.labels[positions].tolist()
    cats = images[labels == 0]
    assert len(cats) == 5 and cats[:, 0].min() >= 200 and cats[:, 1:].max() < 9


# ---- what cannot be read ----------------------------------------------------------------------------------


def test_unreadable_images_are_listed_and_in_no_split(root):
    (root / "cat/bad.jpg").write_bytes(b"")
    (root / "dog/page.png").write_text("<html>404</html>")
    (root / "dog/notes.txt").touch()
    for _ in range(2):
        dataset = extracted(root)
        assert set(dataset.skipped) == {
            Skipped("dog/notes.txt", "not an image file (.txt)"),
            Skipped("cat/bad.jpg", "empty file"),
            Skipped("dog/page.png", "not an image (HTML)"),
        }
        left_out = np.flatnonzero(dataset.index.splits == UNSPLIT)
        assert [dataset.index.name(position) for position in left_out] == ["cat/bad.jpg", "dog/page.png"]
        assert len(rows_by_name(dataset)) == 18


def test_an_image_deleted_after_the_scan_is_listed(root):
    index = split(root)
    gone = index.name(int(index.positions(TRAIN)[0]))
    (root / gone).unlink()
    dataset = extract(a_model(), index, SIZE, root.parent / "cache", workers=1)
    assert dataset.skipped == (Skipped(gone, "no such file or directory"),)


def test_nothing_readable_is_an_error_with_counts(root):
    for number, path in enumerate(sorted(root.glob("*/*.png"))):
        path.write_bytes(b"" if number < 10 else b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match="none of 18 images can be read. .*10 x empty file, 8 x truncated PNG"):
        extracted(root)


def test_a_class_without_a_readable_training_image_is_named(root):
    for path in (root / "dog").glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="class 'dog' has no readable training image"):
        extracted(root)


def test_odd_images_are_used_and_noted(root):
    cv2.imwrite(str(root / "cat/cut.jpg"), np.full((32, 32, 3), 99, np.uint8))
    (root / "cat/cut.jpg").write_bytes((root / "cat/cut.jpg").read_bytes()[:-2])
    dataset = extracted(root)
    assert "cat/cut.jpg" in rows_by_name(dataset)
