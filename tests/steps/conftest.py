"""Fixture: a few of the specimens, for tests that run whole trainings of a pretrained network."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.paths import ROOT


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with twelve of the specimens of each class."""
    few = tmp_path_factory.mktemp("few")
    for file in (ROOT / "Data").glob("*/0[01]*.jpg"):
        if file.stem <= "012":
            (few / file.parent.name).mkdir(exist_ok=True)
            shutil.copy(file, few / file.parent.name)
    return few
