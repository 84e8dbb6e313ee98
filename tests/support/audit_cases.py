"""Small problems for tests of the audit: labelled clusters of points, and records of images."""

from __future__ import annotations

import numpy as np

from MLPipeline.images.Fingerprint import FINGERPRINT, KINDS

NUM_CLASSES, NUM_FEATURES = 4, 24


def clusters(num_images: int, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, D) float16, like stored ones, around one corner per class, and their labels (N,)."""
    draw = np.random.default_rng(seed)
    labels = np.arange(num_images) % NUM_CLASSES
    corners = 3 * np.eye(NUM_CLASSES, NUM_FEATURES)
    return (corners[labels] + noise * draw.normal(size=(num_images, NUM_FEATURES))).astype(np.float16), labels


def records(num_images: int, seed: int = 0) -> np.ndarray:
    """Return records of photographs whose properties all vary, independently of the class."""
    draw = np.random.default_rng(seed)
    made = np.zeros(num_images, FINGERPRINT)
    made["kind"], made["channels"], made["orientation"] = KINDS.index("JPEG"), 3, 1
    made["width"], made["height"] = draw.choice([400, 300], num_images), draw.choice([300, 400, 500], num_images)
    made["size"] = draw.integers(20_000, 60_000, num_images)
    made["digest"] = np.arange(num_images).astype("V16")
    for name, low, high in (("brightness", 100, 160), ("contrast", 40, 80), ("saturation", 20, 60), ("shadow", 10, 60)):
        made[name] = draw.integers(low, high, num_images)
    made["light"], made["sharpness"] = draw.integers(180, 250, num_images), draw.uniform(300, 900, num_images)
    made["colour"], made["border"] = draw.integers(80, 180, (2, num_images, 3))
    made["border_contrast"] = draw.integers(20, 60, num_images)
    return made


def alone(labels: np.ndarray) -> np.ndarray:
    """Return groups of one image each."""
    return np.arange(len(labels))
