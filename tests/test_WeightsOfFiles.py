"""`--weights FILE`, rows 34 to 37 of the fault matrix: the right weights or one line, and never half a network."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from MLPipeline.Classifier import Classifier, ModelSpec
from MLPipeline.Errors import DataError
from MLPipeline.Models import find_model
from MLPipeline.Weights import load_weights
from tests.support.made_up_net import SPEC, State, build, foreign, same, save, sha256, trained, without_counters


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model.state_dict(),
        foreign,
        lambda model: without_counters(foreign(model)),
        lambda model: {"state_dict": model.state_dict(), "classes": ["a", "b"], "epoch": 3},
        lambda model: {"model": foreign(model), "optimizer": {}},
        *(
            lambda model, prefix=prefix: {"state_dict": {prefix + name: each for name, each in foreign(model).items()}}
            for prefix in ("module.", "model.", "_orig_mod.", "model._orig_mod.module.")
        ),
    ],
    ids=[
        *("ours", "foreign", "no counters", "checkpoint", "training script"),
        *("distributed", "Lightning", "compiled", "all of these"),
    ],
)
def test_a_file_in_any_usual_form_gives_the_same_model(tmp_path: Path, wrap: Callable[[Classifier], object]) -> None:
    source, model = trained(num_classes=3), build()
    path = save(tmp_path, wrap(source))
    parameters = [id(parameter) for parameter in model.parameters()]
    report = load_weights(model, SPEC, str(path))
    assert same(model, source)
    assert [id(parameter) for parameter in model.parameters()] == parameters  # an optimizer may hold them already
    assert (report.kind, report.source, report.sha256) == ("file", str(path), sha256(path))
    assert report.note == "weights of weights.pth, head included"


def test_normalisation_comes_with_our_own_weights(tmp_path: Path) -> None:
    source, model = trained(num_classes=3), build()
    source.mean += 1
    load_weights(model, SPEC, str(save(tmp_path, source.state_dict())))
    assert torch.equal(model.mean, source.mean)


def test_a_head_of_another_size_stays_random_and_is_said(tmp_path: Path) -> None:
    source, model = trained(num_classes=1000), build()
    head = {name: tensor.clone() for name, tensor in model.head.state_dict().items()}
    report = load_weights(model, SPEC, str(save(tmp_path, foreign(source))))
    assert report.note == "weights of weights.pth, head of another size (1000 classes) left out"
    assert same(model.backbone, source.backbone)
    assert all(torch.equal(head[name], tensor) for name, tensor in model.head.state_dict().items())


def test_a_backbone_alone_is_enough(tmp_path: Path) -> None:
    source, model = trained(), build()
    body = {name: tensor for name, tensor in foreign(source).items() if not name.startswith("fc.")}
    assert load_weights(model, SPEC, str(save(tmp_path, body))).note == "weights of weights.pth, without a head"
    assert same(model.backbone, source.backbone)


def less(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if name != "two.0.bias"}


@pytest.mark.parametrize(
    ("content", "difference"),
    [
        (less(foreign(trained())), r"1 missing \(backbone\.two\.0\.bias\)"),
        (foreign(trained()) | {"three.bias": torch.ones(1)}, r"1 unexpected \(backbone\.three\.bias\)"),
        (
            foreign(trained(width=6)),
            r"7 of another shape \(backbone\.one\.0\.weight \(6, 3, 3, 3\) instead of \(4, 3, 3, 3\), .*, \.\.\.\)",
        ),
        ({}, r"12 missing \(backbone\.one\.0\.weight, backbone\.one\.0\.bias, backbone\.one\.1\.weight, \.\.\.\)"),
    ],
    ids=["missing", "unexpected", "shape", "empty"],
)
def test_another_architecture_is_refused_with_the_difference(tmp_path: Path, content: State, difference: str) -> None:
    model, before = build(), build()
    before.load_state_dict(model.state_dict())
    path = save(tmp_path, content)
    with pytest.raises(DataError, match=f"weights.pth: looks like another architecture: {difference}"):
        load_weights(model, SPEC, str(path))
    assert same(model, before)


@pytest.mark.parametrize(
    "content",
    [
        torch.ones(3),
        [1, 2],
        {"state_dict": {"one.0.weight": 1.0}},
    ],
    ids=["tensor", "list", "number"],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(DataError, match="weights.pth: contains no state dict"):
        load_weights(build(), SPEC, str(save(tmp_path, content)))


@pytest.mark.parametrize(
    ("weights", "line"),
    [
        ("imagnet", r"--weights imagnet: no such file\. Did you mean 'imagenet'\? .*, or a file's path"),
        ("no\0name", "no such file"),
        ("~nobody/" + "x" * 5000, "no such file"),
        (".", "is a directory"),
    ],
)
def test_what_is_no_file_is_refused(weights: str, line: str) -> None:
    with pytest.raises(DataError, match=line):
        load_weights(build(), SPEC, weights)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, trained().state_dict())
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match="weights.pth: cannot be read"):
        load_weights(build(), SPEC, str(path))


# The models that ship


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_torchvision_weights_give_torchvisions_logits(tmp_path: Path, name: str) -> None:
    from torchvision import models

    torch.manual_seed(0)
    oracle = models.get_model(name, weights=None, num_classes=10).eval()
    assert_same_logits(oracle, find_model(name), save(tmp_path, oracle.state_dict()))


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_timm_weights_give_timms_logits(tmp_path: Path, name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is an oracle of the tests: pip install -r requirements-dev.txt")
    torch.manual_seed(0)
    oracle = timm.create_model(name, num_classes=10).eval()
    assert_same_logits(oracle, find_model(name), save(tmp_path, oracle.state_dict()))


def assert_same_logits(oracle: nn.Module, spec: ModelSpec, path: Path) -> None:
    model = spec.build(10, 64).eval()
    report = load_weights(model, spec, str(path))
    assert report.note == "weights of weights.pth, head included"
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), oracle(model.normalize(images)), rtol=1e-4, atol=1e-5)


def test_the_weights_of_another_resnet_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, find_model("resnet34").build(3, 32).state_dict())
    with pytest.raises(DataError, match="another architecture: 80 unexpected"):
        load_weights(find_model("resnet18").build(3, 32), find_model("resnet18"), str(path))


@pytest.mark.parametrize("given", ["resnet18", "efficientnet_b1", "efficientnet_lite0"])
@pytest.mark.parametrize("wanted", ["resnet50", "efficientnet_b0", "cnn"])
def test_foreign_names_of_another_family_are_refused(tmp_path: Path, given: str, wanted: str) -> None:
    from torchvision import models

    oracle = find_model(given).build(3, 64) if "lite" in given else models.get_model(given, weights=None)
    with pytest.raises(DataError, match="another architecture"):
        load_weights(find_model(wanted).build(3, 64), find_model(wanted), str(save(tmp_path, oracle.state_dict())))


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("one.0.weight", lambda tensor: tensor.index_fill(0, torch.tensor([2]), float("nan")), "damaged: NaN in "),
        ("two.1.weight", lambda tensor: tensor.index_fill(0, torch.tensor([2]), float("-inf")), "damaged: an infinite"),
        ("two.1.running_var", lambda tensor: tensor - 100, "damaged: a negative variance in "),
        ("one.0.weight", lambda tensor: tensor.int(), "has numbers of type torch.int32, not torch.float32"),
        ("one.0.weight", lambda tensor: tensor + 1j, "has numbers of type torch.complex64, not torch.float32"),
        ("one.1.num_batches_tracked", lambda tensor: tensor.repeat(5), r"has shape \(5,\) instead of \(\)"),
        ("one.1.num_batches_tracked", lambda tensor: tensor.float(), "has numbers of type torch.float32, not"),
    ],
)
def test_numbers_that_no_training_leaves_are_refused(
    tmp_path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor], reason: str
) -> None:
    state = foreign(trained(3))
    path = save(tmp_path, state | {name: change(state[name])})
    model, before = build(), build()
    before.load_state_dict(model.state_dict())
    with pytest.raises(DataError, match=rf"weights\.pth: .*{reason}") as caught:
        load_weights(model, SPEC, str(path))
    assert f"backbone.{name}" in caught.value.what and same(model, before)


def test_large_finite_weights_in_half_precision_are_used(tmp_path: Path) -> None:
    """Their sum is infinite in half precision, and they are not."""
    state = {
        name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in foreign(trained(3)).items()
    }
    state["one.0.weight"].fill_(60_000)
    model = build()
    load_weights(model, SPEC, str(save(tmp_path, state)))
    assert bool((model.state_dict()["backbone.one.0.weight"] == 60_000).all())
