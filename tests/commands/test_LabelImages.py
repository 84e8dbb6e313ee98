"""The verb `label`: what it refuses, what it copies, and that what it wrote is trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from MLPipeline.commands import LabelImages
from MLPipeline.console.Signals import Interrupted
from MLPipeline.labelling.LabelFile import Change, Label, LabelFile
from MLPipeline.serve import Packages
from MLPipeline.serve.Server import Server
from tests.support.harness import content, refuse, run, succeed, train
from tests.support.label_cases import class_of, draw_photographs


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    return draw_photographs(tmp_path / "photos", 9)


def labels_of(photographs: Path, file: Path) -> Path:
    """Label all photographs in `file`, as the page does."""
    names = sorted(path.name for path in photographs.iterdir())
    labels = LabelFile(file, photographs)
    with labels.opened(names):
        labels.put([Change(name, Label(class_of(name)), "page") for name in names])
    return file


def test_it_takes_one_folder_that_has_images(photographs: Path, tmp_path: Path) -> None:
    refuse(["label"], 2, "label: takes one folder of photographs", "python Engine.py label photos/")
    refuse(["label", photographs, photographs], 2, "takes one folder")
    refuse(["label", tmp_path / "missing"], 2, "missing", "Give a folder of photographs")
    refuse(["label", photographs / "cat-000.png"], 2, "cat-000.png: cannot be read (Not a directory)")


def test_it_writes_neither_among_the_photographs_nor_over_other_files(photographs: Path, tmp_path: Path) -> None:
    before = content(photographs)
    output = ["--output", tmp_path / "output"]
    refuse(["label", photographs, "--output", photographs / "output"], 2, "--output", "lies inside the images")
    refuse(["label", photographs, *output, "--csv", photographs / "labels.csv"], 2, "--csv", "lies inside the images")
    refuse(["label", photographs, *output, "--csv", "-"], 2, "--csv -: is not a regular file")
    refuse(["label", photographs, *output, "--csv", tmp_path], 2, "is not a regular file")
    labels = labels_of(photographs, tmp_path / "labels.csv")
    argv = ["label", photographs, *output, "--csv", labels, "--export-folders"]
    refuse([*argv, photographs / "sorted"], 2, "--export-folders", "lies inside the images")
    assert content(photographs) == before
    other = tmp_path / "other.csv"
    other.write_text("path,price\na,1\n")
    refuse(["label", photographs, *output, "--csv", other, "--port", "0"], 2, "has the columns path, price")
    assert other.read_text() == "path,price\na,1\n"


def test_labelled_pictures_are_copied_into_class_folders(photographs: Path, tmp_path: Path) -> None:
    folders, output = tmp_path / "sorted", tmp_path / "output"
    argv = ["label", photographs, "--output", output, "--export-folders", folders]
    refuse(argv, 2, "has no labels yet")
    labels_of(photographs, output / "labels" / "photos" / "labels.csv")
    before = content(photographs)
    assert succeed(argv).out == f"saved    {folders}: 9 copies in 3 class folders\n"
    assert content(photographs) == before
    copies = {path.relative_to(folders).as_posix(): path.read_bytes() for path in folders.rglob("*.png")}
    assert copies == {f"{class_of(p.name)}/{p.name}": p.read_bytes() for p in photographs.iterdir()}


def test_a_missing_package_is_named_with_its_command(photographs: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Packages, "find_spec", lambda name: None if name == "fastapi" else True)
    refuse(["label", photographs, "--output", tmp_path], 3, "label: needs fastapi. Run pip install fastapi")


def test_it_says_where_the_labels_are_and_how_to_train(photographs: Path, tmp_path: Path, monkeypatch) -> None:
    """The page itself is tested in tests/labelling and tests/browser: here the server is stopped as it starts."""

    def stop(self: Server, *_: object, **__: object) -> None:
        raise Interrupted(2)

    monkeypatch.setattr(Server, "run", stop)
    labels = labels_of(photographs, tmp_path / "my labels.csv")
    outcome = run(["label", photographs, "--output", tmp_path / "output", "--csv", labels, "--port", "0"])
    assert outcome.code == 130
    command = LabelImages.training_command(photographs, labels)
    assert outcome.out.splitlines() == [
        f"label    {photographs}: 9 photographs, 9 of them labelled",
        f"labels   {labels}",
        f"train    {command}",
    ]
    assert command.endswith(f"--labels '{labels}'")


def test_a_review_shows_the_mistakes_of_a_run_and_the_suspects_of_its_audit(
    tmp_path: Path, make_images, monkeypatch
) -> None:
    seen: list[tuple[str, str, str]] = []

    def stop(self: Server, api, **_: object) -> None:
        desk = api.routes[-1].endpoint.__self__._desk
        for picture in desk.next("page", 100):
            seen.append((picture.name, picture.given, picture.proposals[0][0]))
        (first, *_) = desk.next("page", 1)
        desk.label("page", [(first.number, first.stamp)], first.proposals[0][0])
        raise Interrupted(2)

    monkeypatch.setattr(Server, "run", stop)
    data, output = tmp_path / "Data", tmp_path / "output"
    trained = train(data, output, make_images)
    table = trained / "predictions.csv"
    rows = table.read_text().splitlines()
    split = [row.split(",") for row in rows[1:]]
    other = {"cat": "dog", "dog": "cat"}
    wrong = [",".join([path, part, true, other[true], *rest]) for path, part, true, _, *rest in split[:2]]
    table.write_text("\n".join([rows[0], *wrong, *rows[3:]]) + "\n")
    (output / "audit").mkdir()
    (output / "audit" / "summary.json").write_text("{}")
    before = content(trained)
    outcome = run(["label", "--review", "1", "--output", output, "--port", "0"])
    assert outcome.code == 130, outcome.err
    assert {path for path, *_ in split[:2]} <= {name for name, _, _ in seen}
    assert all(given != suggested for _, given, suggested in seen)
    fixes = output / "labels" / "001-cnn" / "fixes.csv"
    name, given, suggested = seen[0]
    assert fixes.read_text().splitlines()[1].startswith(f"{name},{suggested},{given},{suggested},")
    assert f"fixes    {fixes}\n" in outcome.out
    assert content(trained) == before
    refuse(["label", "--review", "7", "--output", output], 2, "7")
