"""`predict`: the same answers as training's own table, for whatever files it is given."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from MLPipeline.images.FindImages import find_images
from tests.support.harness import refuse, succeed, train
from tests.support.paths import ROOT

MakeImages = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    root = tmp_path_factory.mktemp("predict")
    return train(root / "Data", root / "output", make_images)


@pytest.fixture
def predict(trained: Path) -> list[str]:
    return ["predict", "--output", str(trained.parent), "-j", "1"]


@pytest.fixture
def images(trained: Path) -> Path:
    return trained.parents[1] / "Data"


def test_answers_equal_the_predictions_of_the_run(
    trained: Path, predict: list[str], images: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(trained / "predictions.csv")
    assert table["confidence"].between(0.6, 0.99).any()  # else a factor in the logits would not be seen
    succeed([*predict, *(images / path for path in table["path"]), "--csv", tmp_path / "answers.csv"])
    answers = pd.read_csv(tmp_path / "answers.csv")
    assert list(answers) == ["path", "answered", "predicted", "confidence", "class_2", "confidence_2"]
    assert answers["path"].tolist() == [str(images / path) for path in table["path"]]
    assert answers["predicted"].tolist() == table["predicted"].tolist()
    assert (answers["confidence"] - table["confidence"]).abs().max() < 1e-3
    assert (answers["confidence"] + answers["confidence_2"] - 1).abs().max() < 1e-5


def test_files_folders_and_globs_are_the_same_images(predict: list[str], images: Path) -> None:
    lines = succeed([*predict, images / "cat"]).out.splitlines()
    assert len(lines) == 10
    assert all(line.split("  ")[1].split()[0] in ("cat", "dog") for line in lines)
    assert succeed([*predict, images / "cat" / "*.png"]).out.splitlines() == lines
    assert succeed([*predict, images / "cat" / "000.png"]).out.splitlines() == lines[:1]
    assert succeed([*predict, images / "cat", images / "cat" / "000.png"]).out.splitlines() == lines  # each once
    assert len(succeed([*predict, images / "**" / "*.png"]).out.splitlines()) == 20


def test_only_answers_are_on_stdout_and_the_run_is_named(trained: Path, predict: list[str], images: Path) -> None:
    outcome = succeed([*predict, images / "dog", "--json"])
    answers = [json.loads(line) for line in outcome.out.splitlines()]
    assert len(answers) == 10
    assert answers[0].keys() == {"path", "answered", "predicted", "confidence", "top"}
    assert answers[0]["top"][0] == {"class": answers[0]["predicted"], "confidence": answers[0]["confidence"]}
    assert outcome.notes == [f"using {trained / 'model.pt'}"]


@pytest.mark.parametrize(("topk", "number"), [("1", 1), ("2", 2), ("99", 2)])
def test_topk_names_that_many_classes_best_first(predict: list[str], images: Path, topk: str, number: int) -> None:
    out = succeed([*predict, images / "dog" / "000.png", "--json", "--topk", topk]).out
    shares = [each["confidence"] for each in json.loads(out)["top"]]
    assert len(shares) == number and shares == sorted(shares, reverse=True)


def test_one_bad_file_of_ten_leaves_nine_answers(predict: list[str], images: Path, tmp_path: Path) -> None:
    for number in range(9):
        shutil.copy(images / "cat" / f"{number:03}.png", tmp_path)
    (tmp_path / "bad.jpg").write_text("<html>")
    outcome = succeed([*predict, tmp_path, "--csv", tmp_path / "answers.csv"])
    assert len(outcome.out.splitlines()) == len(pd.read_csv(tmp_path / "answers.csv")) == 9
    assert [note for note in outcome.notes if note.startswith(f"skipped {tmp_path / 'bad.jpg'}: ")]


def test_files_that_are_no_images_are_named_with_the_reason(predict: list[str], images: Path, tmp_path: Path) -> None:
    shutil.copy(images / "cat" / "000.png", tmp_path / "good.png")
    (tmp_path / "scan.pdf").touch()
    outcome = succeed([*predict, tmp_path])
    assert f"skipped {tmp_path / 'scan.pdf'}: PDF: convert to JPEG or PNG" in outcome.notes


def test_nothing_to_answer_is_an_error(predict: list[str], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("<html>")
    (tmp_path / "none").mkdir()
    table = tmp_path / "answers.csv"
    refuse([*predict, tmp_path / "bad.jpg", "--csv", table], 2, "bad.jpg", "none of the images can be read")
    assert not table.exists()
    refuse([*predict, tmp_path / "none"], 2, str(tmp_path / "none"), "no images there")
    refuse([*predict, tmp_path / "*.gif"], 2, "*.gif", "no such file or folder")
    refuse([*predict, tmp_path / ("x" * 300)], 2, "no such file or folder")
    refuse(predict, 2, "no images given")


@pytest.mark.parametrize(
    "name",
    [
        b"a\nb.png",
        b"=1+1.png",
        "katze 🐈.png".encode(),
        b"\xff\xfe.png",
        b"-b.png",
        b"$\\frac{$<b>.png",
        b"\x1b[2J.png",
    ],
)
def test_any_name_gives_one_line_and_one_row(predict: list[str], images: Path, tmp_path: Path, name: bytes) -> None:
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))
    shutil.copy(images / "cat" / "000.png", path)
    outcome = succeed([*predict, path, "--csv", tmp_path / "answers.csv"])
    assert len(outcome.out.splitlines()) == 1
    assert outcome.out.rstrip("\n").isprintable()
    assert len(pd.read_csv(tmp_path / "answers.csv")) == 1
    answer = json.loads(succeed([*predict, path, "--json"]).out)
    assert os.fsencode(answer["path"]) == os.fsencode(path)


def test_a_run_is_found_by_number_name_and_path(trained: Path, images: Path) -> None:
    image = images / "dog" / "000.png"
    lines = {
        succeed(["predict", image, "--output", trained.parent, "--run", run]).out for run in ("1", "001-cnn", "cnn")
    }
    assert lines == {succeed(["predict", image, "--run", trained]).out}
    refuse(["predict", image, "--output", trained.parent, "--run", "cnm"], 2, "--run cnm", "001-cnn")
    refuse(["predict", image, "--output", images.parent / "nowhere"], 2, "no finished run")


def test_the_answers_cannot_be_written(predict: list[str], images: Path) -> None:
    (images.parent / "file").touch()
    refuse([*predict, images / "cat" / "000.png", "--csv", images.parent / "file" / "x.csv"], 2, "x.csv", "is a file")


def test_a_glob_character_in_a_real_name_is_that_name(tmp_path: Path) -> None:
    (tmp_path / "a[1].png").touch()
    (tmp_path / "a1.png").touch()
    assert find_images([tmp_path / "a[1].png"])[0] == [tmp_path / "a[1].png"]


NOT_NEEDED = (
    "jinja2",
    "matplotlib",
    "pandas",
    "sympy",
    "torch._decomp",
    "torch._dynamo.eval_frame",
    "torch.onnx",
    "torchvision",
)


def test_predict_and_networks_of_our_own_load_nothing_that_they_do_not_need(predict: list[str], images: Path) -> None:
    script = (
        "import sys, Engine\n"
        f"print('exit', Engine.main({[*predict, str(images / 'cat' / '000.png')]!r}))\n"
        "from MLPipeline.Models import build_model\n"
        "build_model('efficientnet_lite0', 2, 32)\n"
        f"print('loaded', *({set(NOT_NEEDED)!r} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["exit 0", "loaded"]
