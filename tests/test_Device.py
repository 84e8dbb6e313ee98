"""Where to compute, in which number format, on how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Barrier

import pytest
import torch
from torch import nn

from MLPipeline.Device import choose_device, fast_dtypes, start_threads, threads_for, training_dtype
from MLPipeline.Errors import UsageError
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.Models import build_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def _two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def pretend(monkeypatch: pytest.MonkeyPatch, cuda: bool = False, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_fastest_there_is(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str) -> None:
    pretend(monkeypatch, cuda, mps)
    assert choose_device("auto") == torch.device(chosen)
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend(monkeypatch)
    with pytest.raises(UsageError) as caught:
        choose_device(name)
    assert str(caught.value) == f"--device {name}: not available here. Use --device auto, or one of: cpu"


def test_a_stated_precision_is_the_one() -> None:
    assert fast_dtypes(CPU, "fp16") == [torch.float16]
    assert training_dtype(CPU, nn.Linear(2, 2), "bf16") == torch.bfloat16
    assert training_dtype(CUDA, nn.Linear(2, 2), "fp32") == torch.float32


@pytest.mark.parametrize(("has_bf16", "fastest"), [(True, torch.bfloat16), (False, torch.float16)])
def test_half_precision_on_cuda(monkeypatch: pytest.MonkeyPatch, has_bf16: bool, fastest: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    assert fast_dtypes(CUDA)[0] == training_dtype(CUDA, nn.Conv2d(3, 8, 3)) == fastest


def test_bf16_training_on_a_cpu_only_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("MLPipeline.Device._cpu_multiplies_bf16", lambda: True)
    depthwise = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8))
    assert training_dtype(CPU, nn.Conv2d(3, 8, 3)) == torch.bfloat16
    assert training_dtype(CPU, depthwise) == training_dtype(CPU, nn.Linear(8, 2)) == torch.float32


def test_without_matrix_instructions_a_cpu_trains_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("MLPipeline.Device._cpu_multiplies_bf16", lambda: False)
    monkeypatch.setattr("MLPipeline.Device._cpu_multiplies_fp16", lambda: False)
    assert training_dtype(CPU, nn.Conv2d(3, 8, 3)) == torch.float32
    assert fast_dtypes(CPU) == [torch.float32]


def test_decoding_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("MLPipeline.images.ReadAhead.num_cores", lambda: 6)
    monkeypatch.setattr("MLPipeline.images.ReadAhead.container_memory", lambda: None)
    assert decoding_threads(7) == 7 and decoding_threads(None) == 6
    monkeypatch.setattr("MLPipeline.images.ReadAhead.container_memory", lambda: 2**30)
    assert decoding_threads(None) == 4 and decoding_threads(9) == 9
    monkeypatch.setattr("MLPipeline.images.ReadAhead.container_memory", lambda: 2**27)
    assert decoding_threads(None) == 1


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (64, 2)])
def test_torch_computes_on_no_more_threads_than_a_container_has_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
) -> None:
    monkeypatch.setattr("MLPipeline.Device.num_cores", lambda: cores)
    choose_device("cpu")
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("cuda", "times"), [(False, 1), (True, 0)])
def test_a_containers_memory_limits_allocations_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, times: int
) -> None:
    pretend(monkeypatch, cuda, False)
    calls: list[int] = []
    monkeypatch.setattr("MLPipeline.Device.limit_allocations", lambda: calls.append(1))
    choose_device("auto")
    assert len(calls) == times


@pytest.mark.usefixtures("_two_threads")
def test_a_small_head_computes_on_one_thread_and_gives_the_others_back() -> None:
    with threads_for(nn.Linear(2048, 3)):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError), threads_for(nn.Linear(2048, 3)):
        _ = 1 / 0
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("_two_threads")
def test_every_thread_of_a_pool_computes_on_its_share_of_the_cores() -> None:
    """torch sets the number of a thread when it first computes something; see `_use_cores`."""
    both = Barrier(2)

    def compute() -> int:
        both.wait()  # so that each thread has one
        torch.ones(2**20).exp()
        return torch.get_num_threads()

    with start_threads(2) as pool:
        assert [each.result() for each in [pool.submit(compute), pool.submit(compute)]] == [1, 1]
    with start_threads(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 2
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize("module", [build_model("cnn", 3, 16), nn.Linear(2048, 1000)], ids=["cnn", "large head"])
def test_what_has_enough_to_compute_keeps_all_threads(module: nn.Module) -> None:
    with threads_for(module):
        assert torch.get_num_threads() == 2
