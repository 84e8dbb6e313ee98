"""Rows 93 to 95 of the fault matrix: where `--csv`, `--sort-into`, `--heatmap` and `--output` may write."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.harness import SMALL, content, refuse, run, succeed, train

MakeImages = Callable[..., Path]

USER_TABLE = b"path,label\na.png,cat\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    root = tmp_path_factory.mktemp("writing")
    return train(root / "Data", root / "output", make_images)


@pytest.fixture
def data(trained: Path) -> Path:
    return trained.parents[1] / "Data"


@pytest.fixture
def photos(data: Path, tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        shutil.copy(data / "cat" / f"{number:03}.png", tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def predict(trained: Path, photos: Path) -> list[str | Path]:
    return ["predict", photos, "--run", trained, "-j", "1", "--csv"]


@pytest.fixture
def evaluate(trained: Path) -> list[str | Path]:
    return ["evaluate", "--output", trained.parent, "-j", "1", "--csv"]


@pytest.fixture
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(*_: object) -> None:
        pytest.fail("the model was loaded before the path was refused")

    monkeypatch.setattr("MLPipeline.commands.OpenRun.load_checkpoint", loaded)


@pytest.mark.usefixtures("_no_model")
def test_093_a_table_never_replaces_an_image(
    predict: list[str | Path], evaluate: list[str | Path], data: Path, photos: Path, tmp_path: Path
) -> None:
    """`--csv` onto an image, under its own or another name, is refused before the model is loaded."""
    shutil.copy(data / "cat" / "005.png", tmp_path / "image")
    os.link(photos / "000.png", tmp_path / "hard")
    (tmp_path / "soft").symlink_to(photos / "000.png")
    before = content(tmp_path)
    for command in (predict, evaluate):
        for place in (photos / "000.png", tmp_path / "new.JPG", tmp_path / "new.heic"):
            refuse([*command, place], 2, f"--csv {place}: ", "is the suffix of an image file")
        for place in (tmp_path / "image", tmp_path / "hard", tmp_path / "soft"):
            refuse([*command, place], 2, f"--csv {place}: ", "Give another file")
            refuse([*command, place, "--overwrite"], 2, f"--csv {place}: ", "Give another file")
    assert content(tmp_path) == before


@pytest.mark.usefixtures("_no_model")
def test_093_a_table_lies_outside_of_the_images_and_the_runs(
    predict: list[str | Path], evaluate: list[str | Path], data: Path, trained: Path, tmp_path: Path
) -> None:
    """`--csv` into the images of the run, or into a run, is refused, whatever the path to it."""
    (tmp_path / "link").symlink_to(data)
    before = content(trained.parents[1])
    for command in (predict, evaluate):
        for place in (data / "a.csv", data / "cat" / "new" / "a.csv", tmp_path / "link" / "a.csv"):
            refuse([*command, place], 2, f"--csv {place}: lies inside the images of ", "Give a file outside of it")
        for place in (trained / "a.csv", trained / "predictions.csv", trained / "new" / "a.csv"):
            refuse([*command, place, "--overwrite"], 2, f"--csv {place}: lies inside the run ")
        refuse([*command, tmp_path], 2, f"--csv {tmp_path}: is a folder")
    refuse([*evaluate, trained.parent / "runs.csv", "--overwrite"], 2, "is one of the files that this command reads")
    assert content(trained.parents[1]) == before


def test_093_the_table_of_labels_is_not_replaced(
    evaluate: list[str | Path], data: Path, trained: Path, tmp_path: Path
) -> None:
    """`--csv` onto a table that the same command reads is refused, with `--overwrite` too."""
    shutil.copytree(data, tmp_path / "images")
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\ncat/000.png,cat\ndog/000.png,dog\n")
    before = labels.read_bytes()
    flags = ["--labels", labels, "--data", tmp_path / "images"]
    refuse([*evaluate, labels, *flags], 2, f"--csv {labels}: is one of the files that this command reads")
    refuse([*evaluate, labels, *flags, "--overwrite"], 2, f"--csv {labels}: is one of the files")
    refuse([*evaluate, tmp_path / "images" / "x.csv", *flags], 2, "lies inside the images of")
    assert labels.read_bytes() == before


def test_093_only_an_own_table_is_replaced_unasked(
    predict: list[str | Path], evaluate: list[str | Path], tmp_path: Path
) -> None:
    """A table of the user's is kept, unless `--overwrite` is given; one of ours is replaced."""
    table = tmp_path / "a.csv"
    for command in (predict, evaluate):
        table.write_bytes(USER_TABLE)
        refuse([*command, table], 2, f"--csv {table}: exists, and is not", "add --overwrite to replace it")
        assert table.read_bytes() == USER_TABLE
        succeed([*command, table, "--overwrite"])
        first = table.read_bytes()
        assert first.startswith(b"path,") and first != USER_TABLE
        succeed([*command, table])
        assert table.read_bytes() == first
        edited = first.replace(b"\r\n", b",mine\r\n", 2)
        table.write_bytes(edited)
        refuse([*command, table], 2, "is not an unchanged table of predictions")
        assert table.read_bytes() == edited


