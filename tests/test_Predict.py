"""The Python call: the answers of the verb `predict`, for images of any kind, quietly, from any thread and folder."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from MLPipeline.Checkpoint import ModelCard
from MLPipeline.decoding.ReadImage import read_image
from MLPipeline.Errors import DataError, UsageError
from MLPipeline.Models import build_model
from MLPipeline.Predict import Answer, Answers, ImageClassifier, load
from MLPipeline.report.AnswerCards import MAX_CARDS
from MLPipeline.scoring.Unknown import FeatureCenters, UnknownRule
from tests.support.harness import content, succeed, train
from tests.support.paths import ROOT

MakeImages = Callable[..., Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    root = tmp_path_factory.mktemp("call")
    return train(root / "Data", root / "output", make_images)


@pytest.fixture(scope="module")
def files(run: Path) -> list[Path]:
    return sorted((run.parents[1] / "Data").glob("*/*.png"))


@pytest.fixture(scope="module")
def classifier(run: Path) -> ImageClassifier:
    return load(run, device="cpu")


def test_the_answers_are_those_of_the_verb_to_the_last_digit(
    run: Path, files: list[Path], classifier: ImageClassifier, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.jpg"
    damaged.write_text("<html>")
    out = succeed(["predict", *files, damaged, "--run", run, "--json", "--topk", "5", "-j", "2"]).out
    answers = classifier.predict([*files, damaged])
    assert [answer.to_json() for answer in answers if not answer.reason] == out.splitlines()
    assert len({answer.confidence for answer in answers[:-1]}) == 20 and answers[-1].reason == "not an image (HTML)"
    assert classifier.predict(files[3])[0].to_json() == out.splitlines()[3]


def test_every_kind_of_image_gets_the_same_answer(files: list[Path], classifier: ImageClassifier) -> None:
    pixels = read_image(files[0]).pixels
    bgr = np.ascontiguousarray(pixels[:, :, ::-1])
    data = files[0].read_bytes()
    kinds = [str(files[0]), data, io.BytesIO(data), Image.open(files[0]), pixels, bgr[:, :, ::-1]]
    kinds += [torch.from_numpy(pixels).permute(2, 0, 1)]
    answers = classifier.predict([files[0], *kinds])
    assert {answer.top for answer in answers} == {answers[0].top}
    assert [answer.path.name for answer in answers[2:4]] == ["image 2", "image 3"]


@pytest.mark.parametrize(("name", "precision"), [("cnn", "fp32"), ("resnet18", "fp32"), ("efficientnet_lite0", "bf16")])
def test_an_image_alone_gets_the_answer_that_it_gets_in_company(name: str, precision: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, 5, 64)
    images = np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    with torch.no_grad():
        model.train()(torch.from_numpy(images).permute(0, 3, 1, 2))  # BatchNorm statistics that are not trivial
        torch.nn.init.normal_(
            model.head[-1].weight if isinstance(model.head, torch.nn.Sequential) else model.head.weight
        )
    classifier = ImageClassifier(model, ModelCard(name, tuple("abcde"), 64, {}), precision)
    together = [dict(answer.top) for answer in classifier.predict(images)]
    alone = [dict(classifier.predict(image)[0].top) for image in images]
    assert (
        max(abs(one[label] - other[label]) for one, other in zip(together, alone, strict=True) for label in one) < 1e-5
    )
    assert max(max(each.values()) - min(each.values()) for each in together) > 0.1
    np.testing.assert_allclose(classifier.embed(images[2]), classifier.embed(images)[2:3], rtol=1e-3)
    few = [dict(answer.top) for answer in classifier.predict(images[:3])]
    assert max(abs(one[label] - other[label]) for one, other in zip(few, alone, strict=False) for label in one) < 1e-5


def test_a_few_images_are_computed_one_by_one(
    files: list[Path], classifier: ImageClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    network = classifier._forward._compute
    monkeypatch.setattr(
        classifier._forward, "_compute", lambda images: passes.append(len(images)) or network(images), raising=True
    )
    for number in (1, 3, 8, 9):
        classifier.predict(files[:number])
    assert passes == [1] + [1] * 3 + [1] * 8 + [32]
    classifier.predict((2 * files)[:33])
    assert passes[13:] == [32, 32]


def test_one_image_gives_a_list_of_one_and_none_an_empty_list(files: list[Path], classifier: ImageClassifier) -> None:
    assert len(classifier.predict(files[0])) == 1 and isinstance(classifier.predict(files[0]), Answers)
    assert classifier.predict([]) == [] and classifier.predict(iter(())) == []
    assert classifier.predict(path for path in files[:3]) == classifier.predict(files[:3])
    assert len(classifier.predict(files[0], topk=1)[0].top) == 1
    with pytest.raises(UsageError, match="topk 0"):
        classifier.predict(files[0], topk=0)


def test_a_stream_answers_as_it_goes(files: list[Path], classifier: ImageClassifier) -> None:
    taken = []

    def endless() -> object:
        while True:
            taken.append(1)
            yield files[len(taken) % 20]

    stream = classifier.stream(endless(), workers=1)
    first = [next(stream) for _ in range(3)]
    stream.close()
    assert [answer.path for answer in first] == files[1:4] and len(taken) < 3 * classifier.batch_size


def test_an_unreadable_image_has_a_reason_and_stops_no_other(files: list[Path], classifier: ImageClassifier) -> None:
    bad, good = classifier.predict([b"<html>", files[0]])
    assert bad.reason == "not an image (HTML)" and bad.top == () and good.predicted in classifier.classes
    for name in ("predicted", "confidence"):
        with pytest.raises(DataError, match=r"image 0: not an image \(HTML\)\. Skip answers"):
            getattr(bad, name)
    with pytest.raises(DataError, match="image 1: not an image"):
        classifier.embed([files[0], b"<html>"])
    with pytest.raises(UsageError, match="image 1: NoneType"):
        classifier.predict([files[0], None])


def test_features_are_those_of_the_network(files: list[Path], classifier: ImageClassifier, run: Path) -> None:
    rows = classifier.embed(files)
    pixels = np.stack([read_image(path, (16, 16)).pixels for path in files])
    with torch.inference_mode():
        model = load(run)._model
        features = model.features(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
        logits = model.head(torch.from_numpy(rows)) / classifier.card.temperature
    assert rows.dtype == np.float32 and rows.shape == features.shape
    np.testing.assert_allclose(rows, features, rtol=2e-2, atol=2e-2 * features.max())
    confidences = [answer.confidence for answer in classifier.predict(files)]
    np.testing.assert_allclose(logits.softmax(1).amax(1).numpy(), confidences, atol=1e-5)
    assert classifier.embed([]).shape == (0, rows.shape[1])


def test_eight_threads_get_the_answers_of_one(files: list[Path], classifier: ImageClassifier) -> None:
    tasks: list[object] = [*files[:8], files[:5], files[5:], [path.read_bytes() for path in files], files[3:4]] * 2
    expected = [classifier.predict(task) for task in tasks]
    rows = classifier.embed(files)
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(classifier.predict, tasks))
            embedded = list(pool.map(classifier.embed, [files] * 8))
        with ThreadPoolExecutor(1) as new_thread:
            assert torch.get_num_threads() == new_thread.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(1)
    assert answers == expected
    assert all(np.array_equal(each, rows) for each in embedded)


def test_it_is_quiet_writes_nothing_and_changes_no_settings(
    run: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def settings() -> list[object]:
        loggers = [logging.getLogger(name) for name in ("", "MLPipeline", "Console")]
        signals = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)]
        return [*(tuple(each.handlers) for each in loggers), *signals, torch.get_num_threads(), os.getcwd()]

    monkeypatch.chdir(tmp_path)
    before, files_before = settings(), content(run.parents[1])
    classifier = load(run)
    classifier.predict([*files, b"<html>", tmp_path / "missing.jpg"])
    classifier.predict(files[0])[0]._repr_html_()
    classifier.embed(files)
    assert settings() == before and content(run.parents[1]) == files_before and not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_a_run_is_found_by_folder_file_number_and_name_and_wherever_it_lies(
    run: Path, files: list[Path], classifier: ImageClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = classifier.predict(files)
    shutil.copytree(run, tmp_path / "moved" / "anywhere")
    shutil.copy(run / "model.pt", tmp_path / "shipped.pt")
    found = [load(tmp_path / "moved" / "anywhere"), load(str(tmp_path / "shipped.pt"))]
    found += [load(name, output=run.parent) for name in (1, "1", "001-cnn", "cnn", None)]
    monkeypatch.chdir(run.parents[1])
    found += [load(), load("output/001-cnn")]
    assert all(each.predict(files) == expected for each in found)
    assert found[0].classes == ("cat", "dog") and repr(found[0]) == "ImageClassifier(cnn, 2 classes, on cpu)"


def test_what_cannot_be_loaded_is_one_of_our_errors(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--run cnm: no such run\. .*001-cnn"):
        load("cnm", output=run.parent)
    with pytest.raises(UsageError, match="no finished run"):
        load(output=tmp_path)
    (tmp_path / "model.pt").write_bytes(b"no model")
    with pytest.raises(DataError, match="model.pt"):
        load(tmp_path)
    for device in ("gpu", "cuda:99", "cpu:x", "mps:7"):
        with pytest.raises(UsageError, match="--device"):
            load(run, device=device)
    with pytest.raises(UsageError, match="--precision int3"):
        load(run, precision="int3")


def test_a_withheld_answer_says_so() -> None:
    model, plain = build_model("cnn", 2, 16), ModelCard("cnn", ("a", "b"), 16, {})
    image = np.zeros((20, 20), np.uint8)
    features = torch.from_numpy(ImageClassifier(model, plain).embed(image))
    centers = FeatureCenters(torch.nn.functional.normalize(features).half().repeat(2, 1), -0.1)  # nothing is near
    rule = UnknownRule(0.9, 0.0, 1.0, 1.0, (0.5, 1.0))
    card = dataclasses.replace(plain, fingerprint=centers, unknown=rule)
    (answer,) = ImageClassifier(model, card).predict(image)
    assert answer.is_withheld and answer.is_far and answer.remark == "withheld: unlike the training images"
    assert "withheld: unlike the training images" in answer._repr_html_()


def test_an_answer_shows_itself_on_one_line_and_in_a_notebook(files: list[Path], classifier: ImageClassifier) -> None:
    hostile = Answer(Path("a\n<b>\udcff.jpg"), (("<i>|</i>", 0.9), ("b", 0.1)), thumbnail=b"")
    assert repr(hostile) == r"<a\n<b>\udcff.jpg  <i>|</i> 90.0 %  b 10.0 %>"
    page = hostile._repr_html_()
    assert "<i>" not in page and "&lt;i&gt;|&lt;/i&gt;" in page and "no picture" in page and page.encode()
    answers = classifier.predict(files)
    one = answers[0]._repr_html_()
    assert one.count("data:image/jpeg;base64,/9j/") == 1 and one.count("<span>") == 2
    assert f"{100 * answers[0].confidence:.1f}&nbsp;%" in one
    assert answers._repr_html_().count("<img") == 20 and answers[:3]._repr_html_().count("<img") == 3
    assert Answers([*answers, *answers])._repr_html_().count("<img") == MAX_CARDS
    in_memory = classifier.predict(files[0].read_bytes())[0]
    assert in_memory._repr_html_().count("<img") == 1
    gone = Answer(Path("gone.jpg"), (("cat", 1.0),))
    assert "no picture" in gone._repr_html_()


def test_the_first_answer_comes_without_pandas_matplotlib_and_dynamo(
    run: Path, files: list[Path], tmp_path: Path
) -> None:
    script = (
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from MLPipeline.Predict import load\n"
        f"print(load({str(run)!r}).predict({str(files[0])!r})[0].to_json())\n"
        "heavy = {'pandas', 'matplotlib', 'jinja2', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "print(sorted(heavy), type(sys.modules['torch._dynamo']).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    answer, loaded = done.stdout.splitlines()
    assert json.loads(answer)["path"] == str(files[0]) and loaded == "[] _StandIn" and done.stderr == ""


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_examples_of_the_documentation_run(
    page: str, run: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    shutil.copytree(run, tmp_path / "output" / "001-efficientnet_lite0")
    for name in ("cat.jpg", "dog.png", "photos/1.jpg", "photos/2.jpg", *re.findall(r"Data/\w+/\d+\.jpg", examples[0])):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(files[0]).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec("\n".join(examples), names)  # noqa: S102 - our own examples, which share their names
    assert len(examples) == (1 if page == "README.md" else 4)
    assert len(printed.getvalue().splitlines()) >= 2 and names["answer"].predicted in ("cat", "dog")
    if page == "docs/python.md":
        assert names["similarity"].shape == (2, 2) and names["similarity"].min() > 0.99
