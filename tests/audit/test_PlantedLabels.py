"""Wrong labels among 1,200 real photographs: most of them are among the first suspects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from MLPipeline.audit.LabelSuspects import find_suspects
from MLPipeline.commands.AuditImages import _features
from MLPipeline.Config import Config
from MLPipeline.images.Inspect import inspect_images
from MLPipeline.images.ScanFolders import scan_folders
from tests.support.audit_cases import alone
from tests.support.paths import CLOTHING


@pytest.mark.slow
@pytest.mark.skipif(not CLOTHING.is_dir(), reason="the photographs of clothing are not here")
def test_planted_labels_are_among_the_first_suspects(tmp_path: Path) -> None:
    pytest.importorskip("cleanlab")
    index = scan_folders(CLOTHING)
    config = Config(data=CLOTHING, output=tmp_path, device="cpu", workers=1)
    positions, features = _features(config, index, inspect_images(index, tmp_path / "cache"))
    for seed in range(3):
        labels, draw = index.labels[positions].copy(), np.random.default_rng(seed)
        wrong = draw.choice(len(labels), 60, replace=False)
        labels[wrong] = (labels[wrong] + draw.integers(1, len(index.classes), 60)) % len(index.classes)
        found = find_suspects(features, labels, alone(labels))
        assert len(set(found.positions[:120]) & set(wrong)) >= 42
