"""`export`: files, parity and figures of one small run, and its script in a process that cannot see the project."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch

from MLPipeline.export.StandalonePredictor import Predictor
from tests.support.harness import Outcome, refuse, succeed
from tests.support.paths import ROOT
from tests.support.trained_run import Trained

ISOLATED = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    sys.stderr.write(" ".join(sorted({"torch", "torchvision", "MLPipeline", "PIL", "simplejpeg"} & set(sys.modules))))
"""


class Export:
    """What `export --format onnx` has written and printed."""

    def __init__(self, trained: Trained, outcome: Outcome) -> None:
        self.trained, self.outcome = trained, outcome
        self.path = trained.output / "export" / "001-cnn-onnx"
        self.about = json.loads(onnx.load(self.path / "model.onnx").metadata_props[0].value)

    def script(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-I", "-c", ISOLATED, str(self.path / "predict_onnx.py"), *map(str, arguments)]
        return subprocess.run(words, capture_output=True, text=True, cwd=self.path, check=False)


@pytest.fixture(scope="module")
def exported(trained: Trained) -> Export:
    return Export(trained, succeed(["export", "--output", trained.output]))


def test_it_writes_the_model_the_script_and_the_classes(exported: Export) -> None:
    names = {path.name for path in exported.path.iterdir()}
    assert names - {"MODEL_CARD.md"} == {"model.onnx", "predict_onnx.py", "classes.txt", "export.json"}
    assert (exported.path / "classes.txt").read_text() == "cat\ndog\neel\n"
    assert not list(exported.path.parent.glob(".001*[0-9a-f]"))


def test_it_says_how_equal_and_how_fast_the_model_is(exported: Export) -> None:
    lines = exported.outcome.out.splitlines()
    assert lines[0] == "export   cnn as onnx: 3 classes, 16x16 pixels"
    number = exported.trained.metrics["test"]["n"]
    assert re.match(rf"parity   same answers on {number} test images, probabilities within \S+ of", lines[1])
    speeds = [line for line in lines if line.startswith("speed")]
    pattern = r"speed    (torch|model.onnx) +\d+\.\d MB +\d+\.\d ms for one image +\d+ images/s in batches of 32"
    assert len(speeds) == 2 and all(re.fullmatch(pattern, line) for line in speeds)
    assert lines[-2:] == [
        f"saved    {exported.path}",
        f"next     python {exported.path / 'predict_onnx.py'} IMAGE_OR_FOLDER",
    ]


def test_the_report_holds_the_same_figures(exported: Export) -> None:
    report = json.loads((exported.path / "export.json").read_text())
    assert report["parity"]["fp32"]["max_difference"] < 1e-3
    assert report["parity"]["fp32"]["num_images"] == exported.trained.metrics["test"]["n"]
    assert set(report["speed"]) == {"torch", "model.onnx"}
    assert all(speed["images_per_s"] > 0 for speed in report["speed"].values())


def test_the_graph_takes_raw_pixels_in_batches_of_any_size(exported: Export) -> None:
    model = onnx.load(exported.path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 20)]
    (images,) = model.graph.input
    sizes = [each.dim_param or each.dim_value for each in images.type.tensor_type.shape.dim]
    assert images.name == "images" and images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert isinstance(sizes[0], str) and sizes[1:] == [16, 16, 3]
    assert [each.name for each in model.graph.output] == exported.about["outputs"]
    assert not [node.op_type for node in model.graph.node if node.op_type in ("Dropout", "BatchNormalization")]


def test_the_metadata_describe_the_model(exported: Export) -> None:
    about = exported.about
    assert about["classes"] == ["cat", "dog", "eel"]
    assert (about["image_size"], about["fit"], about["model"]) == (16, "stretch", "cnn")
    assert about["temperature"] == exported.trained.metrics["temperature"]
    assert about["origin"]["run"] == "001-cnn" and re.fullmatch("[0-9a-f]{64}", about["origin"]["checkpoint_sha256"])
    assert about["origin"]["licence_of_initial_weights"].startswith("The training started from random weights")


def test_the_script_prints_what_predict_prints_without_the_project(exported: Export) -> None:
    folder = exported.trained.data / "eel"
    done = exported.script(folder, "--json")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    expected = succeed(["predict", folder, "--json", "--output", exported.trained.output, "--precision", "fp32"])
    ours, theirs = ([json.loads(line) for line in text.splitlines()] for text in (done.stdout, expected.out))
    assert [row["path"] for row in ours] == [row["path"] for row in theirs]
    assert [row["predicted"] for row in ours] == [row["predicted"] for row in theirs]
    for row, other in zip(ours, theirs, strict=True):
        assert row.keys() == other.keys()
        assert row["confidence"] == pytest.approx(other["confidence"], abs=1e-3)


