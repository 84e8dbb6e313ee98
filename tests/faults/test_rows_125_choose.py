"""Row 125 of the fault matrix: `choose` where weights are missing, or where a backbone fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from MLPipeline import Weights
from MLPipeline.choosing import Prober
from MLPipeline.files.Download import UnavailableError
from tests.support.harness import refuse, succeed

MakeImages = Callable[..., Path]
LITE = "efficientnet_lite0"


@pytest.fixture(scope="module")
def argv(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> list[str | Path]:
    root = tmp_path_factory.mktemp("images")
    data = make_images(root / "Data", {"cat": 10, "dog": 10})
    return ["choose", "--sizes", "32", "-j", "1", "--device", "cpu", "--data", data, "--output", root / "output"]


def results(argv: list[str | Path]) -> dict[str, Any]:
    return json.loads((Path(argv[-1]) / "choose" / "choice.json").read_text(encoding="utf-8"))


def test_125_backbones_without_weights_here_are_left_out(
    argv: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A named backbone whose weights are neither here nor to be downloaded is left out of `choose`; this is said."""

    def offline(*arguments: object) -> None:
        raise UnavailableError("resnet18: no network", "Connect")

    monkeypatch.setattr(Weights, "download", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    outcome = succeed([*argv, "--models", f"resnet18,{LITE}"])
    assert outcome.notes == ["resnet18 at 32 pixels is left out: resnet18: no network"]
    assert f"next     python Engine.py --model {LITE} --data" in outcome.out
    assert results(argv)["left_out"] == [{"name": "resnet18 at 32 pixels", "reason": "resnet18: no network"}]
    refuse([*argv, "--models", "resnet18"], 3, "resnet18: no network")


def test_125_files_that_cannot_be_used_are_left_out(argv: list[str | Path], tmp_path: Path) -> None:
    """A backbone is left out if its file of weights is missing, damaged or of another network, or gives no numbers."""
    state = Prober.Backbone(LITE, 32).load(torch.device("cpu")).state_dict()
    for name in [name for name in state if name.endswith("project.0.weight")]:
        state[name] = 3e37 * state[name].sign()  # sums of both signs overflow
    torch.save(state, tmp_path / "huge.pth")
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "huge.pth").read_bytes()[:5000])
    files = [tmp_path / f"{name}.pth" for name in ("missing", "half", "other", "huge")]
    outcome = succeed([*argv, "--models", ",".join([*(f"{LITE}={file}" for file in files), LITE])])
    assert len(outcome.notes) == 4
    assert all(note.startswith(f"{LITE} at 32 pixels is left out: ") for note in outcome.notes)
    assert all(str(file) in note for file, note in zip(files[:3], outcome.notes, strict=False))
    assert outcome.notes[3].endswith("its features are not finite")
    assert [row["weights"] for row in results(argv)["backbones"]] == ["imagenet"]


def test_125_a_lack_of_memory_leaves_out_one_backbone(argv: list[str | Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone for which there is not enough memory is left out; the others are compared."""

    def hungry(model: Any, image_size: int, *arguments: Any) -> Any:
        if len(model.backbone.stage2) > 2:  # Lite1 has one block more
            raise MemoryError
        return forward(model, image_size, *arguments)

    forward = Prober.FastForward
    monkeypatch.setattr(Prober, "FastForward", hungry)
    outcome = succeed([*argv, "--models", f"{LITE},efficientnet_lite1"])
    assert outcome.notes == [
        "efficientnet_lite1 at 32 pixels is left out: out of memory while efficientnet_lite1 was measured"
    ]
