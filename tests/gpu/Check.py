"""What only a GPU can prove: same features, same accuracy, exact resume, memory, two runs at once, torchrun; and rates.

    python -m tests.gpu.Check RESULTS.json       # on the CPU where there is no GPU: fewer steps, the same logic

Each check is a function that returns figures to report; an AssertionError in it fails the check, not the others.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn.functional import cosine_similarity

from MLPipeline.Classifier import Classifier
from MLPipeline.Config import NEUTRAL, Config
from MLPipeline.CreateDataset import Batches
from MLPipeline.Device import choose_device, fast_dtypes
from MLPipeline.Features import extract
from MLPipeline.files.TensorFile import load_file
from MLPipeline.frozen.FastForward import FastForward
from MLPipeline.images.ScanFolders import TRAIN, VAL, scan_folders
from MLPipeline.images.SplitImages import split_images
from MLPipeline.Models import build_model, find_model
from MLPipeline.Train import fit
from MLPipeline.training.TrainState import TrainState
from MLPipeline.Weights import load_weights
from tests.support.paths import ROOT

DATA, SIZE = ROOT / "Data", 200
DEVICE = choose_device("auto")
ON_GPU = DEVICE.type == "cuda"
MODELS = ("resnet50", "efficientnet_lite0") if ON_GPU else ("efficientnet_lite0",)
BATCHES = 60 if ON_GPU else 2
RUN = ["--data", str(DATA), "--model", "efficientnet_lite0", "--seed", "0", "--device", DEVICE.type]
FINE_TUNE = ["--unfreeze-after", "1", "--epochs", "4" if ON_GPU else "2"]


def engine(*words: object, code: int = 0) -> str:
    """Return what a command prints; fails unless it exits with `code`."""
    done = subprocess.run([sys.executable, "Engine.py", *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr[-2000:]
    return done.stdout


def model_of(name: str, device: torch.device) -> Classifier:
    torch.manual_seed(0)
    model = build_model(name, 3, SIZE)
    if name == "efficientnet_lite0":
        load_weights(model, find_model(name), "auto")
    model.freeze("backbone")
    model.to(device).to(memory_format=torch.channels_last)
    return model.eval()


def features(folder: Path) -> dict[str, Any]:
    """Features on the device equal those on the CPU in fp32; images per second of the forward pass alone."""
    found: dict[str, Any] = {"dtypes": str(fast_dtypes(DEVICE))}
    for name in MODELS:
        photos = extract(
            model_of(name, torch.device("cpu")), split_images(scan_folders(DATA), 0, 0, 0), SIZE, folder, "fp32"
        )
        other = extract(model_of(name, DEVICE), photos.index, SIZE, folder / "device")
        positions = photos.index.positions(TRAIN)
        cosines = cosine_similarity(photos.rows.take(positions).double(), other.rows.take(positions).double())
        fast = FastForward(model_of(name, DEVICE), SIZE)
        pixels = torch.randint(0, 256, (fast.batch_size, SIZE, SIZE, 3), dtype=torch.uint8).numpy()
        batches = ((number, pixels) for number in range(BATCHES))
        list(fast.stream((number, pixels) for number in range(3)))
        start = time.perf_counter()
        list(fast.stream(batches))
        rate = BATCHES * fast.batch_size / (time.perf_counter() - start)
        found[name] = {"worst_cosine": cosines.min().item(), "mean_cosine": cosines.mean().item(), "images_per_s": rate}
        assert cosines.min() > 0.999, found
    return found


def training(folder: Path) -> dict[str, Any]:
    """Images per second of training every layer, from stored pixels, and the memory that takes."""
    found: dict[str, Any] = {}
    index = split_images(scan_folders(DATA), 0, 0, 0)
    for name in MODELS:
        model = model_of(name, DEVICE)
        model.freeze("none")
        rows = extract(model, index, SIZE, folder)
        config = Config(**{**NEUTRAL, "epochs": 4 if ON_GPU else 1, "batch_size": 64, "optimizer": "adam", "lr": 1e-4})
        train, val = rows.batches(TRAIN, 64, seed=0), rows.batches(VAL, 64)
        if ON_GPU:
            torch.cuda.reset_peak_memory_stats()
        records = list(fit(model, train, val, config, DEVICE))
        found[name] = {"images_per_s": len(index) / min(record.seconds for record in records)}
        if ON_GPU:
            found[name]["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        assert records[-1].train_loss <= records[0].train_loss, records
    return found


def runs(folder: Path) -> dict[str, Any]:
    """A run on the device and one on the CPU reach the same test accuracy within noise; the model serves both."""
    found: dict[str, Any] = {}
    for device in dict.fromkeys((DEVICE.type, "cpu")):
        output = folder / device
        start = time.perf_counter()
        engine(*RUN[:-1], device, "--output", output)
        seconds = time.perf_counter() - start
        metrics = json.loads((next(output.glob("001-*")) / "metrics.json").read_text())
        found[device] = {"seconds": seconds, "test_accuracy": metrics["test"]["accuracy"]}
    engine("evaluate", "--output", folder / DEVICE.type, "--device", DEVICE.type, "--min-accuracy", "0.6")
    engine("predict", DATA, "--output", folder / DEVICE.type, "--device", "cpu")  # a model may change machines
    accuracies = [each["test_accuracy"] for each in found.values()]
    assert max(accuracies) - min(accuracies) <= 0.1, found  # 3 of 30 images
    return found


def resume(folder: Path) -> dict[str, Any]:
    """A fine-tuning that is stopped and resumed ends with the weights of an uninterrupted one."""
    engine(*RUN, *FINE_TUNE, "--output", folder / "whole")
    command = [sys.executable, "Engine.py", *RUN, *FINE_TUNE, "--output", str(folder / "stopped")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.split()[:1] == ["2"]:  # the first epoch of the fine-tuning is printed
            break
    process.send_signal(signal.SIGTERM)
    process.communicate()
    run = next((folder / "stopped").glob("001-*"))
    if process.returncode == 143:
        engine("--resume", run, "--output", folder / "stopped")
    whole, resumed = (
        cast(Any, load_file(next((folder / name).glob("001-*")) / "model.pt")) for name in ("whole", "stopped")
    )
    pairs = [(whole["state_dict"][name], resumed["state_dict"][name]) for name in whole["state_dict"]]
    differing = sum(not torch.equal(first, second) for first, second in pairs)
    largest = max((first.double() - second.double()).abs().max().item() for first, second in pairs)
    found = {"code": process.returncode, "differing_tensors": differing, "of": len(pairs), "largest": largest}
    assert differing == 0, found
    return found


def memory(folder: Path) -> dict[str, Any]:
    """Where a batch does not fit into memory, it is computed in parts, and training goes on."""
    if not ON_GPU:
        return {"skipped": "there is no GPU whose memory could be short"}
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction(2.5e9 / total, DEVICE)
    try:
        model = build_model("efficientnet_lite0", 3, SIZE).to(DEVICE).to(memory_format=torch.channels_last)
        model.freeze("none")
        rows = extract(model, split_images(scan_folders(DATA), 0, 0, 0), SIZE, folder)
        config = Config(
            **{**NEUTRAL, "epochs": 1, "batch_size": 192, "optimizer": "sgd", "lr": 1e-3, "precision": "fp32"}
        )
        train: Batches = rows.batches(TRAIN, 192, seed=0)
        for (
            layer
        ) in model.modules():  # statistics of parts differ: a network with BatchNorm in training mode is split too
            layer.eval()
        state = TrainState(model, config, DEVICE)
        list(fit(model, train, rows.batches(VAL, 64), config, DEVICE, state=state))
        return {"parts": state.num_parts, "peak_gb": torch.cuda.max_memory_allocated() / 1e9}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)


def two_at_once(folder: Path) -> dict[str, Any]:
    """Two runs into one output folder, at the same time, on one device."""
    command = [sys.executable, "Engine.py", *RUN, "--output", str(folder)]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)
    ]
    ends = [(process.communicate()[1].decode()[-500:], process.returncode) for process in processes]
    assert [code for _, code in ends] == [0, 0], ends
    accuracies = [
        json.loads((run / "metrics.json").read_text())["test"]["accuracy"] for run in sorted(folder.glob("[0-9]*-*"))
    ]
    return {"test_accuracies": accuracies}


def one_rank(folder: Path) -> dict[str, Any]:
    """One rank under torchrun (nccl on a GPU) gives what a plain process does."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "Engine.py", *RUN]
    done = subprocess.run([*command, "--output", str(folder)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads((next(folder.glob("001-*")) / "metrics.json").read_text())
    return {"test_accuracy": metrics["test"]["accuracy"]}


CHECKS: tuple[Callable[[Path], dict[str, Any]], ...] = (features, training, runs, resume, memory, two_at_once, one_rank)


def main(results: Path) -> int:
    name = torch.cuda.get_device_name() if ON_GPU else "CPU"
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "python": sys.version.split()[0], "checks": {}}
    for check in CHECKS:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                figures = check(Path(folder)) | {"passed": True}
            except Exception:
                figures = {"passed": False, "error": traceback.format_exc()[-3000:]}
        found["checks"][check.__name__] = figures | {"seconds": round(time.perf_counter() - start, 1)}
        print(check.__name__, json.dumps(found["checks"][check.__name__]), flush=True)
        results.write_text(json.dumps(found, indent=2) + os.linesep)
    return 0 if all(each["passed"] for each in found["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
