"""Pictures of more than 8 bits and of any proportions: seen alike by training, evaluation, prediction and audit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from MLPipeline.Checkpoint import load_checkpoint
from MLPipeline.decoding.Levels import Level, Levels
from MLPipeline.decoding.ReadImage import read_image
from MLPipeline.report.Drawing import drawing
from tests.support.harness import Outcome, refuse, succeed

FLAGS = ["--model", "cnn", "--device", "cpu", "-j", "1"]
Draw = Callable[[np.random.Generator, int], np.ndarray]  # the class -> a picture (H, W), in units of its sensor
NUM_CLASSES = 3


@pytest.fixture(autouse=True)
def _drawn_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "begin", lambda: None)


def draw_set(root: Path, draw: Draw, dtype: str, number: int = 40, hot: float = 65535) -> Path:
    """Draw `number` pictures of each of three classes; in one of ten, a single pixel is `hot`."""
    rng = np.random.default_rng(0)
    for label in range(NUM_CLASSES):
        (root / f"class{label}").mkdir(parents=True)
        for count in range(number):
            pixels = draw(rng, label)
            if count % 10 == 0:
                pixels[rng.integers(len(pixels)), rng.integers(pixels.shape[1])] = hot
            suffix = "png" if dtype == "uint16" else "tif"
            encoded = cv2.imencode(f".{suffix}", pixels.astype(dtype))[1]
            (root / f"class{label}" / f"{count:02d}.{suffix}").write_bytes(encoded.tobytes())
    return root


def brightness(low: float, span: float) -> Draw:
    """Return what draws pictures whose class is their brightness, with structure and noise in each."""

    def draw(rng: np.random.Generator, label: int) -> np.ndarray:
        level = low + span * (0.15 + 0.3 * label + rng.uniform(0, 0.15))
        waves = np.sin(np.linspace(0, rng.uniform(5, 20), 40))[:, None] * np.sin(np.linspace(0, rng.uniform(5, 20), 40))
        return level + span * (0.02 * waves + rng.normal(0, 0.01, (40, 40)))

    return draw


def train(data: Path, output: Path, *flags: str | Path, paints: bool = False) -> Outcome:
    command = [*FLAGS, "--epochs", "12", "--image-size", "16", "--data", data, "--output", output, *flags]
    return succeed(command, paints=paints)


def answers(files: list[Path], run: Path, output: Path) -> list[dict]:
    lines = succeed(["predict", *files, "--run", run, "--json", "--device", "cpu", "--output", output]).out.splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("dtype", "low", "span", "hot", "line"),
    [
        ("uint16", 0, 4000, 65535, "16-bit pictures: 0 shown as black, 4095 as white"),
        pytest.param("uint16", 51200, 600, 65535, "16-bit pictures: 51", marks=pytest.mark.slow),
        pytest.param("float32", 280, 30, 1e6, "floating-point pictures: 28", marks=pytest.mark.slow),
        pytest.param("int32", 10**6, 900, 2**31 - 1, "signed 32-bit pictures: 1.00", marks=pytest.mark.slow),
    ],
)
def test_classes_told_by_brightness_are_learned_though_one_file_in_ten_has_a_hot_pixel(
    tmp_path: Path, dtype: str, low: float, span: float, hot: float, line: str
) -> None:
    data, output = draw_set(tmp_path / "Data", brightness(low, span), dtype, hot=hot), tmp_path / "output"
    outcome = train(data, output, "--epochs", "30")  # with 12, one of five seeds misses a test image
    run = output / "001-cnn"
    assert f"levels   {line}" in outcome.out
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] >= 0.98
    _, card = load_checkpoint(run / "model.pt")
    assert card.levels is not None and card.levels.to_plain() == json.loads((run / "levels.json").read_text())
    assert json.loads(succeed(["evaluate", "--output", output, "--json", "--device", "cpu"]).out)["accuracy"] >= 0.98
    rows = pd.read_csv(run / "predictions.csv")
    told = answers([data / path for path in rows["path"]], run, output)
    assert [each["predicted"] for each in told] == rows["predicted"].tolist()
    np.testing.assert_allclose([each["confidence"] for each in told], rows["confidence"], atol=1e-4)
    if hot != 65535:
        return
    audit = succeed(["audit", "--data", data, "--output", output, "--device", "cpu"]).out
    assert "Blank" not in audit and "Dark" not in audit and "Light" not in audit
    assert "levels   " in audit and "shown as black" in audit


def test_samples_show_many_greys_of_thermal_pictures(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "Data", brightness(51200, 600), "uint16", number=12)
    train(data, tmp_path / "output", "--epochs", "1", paints=True)
    samples = cv2.imread(str(tmp_path / "output" / "001-cnn" / "samples.png"), cv2.IMREAD_GRAYSCALE)
    assert samples is not None
    greys = np.bincount(samples[60:].reshape(-1), minlength=256)
    assert (greys[20:236] > 100).sum() > 100


def test_stored_rows_of_deep_pictures_are_not_shared_between_levels(tmp_path: Path) -> None:
    """The same files are part of two data sets whose levels differ: one has a class of much brighter pictures."""
    first = draw_set(tmp_path / "first", brightness(0, 900), "uint16", number=12, hot=900)
    second = draw_set(tmp_path / "second", brightness(0, 900), "uint16", number=12, hot=900)
    for path in (second / "class2").iterdir():
        path.write_bytes(cv2.imencode(".png", np.full((40, 40), 50_000, np.uint16))[1].tobytes())
        break
    for path in (second / "class1").iterdir():
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert pixels is not None
        path.write_bytes(cv2.imencode(".png", (pixels * 60).clip(0, 65535).astype(np.uint16))[1].tobytes())
    output = tmp_path / "output"
    for data in (first, second, first):
        train(data, output, "--epochs", "1")
    one, other, again = (load_checkpoint(output / f"00{n}-cnn" / "model.pt")[1].levels for n in (1, 2, 3))
    assert one == again == Levels({"uint16": Level(0, 1023)}) != other
    histories = [(output / f"00{n}-cnn" / "history.csv").read_text().splitlines()[1].split(",")[1:5] for n in (1, 2, 3)]
    assert histories[0] == histories[2]
    alone = tmp_path / "alone"
    train(second, alone, "--epochs", "1")
    assert (alone / "001-cnn" / "history.csv").read_text().splitlines()[1].split(",")[1:5] == histories[1]


def test_models_without_levels_predict_as_they_did(tmp_path: Path) -> None:
    """A checkpoint of before there were levels: the brightest pixel of each file decides what white is."""
    data = draw_set(tmp_path / "Data", brightness(0, 4000), "uint16", number=12)
    train(data, tmp_path / "output", "--epochs", "2")
    model_file = tmp_path / "old.pt"
    stored = torch.load(tmp_path / "output" / "001-cnn" / "model.pt", weights_only=True)
    del stored["levels"], stored["fit"]
    torch.save(stored, model_file)
    model, card = load_checkpoint(model_file)
    assert card.levels is None and card.fit == "stretch"
    files = sorted((data / "class1").iterdir())
    told = answers(files, model_file, tmp_path / "output")
    pixels = np.stack([read_image(path, (16, 16)).pixels for path in files])
    # As `_to_8_bits` had it: 4095 is white without a hot pixel of 65535, which is white itself with one.
    brightest = [float(cv2.imread(str(path), cv2.IMREAD_UNCHANGED).max()) for path in files]  # type: ignore[union-attr]
    assert sorted(set(brightest))[-1] == 65535
    means = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED).mean() for path in files]  # type: ignore[union-attr]
    whites = [65535 if value == 65535 else 4095 for value in brightest]
    np.testing.assert_allclose(pixels.mean(axis=(1, 2, 3)), 255 * np.array(means) / whites, atol=1)
    with torch.inference_mode():
        logits = model(torch.from_numpy(pixels).permute(0, 3, 1, 2)).double() / card.temperature
    assert [each["predicted"] for each in told] == [card.classes[k] for k in logits.argmax(1).tolist()]
    np.testing.assert_allclose([each["confidence"] for each in told], logits.softmax(1).amax(1), atol=1e-3)


def test_another_depth_than_the_models_is_noted_and_not_near_black(tmp_path: Path, make_images) -> None:
    data, output = make_images(tmp_path / "Data", {"cat": 12, "dog": 12}), tmp_path / "output"
    train(data, output, "--epochs", "1")
    run = output / "001-cnn"
    assert load_checkpoint(run / "model.pt")[1].levels == Levels() and not (run / "levels.json").exists()
    deep = draw_set(tmp_path / "deep", brightness(0, 4000), "uint16", number=3)
    (deep / "class0").rename(deep / "cat"), (deep / "class1").rename(deep / "dog")
    (deep / "class2").rename(tmp_path / "elsewhere")
    note = "16-bit values, which the model was not trained on: shown at the range of this file alone"
    outcome = succeed(["predict", deep / "cat", "--device", "cpu", "--output", output])
    assert len([line for line in outcome.notes if note in line]) == 1
    outcome = succeed(["evaluate", "--data", deep, "--device", "cpu", "--output", output])
    assert len([line for line in outcome.notes if note in line and "and 5 more" in line]) == 1
    assert not [line for line in succeed(["predict", data, "--output", output]).notes if "not trained" in line]


def test_depth_that_gives_the_class_away_is_a_shortcut(tmp_path: Path) -> None:
    data = draw_set(tmp_path / "Data", brightness(0, 60_000), "uint16", number=30)
    rng = np.random.default_rng(1)
    for path in (data / "class0").iterdir():
        pixels = (brightness(0, 250)(rng, 1)).clip(0, 255).astype(np.uint8)
        path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    audit = succeed(["audit", "--data", data, "--output", tmp_path / "output", "--device", "cpu"]).out
    assert (
        "class0 by bits per channel: recall 100 %, 0 % of the others confused with it (typically 8; others 16)" in audit
    )
    assert "90 grey, 60 of more than 8 bits" in audit


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_the_models_fit_is_used_by_every_command(tmp_path: Path, fit: str) -> None:
    """A vertical stripe in the left or the right third tells the class: padding shows it, cropping cuts it off."""
    rng = np.random.default_rng(0)
    data, output = tmp_path / "Data", tmp_path / "output"
    for label, name in enumerate(("left", "right")):
        (data / name).mkdir(parents=True)
        for number in range(40):
            pixels = rng.integers(90, 140, (30, 90, 3)).astype(np.uint8)
            place = 5 if label == 0 else 65
            pixels[:, place : place + 20] = 250
            (data / name / f"{number:02d}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    outcome = train(data, output, "--fit", fit, "--lr", "0.05", paints=True)
    run = output / "001-cnn"
    assert f"fit      {fit}: " in outcome.out
    accuracy = json.loads((run / "metrics.json").read_text())["test"]["accuracy"]
    assert accuracy == 1.0 if fit == "pad" else accuracy < 0.9
    assert load_checkpoint(run / "model.pt")[1].fit == fit
    evaluated = json.loads(succeed(["evaluate", "--output", output, "--json", "--device", "cpu"]).out)
    assert evaluated["accuracy"] == accuracy
    rows = pd.read_csv(run / "predictions.csv")
    told = answers([data / path for path in rows["path"]], run, output)
    np.testing.assert_allclose([each["confidence"] for each in told], rows["confidence"], atol=1e-4)
    samples = cv2.imread(str(run / "samples.png"), cv2.IMREAD_GRAYSCALE)
    assert samples is not None
    pictures = samples[60:]
    has_stripe = ((pictures > 240) & (pictures < 253)).mean() > 0.02
    assert has_stripe == (fit == "pad")
    succeed(["predict", data / "left" / "00.png", "--heatmap", "--output", output, "--device", "cpu"])
    heat = cv2.imread(str(next((output / "heatmaps").rglob("*.jpg"))))
    assert heat is not None and heat.shape == (16, 16, 3)


def test_a_fit_that_contradicts_the_model_is_refused(tmp_path: Path, make_images) -> None:
    data, output = make_images(tmp_path / "Data", {"cat": 12, "dog": 12}), tmp_path / "output"
    train(data, output, "--epochs", "1", "--fit", "pad")
    for verb in ("predict", "evaluate"):
        paths = [data] if verb == "predict" else []
        refuse([verb, *paths, "--fit", "crop", "--output", output], 2, "--fit")
    refuse(["--model", "cnn", "--data", data, "--output", output, "--fit", "squeeze"], 2, "--fit squeeze")
    config = json.loads((output / "001-cnn" / "config.json").read_text())
    assert config["fit"] == "pad"


def test_stretch_keeps_its_stores_and_each_fit_has_its_own(tmp_path: Path, make_images) -> None:
    data = make_images(tmp_path / "Data", {"cat": 12, "dog": 12})
    stores: dict[str, set[str]] = {}
    for flags in ((), ("--fit", "stretch"), ("--fit", "crop"), ("--fit", "pad")):
        train(data, tmp_path / "output", "--epochs", "1", *flags)
        stores[" ".join(flags)] = {path.name for path in (tmp_path / "output" / "cache").glob("pixels-*")}
    assert [len(found) for found in stores.values()] == [1, 1, 2, 3]


def test_the_audit_recommends_a_fit_where_proportions_differ(tmp_path: Path) -> None:
    data, output, rng = tmp_path / "Data", tmp_path / "output", np.random.default_rng(0)
    for name, shape in (("cat", (60, 30, 3)), ("dog", (30, 60, 3))):
        (data / name).mkdir(parents=True)
        for number in range(30):
            encoded = cv2.imencode(".png", rng.integers(0, 256, shape, np.uint8))[1]
            (data / name / f"{number}.png").write_bytes(encoded.tobytes())
    audit = succeed(["audit", "--data", data, "--output", output, "--device", "cpu"]).out
    assert "Different proportions" in audit and "width divided by height is 0.50 to 2.00 in 90 %" in audit
    assert "Train with --fit pad, which shows the whole image undistorted" in audit
    assert "proportions" in (output / "audit" / "audit.csv").read_text()
    assert "Train with --fit crop: the square of a stretched or padded image reveals its proportions." in audit
