"""Rows 109 to 111 of the fault matrix, through the command line: files and expressions that could block for ever."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from MLPipeline.images import GroupPattern
from tests.support.harness import SMALL, refuse, run, succeed, train

MakeImages = Callable[..., Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Path:
    """Return the output folder of two runs on the same images."""
    root = tmp_path_factory.mktemp("odd")
    train(root / "Data", root / "output", make_images)
    succeed([*SMALL, "--lr", "0.01", "--data", root / "Data", "--output", root / "output"])
    return root / "output"


@pytest.fixture
def output(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the output folder, whose files are to be damaged."""
    shutil.copytree(trained, tmp_path / "output", ignore=shutil.ignore_patterns("cache", ".*"))
    return tmp_path / "output"


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Return what is no regular file, by kind."""
    os.mkfifo(tmp_path / "fifo.csv")
    (tmp_path / "folder.csv").mkdir()
    terminal, side = os.openpty()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.csv"))
        names = {"FIFO": "fifo.csv", "folder": "folder.csv", "socket": "s.csv", "device": os.ttyname(side)}
        yield {kind: tmp_path / name for kind, name in names.items()}
    os.close(terminal)
    os.close(side)


@pytest.mark.parametrize("kind", ["FIFO", "folder", "socket", "device"])
@pytest.mark.parametrize("flag", ["--fixes", "--labels", "--config", "--weights", "--run", "--resume"])
def test_109_what_is_no_regular_file(trained: Path, odd: dict[str, Path], flag: str, kind: str) -> None:
    """A FIFO, folder, socket or device given as an input file is refused at once: exit code 2, and no waiting."""
    data = trained.parent / "Data"
    if flag == "--run":
        refuse(["predict", data, flag, odd[kind]], 2, str(odd[kind]))
    elif flag in ("--resume", "--config"):
        refuse([flag, odd[kind]], 2, str(odd[kind]))
    else:
        refuse([*SMALL, "--data", data, "--output", trained, flag, odd[kind]], 2, str(odd[kind]))


@pytest.mark.parametrize("name", ["config.json", "last.pt"])
def test_109_a_run_with_a_fifo_in_it(output: Path, name: str) -> None:
    """A FIFO in the folder of a run to resume does not block."""
    folder = output / "001-cnn"
    (folder / name).unlink()
    (folder / "metrics.json").unlink()
    os.mkfifo(folder / name)
    assert run(["--resume", folder]).code == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 200_000, "nested too deeply"),
        (b'{"epochs": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b'{"model": "\xff"}', "can't decode"),
        (b'{"data": "a\\u0000b"}', "a text that a file name can have"),
        (b'{"lr": 0.1, "lr": 0.2}', "has the name 'lr' twice"),
        (b" " * 2_000_000, "larger than 1 MB"),
    ],
)
def test_109_settings_that_are_no_settings(tmp_path: Path, content: bytes, reason: str) -> None:
    """200,000 brackets, huge numbers, null characters and a gigabyte in place of settings: exit code 2."""
    (tmp_path / "c.json").write_bytes(content)
    outcome = refuse(["--config", tmp_path / "c.json"], 2, str(tmp_path / "c.json"))
    assert reason in outcome.err


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\xff", b"\0" * 100, b'path,label\n"a', b"path,label\na\0b,c\n", b"[" * 200_000]
)
@pytest.mark.parametrize("flag", ["--fixes", "--labels"])
def test_109_tables_that_are_no_tables(trained: Path, tmp_path: Path, flag: str, content: bytes) -> None:
    """Binary data, null characters and open quotes in place of a table: exit code 2."""
    table = tmp_path / "table.csv"
    table.write_bytes(content)
    refuse([*SMALL, "--data", trained.parent / "Data", "--output", tmp_path / "output", flag, table], 2, str(table))


def test_110_an_expression_that_never_ends(
    tmp_path: Path, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--group '(a+)+b'` is stopped after a few seconds: exit code 2."""
    make_images(tmp_path / "Data", {"a" * 60: 4, "b": 4})
    monkeypatch.setattr(GroupPattern, "_LIMIT_S", 1.0)
    flags = [*SMALL, "--data", tmp_path / "Data", "--output", tmp_path / "output"]
    refuse([*flags, "--group", "(a+)+c"], 2, "--group (a+)+c", "was stopped")
    assert not list((tmp_path / "output").glob("[0-9]*"))


