"""Layers on a share of a batch compute what one process with all of it does: values, gradients, running statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import ops

from MLPipeline.distributed.Ranks import ranks
from MLPipeline.distributed.WholeBatch import is_shared, sum_gradients, whole_batch
from MLPipeline.EfficientNetLite_Model import StochasticDepth
from tests.support.rank_cases import together

LAYERS = {
    "2d": lambda: nn.BatchNorm2d(5),
    "2d channels last": lambda: nn.BatchNorm2d(5),
    "2d plain": lambda: nn.BatchNorm2d(5, affine=False, momentum=None),
    "2d untracked": lambda: nn.BatchNorm2d(5, track_running_stats=False),
    "1d": lambda: nn.BatchNorm1d(5),
    "dropout": lambda: nn.Dropout(0.4),
    "depth": lambda: StochasticDepth(0.4),
    "torchvision's depth": lambda: ops.StochasticDepth(0.4, mode="row"),
}
SHARES = (5, 3, 1)  # images of a batch: two ranks have unequal shares, or one has none


def compute(name: str, number: int) -> dict[str, Tensor]:
    """What a layer makes of a batch in two steps, with its gradients; of this rank's share."""
    torch.manual_seed(number)
    layer = LAYERS[name]().double()  # in which rounding hides nothing
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 2)
    layout = torch.channels_last if "last" in name else torch.contiguous_format
    shape = (number, 5) if name in ("1d", "dropout") else (number, 5, 4, 3)
    batch, targets = 3 + 2 * torch.randn(2, *shape).double(), torch.randn(shape).double()
    mine = ranks.mine(number)
    ranks.batch_size = number
    results: dict[str, Tensor] = {}
    with whole_batch(layer):
        for step in range(2):
            inputs = batch[step][mine].contiguous(**{"memory_format": layout} if len(shape) == 4 else {})
            inputs.requires_grad_()
            outputs = layer(inputs)
            ((outputs - targets[mine]) ** 3).sum().backward()
            results |= {f"outputs {step}": outputs.detach(), f"inputs' gradient {step}": inputs.grad}
        if list(layer.parameters()):
            sum_gradients(layer)
    results |= {each: parameter.grad for each, parameter in layer.named_parameters()}
    return results | layer.state_dict()


# One value per channel has no variance.
CASES = [(name, number) for name in LAYERS for number in SHARES if number > 1 or name != "1d"]


def half_precision() -> Tensor:
    torch.manual_seed(0)
    layer, batch = nn.BatchNorm2d(5), 3 + 2 * torch.randn(8, 5, 4, 4)
    with whole_batch(layer), torch.autocast("cpu", torch.bfloat16):
        outputs = layer(batch[ranks.mine(8)].bfloat16())
    assert outputs.dtype == torch.bfloat16
    return torch.cat([outputs.detach().flatten().float(), layer.running_mean, layer.running_var])


def changed_and_back() -> list[str]:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())
    names = list(model.state_dict())
    with whole_batch(model):
        assert is_shared(model) and not is_shared(model.eval())
        assert list(model.state_dict()) == names
        assert isinstance(model[0], nn.BatchNorm2d)
        kinds = [type(layer).__name__ for layer in model]
    return [*kinds, *(type(layer).__name__ for layer in model)]


def everything() -> dict[Any, Any]:
    return {case: compute(*case) for case in CASES} | {"half": half_precision(), "kinds": changed_and_back()}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return together(2, everything, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize(("name", "number"), CASES)
def test_two_ranks_equal_one_process(of_two: list[Any], name: str, number: int) -> None:
    alone, first, second = compute(name, number), of_two[0][name, number], of_two[1][name, number]
    assert alone.keys() == first.keys() == second.keys()
    for each, tensor in alone.items():
        if each.startswith(("outputs", "inputs")):
            assert len(first[each]) == number // 2
            torch.testing.assert_close(torch.cat([first[each], second[each]]), tensor, rtol=1e-9, atol=1e-9)
        else:
            assert torch.equal(first[each], second[each])
            torch.testing.assert_close(first[each], tensor, rtol=1e-9, atol=1e-9)


def test_half_precision_keeps_its_statistics_in_full(of_two: list[Any]) -> None:
    alone, first, second = half_precision(), of_two[0]["half"], of_two[1]["half"]
    outputs = torch.cat([first[:-10], second[:-10]])
    torch.testing.assert_close(outputs, alone[:-10], rtol=0.02, atol=0.02)
    torch.testing.assert_close(first[-10:], alone[-10:], rtol=1e-4, atol=1e-4)


def test_one_process_keeps_its_layers() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout())
    with whole_batch(model):
        assert [type(layer) for layer in model] == [nn.BatchNorm2d, nn.Dropout]
        assert not is_shared(model)


def test_layers_change_for_several_ranks_and_are_themselves_again(of_two: list[Any]) -> None:
    for of_rank in of_two:
        assert of_rank["kinds"] == ["_BatchNorm2d", "_Dropout", "BatchNorm2d", "Dropout"]
