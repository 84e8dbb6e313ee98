"""Photographs to label whose features are drawn, so that no network is needed: the classes are clusters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from MLPipeline.decoding.EncodeImage import encode_png
from MLPipeline.labelling.LabelFile import LabelFile
from MLPipeline.labelling.Photographs import list_photographs
from MLPipeline.labelling.Session import Session

CLASSES = ("cat", "dog", "emu")
NUM_FEATURES = 12


def draw_photographs(folder: Path, number: int, size: int = 6) -> Path:
    """Return `folder` with pictures `cat-000.png`, `dog-001.png`, `emu-002.png`, ... of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for image in range(number):
        name = f"{CLASSES[image % len(CLASSES)]}-{image:03}.png"
        (folder / name).write_bytes(encode_png(draw.integers(0, 256, (size, size, 3), np.uint8)))
    return folder


def class_of(name: str) -> str:
    """Return the class that a picture shows, by its name."""
    return Path(name).name.split("-")[0]


def draw_features(names: tuple[str, ...], spread: float = 0.6) -> np.ndarray:
    """Return features (N, D) float32: a cluster for each class."""
    centres = np.eye(len(CLASSES), NUM_FEATURES) * 3
    noise = np.random.default_rng(1).normal(0, spread, (len(names), NUM_FEATURES))
    return (centres[[CLASSES.index(class_of(name)) for name in names]] + noise).astype(np.float32)


@contextmanager
def labelling(photographs: Path, file: Path, with_features: bool = True) -> Iterator[Session]:
    """Yield a session over a folder of such photographs, with their features."""
    found = list_photographs(photographs)
    labels = LabelFile(file, photographs)
    with labels.opened(found.names):
        session = Session(found, labels)
        if with_features:
            session.features.add(range(len(found)), draw_features(found.names))
        yield session


def label_next(session: Session, number: int, page: str = "page") -> list[str]:
    """Label the next pictures correctly, learning when it is worth it; return their names."""
    names = []
    for _ in range(number):
        if session.is_worth_learning:
            session.learn()
        (picture,) = session.next(page, 1)
        assert session.label(page, [(picture.number, picture.stamp)], class_of(picture.name)) == ""
        names.append(picture.name)
    return names
