"""Where a command may write: what is refused, what is replaced, and what is written through."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from MLPipeline.Errors import UsageError
from MLPipeline.files.Destination import Destination, Reserved, is_run_folder, is_text, refused_kind

OWN_TABLE = b"path,answered,predicted,confidence\r\na.jpg,true,cat,0.9\r\n"
OTHER_TABLE = b"path,label\na.jpg,cat\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "Data" / "cat").mkdir(parents=True)
    (tmp_path / "Data" / "cat" / "1.jpg").write_bytes(b"\xff\xd8\xff\xe0\0pixels")
    return tmp_path / "Data"


def table(path: Path, data: Path, overwrite: bool = False, inputs: tuple[Path, ...] = ()) -> Destination:
    return Reserved([data], inputs).table("--csv", path, overwrite)


def refuse(path: Path, data: Path, words: str, overwrite: bool = False, inputs: tuple[Path, ...] = ()) -> None:
    before = path.read_bytes() if os.path.isfile(path) else None
    with pytest.raises(UsageError, match=re.escape(words)) as caught:
        table(path, data, overwrite, inputs)
    assert str(caught.value).startswith(f"--csv {path}: ") and caught.value.hint.startswith("Give ")
    assert (path.read_bytes() if os.path.isfile(path) else None) == before


def test_a_new_file_may_be_anywhere_else_and_its_folders_need_not_exist(data: Path, tmp_path: Path) -> None:
    assert table(tmp_path / "new" / "er" / "a.csv", data) == Destination(tmp_path / "new" / "er" / "a.csv")
    assert not (tmp_path / "new").exists()
    assert table(tmp_path / "Data.csv", data) == Destination(tmp_path / "Data.csv")


def test_nothing_is_written_among_the_images_whatever_the_path_to_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(data)
    (tmp_path / "deep").symlink_to(data / "cat")
    monkeypatch.chdir(tmp_path)
    for place in ("Data", "./Data/cat", "link", "deep", "Data/../Data/new", "deep/../new"):
        refuse(Path(place) / "a.csv", data, "lies inside the images of")
    refuse(tmp_path / "link" / "a.csv", Path("Data"), "lies inside the images of Data")


def test_a_class_folder_may_be_a_link_to_elsewhere(data: Path, tmp_path: Path) -> None:
    (tmp_path / "photos" / "dogs").mkdir(parents=True)
    (data / "dog").symlink_to(tmp_path / "photos" / "dogs")
    refuse(tmp_path / "photos" / "dogs" / "a.csv", data, "lies inside the images of")
    assert table(tmp_path / "photos" / "a.csv", data).path == tmp_path / "photos" / "a.csv"


def test_nothing_is_written_into_a_run(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "output" / "001-cnn"
    run.mkdir(parents=True)
    assert not is_run_folder(run)
    for name in ("config.json", "train.log"):
        (run / name).write_text("{}")
    refuse(run / "a.csv", data, f"lies inside the run {run}")
    refuse(run / "more" / "a.csv", data, f"lies inside the run {run}")
    assert table(run.parent / "a.csv", data).path == run.parent / "a.csv"


def test_a_folder_and_a_path_below_a_file_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OWN_TABLE)
    refuse(tmp_path, data, "is a folder")
    refuse(tmp_path / "file" / "a.csv", data, f"{tmp_path / 'file'} is a file, not a folder")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refuse(tmp_path / "loop", data, "cannot be used (Too many levels of symbolic links)")
    refuse(tmp_path / ("x" * 300), data, "cannot be used (File name too long)")


def test_only_an_own_table_or_an_empty_file_is_replaced_unasked(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(OTHER_TABLE)
    refuse(path, data, "exists, and is not an unchanged table of predictions")
    assert table(path, data, overwrite=True) == Destination(path)
    for content in (OWN_TABLE, b""):
        path.write_bytes(content)
        assert table(path, data) == Destination(path)


def test_overwrite_replaces_text_only(data: Path, tmp_path: Path) -> None:
    for number, content in enumerate(
        (b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a\x01\0", b"PK\x03\x04\xff", b"a\0b")
    ):
        path = tmp_path / f"{number}.csv"
        path.write_bytes(content)
        refuse(path, data, "is not a text file, and --overwrite replaces only such", overwrite=True)


def test_text_is_told_by_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for content in (b"", ("é" * 65_536).encode(), b"x" * 65_535 + "é".encode()):
        path.write_bytes(content)
        assert is_text(path)
    path.write_bytes(b"x" * 65_535 + b"\xff\xff")
    assert not is_text(path)


def test_an_input_is_refused_under_any_name(data: Path, tmp_path: Path) -> None:
    source = tmp_path / "labels.csv"
    source.write_bytes(OWN_TABLE)
    os.link(source, tmp_path / "hard.csv")
    (tmp_path / "soft.csv").symlink_to(source)
    for path in (source, tmp_path / "hard.csv", tmp_path / "soft.csv"):
        for overwrite in (False, True):
            refuse(path, data, "is one of the files that this command reads", overwrite, (tmp_path / "x.jpg", source))


def test_links_are_resolved_so_that_the_link_stays(data: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "a.csv").symlink_to(tmp_path / "there" / "b.csv")
    assert table(tmp_path / "a.csv", data) == Destination(tmp_path / "there" / "b.csv")
    (tmp_path / "there" / "b.csv").write_bytes(OTHER_TABLE)
    refuse(tmp_path / "a.csv", data, "exists, and is not")
    (tmp_path / "c.csv").symlink_to(data / "c.csv")  # leads to a file among the images that does not exist yet
    refuse(tmp_path / "c.csv", data, "lies inside the images of")


def test_a_pipe_is_a_stream(data: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert table(tmp_path / "pipe", data) == Destination(tmp_path / "pipe", is_stream=True)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (stat.S_IFREG, None),
        (stat.S_IFIFO, None),
        (stat.S_IFCHR, None),  # a terminal, /dev/null
        (stat.S_IFDIR, "is a folder"),
        (stat.S_IFBLK, "is a disk"),
        (stat.S_IFSOCK, "is neither a file nor a pipe"),
    ],
)
def test_which_kinds_of_files_are_written_to(mode: int, reason: str | None) -> None:
    assert refused_kind(mode | 0o644) == reason


def test_a_dash_is_standard_output_unless_that_is_closed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = Destination(Path("-"), is_stream=True, is_stdout=True)
    assert table(Path("-"), data) == stdout and str(stdout) == "standard output"
    monkeypatch.setattr(sys, "stdout", None)
    refuse(Path("-"), data, "standard output is closed")


def test_the_file_that_stdout_is_redirected_to_is_standard_output(tmp_path: Path) -> None:
    """And the one that receives the messages is no place for a table."""
    code = (
        "import sys; from pathlib import Path; from MLPipeline.files.Destination import Reserved\n"
        "print(Reserved([]).table('--csv', Path('out'), False).is_stdout)\n"
        "print(Reserved([]).table('--csv', Path('/dev/stdout'), False).is_stdout)\n"
        "print('x', file=sys.stderr, flush=True)\n"
        "try: Reserved([]).table('--csv', Path('err'), True)\n"
        "except Exception as error: print(error)"
    )
    with open(tmp_path / "out", "wb") as out, open(tmp_path / "err", "wb") as err:
        environment = os.environ | {"PYTHONPATH": os.getcwd()}
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, stdout=out, stderr=err, env=environment, check=True)
    lines = (tmp_path / "out").read_text().splitlines()
    assert lines == ["True", "True", "--csv err: receives the messages of this command. Give another file"]


@pytest.mark.parametrize("place", ["Data", "Data/cat/new", "link/new", "run", "run/new"])
def test_a_folder_of_copies_lies_outside_of_images_and_runs(data: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "link").symlink_to(data)
    (tmp_path / "run").mkdir()
    for name in ("config.json", "model.pt"):
        (tmp_path / "run" / name).write_text("{}")
    with pytest.raises(UsageError, match=r"--sort-into .*: lies inside the (images of|run) .*\. Give a folder outside"):
        Reserved([data]).check_folder("--sort-into", tmp_path / place)


def test_a_folder_may_contain_the_images(data: Path, tmp_path: Path) -> None:
    """The usual `output/` lies beside `Data/`; `--output .` is around both."""
    for folder in (tmp_path, tmp_path / "output", tmp_path / "Data2", data.parent / "new" / "er"):
        Reserved([data]).check_folder("--output", folder)


def test_what_is_no_folder_is_not_used_as_one(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for place, words in (
        ("file", "is a file"),
        ("file/below", f"{tmp_path / 'file'} is a file, not a folder"),
        ("dangling", "is a link that leads to no folder"),
    ):
        with pytest.raises(UsageError, match=re.escape(f"--output {tmp_path / place}: {words}")):
            Reserved([data]).check_folder("--output", tmp_path / place)


def test_images_that_do_not_exist_yet_are_reserved_too(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lies inside the images of"):
        Reserved([tmp_path / "Data"]).check_folder("--output", tmp_path / "x" / ".." / "Data" / "out")