def test_the_script_skips_unreadable_files_and_fails_where_none_is_left(exported: Export) -> None:
    broken = exported.trained.data / "cat" / "empty.jpg"
    done = exported.script(broken, exported.trained.data / "cat" / "000.png")
    assert done.returncode == 0 and done.stdout.startswith(f"{exported.trained.data / 'cat' / '000.png'}  ")
    assert done.stderr == f"note: skipped {broken}: empty file\n"
    alone = exported.script(broken)
    assert alone.returncode == 2 and alone.stderr.splitlines()[-1].startswith("error: none of the images can be read.")
    missing = exported.script("no such.jpg")
    assert missing.returncode == 2 and missing.stderr.startswith("error: no such.jpg: no such file or folder.")


def test_the_predictor_can_be_imported(exported: Export) -> None:
    files = [exported.trained.data / "dog" / "000.png", exported.trained.data / "cat" / "empty.jpg"] * 6
    answers = list(Predictor(exported.path / "model.onnx").predict(files, topk=2))
    assert [bool(answer.reason) for answer in answers] == [False, True] * 6
    assert len({answer.top for answer in answers}) == 2  # the same image, in different batches
    assert all(len(answer.top) == 2 for answer in answers if not answer.reason)


def test_an_export_is_replaced_as_a_whole_and_needs_no_images(exported: Export) -> None:
    """Where the images of the run are gone, generated ones are compared."""
    (exported.path / "model.onnx").write_bytes(b"damaged")
    (exported.path / "notes.txt").touch()
    moved = exported.trained.data.rename(exported.trained.data.with_name("elsewhere"))
    try:
        outcome = succeed(["export", "--output", exported.trained.output])
    finally:
        moved.rename(exported.trained.data)
    assert "are gone: the answers are compared on generated images" in outcome.err
    assert "same answers on 16 generated images" in outcome.out
    onnx.checker.check_model(onnx.load(exported.path / "model.onnx"))
    assert not (exported.path / "notes.txt").exists()


def test_openvino_in_8_bits(trained: Trained) -> None:
    """Each stage says what it found: parity in fp32, accuracy in 8 bits, speed of all three side by side.

    In a process of its own: OpenVINO gives the main thread a stack for signals and takes its memory away at the end, so
    the next SIGINT, which another test sends, would be a segmentation fault.
    """
    words = ["export", "--format", "openvino", "--int8", "--output", str(trained.output)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "Engine.py"), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    folder = trained.output / "export" / "001-cnn-openvino-int8"
    names = {path.name for path in folder.iterdir()}
    assert names - {"MODEL_CARD.md"} == {"model.xml", "model.bin", "predict_openvino.py", "classes.txt", "export.json"}
    assert "parity   same answers on " in done.stdout
    assert re.search(r"int8     \d+ of \d+ layers in 8 bits, calibrated on 34 training images \(\w+\)\n", done.stdout)
    number = trained.metrics["test"]["n"]
    assert re.search(rf"\n         test accuracy \d+\.\d -> \d+\.\d % of {number} images, difference ", done.stdout)
    speeds = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("speed")]
    assert speeds == ["torch", "fp32", "int8"]
    assert Predictor(folder / "model.xml").classes == ["cat", "dog", "eel"]


def test_pt2_loads_with_torch_alone(trained: Trained) -> None:
    outcome = succeed(["export", "--format", "pt2", "--output", trained.output])
    assert "parity   same answers on " in outcome.out
    file = trained.output / "export" / "001-cnn-pt2" / "model.pt2"
    extra = {"classifier": ""}
    network = torch.export.load(file, extra_files=extra).module()
    for number in (1, 5):
        probabilities, *_ = network(torch.zeros(number, 16, 16, 3, dtype=torch.uint8))
        assert probabilities.shape == (number, 3) and torch.allclose(probabilities.sum(1), torch.ones(number))
    assert json.loads(extra["classifier"])["classes"] == ["cat", "dog", "eel"]


def test_pt2_in_8_bits_is_refused(trained: Trained) -> None:
    refuse(["export", "--format", "pt2", "--int8", "--output", trained.output], 2, "--int8: not for --format pt2.")
