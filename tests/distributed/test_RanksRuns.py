"""Whole commands under torchrun's agent: two ranks do what one process does; rows 55, 57, 59 of the fault matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from MLPipeline.files.TensorFile import load_file
from tests.support.forked_ranks import launch
from tests.support.harness import content, succeed

MakeImages = Callable[..., Path]
FLAGS = "--model cnn --image-size 16 --epochs 3 --device cpu --precision fp32 --lr 0.05 -b 7 -j 1".split()
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Trained:
    """The same training, by one process and by two."""

    data: Path
    alone: Path
    together: Path
    out: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_images: MakeImages) -> Trained:
    root = tmp_path_factory.mktemp("ranks")
    data = make_images(root / "Data", {"cat": 15, "dog": 12, "bird": 8})
    (data / "cat" / "broken.png").write_bytes((data / "cat" / "000.png").read_bytes()[:100])
    before = content(data)
    argv = [*FLAGS, "--augment", "hflip,mixup", "--data", data]
    succeed([*argv, "--output", root / "one"])
    code, out, _ = launch([*argv, "--output", root / "two"], root).wait()
    assert code == 0 and content(data) == before
    return Trained(data, root / "one" / "001-cnn", root / "two" / "001-cnn", out)


def history(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "history.csv").drop(columns="seconds")


def weights(run: Path) -> dict[str, Any]:
    return load_file(run / "model.pt")["state_dict"]


def assert_same_training(run: Path, other: Path) -> None:
    pd.testing.assert_frame_equal(history(run), history(other), rtol=1e-4, atol=1e-5)
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, weights(other)[name], rtol=1e-3, atol=1e-4)


def test_two_ranks_train_what_one_process_does(trained: Trained) -> None:
    assert_same_training(trained.together, trained.alone)
    alone, together = (pd.read_csv(run / "predictions.csv") for run in (trained.alone, trained.together))
    pd.testing.assert_frame_equal(together, alone, rtol=1e-3, atol=1e-4)
    for name in ("splits.csv", "skipped.csv", "classes.txt"):
        assert (trained.together / name).read_text() == (trained.alone / name).read_text()
    assert "broken.png" in (trained.together / "skipped.csv").read_text()


def test_rank_0_alone_writes_and_speaks(trained: Trained) -> None:
    files = {path.name for path in trained.alone.iterdir()} | {"launch.txt"}
    assert {path.name for path in trained.together.iterdir()} == files
    assert [path.name for path in trained.together.parent.glob("0*")] == ["001-cnn"]
    assert trained.out.count("result   test accuracy") == trained.out.count("run      ") == 1
    log = (trained.together / "train.log").read_text()
    assert log.count("result   test accuracy") == 1


def test_each_image_is_stored_once(trained: Trained) -> None:
    alone, together = (sizes(run.parent / "cache") for run in (trained.alone, trained.together))
    assert together == alone and max(together.values()) > 30 * 16 * 16 * 3


def sizes(cache: Path) -> dict[str, int]:
    """The size of each store, by its kind: the rest of its name depends on the folder of the images."""
    return {rows.parent.name.rpartition("-")[0]: rows.stat().st_size for rows in cache.glob("*/rows.bin")}


def test_two_ranks_evaluate_and_predict_as_one_does(trained: Trained, tmp_path: Path) -> None:
    run, output = trained.alone, ["--output", tmp_path / "output", "--device", "cpu"]
    for verb, words in (("evaluate", ["--split", "train"]), ("predict", [trained.data])):
        argv = [verb, *words, "--run", run, *output, "--precision", "fp32", "--csv"]
        alone, together = tmp_path / f"{verb}1.csv", tmp_path / f"{verb}2.csv"
        out = succeed([*argv, alone]).out
        code, its_out, err = launch([*argv, together], tmp_path).wait()
        assert (code, its_out) == (0, out) and "error" not in err
        frames = pd.read_csv(alone), pd.read_csv(together)
        assert len(frames[0]) > 20
        pd.testing.assert_frame_equal(frames[1], frames[0], rtol=1e-3, atol=1e-4)


def test_a_killed_rank_costs_nothing_where_torchrun_may_restart(trained: Trained, tmp_path: Path) -> None:
    argv = [*FLAGS, "--augment", "hflip,mixup", "--data", trained.data, "--output", tmp_path]
    code, _, err = launch(argv, tmp_path, fault="killed", max_restarts=1).wait()
    assert code == 0 and "error: rank 1: ended, or gave no answer" in err
    run = tmp_path / "001-cnn"
    assert [path.name for path in tmp_path.glob("0*")] == ["001-cnn"]
    pd.testing.assert_frame_equal(history(run), history(trained.together), check_exact=True)
    for name, tensor in weights(trained.together).items():
        assert torch.equal(tensor, weights(run)[name])


def test_a_loss_that_is_not_finite_on_one_rank_ends_all_in_good_order(trained: Trained, tmp_path: Path) -> None:
    _, _, err = launch([*FLAGS, "--data", trained.data, "--output", tmp_path], tmp_path, fault="diverged").wait()
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(said) == 2 and all(
        "epoch 3, batch 1: the loss is nan at --lr 0.05. Try --lr 0.005" in line for line in said
    )
    assert "exitcode  : 4" in err and "exitcode  : 1" not in err
    run = tmp_path / "001-cnn"
    assert load_file(run / "model.pt")["epoch"] == len(history(run)) == 2
    assert (run / "report.html").exists()


def test_ranks_that_see_other_files_do_not_begin(trained: Trained, tmp_path: Path, make_images: MakeImages) -> None:
    others = trained.data.with_name("Others")
    if not others.exists():
        make_images(others, {"cat": 15, "dog": 12, "bird": 9})
    argv = [*FLAGS, "--data", trained.data, "--output", tmp_path]
    _, out, err = launch(argv, tmp_path, fault="elsewhere").wait()
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    what = "rank 1: not the same images as rank 0. Start the same command on all machines"
    assert said and all(what in line for line in said)
    assert "exitcode  : 2" in err and "epoch" not in out
    assert not list(tmp_path.glob("0*"))


def test_a_stopped_run_goes_on_with_another_number_of_ranks(trained: Trained, tmp_path: Path) -> None:
    argv = [*FLAGS, "--augment", "hflip,mixup", "--data", trained.data, "--output", tmp_path]
    stopped = launch(argv, tmp_path, fault="stopped")
    stopped.wait_for("    1 ")  # an epoch is done
    stopped.terminate()
    _, _, err = stopped.wait()
    run = tmp_path / "001-cnn"
    assert f"note: to resume: python Engine.py --resume {run}" in err and "error:" not in err
    assert 1 <= len(pd.read_csv(run / "history.csv")) < 3
    succeed(["--resume", run])
    assert_same_training(run, trained.alone)
    assert np.array_equal(history(run)["epoch"], [1, 2, 3])


def test_two_ranks_embed_what_one_does(trained: Trained, tmp_path: Path) -> None:
    argv = ["embed", trained.data, "--run", trained.alone, "--device", "cpu", "--precision", "fp32", "-j", "1"]
    succeed([*argv, "--output", tmp_path / "one", "--to", tmp_path / "one.npz"])
    code, out, err = launch([*argv, "--output", tmp_path / "two", "--to", tmp_path / "two.npz"], tmp_path).wait()
    assert code == 0, err
    assert out.count("saved ") == 1 and err.count("broken.png") == 1
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert one["paths"].tolist() == two["paths"].tolist() and len(one["paths"]) == 35
        np.testing.assert_allclose(one["features"], two["features"], rtol=1e-3, atol=1e-4)
