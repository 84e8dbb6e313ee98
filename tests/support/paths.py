"""Where the project lies, and the photographs beside it that some tests use where they are present."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLOTHING = ROOT.parent / "shared" / "data" / "clothing"
INPUTS = ROOT.parent / "shared" / "inputs"  # files on which a wrong figure was once given, and what is right
