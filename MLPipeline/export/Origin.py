"""Where an exported model comes from, for its metadata: run, checkpoint, versions, licence of the initial weights."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from MLPipeline.Checkpoint import ModelCard
from MLPipeline.report.ModelCard import licence_of


def origin_of(model_file: Path, card: ModelCard, packages: Sequence[str]) -> dict[str, Any]:
    """Return the run, the SHA-256 and the date of its checkpoint, all versions, and the licence of the weights."""
    with open(model_file, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    written = datetime.fromtimestamp(model_file.stat().st_mtime, UTC)
    return {
        "run": model_file.resolve().parent.name,
        "checkpoint_sha256": digest,
        "checkpoint_written": written.isoformat(timespec="seconds"),
        "trained_with": dict(card.versions),
        "exported_with": {name: importlib.metadata.version(name) for name in ("torch", *packages)},
        "licence_of_initial_weights": licence_of(card.model, card.weights.get("kind", "")),
    }