VERBS = (["runs"], ["compare", "1", "2"], ["predict", "Data"], ["evaluate"], [*SMALL], ["audit"])


@pytest.mark.parametrize("argv", VERBS, ids=lambda argv: argv[0])
@pytest.mark.parametrize("target", ["output", "nowhere"])
def test_111_an_output_folder_that_leads_nowhere(trained: Path, tmp_path: Path, argv: list[str], target: str) -> None:
    """`output` as a link to itself, or to nothing: exit code 2 from every verb."""
    (tmp_path / "output").symlink_to(target)
    data = ["--data", trained.parent / "Data"] if argv[0] not in ("runs", "compare", "predict") else []
    refuse([*argv, *data, "--output", tmp_path / "output"], 2, str(tmp_path / "output"))


DAMAGE = {"cut": None, "empty": b"", "binary": bytes(range(256)), "other": b"[1]", "nested": b"[" * 200_000}


@pytest.mark.parametrize("damage", DAMAGE)
def test_111_a_damaged_table_of_runs(output: Path, damage: str) -> None:
    """A damaged `runs.csv` is refused by `runs`, and set aside by the next training."""
    table = output / "runs.csv"
    content = table.read_bytes()
    table.write_bytes(content[: len(content) // 3] if DAMAGE[damage] is None else DAMAGE[damage])
    refuse(["runs", "--output", output], 2, str(table), "is not a table of runs")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("cnn,none", "cnn,"),
        lambda text: text.replace("\r\n002-cnn,", "\r\n../x,"),
        lambda text: text + text.splitlines()[1] + "\r\n",
        lambda text: text + "003-x,cnn,none,nan,3,7.5,4,1,1,1\r\n",
        lambda text: text + "003-x,cnn,none,a,b,c,d,e,f,inf\r\n",
    ],
)
def test_111_damaged_rows_of_the_table_of_runs(output: Path, change: Callable[[str], str]) -> None:
    """Damaged rows of `runs.csv` are counted and left out; the runs are listed from their own files."""
    table = output / "runs.csv"
    table.write_bytes(change(table.read_bytes().decode()).encode())
    outcome = succeed(["runs", "--output", output])
    assert sum("cnn    none" in line for line in outcome.out.splitlines()) == 2
    assert "damaged and left out" in outcome.err and "nan" not in outcome.out


@pytest.mark.parametrize("damage", DAMAGE)
def test_111_damaged_metrics(output: Path, damage: str) -> None:
    """A run whose `metrics.json` is damaged counts as not finished, and a note says so."""
    file = output / "002-cnn" / "metrics.json"
    file.write_bytes(file.read_bytes()[:50] if DAMAGE[damage] is None else DAMAGE[damage])
    outcome = succeed(["predict", output.parents[0] / "output" / "001-cnn" / "samples.png", "--output", output])
    assert f"{file} is damaged" in outcome.err and f"using {output / '001-cnn' / 'model.pt'}" in outcome.err
    assert succeed(["runs", "--output", output]).out.count("cnn    none") == 2


@pytest.mark.parametrize("damage", ["cut", "binary", "nested"])
@pytest.mark.parametrize(
    ("name", "argv", "code"),
    [
        ("config.json", ["predict", "{images}", "--run", "2"], 0),
        ("config.json", ["compare", "1", "2"], 0),
        ("config.json", ["runs"], 0),
        ("environment.json", ["evaluate", "--run", "2"], 0),
        ("splits.csv", ["evaluate", "--run", "2"], 2),
        ("predictions.csv", ["compare", "1", "2"], 2),
        ("history.csv", ["predict", "{images}", "--run", "2"], 0),
    ],
)
def test_111_other_damaged_files_of_a_run(
    trained: Path, output: Path, name: str, argv: list[str], code: int, damage: str
) -> None:
    """Any other damaged file of a run: exit code 2 with its name, or the run is used without it."""
    file = output / "002-cnn" / name
    file.write_bytes(file.read_bytes()[:50] if DAMAGE[damage] is None else DAMAGE[damage])
    argv = [word.format(images=trained.parent / "Data" / "cat") for word in argv]
    if code:
        refuse([*argv, "--output", output], code, str(file.parent))
    else:
        notes = succeed([*argv, "--output", output]).err
        assert (f"{file}: cannot be read as settings" in notes) == (name == "config.json" and argv[0] == "predict")
