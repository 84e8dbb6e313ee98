"""Paths of the project, and of external data that some tests use if present."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
CLOTHING = ROOT.parent / "shared" / "data" / "clothing"
INPUTS = ROOT.parent / "shared" / "inputs"  # files that once gave wrong results, with the correct results