def test_094_a_table_is_written_through_links_and_keeps_permissions(
    predict: list[str | Path], evaluate: list[str | Path], tmp_path: Path
) -> None:
    """`--csv` onto a link writes to where it leads, and the link, permissions and other names of the file stay."""
    (tmp_path / "there").mkdir()
    for command in (predict, evaluate):
        real, link = tmp_path / "there" / f"{command[0]}.csv", tmp_path / f"{command[0]}.csv"
        link.symlink_to(real)
        succeed([*command, link])
        assert link.is_symlink() and real.read_bytes().startswith(b"path,")
        expected = real.read_bytes()
        real.chmod(0o640)
        real.write_bytes(b"")
        succeed([*command, link])
        assert real.read_bytes() == expected and real.stat().st_mode & 0o777 == 0o640


def test_094_a_pipe_and_standard_output_receive_the_table(
    predict: list[str | Path], evaluate: list[str | Path], tmp_path: Path
) -> None:
    """`--csv` onto a pipe or `-` streams the table; on standard output nothing else is printed."""
    os.mkfifo(tmp_path / "pipe")
    for command in (predict, evaluate):
        file = tmp_path / f"{command[0]}.csv"
        plain = succeed([*command, file])
        reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE)
        assert succeed([*command, tmp_path / "pipe"]).out == plain.out
        assert reader.communicate(timeout=60)[0] == file.read_bytes()
        outcome = succeed([*command, "-"])
        assert outcome.out.encode() == file.read_bytes()
        assert plain.out not in outcome.err or command is evaluate
        refuse([*command, "-", "--json"], 2, "--csv - and --json: both write to standard output")
    assert plain.out in outcome.err  # the figures of `evaluate` are not lost
    assert not (tmp_path / "-").exists() and (tmp_path / "pipe").is_fifo()


@pytest.mark.usefixtures("_no_model")
def test_095_copies_and_heat_maps_lie_outside_of_all_images(trained: Path, data: Path, photos: Path) -> None:
    """`--sort-into` and `--heatmap` among the images, of the run or to predict, are refused before any work."""
    command: list[str | Path] = ["predict", photos, "--run", trained]
    (photos.parent / "link").symlink_to(photos)
    (photos.parent / "file").touch()
    before = content(photos.parent)
    for place in (photos, photos / "new", photos.parent / "link" / "new", data / "cat"):
        refuse([*command, "--sort-into", place], 2, f"--sort-into {place}: lies inside the images of ")
    refuse([*command, "--sort-into", trained / "new"], 2, "lies inside the run")
    refuse([*command, "--sort-into", photos.parent / "file"], 2, "is a file", "Give a folder")
    refuse([*command, "--heatmap", "--output", photos / "out"], 2, "--output ", "lies inside the images of")
    assert content(photos.parent) == before


def test_095_no_verb_writes_its_output_among_the_images(data: Path, trained: Path, tmp_path: Path) -> None:
    """`--output` inside the images or a run is refused by `train`, `audit`, `tune`, `choose`, `evaluate`, `export`."""
    before = content(data)
    for place, words in ((data / "out", "lies inside the images of"), (trained / "out", "lies inside the run")):
        refuse([*SMALL, "--data", data, "--output", place], 2, f"--output {place}: {words}")
        refuse(["audit", "--data", data, "--output", place], 2, f"--output {place}: {words}")
        refuse(["tune", "--model", "efficientnet_lite0", "--data", data, "--output", place], 2, f"--output {place}: ")
        refuse(["choose", "--data", data, "--output", place], 2, f"--output {place}: {words}")
        flags = ["--run", trained, "--data", data, "--output", place]
        refuse(["evaluate", *flags], 2, f"--output {place}: {words}")
        refuse(["export", "--format", "pt2", "--run", trained, "--output", place], 2, f"--output {place}: {words}")
    (tmp_path / "file").touch()
    refuse([*SMALL, "--data", data, "--output", tmp_path / "file" / "out"], 2, f"{tmp_path / 'file'} is a file")
    assert content(data) == before
    assert run(["evaluate", "--run", trained, "--output", data.parent, "-j", "1"]).code == 0  # around the images
