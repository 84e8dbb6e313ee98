"""Times the first and the second inspection of an image folder: scan, decoding, search for duplicates, split.

python -m tests.benchmarks.Inspection ../shared/data/clothing
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from MLPipeline.images.Duplicates import find_duplicates, group_images
from MLPipeline.images.Inspect import inspect_images
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.images.ScanFolders import scan_folders
from MLPipeline.images.SplitImages import split_images, split_record

Result = TypeVar("Result")


def timed(label: str, work: Callable[..., Result], *arguments: object) -> Result:
    start = time.perf_counter()
    result = work(*arguments)
    print(f"  {label:10} {time.perf_counter() - start:7.2f} s")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        for look in ("first", "second"):
            print(f"the {look} look")
            index = timed("scan", scan_folders, data)
            inspection = timed("inspect", inspect_images, index, cache, decoding_threads(None))
            pairs = timed("duplicates", find_duplicates, index, inspection, cache)
            groups = group_images(index, inspection, pairs)
            record = split_record(cache, index.root, 0.15, 0.15, 0)
            timed("split", split_images, index, 0.15, 0.15, 0, groups, record)
        size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        print(f"{len(index)} images, {len(pairs)} pairs, {size / len(index):.0f} bytes of cache an image")


if __name__ == "__main__":
    main()
