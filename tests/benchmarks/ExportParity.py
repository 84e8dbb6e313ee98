"""Exports nine models on a few photographs and prints how their answers compare with `predict`, as a Markdown table.

python -m tests.benchmarks.ExportParity DATA [--format onnx] [--models cnn,vgg16] [--images 6]

DATA has train, validation and test folders of classes. Each model gets a head trained on a few images of each class, on
features of random weights (EfficientNet-Lite0: ImageNet's), so that its probabilities are far from uniform.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.paths import ROOT

MODELS = (
    "resnet50 efficientnet_b0 efficientnet_lite0 cnn cnn_residual vgg16 mobilenet_v3_small convnext_tiny vit_b_16"
).split()
FROZEN = ["--freeze", "backbone", "--epochs", "20", "--lr", "0.01"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--format", default="onnx")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--images", type=int, default=6)
    options = parser.parse_args()
    print("| model | image size | test images | same answer | largest difference | MB |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = link_some(options.data, Path(folder) / "data", options.images)
        for model in options.models.split(","):
            print(row(model, options.format, data, Path(folder) / model), flush=True)


def link_some(source: Path, target: Path, number: int) -> Path:
    """Return a folder with links to the first images of each class of each split."""
    for folder in sorted(path for path in source.glob("*/*") if path.is_dir()):
        (target / folder.relative_to(source)).mkdir(parents=True)
        for image in sorted(folder.iterdir())[:number]:
            (target / image.relative_to(source)).symlink_to(image.resolve())
    return target


def row(model: str, format_name: str, data: Path, output: Path) -> str:
    """Return the row of one model, or the error of its export."""
    flags = FROZEN if not model.startswith("cnn") else ["--epochs", "20"]
    weights = "imagenet" if model == "efficientnet_lite0" else "none"
    common = ["--output", str(output)]
    trained = engine("--model", model, "--weights", weights, "--data", str(data), "--follow-links", *flags, *common)
    exported = engine("export", "--format", format_name, *common) if not trained.returncode else trained
    if exported.returncode:
        return f"| {model} | {exported.stderr.strip().splitlines()[-1]} | | | | |"
    (report,) = output.glob("export/*/export.json")
    found = json.loads(report.read_text())
    parity, size = found["parity"]["fp32"], list(found["speed"].values())[-1]["bytes"] / 2**20
    same = parity["num_images"] - parity["num_other_class"]
    pixels = json.loads((output / f"001-{model}" / "config.json").read_text())["image_size"]
    largest = f"{parity['max_difference']:.1g}"
    return f"| {model} | {pixels}x{pixels} | {parity['num_images']} | {same} | {largest} | {size:.1f} |"


def engine(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "Engine.py", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


if __name__ == "__main__":
    main()
