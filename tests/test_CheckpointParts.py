"""What `model.pt` says of the training images: it comes back as it was, may be absent, and must make sense."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_Checkpoint import CARD, make, refusal, resave

from MLPipeline.Checkpoint import load_checkpoint, save_checkpoint
from MLPipeline.Errors import UsageError
from MLPipeline.scoring.MirrorAverage import MirrorAverage
from MLPipeline.scoring.Unknown import FeatureCenters, UnknownRule

FINGERPRINT = FeatureCenters(torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8]]).half(), 0.4)
TTA = MirrorAverage(0.9, 0.6, "")
RULE = UnknownRule(0.98, 0.75, 0.8, 0.9875, (0.95, 0.9975))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "model.pt", make(), CARD)
    return tmp_path / "model.pt"


@pytest.mark.parametrize("rule", [RULE, replace(RULE, precision=None), None])
def test_what_is_known_of_the_training_images_comes_back(saved: Path, rule: UnknownRule | None) -> None:
    size = saved.stat().st_size
    save_checkpoint(saved, make(), replace(CARD, fingerprint=FINGERPRINT, unknown=rule))
    _, card = load_checkpoint(saved)
    assert card.unknown == rule and card.fingerprint is not None
    assert torch.equal(card.fingerprint.centers, FINGERPRINT.centers) and card.fingerprint.max_distance == 0.4
    assert saved.stat().st_size < size + 2000


def test_a_file_of_before_there_was_any_of_that_is_read(saved: Path) -> None:
    def make_old(content: dict[str, Any]) -> None:
        del content["fingerprint"], content["unknown"]

    resave(saved, make_old)
    _, card = load_checkpoint(saved)
    assert (card.fingerprint, card.unknown, card.temperature) == (None, None, 1.5)


@pytest.mark.parametrize("tta", [TTA, MirrorAverage(1.2, None, "left becomes right"), None])
def test_what_averaged_answers_need_comes_back(saved: Path, tta: MirrorAverage | None) -> None:
    save_checkpoint(saved, make(), replace(CARD, unknown=RULE, tta=tta))
    _, card = load_checkpoint(saved)
    assert card.tta == tta
    if tta is not TTA:
        with pytest.raises(UsageError, match="--tta: "):
            card.with_mirror()
        return
    used = card.with_mirror()
    assert used.temperature == 0.9 and used.unknown == replace(RULE, min_confidence=0.6)


PARTS = {"fingerprint": asdict(FINGERPRINT), "unknown": asdict(RULE), "tta": asdict(TTA)}


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("fingerprint", {"centers": torch.zeros(2, 5)}),  # of three classes
        ("fingerprint", {"centers": torch.zeros(3)}),
        ("fingerprint", {"centers": [[1.0]]}),
        ("fingerprint", {"centers": torch.zeros(3, 2, 1)}),
        ("fingerprint", {"centers": torch.zeros(3, 2, dtype=torch.int32)}),
        ("fingerprint", {"max_distance": "far"}),
        ("fingerprint", {"max_distance": -1.0}),
        ("fingerprint", {"max_distance": float("nan")}),
        ("fingerprint", {"more": 1}),
        ("tta", {"temperature": 0.0}),
        ("tta", {"temperature": "warm"}),
        ("tta", {"threshold": -0.1}),
        ("tta", {"refusal": None}),
        ("unknown", {"min_confidence": None}),
        ("unknown", {"min_confidence": 3.0}),
        ("unknown", {"coverage": -0.5}),
        ("unknown", {"precision": float("nan")}),
        ("unknown", {"target_precision": 98.0}),
        ("unknown", {"precision_ci95": 1.0}),
        ("unknown", {"precision_ci95": (0.1, 0.2, 0.3)}),
        ("unknown", {"precision_ci95": (0.1, 10**400)}),
    ],
)
def test_parts_of_the_card_that_make_no_sense(saved: Path, part: str, change: dict[str, Any]) -> None:
    resave(saved, lambda content: content.update({part: PARTS[part]}))
    load_checkpoint(saved)
    resave(saved, lambda content: content.update({part: PARTS[part] | change}))
    assert refusal(saved).startswith(f"{saved}: its entry {part} is ")
    resave(saved, lambda content: content.update({part: [1]}))
    assert refusal(saved).startswith(f"{saved}: its entry {part} is of type list, not ")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_fingerprint_with_a_number_that_is_not_finite(saved: Path, number: float) -> None:
    centers = FINGERPRINT.centers.clone()
    centers[1, 1] = number
    save_checkpoint(saved, make(), replace(CARD, fingerprint=replace(FINGERPRINT, centers=centers)))
    assert refusal(saved).startswith(f"{saved}: damaged: ") and " in fingerprint. " in refusal(saved)
