"""An export is complete under its name, or not there."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from filelock import FileLock

from MLPipeline.Errors import ResourceError, UsageError
from MLPipeline.export.ExportFolder import REPORT_FILE, export_path, new_export


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def write(path: Path, text: str) -> None:
    with new_export(path) as folder:
        (folder / REPORT_FILE).write_text(text)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a bug")])
def test_after_an_interruption_the_earlier_export_is_there_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    path = export_path(tmp_path, "001-cnn-onnx")
    write(path, "first")
    with pytest.raises(type(error)), new_export(path) as folder:
        (folder / "model.onnx").write_bytes(b"half")
        raise error
    assert visible(path.parent) == ["001-cnn-onnx"]
    assert (path / REPORT_FILE).read_text() == "first"


def test_a_new_export_replaces_the_earlier_one(tmp_path: Path) -> None:
    path = export_path(tmp_path, "001-cnn-onnx")
    write(path, "first")
    write(export_path(tmp_path, "001-cnn-onnx"), "second")
    assert visible(path.parent) == ["001-cnn-onnx"] and (path / REPORT_FILE).read_text() == "second"


def test_a_full_disk_is_reported_with_the_path(tmp_path: Path) -> None:
    path = export_path(tmp_path, "001-cnn-onnx")
    with pytest.raises(ResourceError, match=r"001-cnn-onnx: cannot be written \(No space left on device\)"):
        with new_export(path):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert visible(path.parent) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    path = export_path(tmp_path, "001-cnn-onnx")
    for name in (".001-cnn-onnx.0123abcd", ".001-cnn-onnx-int8.0123abcd"):
        (path.parent / name).mkdir(parents=True)
    write(path, "new")
    assert visible(path.parent) == [".001-cnn-onnx-int8.0123abcd", "001-cnn-onnx"]


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_export_is_left_alone(tmp_path: Path, make: object) -> None:
    (tmp_path / "export").mkdir()
    make(tmp_path / "export" / "001-cnn-onnx")  # type: ignore[operator]
    with pytest.raises(UsageError, match="001-cnn-onnx: exists and is not an export"):
        export_path(tmp_path, "001-cnn-onnx")


def test_two_exports_of_one_run_do_not_mix(tmp_path: Path) -> None:
    path = export_path(tmp_path, "001-cnn-onnx")
    path.parent.mkdir()
    with FileLock(path.parent / ".001-cnn-onnx.lock"), pytest.raises(ResourceError, match="another process"):
        write(path, "second")
    assert visible(path.parent) == []
