"""Which pictures to label next: those the classifier is uncertain of, and that are unlike each other.

Without any label, the pictures nearest to the centres of k-means clusters are chosen: with few labels, typical
pictures teach most (TypiClust, arXiv:2202.02794). Later, the candidates are the pictures with the smallest margins
between the two most probable classes, four times as many as wanted, and those nearest to the centres of their clusters
are chosen. TCM (arXiv:2403.03728) goes from one to the other in the same way. `tests/benchmarks/Labelling.py` measures
what this saves.
"""

from __future__ import annotations

import numpy as np

from MLPipeline.Errors import ResourceError, is_out_of_memory

UNCERTAIN_PER_WANTED = 4
_MAX_CLUSTERED = 5000  # pictures: enough to find a hundred centres among
_NUM_ITERATIONS = 20


def typical_pictures(features: np.ndarray, number: int, seed: int = 0) -> np.ndarray:
    """Return the rows (number,) of `features` (N, D) that lie nearest to the centres of as many clusters.

    The picture of the largest cluster comes first.

    Raises:
        ResourceError: scikit-learn is not installed.
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(len(features))[:_MAX_CLUSTERED])
    return drawn[_nearest_to_centres(features[drawn], number, seed)]


def next_pictures(features: np.ndarray, probabilities: np.ndarray, number: int, seed: int = 0) -> np.ndarray:
    """Return the rows (number,) of the unlabelled pictures, `features` (N, D), to label next.

    Args:
        features: one row per picture.
        probabilities: (N, C) of the classes, at least two.
        number: how many to choose.
        seed: draws the first centres.

    Raises:
        ResourceError: scikit-learn is not installed.
    """
    best = np.partition(probabilities, -2, axis=1)[:, -2:]
    uncertain = np.argsort(best[:, 1] - best[:, 0], kind="stable")[: UNCERTAIN_PER_WANTED * number]
    return uncertain[_nearest_to_centres(features[uncertain], number, seed)]


def unit_length(features: np.ndarray) -> np.ndarray:
    """Return `features` (N, D) as rows of length 1, between which distances are cosines."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _nearest_to_centres(features: np.ndarray, number: int, seed: int) -> np.ndarray:
    if len(features) <= number:
        return np.arange(len(features))
    rows = unit_length(features)
    found = _k_means()(number, n_init=1, max_iter=_NUM_ITERATIONS, random_state=seed).fit(rows)
    distances = np.linalg.norm(rows - found.cluster_centers_[found.labels_], axis=1)
    order = np.argsort(distances, kind="stable")
    clusters, first = np.unique(found.labels_[order], return_index=True)  # of each cluster, the nearest to its centre
    sizes = np.bincount(found.labels_)[clusters]
    return order[first[np.argsort(-sizes, kind="stable")]]


def _k_means() -> type:
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        if is_out_of_memory(error):
            raise
        raise ResourceError("label: needs scikit-learn", "Run pip install scikit-learn") from error
    return KMeans
