"""The verb `serve`: what it prints, what it refuses before the model is loaded, and how it ends."""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from MLPipeline.serve import Packages
from tests.support.harness import content, refuse
from tests.support.paths import ROOT
from tests.support.served_model import picture, random_run

CLASSES = ("cat", "dog")
SERVE = ["serve", "--device", "cpu", "--run"]


def test_a_port_in_use_is_reported_at_once(tmp_path: Path) -> None:
    run = random_run(tmp_path, CLASSES)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        refused = refuse([*SERVE, run, "--port", port], 3, f"--port {port}: is in use", "--port 0")
    assert "using" not in refused.err, "the model was not loaded for nothing"


def test_a_missing_package_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(Packages, "find_spec", lambda name: None if name in ("fastapi", "uvicorn") else find(name))
    refuse([*SERVE, tmp_path], 3, "serve: needs fastapi and uvicorn. Run pip install fastapi uvicorn")


def test_images_are_not_collected_in_a_run_or_among_images(tmp_path: Path) -> None:
    run = random_run(tmp_path / "output", CLASSES)
    (run / "config.json").write_text("{}")
    refuse([*SERVE, run, "--collect", run / "kept"], 2, "--collect", "lies inside the run")
    (tmp_path / "file").touch()
    refuse([*SERVE, run, "--collect", tmp_path / "file"], 2, "--collect", "is a file")


def test_it_answers_until_a_signal_comes(tmp_path: Path) -> None:
    """In a process of its own: with SIGTERM, it exits with 143, without a traceback, and has written nothing."""
    run = random_run(tmp_path, CLASSES)
    before = content(tmp_path)
    command = [sys.executable, "Engine.py", *SERVE, str(run), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        try:
            lines = [process.stdout.readline() for _ in range(2)]
            address = lines[1].split()[1]
            with urllib.request.urlopen(f"{address}predict", picture(), timeout=30) as answer:
                assert b'"predicted"' in answer.read()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 143
        finally:
            process.kill()
        assert lines == ["serve    cnn: 2 classes, cpu\n", f"open     {address}   (Ctrl-C stops)\n"]
        assert address.startswith("http://127.0.0.1:")
        assert process.stderr.read() == f"note: using {run / 'model.pt'}\n"
    assert content(tmp_path) == before
