"""What inspection decodes becomes the rows that training reads: bit for bit those that `extract` makes of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from MLPipeline.Classifier import Classifier
from MLPipeline.decoding.Fit import STRETCH
from MLPipeline.decoding.Preprocessing import Preprocessing
from MLPipeline.Features import Dataset, extract
from MLPipeline.frozen.DecodeOnce import PixelKeeper, RowKeeper
from MLPipeline.frozen.FrozenStages import FrozenStages
from MLPipeline.images.Inspect import Finding, Inspection, inspect_images
from MLPipeline.images.ScanFolders import scan_folders
from MLPipeline.images.SplitImages import split_images, without
from tests.support.duplicate_cases import encode, scene
from tests.support.made_up_net import build

SIZE = 40
UNREADABLE, COPY = 12, 13  # positions


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes of twelve; of the dogs inspection decodes half the size, training an eighth."""
    for label, (name, side) in enumerate((("cat", 60), ("dog", 400))):
        (tmp_path / "Data" / name).mkdir(parents=True)
        for number in range(12):
            picture = encode(scene(20 * label + number, side, side))
            (tmp_path / "Data" / name / f"{number:02}.jpg").write_bytes(picture)
    (tmp_path / "Data" / "dog" / "00.jpg").write_bytes(b"no picture")
    (tmp_path / "Data" / "dog" / "01.jpg").write_bytes((tmp_path / "Data" / "cat" / "01.jpg").read_bytes())
    return tmp_path / "Data"


def a_model(freeze: str) -> Classifier:
    torch.manual_seed(3)
    model = build(2)
    model.freeze(freeze)
    return model.eval()


def look(data: Path, model: Classifier, cache: Path, limit: float = np.inf, verify: bool = False) -> Inspection:
    keeper = RowKeeper(SIZE, lambda: FrozenStages(model, SIZE, "fp32"), cache, 24, limit)
    return inspect_images(scan_folders(data), cache, 2, verify, keeper=keeper)


def rows(data: Path, model: Classifier, cache: Path, inspection: Inspection, limit: float = np.inf) -> Dataset:
    index = without(split_images(scan_folders(data), 0, 0, seed=0), [UNREADABLE])
    digests = inspection.prints["digest"]
    return extract(model, index, SIZE, cache, "fp32", 2, contents=digests, cache_limit=limit)


@pytest.mark.parametrize("freeze", ["backbone", "one", "none"])
def test_the_rows_are_there_when_training_asks_for_them(data: Path, tmp_path: Path, freeze: str) -> None:
    model, chosen = a_model(freeze), np.delete(np.arange(24), UNREADABLE)
    inspection = look(data, model, tmp_path / "kept")
    kept = rows(data, model, tmp_path / "kept", inspection)
    made = rows(data, model, tmp_path / "made", inspect_images(scan_folders(data), tmp_path / "made"))
    assert (kept.num_computed, made.num_computed) == (0, 23)
    assert torch.equal(kept.rows.take(chosen), made.rows.take(chosen))
    assert not torch.equal(kept.rows.take(chosen[:1]), kept.rows.take(chosen[-1:]))
    assert torch.equal(kept.rows.take(np.array([1])), kept.rows.take(np.array([COPY])))
    assert not inspection.is_readable[UNREADABLE]


@pytest.mark.parametrize("number", [22, 5])
def test_kept_pixels_make_the_same_rows_without_decoding(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As many as fit the limit are kept; of two copies, the pixels are kept once."""
    keeper = PixelKeeper(SIZE, STRETCH, number * SIZE * SIZE * 3 + 1)
    inspection = inspect_images(scan_folders(data), tmp_path / "kept", 2, keeper=keeper)
    assert len(keeper.pixels) == number
    index, model = without(split_images(scan_folders(data), 0, 0, seed=0), [UNREADABLE]), a_model("backbone")
    digests, decoded = inspection.prints["digest"], []

    def count(self: Preprocessing, content: bytes, size: int) -> Any:
        decoded.append(content)
        return decode(self, content, size)

    decode, key, read = Preprocessing.decode, Preprocessing.key, []
    monkeypatch.setattr(Preprocessing, "decode", count)
    monkeypatch.setattr(Preprocessing, "key", lambda *given: read.append(given[1]) or key(*given))
    kept = extract(model, index, SIZE, tmp_path / "kept", "fp32", 2, contents=digests, decoded=keeper.pixels)
    assert len(decoded) == 22 - number == len(set(read))  # the copy is among the first; the others are not even read
    made = rows(data, model, tmp_path / "made", inspection)
    chosen = np.delete(np.arange(24), UNREADABLE)
    assert torch.equal(kept.rows.take(chosen), made.rows.take(chosen))


def test_looking_again_makes_no_row_twice(data: Path, tmp_path: Path) -> None:
    model = a_model("backbone")
    look(data, model, tmp_path)
    stored = {path: path.stat().st_size for path in tmp_path.glob("features-*/rows.bin")}
    assert look(data, model, tmp_path, verify=True).num_read == 24
    assert {path: path.stat().st_size for path in tmp_path.glob("features-*/rows.bin")} == stored and len(stored) == 1


def test_where_no_file_is_read_nothing_is_made_ready(data: Path, tmp_path: Path) -> None:
    def refuse() -> FrozenStages:
        raise AssertionError("there is nothing to compute")

    look(data, a_model("backbone"), tmp_path)
    keeper = RowKeeper(SIZE, refuse, tmp_path, 24, np.inf)
    assert inspect_images(scan_folders(data), tmp_path, 2, keeper=keeper).num_read == 0


def test_without_room_for_all_none_is_kept(data: Path, tmp_path: Path) -> None:
    model, limit = a_model("none"), 20 * 3 * SIZE**2 / 10**9  # GB, for 20 of 24
    inspection = look(data, model, tmp_path, limit)
    assert inspection.num_read == 24 and not list(tmp_path.glob("pixels-*"))


@pytest.mark.parametrize("limit", [np.inf, 0])
def test_no_picture_waits_beside_its_finding(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    held: list[bool] = []

    def watched(findings: list[Finding]) -> list[list[Finding]]:
        held.extend(finding.pixels is not None for finding in findings)
        return [findings]

    monkeypatch.setattr("MLPipeline.images.Inspect.ranks.to_first", watched)
    look(data, a_model("backbone"), tmp_path, limit)
    assert held == [False] * 24
