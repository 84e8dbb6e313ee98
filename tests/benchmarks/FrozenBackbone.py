"""Times the whole process from start to saved model: frozen backbone, 10 epochs, plain script against ours.

    python -m tests.benchmarks.FrozenBackbone --data Photos --model resnet50 [--fastai PYTHON]

`Photos` has train/, validation/ and test/ folders. The plain script (PlainWay.py) repeats one forward pass every epoch,
so it runs for one epoch on part of the images, and its time for 10 epochs is computed from its rate; the same applies
to fastai (FastaiWay.py, with an interpreter that has it). The plain script and ours run alternately, twice, and the
faster run of each counts. Ours is timed without and with its cache, and finally with a new class of 50 specimens; of
the cached runs and of those with the new class, the fastest of three counts. Every figure is one process on an
otherwise idle machine; the speed of the machine (products in bf16, or else in fp32) is measured along with the runs.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torchvision import models

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
NEW_CLASS = {"train": 40, "validation": 5, "test": 5}
SPEED = """
import time, torch
from MLPipeline.Device import fast_dtypes
a = torch.randn(1024, 1024).to(fast_dtypes(torch.device("cpu"))[0])
a @ a
start = time.time()
for _ in range(40):
    a @ a
print(40 * 2 * 1.024**3 / (time.time() - start))
"""


def run(*command: str, python: str = sys.executable) -> tuple[float, str]:
    """Return the duration of a command in seconds, and its output."""
    # As on a user's machine: modules are compiled once, not in every run.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    done = subprocess.run([python, *command], capture_output=True, text=True, env=environment, cwd=PROJECT)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr}")
    return time.perf_counter() - start, done.stdout


def machine_speed() -> str:
    return f"{float(run('-c', SPEED)[1]):.0f} GF"


def other_way(flags: argparse.Namespace, num_images: int, script: str, python: str = sys.executable) -> float:
    """Return the seconds that another script needs for 10 epochs of `num_images`, from its rate on a subset."""
    command = [str(HERE / script), "--model", flags.model, "--train", str(flags.data / "train")]
    _, out = run(*command, "--limit", str(flags.limit), python=python)
    figures = {name: float(value) for name, value in re.findall(r"(\w+)=([\d.]+)", out)}
    print(f"  {script}: {figures['images_per_s']:.1f} images/s (machine {machine_speed()})", flush=True)
    return figures["start_s"] + 10 * num_images / figures["images_per_s"]


def made_up_weights(model: str, folder: str) -> str:
    """Return a file of random weights: as slow as ImageNet weights, and available without a network."""
    torch.save(models.get_model(model, weights=None).state_dict(), f"{folder}/{model}.pth")
    return f"{folder}/{model}.pth"


def drop_in_new_class(data: Path) -> None:
    """Add a class folder of specimens to each split of `data`."""
    specimens = sorted((PROJECT / "Data" / "driving_license").iterdir())
    for split, number in NEW_CLASS.items():
        (data / split / "driving_license").mkdir()
        for _ in range(number):
            shutil.copy(specimens.pop(), data / split / "driving_license")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--limit", type=int, default=400, help="training images for the other scripts")
    parser.add_argument("--precision", default="auto", help="of ours: with random weights, int8 may not be safe")
    parser.add_argument("--fastai", metavar="PYTHON", help="an interpreter that has fastai")
    flags = parser.parse_args()
    flags.data = flags.data.resolve()
    num_images = sum(1 for path in (flags.data / "train").rglob("*") if path.is_file())
    with tempfile.TemporaryDirectory() as folder:
        weights = "auto" if flags.model == "efficientnet_lite0" else made_up_weights(flags.model, folder)
        data = shutil.copytree(flags.data, Path(folder) / "data")
        ours = [str(PROJECT / "Engine.py"), "--model", flags.model, "--weights", weights, "--freeze", "backbone"]
        ours += ["--epochs", "10", "--precision", flags.precision, "--data", str(data), "--output"]
        times, plain = [], []
        for output in ("first", "second"):
            times.append(run(*ours, f"{folder}/{output}")[0])
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
            print(
                f"  ours, nothing cached: {times[-1]:.1f} s, {peak:.1f} GB at most (machine {machine_speed()})",
                flush=True,
            )
            plain.append(other_way(flags, num_images, "PlainWay.py"))
        ours.append(f"{folder}/second")
        cached = min(run(*ours)[0] for _ in range(3))
        print(f"  ours, cached: {cached:.1f} s", flush=True)
        before = shutil.copytree(ours.pop(), Path(folder) / "before")
        drop_in_new_class(data)
        more = min(run(*ours, shutil.copytree(before, f"{folder}/after{number}"))[0] for number in range(3))
        print(f"  ours, with a new class of {sum(NEW_CLASS.values())} images: {more:.1f} s", flush=True)
        fastai = other_way(flags, num_images, "FastaiWay.py", flags.fastai) if flags.fastai else None
    fresh, best = min(times), min(plain)
    capability = torch.backends.cpu.get_cpu_capability()
    print(
        f"\n{flags.model}, {num_images} training images, 10 epochs, whole process, {os.cpu_count()} cores, {capability}"
    )
    print(f"ours {fresh:.1f} s; cached {cached:.1f} s; with a new class {more:.1f} s")
    print(f"plain script {best:.0f} s: {best / fresh:.0f}x; cached {best / cached:.0f}x")
    if fastai:
        print(f"fastai {fastai:.0f} s: {fastai / fresh:.0f}x; cached {fastai / cached:.0f}x")


if __name__ == "__main__":
    main()
