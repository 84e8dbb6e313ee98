"""Runs many short trainings into one folder, and one very long prediction, and looks for what grows or is lost.

    python -m tests.campaigns.Soak --runs 200 --links 100000

The trainings run two at a time. Afterwards each run must have a number and a row in `runs.csv`, the cache must be
within its limit, and no temporary file and no process may be left. The prediction reads links to a few images; its
memory, threads and open files are sampled from /proc and must stay constant, and its table must be complete.

Prints what was found; exits with 1 if something is wrong, and then keeps the folder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import pandas as pd

from tests.campaigns.drawn import draw_images
from tests.campaigns.Kills import HALF_WRITTEN
from tests.support.crash import run_in_process
from tests.support.harness import content
from tests.support.paths import ROOT

CACHE_LIMIT_GB = 0.0001
SIZES = (8, 12, 16, 20)  # a store each: together more than the cache may hold
GROWTH_MB, GROWTH_HANDLES, GROWTH_THREADS = 40, 3, 1


def soak_runs(root: Path, number: int) -> list[str]:
    """Return what is wrong after `number` trainings into one folder, two at a time."""
    data, output = draw_images(root / "Data", {"cat": 12, "dog": 12}, size=24), root / "output"
    before = content(data)

    def train(seed: int) -> str:
        flags = f"--model cnn --epochs 1 -b 8 --device cpu -j 1 --seed {seed} --cache-limit {CACHE_LIMIT_GB}".split()
        argv: list[str | Path] = [
            *flags,
            "--image-size",
            str(SIZES[seed % len(SIZES)]),
            "--data",
            data,
            "--output",
            output,
        ]
        ended = run_in_process(argv, root / f"log{seed}.txt")
        return "" if ended.code == 0 else f"run with seed {seed} exited with {ended.codes}: {ended.text}"

    with ThreadPoolExecutor(2) as pool:
        wrong = [each for each in pool.map(train, range(number)) if each]
    wrong += check_output(output, number)
    if content(data) != before:
        wrong.append("the images were changed")
    if multiprocessing.active_children():
        wrong.append(f"processes are left: {multiprocessing.active_children()}")
    return wrong


def check_output(output: Path, number: int) -> list[str]:
    """Return what is wrong with the folder of `number` finished runs."""
    wrong = []
    folders = sorted(path.name for path in output.glob("[0-9]*-cnn"))
    if folders != [f"{each:03d}-cnn" for each in range(1, number + 1)]:
        wrong.append(f"the folders are not numbered from 1 to {number}: {folders}")
    table = pd.read_csv(output / "runs.csv")
    if sorted(table["run"]) != folders or table.drop(columns="val_accuracy").isna().any().any():
        wrong.append(f"runs.csv has {len(table)} rows for {len(folders)} folders, or empty cells")
    unfinished = [name for name in folders if not (output / name / "metrics.json").exists()]
    wrong += [f"{name} has no metrics.json" for name in unfinished]
    size = sum(path.stat().st_size for path in output.glob("cache/pixels-*/*.bin"))
    if size > CACHE_LIMIT_GB * 1e9:
        wrong.append(f"the cache holds {size} bytes of pixels, more than its limit")
    wrong += [f"left behind: {path}" for path in output.rglob(".*") if HALF_WRITTEN.fullmatch(path.name)]
    locks = [path for path in output.glob(".locks/*.pid")]
    return wrong + [f"left behind: {path}" for path in locks]


@dataclass(frozen=True)
class Sample:
    """What a process uses at one moment."""

    memory_mb: float
    num_threads: int
    num_handles: int


def sample(pid: int) -> Sample:
    """Return what the process uses now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    handles = len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(int(fields["VmRSS"].split()[0]) / 1024, int(fields["Threads"]), handles)


def watch(process: subprocess.Popen, every_s: float = 0.2) -> list[Sample]:
    """Return samples of a process until it ends."""
    samples = []
    while process.poll() is None:
        try:
            samples.append(sample(process.pid))
        except (OSError, KeyError):  # it has just ended
            break
        time.sleep(every_s)
    process.wait()
    return samples


