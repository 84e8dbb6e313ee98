"""What the exported script answers, on a network made by hand: the mean of the pixels is the probability of bright."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from MLPipeline.decoding.ReadImage import cv2
from MLPipeline.export.Script import standalone_script
from MLPipeline.export.StandalonePredictor import Failure, Predictor, find_images, main
from MLPipeline.images.FindImages import find_images as find_images_of_predict

ABOUT = {
    "classes": ["bright", "dark"],
    "image_size": 4,
    "fit": "stretch",
    "levels": None,
    "threshold": {"min_confidence": 0.75},
    "max_distance": 0.9,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_network(tmp_path / "model.onnx")


def write_network(path: Path, **about: object) -> Path:
    """Write images -> mean m from 0 to 1 -> probabilities (m, 1 - m), distance m."""
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["distance"]),
        helper.make_node("Sub", ["one", "distance"], ["rest"]),
        helper.make_node("Unsqueeze", ["distance", "last"], ["first_column"]),
        helper.make_node("Unsqueeze", ["rest", "last"], ["second_column"]),
        helper.make_node("Concat", ["first_column", "second_column"], ["probabilities"], axis=1),
    ]
    numbers = {"axes": np.array([1, 2, 3]), "last": np.array([1]), "white": np.float32(255), "one": np.float32(1)}
    graph = helper.make_graph(
        nodes,
        "made by hand",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 4, 4, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("distance", TensorProto.FLOAT, ["batch"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(made, {"classifier": json.dumps(ABOUT | about)})
    onnx.save(made, path)
    return path


def grey(path: Path, value: int, dtype: type = np.uint8) -> Path:
    assert cv2.imwrite(str(path), np.full((4, 4), value, dtype))
    return path


def test_answers_are_withheld_by_confidence_and_by_distance(model: Path, tmp_path: Path) -> None:
    files = [grey(tmp_path / f"{value}.png", value) for value in (0, 100, 204, 255)]
    answers = list(Predictor(model).predict(files, topk=2))
    assert [answer.predicted for answer in answers] == ["dark", "dark", "bright", "bright"]
    assert [answer.is_withheld for answer in answers] == [False, True, False, True]
    assert [answer.is_far for answer in answers] == [False, False, False, True]
    assert answers[2].confidence == pytest.approx(0.8)
    assert [answer.to_text().partition("  ")[2] for answer in answers] == [
        "dark 100.0 %  bright 0.0 %",
        "dark 60.8 %  bright 39.2 %  (withheld: confidence below the threshold)",
        "bright 80.0 %  dark 20.0 %",
        "bright 100.0 %  dark 0.0 %  (withheld: unlike the training images)",
    ]


def test_without_a_rule_nothing_is_withheld(tmp_path: Path) -> None:
    model = write_network(tmp_path / "model.onnx", threshold=None)
    (answer,) = Predictor(model).predict([grey(tmp_path / "a.png", 255)])
    assert answer.is_far and not answer.is_withheld


def test_images_of_16_bits_are_shown_at_the_levels_of_the_model(tmp_path: Path) -> None:
    """Black at 1000 and white at 5000: 4000 is three quarters of the way."""
    deep = grey(tmp_path / "deep.png", 4000, np.uint16)
    model = write_network(tmp_path / "model.onnx", levels={"uint16": [1000.0, 5000.0]})
    (answer,) = Predictor(model).predict([deep])
    assert answer.confidence == pytest.approx(191 / 255)
    (answer,) = Predictor(write_network(tmp_path / "model.onnx")).predict([deep])
    assert answer.reason == "16-bit values, which the model was not trained on"


def test_an_image_gets_the_same_answer_in_any_batch(model: Path, tmp_path: Path) -> None:
    files = [grey(tmp_path / f"{value}.png", value) for value in range(0, 190, 10)]
    together = [answer.top for answer in Predictor(model).predict(files, 2)]
    assert together == [answer.top for file in files for answer in Predictor(model).predict([file], 2)]


def test_folders_and_globs_are_searched_in_natural_order(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("10.png", "9.png", ".hidden.png"):
        grey(tmp_path / "in" / name, 0)
    (tmp_path / "in" / "notes.txt").touch()
    assert main([str(tmp_path / "in"), str(tmp_path / "in" / "1*.png"), "--model", str(model), "--json"]) == 0
    out, err = capfd.readouterr()
    assert [json.loads(line)["path"] for line in out.splitlines()] == [
        str(tmp_path / "in" / n) for n in ("9.png", "10.png")
    ]
    assert err == f"note: skipped {tmp_path / 'in' / 'notes.txt'}: not an image file\n"


def test_globs_with_brackets_in_names_find_what_predict_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("shots [2]/img [1]a.png", "shots [2]/deep/b.png", "shots 2/c.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    for pattern, number in (("shots [2]/*.png", 1), ("shots [2]/**/*.png", 2), ("shots*/img [1]*", 1), ("**/*.png", 3)):
        found = find_images([pattern])
        assert len(found) == number and found == list(map(str, find_images_of_predict([Path(pattern)])[0]))
    with pytest.raises(Failure, match="no such file or folder"):
        find_images(["shots [3]/*.png"])


def test_a_missing_runtime_is_named_with_the_pip_line(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main([str(model), "--model", str(model)]) == 3
    assert capfd.readouterr().err == "error: onnxruntime is missing. pip install onnxruntime\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is that of Linux")
@pytest.mark.parametrize(
    ("redirect", "said"), [(">/dev/full", "not complete (No space left on device)"), (">&-", "closed")]
)
def test_answers_that_cannot_be_printed_are_an_error(model: Path, tmp_path: Path, redirect: str, said: str) -> None:
    (tmp_path / "predict.py").write_text(standalone_script("onnx"))
    command = shlex.join([sys.executable, str(tmp_path / "predict.py"), str(grey(tmp_path / "a.png", 255))])
    done = subprocess.run(["sh", "-c", f"{command} {redirect}"], capture_output=True, text=True)
    assert done.returncode == 3 and done.stderr.startswith(f"error: standard output: {said}. ")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="a shell of Unix")
def test_notes_that_cannot_be_printed_cost_no_answer(model: Path, tmp_path: Path) -> None:
    (tmp_path / "predict.py").write_text(standalone_script("onnx"))
    (tmp_path / "b.png").touch()
    command = shlex.join(
        [sys.executable, str(tmp_path / "predict.py"), str(grey(tmp_path / "a.png", 255)), str(tmp_path / "b.png")]
    )
    done = subprocess.run(["sh", "-c", f"{command} 2>&-"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("bright") == 1


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_what_is_no_exported_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "model.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Failure, match=r"model\.onnx: (not an exported model|cannot be opened)"):
        Predictor(file)
