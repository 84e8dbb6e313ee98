"""Speed, size and accuracy of a model in torch and in every exported form, as a Markdown table.

python -m tests.benchmarks.Export RUN ...

RUN is the folder of a finished run whose images are in place, such as EfficientNet-Lite0 and ResNet50 on clothing.
Run it on a quiet machine: every export measures torch, fp32 and INT8 in turn, and the medians are printed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.ExportParity import engine

FORMS = (("onnx", False), ("onnx", True), ("openvino", False), ("openvino", True), ("pt2", False))


def main() -> None:
    print("| run | format | form | MB | ms for one image | images/s | test accuracy |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for run in map(Path, sys.argv[1:]):
        for format_name, is_int8 in FORMS:
            print("\n".join(rows(run, format_name, is_int8)), flush=True)


def rows(run: Path, format_name: str, is_int8: bool) -> list[str]:
    """Return one row for each form that an export has measured, or its error."""
    with tempfile.TemporaryDirectory() as output:
        flags = ["--int8"] if is_int8 else []
        done = engine("export", "--run", str(run.resolve()), "--format", format_name, "--output", output, *flags)
        start = f"| {run.name} | {format_name}{' int8' if is_int8 else ''} |"
        if done.returncode:
            return [f"{start} {done.stderr.strip().splitlines()[-1]} | | | | |"]
        (report,) = Path(output).glob("export/*/export.json")
        found = json.loads(report.read_text())
    test = found.get("int8", {}).get("test", {})
    accuracy = {form: f"{100 * test[form]:.1f} %" for form in ("fp32", "int8") if form in test}
    return [
        f"{start} {form} | {speed['bytes'] / 2**20:.1f} | {speed['one_image_ms']:.1f} | {speed['images_per_s']:.0f} | "
        f"{accuracy.get(form, '')} |"
        for form, speed in found["speed"].items()
    ]


if __name__ == "__main__":
    main()
