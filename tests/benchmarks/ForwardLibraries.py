"""Compares the forward pass of a frozen backbone with that of libraries: images/s, median of alternating rounds.

    python -m tests.benchmarks.ForwardLibraries --data Photos [--models resnet50,efficientnet_lite0] [--rounds 7]

Every form gets the same photographs, decoded in memory, in batches of 8 and of 16, and returns features; all cores are
used, by as many batches at once as there are cores. "plain": torch in fp32 as it is; "ours": the fused network in fp32,
what `auto` takes, and in 8 bits; the libraries' "int8": the network as `export --int8` quantizes it. Each with its mean
cosine to fp32. After each turn the machine rests, since threads of libraries go on spinning for a while.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from torch.nn.functional import cosine_similarity

from MLPipeline.Classifier import Classifier
from MLPipeline.CreateDataset import read_images
from MLPipeline.Device import choose_device, start_threads
from MLPipeline.export.OnnxGraph import FEATURES, INPUT, PixelNetwork, onnx_graph, quiet
from MLPipeline.export.Quantizer import Quantizer
from MLPipeline.frozen.FastForward import FastForward
from MLPipeline.images.ScanFolders import scan_folders
from MLPipeline.Models import build_model, find_model
from MLPipeline.onednn.Int8Backbone import calibrate
from MLPipeline.Weights import load_weights

SIZE, CALIBRATED, REST_S = 200, 64, 0.1
Form = Callable[[np.ndarray], np.ndarray]  # pixels (B, S, S, 3) uint8 -> features (B, D)


def photographs(folder: Path, number: int) -> np.ndarray:
    """Return `number` photographs (N, S, S, 3) uint8, evenly spread over the folder."""
    index = scan_folders(folder)
    positions = np.linspace(0, len(index) - 1, number).astype(int).tolist()
    readings = read_images([index.path(position) for position in positions], SIZE, 2)
    return np.stack([each.pixels for each in readings if each.pixels is not None])


def in_onnxruntime(content: bytes) -> Form:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run([FEATURES], {INPUT: pixels})[0]


def in_openvino(content: bytes, num_streams: int) -> Form:
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": num_streams,
        "INFERENCE_NUM_THREADS": num_streams,
    }
    compiled = openvino.Core().compile_model(openvino.Core().read_model(content, b""), "CPU", settings)
    return lambda pixels: compiled.create_infer_request().infer({INPUT: pixels})[FEATURES].copy()


def in_torch(forward: Callable[[torch.Tensor], torch.Tensor]) -> Form:
    @torch.inference_mode()
    def run(pixels: np.ndarray) -> np.ndarray:
        return forward(torch.from_numpy(pixels).permute(0, 3, 1, 2)).float().numpy()

    return run


def forms_of(model: Classifier, calibration: np.ndarray, num_streams: int) -> dict[str, Form]:
    """Return every form of the backbone by name; the first is the exact one."""
    network = PixelNetwork(model.backbone, model.mean, model.std)
    content = onnx_graph(network, SIZE, [FEATURES]).SerializeToString()
    with tempfile.TemporaryDirectory() as folder, quiet():
        quantized = Quantizer(onnx.load_from_string(content), calibration, Path(folder)).quantize()
    forms = {
        "plain fp32": in_torch(model.frozen_features),
        "ours fp32": in_torch(FastForward(model, SIZE, "fp32")),
        "ours auto": in_torch(FastForward(model, SIZE, "auto")),
        "onnxruntime fp32": in_onnxruntime(content),
        "OpenVINO fp32": in_openvino(content, num_streams),
        "onnxruntime int8": in_onnxruntime(quantized),
        "OpenVINO int8": in_openvino(quantized, num_streams),
    }
    pixels = torch.from_numpy(calibration).permute(0, 3, 1, 2)
    model.quantized = calibrate(model.backbone, model.normalization, pixels)
    return forms | {"ours int8": in_torch(FastForward(model, SIZE, "int8"))}


def rates(forms: dict[str, Form], pixels: np.ndarray, batch: int, rounds: int, num_streams: int) -> dict[str, float]:
    """Return the images per second of each form; they take turns."""
    whole = len(pixels) // (batch * num_streams) * batch * num_streams  # as many batches for each core
    batches = [pixels[start : start + batch] for start in range(0, whole, batch)]
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    pool: ThreadPoolExecutor = start_threads(num_streams)
    with pool:
        for number in range(rounds + 1):
            for name, run in forms.items():
                time.sleep(REST_S)
                start = time.perf_counter()
                list(pool.map(run, batches))
                if number:  # the first round prepares the libraries
                    seconds[name].append(time.perf_counter() - start)
    return {name: batch * len(batches) / median(taken) for name, taken in seconds.items()}


def cosine_to(exact: np.ndarray, found: np.ndarray) -> float:
    return cosine_similarity(torch.from_numpy(exact).double(), torch.from_numpy(found).double()).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", default="resnet50,efficientnet_lite0")
    parser.add_argument(
        "--images", type=int, default=256, help="some hundreds, so that the start of a turn counts little"
    )
    parser.add_argument("--rounds", type=int, default=7)
    flags = parser.parse_args()
    choose_device("cpu")
    num_streams = torch.get_num_threads()
    pixels = photographs(flags.data, CALIBRATED + flags.images)
    calibration, pixels = pixels[:CALIBRATED], pixels[CALIBRATED:]
    capability = torch.backends.cpu.get_cpu_capability()
    versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, OpenVINO {openvino.__version__}"
    print(f"{capability}, {os.cpu_count()} cores, {num_streams} batches at once, {SIZE} pixels; {versions}")
    for name in flags.models.split(","):
        model = build_model(name, 10, SIZE)
        weights = load_weights(model, find_model(name), "auto")
        model.freeze("backbone")
        forms = forms_of(model.eval(), calibration, num_streams)
        exact = next(iter(forms.values()))(pixels)
        print(f"{name}, weights: {weights.kind}")
        found = {size: rates(forms, pixels, size, flags.rounds, num_streams) for size in (8, 16)}
        for form, run in forms.items():
            shown = "".join(f"  batch {size}: {found[size][form]:7.1f} images/s" for size in found)
            print(f"  {form:18}{shown}  cosine to fp32 {cosine_to(exact, run(pixels)):.4f}", flush=True)


if __name__ == "__main__":
    main()
