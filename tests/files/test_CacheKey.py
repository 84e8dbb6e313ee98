"""The key of the cache: one for each user, readable by no one else, and never one that someone else could know."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from MLPipeline.files import CacheKey
from MLPipeline.files.CacheKey import PROJECT, cache_key, store_key
from tests.support.paths import ROOT


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a configuration folder of its own, not made yet; what is known of other tests' keys is forgotten."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    cache_key.cache_clear()
    yield tmp_path / "configuration"
    cache_key.cache_clear()


def again(cache: Path) -> bytes:
    """Return the key that a new process would use."""
    cache_key.cache_clear()
    return cache_key(cache)


def test_a_key_is_made_once_and_is_the_users_alone(home: Path, tmp_path: Path) -> None:
    key = cache_key(tmp_path / "cache")
    file = home / PROJECT / "cache.key"
    assert len(key) == 32 and file.read_bytes() == key and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert again(tmp_path / "cache") == again(tmp_path / "another cache") == key
    assert [path.name for path in file.parent.iterdir()] == ["cache.key"]
    assert not (tmp_path / "cache").exists()


def test_processes_that_start_together_share_a_key(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from MLPipeline.files.CacheKey import cache_key; "
    command = [sys.executable, "-c", code + "print(cache_key(Path(sys.argv[1])).hex())", str(tmp_path / "cache")]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    keys = {process.communicate(timeout=60)[0].strip() for process in started}
    assert keys == {cache_key(tmp_path / "cache").hex()}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: file.chmod(0o644), "can be read by others"),
        (lambda file: file.write_bytes(b"short"), "is damaged"),
        (lambda file: (file.unlink(), file.mkdir()), "Is a directory"),
        (lambda file: (file.rename(file.with_name("other")), file.symlink_to("other")), "symbolic links"),
        (lambda file: (file.unlink(), os.mkfifo(file, 0o600)), "is not a file of this user"),
    ],
)
def test_a_key_that_others_may_know_is_not_used(
    home: Path, tmp_path: Path, damage, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").mkdir()
    key = cache_key(tmp_path / "cache")
    damage(home / PROJECT / "cache.key")
    other = again(tmp_path / "cache")
    assert other != key and other == (tmp_path / "cache" / "cache.key").read_bytes()
    assert reason in caplog.text and "do not use an output folder from someone else" in caplog.text
    assert again(tmp_path / "cache") == other


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no owners of files")
def test_a_key_of_another_user_is_not_used(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = cache_key(tmp_path / "cache")
    monkeypatch.setattr(CacheKey, "is_own", lambda status: False)
    assert again(tmp_path / "cache") != key
    assert again(tmp_path / "cache") != again(tmp_path / "cache"), "a key that can be kept nowhere is new each time"


def test_without_a_home_the_key_is_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    key = cache_key(tmp_path / "cache")
    assert (tmp_path / "cache" / "cache.key").read_bytes() == key == again(tmp_path / "cache")


def test_what_is_signed_for_one_purpose_is_worthless_for_another() -> None:
    keys = {store_key(key, about) for key in (b"a" * 32, b"b" * 32) for about in ("features", "splits")}
    assert len(keys) == 4
