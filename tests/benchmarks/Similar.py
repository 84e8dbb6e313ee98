"""Searches stored features for the nearest to one query: milliseconds, median and the slowest of the rounds.

    python -m tests.benchmarks.Similar --images 100000

`features.npz` is searched as `similar --in features.npz` does it, `cache` as `similar --in FOLDER` does: half-precision
rows that lie in the cache in any order. `one product` is the plain way, with all features in memory. The features are
drawn; the files are written to a temporary folder and lie in the file cache of the system, as after `embed`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from MLPipeline.files.Machine import num_cores
from MLPipeline.frozen.Rows import CachedRows
from MLPipeline.similarity.EmbedFiles import Collection
from MLPipeline.similarity.FeatureFile import read_features, write_features
from MLPipeline.similarity.FeatureNetwork import Origin
from MLPipeline.similarity.Nearest import find_nearest

ROUNDS, WARM_UP, NUM_NEAREST = 20, 2, 13
ORIGIN = Origin("drawn", "", "", 200, "stretch")


def drawn(start: int, stop: int, width: int) -> np.ndarray:
    return np.random.default_rng(start).random((stop - start, width), np.float32)


def one_product(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    cosines = rows @ query / (np.linalg.norm(rows, axis=1) * np.linalg.norm(query))
    return np.argpartition(-cosines, NUM_NEAREST)[:NUM_NEAREST]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=1280)
    flags = parser.parse_args()
    number, width = flags.images, flags.width
    with tempfile.TemporaryDirectory() as folder:
        names = tuple(f"{k:06}.jpg" for k in range(number))
        file = Path(folder) / "features.npz"
        write_features(file, Collection(names, Path(), lambda a, b: drawn(a, b, width), width, ORIGIN))
        stored = read_features(file)
        store = np.memmap(Path(folder) / "rows.bin", np.float16, "w+", shape=(number, width))
        for start in range(0, number, 4096):
            store[start : start + 4096] = stored.block(start, min(start + 4096, number))
        numbers = np.random.default_rng(0).permutation(number)[:, None]
        cached, rows = CachedRows(store, numbers, are_pixels=False), stored.block(0, number)
        query = stored.block(number // 2, number // 2 + 1)

        def from_cache(start: int, stop: int) -> np.ndarray:
            return cached.take(np.arange(start, stop)).numpy()

        ways: dict[str, Callable[[], object]] = {
            "features.npz": lambda: find_nearest(stored.block, number, query, NUM_NEAREST),
            "cache": lambda: find_nearest(from_cache, number, query, NUM_NEAREST),
            "one product": lambda: one_product(rows, query[0]),
        }
        print(f"{number:,} images, {width} features, {num_cores()} cores")
        for name, search in ways.items():
            taken = []
            for _ in range(WARM_UP + ROUNDS):
                start_s = time.perf_counter()
                search()
                taken.append(1000 * (time.perf_counter() - start_s))
            taken = taken[WARM_UP:]
            print(f"{name:14}{statistics.median(taken):8.1f} ms  slowest {max(taken):8.1f} ms")


if __name__ == "__main__":
    main()
