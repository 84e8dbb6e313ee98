"""What a run reserves: the images that it was trained on, wherever the command is typed, and what the command reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from MLPipeline.commands.Destinations import answers_table, reserve
from MLPipeline.Config import Config
from MLPipeline.Errors import UsageError
from MLPipeline.files.Destination import Destination
from MLPipeline.files.RunFolder import Run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a run that was trained with `--data pets` in another working directory."""
    for folder in ("there/pets/cat", "there/output/001-cnn", "here/Data", "here/pets", "here/new"):
        (tmp_path / folder).mkdir(parents=True)
    path = tmp_path / "there" / "output" / "001-cnn"
    (path / "config.json").write_text(json.dumps({"data": "pets"}))
    (path / "environment.json").write_text(json.dumps({"data": str(tmp_path / "there" / "pets")}))
    (path / "model.pt").write_bytes(b"PK\x03\x04 weights")
    monkeypatch.chdir(tmp_path / "here")
    return Run(path, 1, "cnn")


def place(run: Run, csv: Path, **settings: object) -> Destination | None:
    config = Config(csv=csv, **settings)  # type: ignore[arg-type]
    return answers_table(config, reserve(config, run))


@pytest.mark.parametrize("folder", ["../there/pets", "../there/pets/cat", "pets", "Data"])
def test_images_of_the_run_are_reserved_as_recorded_and_as_typed(run: Run, folder: str) -> None:
    with pytest.raises(UsageError, match=f"--csv {folder}/a.csv: lies inside the images of"):
        place(run, Path(folder) / "a.csv")


def test_images_to_score_are_reserved(run: Run) -> None:
    assert place(run, Path("new/a.csv")) == Destination(Path("new/a.csv").resolve())
    with pytest.raises(UsageError, match="lies inside the images of new"):
        place(run, Path("new/a.csv"), data=Path("new"))


def test_a_model_file_alone_has_no_images(run: Run, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04 weights")
    alone = Run(tmp_path, 0, "alone", "model.pt")
    assert place(alone, tmp_path / "a.csv") == Destination(tmp_path / "a.csv")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="model.pt: is one of the files that this command reads"):
            place(alone, tmp_path / "model.pt", overwrite=overwrite)


@pytest.mark.parametrize("name", ["a.jpg", "a.TIFF", "a.avif", "a.heic", "a.pdf"])
def test_names_of_images_are_refused_even_if_nothing_is_there(run: Run, name: str) -> None:
    with pytest.raises(UsageError, match=rf"--csv {name}: \.\w+ is the suffix of an image file\. Give a file such as"):
        place(run, Path(name))


def test_without_csv_there_is_no_table(run: Run) -> None:
    assert answers_table(Config(), reserve(Config(), run)) is None
