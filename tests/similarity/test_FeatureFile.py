"""A file of features gives back what was written, to other programs too; and no damaged or foreign file is believed."""

from __future__ import annotations

import json
import sys
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.similarity import FeatureFile
from MLPipeline.similarity.EmbedFiles import Collection
from MLPipeline.similarity.FeatureFile import is_feature_file, read_features, write_features
from MLPipeline.similarity.FeatureNetwork import Origin

ORIGIN = Origin("cnn", "/runs/001-cnn/model.pt", "ab" * 16, 32, "pad")
NAMES = ("a/1.jpg", "b/\udcff.jpg", "ü/<b>.png", "c d.png", "x" * 200)
SUFFIXES = pytest.mark.parametrize("suffix", [".npz", ".parquet"])


def collection(names: tuple[str, ...] = NAMES, width: int = 3) -> Collection:
    rows = np.random.default_rng(0).normal(size=(len(names), width)).astype(np.float32)
    return Collection(names, Path("photos"), lambda start, stop: rows[start:stop], width, ORIGIN)


@SUFFIXES
def test_what_is_read_is_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(FeatureFile, "_AT_ONCE", 2)  # several blocks
    written = collection()
    write_features(tmp_path / f"new/features{suffix}", written)
    read = read_features(tmp_path / f"new/features{suffix}")
    assert read.names == (NAMES if suffix == ".npz" else tuple(name.replace("\udcff", "\\udcff") for name in NAMES))
    assert (read.width, read.origin, read.folder) == (3, ORIGIN, Path("photos").absolute())
    assert np.array_equal(read.block(0, 5), written.block(0, 5)) and np.array_equal(
        read.block(1, 3), read.block(0, 5)[1:3]
    )
    assert read.block(0, 2).flags.aligned and read.block(0, 2).dtype == np.float32
    assert is_feature_file(tmp_path / f"new/features{suffix}")


def test_numpy_and_pandas_open_it(tmp_path: Path) -> None:
    features = collection().block(0, 5)
    write_features(tmp_path / "f.npz", collection())
    with np.load(tmp_path / "f.npz") as archive:
        assert np.array_equal(archive["features"], features) and tuple(archive["paths"].tolist()) == NAMES
        assert json.loads(str(archive["about"]))["origin"]["network"] == "cnn"
    write_features(tmp_path / "f.parquet", collection())
    table = pd.read_parquet(tmp_path / "f.parquet")
    assert list(table) == ["path", "features"] and np.array_equal(np.stack(table["features"]), features)


@SUFFIXES
def test_memory_does_not_grow_with_the_features(tmp_path: Path, suffix: str) -> None:
    names, zeros = tuple(f"{k}.jpg" for k in range(40_000)), np.zeros((4096, 512), np.float32)
    large = Collection(names, Path(), lambda start, stop: zeros[: stop - start], 512, ORIGIN)
    tracemalloc.start()
    write_features(tmp_path / f"large{suffix}", large)
    if suffix == ".npz":
        assert read_features(tmp_path / "large.npz").block(39_999, 40_000).shape == (1, 512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6 < 4 * 512 * 40_000  # the features have 82 MB


@SUFFIXES
def test_damage_is_refused(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"f{suffix}"
    write_features(file, collection())
    whole = file.read_bytes()
    for content in (b"", b"\xff\xd8 a photograph", whole[: len(whole) // 2], whole[:-30], whole[len(whole) // 2 :]):
        file.write_bytes(content)
        with pytest.raises(UsageError, match="is damaged, or no file of features"):
            read_features(file)
        assert not is_feature_file(file)
    file.unlink()
    with pytest.raises(UsageError, match=r"(?i)no such file"):
        read_features(file)
    file.mkdir()
    with pytest.raises(UsageError, match="is a directory"):
        read_features(file)


ABOUT = {"format": 1, "folder": "/photos", "origin": {**ORIGIN.__dict__}}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"features": np.zeros((2, 3))}, "holds no features"),
        ({"features": np.zeros((3, 3), np.float32)}, "holds no features"),
        ({"features": np.zeros((2, 0), np.float32)}, "is empty"),
        ({"features": np.zeros((2, 3), np.float32, order="F")}, "are not there"),
        ({"features": np.array([[None, "x"], [1, 2]])}, "are not there|Object arrays"),
        ({"paths": np.array([1, 2])}, "holds no texts"),
        ({"about": np.array("{")}, "no file of features"),
        ({"about": np.array(json.dumps(ABOUT | {"format": 2}))}, "of another version"),
        ({"about": np.array(json.dumps(ABOUT | {"folder": "a\0b"}))}, "names no folder"),
        ({"about": np.array(json.dumps(ABOUT | {"origin": {"network": "cnn"}}))}, "which network"),
        ({"about": np.array(json.dumps(ABOUT | {"origin": ABOUT["origin"] | {"image_size": -1}}))}, "which network"),
        ({"about": np.array(json.dumps(ABOUT | {"origin": ABOUT["origin"] | {"run": 7}}))}, "which network"),
    ],
)
def test_files_of_others_are_refused(tmp_path: Path, changed: dict, reason: str) -> None:
    arrays = {
        "features": np.ones((2, 3), np.float32),
        "paths": np.array(["a", "b"]),
        "about": np.array(json.dumps(ABOUT)),
    }
    np.savez(tmp_path / "own.npz", **arrays)
    assert read_features(tmp_path / "own.npz").names == ("a", "b")
    np.savez(tmp_path / "f.npz", **arrays | changed)
    with pytest.raises(UsageError, match=reason):
        read_features(tmp_path / "f.npz")


def test_a_small_file_that_claims_to_be_huge_takes_no_memory(tmp_path: Path) -> None:
    write_features(tmp_path / "f.npz", collection())
    bomb = (tmp_path / "f.npz").read_bytes().replace(b"(5, 3)", b"(5,3e9)".replace(b"3e9", b"99"), 1)
    (tmp_path / "f.npz").write_bytes(bomb)
    with pytest.raises(UsageError, match="are not there"):
        read_features(tmp_path / "f.npz")
    with zipfile.ZipFile(tmp_path / "z.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", bytes(10**6))
    with pytest.raises(UsageError, match="is compressed"):
        read_features(tmp_path / "z.npz")


def test_other_suffixes_and_a_missing_package_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"f\.csv: features are written as"):
        read_features(tmp_path / "f.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ResourceError, match="Run pip install pyarrow"):
        read_features(tmp_path / "f.parquet")


def test_only_the_same_network_at_the_same_size_is_comparable() -> None:
    assert ORIGIN.is_comparable_with(replace(ORIGIN, run="/moved/model.pt", network="renamed"))
    for changed in ({"weights": "cd" * 16}, {"image_size": 64}, {"fit": "crop"}):
        assert not ORIGIN.is_comparable_with(replace(ORIGIN, **changed))
