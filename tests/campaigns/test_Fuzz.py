"""The short form of the fuzz campaign; and that the campaign notices what it looks for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.campaigns import Fuzz
from tests.campaigns.Fuzz import Tally, watch
from tests.campaigns.FuzzCases import ALLOWED, prepare, run_case
from tests.support.fuzz_images import seed_images
from tests.support.harness import content


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    prepare(folder, seed_images())
    return folder


@pytest.mark.parametrize(("kind", "number"), [("images", 4), ("checkpoints", 40), ("texts", 40)])
def test_damaged_files_end_in_an_answer_or_one_line(prepared: Path, kind: str, number: int) -> None:
    before = content(prepared / "Data"), content(prepared / "output" / "001-cnn")
    results = [run_case(kind, case, 7, prepared) for case in range(number)]
    assert [result for result in results if result.wrong] == []
    assert {result.code for result in results} <= set(ALLOWED)
    assert number < 20 or {0, 2} <= {result.code for result in results}, "nothing is damaged, or everything"
    assert before == (content(prepared / "Data"), content(prepared / "output" / "001-cnn"))


CHILD = """
import json, os, signal, sys, time
for number in range(int(sys.argv[1]), 9):
    if number == 5 and sys.argv[2] == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 5 and sys.argv[2] == "hang":
        time.sleep(60)
    wrong = "a traceback" if number == 5 and sys.argv[2] == "wrong" else ""
    print(json.dumps({"number": number, "code": 2, "wrong": wrong}), flush=True)
"""


@pytest.mark.parametrize(
    ("fault", "said"),
    [("crash", "5: the process ended with -11"), ("hang", "5: no answer within"), ("wrong", "5: a trace")],
)
def test_the_campaign_notices_and_keeps_the_culprit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    monkeypatch.setattr(Fuzz, "TIME_LIMIT_S", 3)
    (tmp_path / "current").mkdir()
    (tmp_path / "current" / "model.pt").write_bytes(b"culprit")
    tally, first = Tally(), 0
    while first < 9:
        command = [sys.executable, "-c", CHILD, str(first), fault]
        first = watch(command, first, 9, tally, tmp_path / "current", tmp_path / "keep")
    assert len(tally.wrong) == 1 and tally.wrong[0].startswith(said)
    assert tally.codes[2] == (9 if fault == "wrong" else 8)
    assert (tmp_path / "keep" / "5" / "model.pt").read_bytes() == b"culprit"