def make_links(folder: Path, images: list[Path], number: int) -> Path:
    """Fill `folder` with `number` links to images: hard ones, and one in ten symbolic."""
    for link in range(number):
        place = folder / f"{link // 1000:03}"
        if link % 1000 == 0:
            place.mkdir(parents=True)
        image = images[link % len(images)]
        if link % 10 == 9:
            (place / f"{link:06}.png").symlink_to(image)
        else:
            os.link(image, place / f"{link:06}.png")
    return folder


def soak_prediction(root: Path, number: int) -> tuple[list[str], list[Sample]]:
    """Return what is wrong with a prediction for `number` links, and the samples of its process."""
    run = next((root / "output").glob("[0-9]*-cnn"))
    images = sorted((root / "Data").rglob("*.png"))[::3]
    folder, table = make_links(root / "links", images, number), root / "answers.csv"
    argv = [sys.executable, ROOT / "Engine.py", "predict", folder, "--run", run, "--csv", table]
    argv += ["--follow-links", "--device", "cpu", "-j", "2", "--output", root / "output"]
    with open(root / "answers.txt", "wb") as out, open(root / "errors.txt", "wb") as err:
        process = subprocess.Popen([str(word) for word in argv], stdout=out, stderr=err, cwd=ROOT)
        samples = watch(process)
    if process.returncode:
        return [f"predict exited with {process.returncode}: {(root / 'errors.txt').read_text()}"], samples
    return check_answers(root, table, images, number), samples


def check_answers(root: Path, table: Path, images: list[Path], number: int) -> list[str]:
    """Return what is wrong with the answers: as many as links, each once, and equal for equal images."""
    wrong = []
    answers = pd.read_csv(table)
    if len(answers) != number or not answers["path"].is_unique:
        wrong.append(f"the table has {len(answers)} rows, {answers['path'].nunique()} of them different")
    num_lines = sum(1 for _ in open(root / "answers.txt", encoding="utf-8"))
    if num_lines != number:
        wrong.append(f"{num_lines} lines were printed")
    image = answers["path"].str.extract(r"(\d+)\.png$")[0].astype(int) % len(images)
    spread = answers.groupby(image)["confidence"].agg(lambda column: column.max() - column.min())
    if not spread.max() < 1e-4 or (answers.groupby(image)["predicted"].nunique() != 1).any():
        wrong.append("equal images have different answers")
    return wrong


def check_growth(samples: list[Sample]) -> list[str]:
    """Return what has grown between the second and the last quarter of the samples."""
    if len(samples) < 8:
        return []  # too short a time to tell
    quarter = len(samples) // 4
    early, late = samples[quarter : 2 * quarter], samples[-quarter:]
    wrong = []
    limits = {"memory_mb": GROWTH_MB, "num_threads": GROWTH_THREADS, "num_handles": GROWTH_HANDLES}
    for name, limit in limits.items():
        first, last = (statistics.median(getattr(each, name) for each in part) for part in (early, late))
        if last - first > limit:
            wrong.append(f"{name} grew from {first:.0f} to {last:.0f}")
    return wrong


def summary(samples: list[Sample]) -> str:
    """Return the range of each figure over the second half of the samples."""
    half = samples[len(samples) // 2 :]
    texts = []
    for name, unit in (("memory_mb", "MB"), ("num_threads", "threads"), ("num_handles", "open files")):
        values = [getattr(each, name) for each in half]
        texts.append(f"{min(values):.0f} to {max(values):.0f} {unit}" if values else f"no sample of {unit}")
    return ", ".join(texts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="number of trainings (200)")
    parser.add_argument("--links", type=int, default=100_000, help="number of images to predict (100000)")
    parser.add_argument("--folder", type=Path, help="where to work (a temporary folder)")
    given = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="soak-", dir=given.folder)).resolve()
    wrong = soak_runs(root, given.runs)
    stores = Counter(path.parent.name.split("-")[0] for path in root.glob("output/cache/*/rows.bin"))
    print(f"{given.runs} runs, two at a time: {len(wrong)} faults; stores in the cache: {dict(stores)}", flush=True)
    found, samples = soak_prediction(root, given.links)
    found += check_growth(samples)
    print(f"{given.links} predictions: {len(found)} faults; second half: {summary(samples)} ({len(samples)} samples)")
    for each in wrong + found:
        print(f"fault: {each}")
    if wrong or found:
        print(f"kept: {root}")
        return 1
    shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
