"""A small network, and its weights under the parameter names of another library, for tests of Weights."""

import hashlib
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from MLPipeline.Classifier import Classifier, ModelSpec

State = dict[str, Tensor]


def build(num_classes: int = 3, image_size: int = 8, width: int = 4) -> Classifier:
    """Return a network of two convolutions with BatchNorm; its other names are `one.*`, `two.*` and `fc.*`."""
    stages = OrderedDict(
        one=nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)),
        two=nn.Sequential(nn.Conv2d(width, 5, 3), nn.BatchNorm2d(5), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    return Classifier(nn.Sequential(stages), nn.Linear(5, num_classes))


def rename(key: str) -> str:
    return key.replace("fc.", "head.", 1) if key.startswith("fc.") else f"backbone.{key}"


SPEC = ModelSpec(build=build, source="made up", rename=rename)


def trained(num_classes: int = 1000, width: int = 4) -> Classifier:
    torch.manual_seed(7)
    model = build(num_classes, width=width)
    with torch.no_grad():
        for number, tensor in enumerate(model.backbone.state_dict().values()):
            tensor.copy_(tensor + number)  # BatchNorm's statistics must differ from those of a new model
    return model


def foreign(model: Classifier) -> State:
    names = {name: name.removeprefix("backbone.").replace("head.", "fc.") for name in model.state_dict()}
    return {names[name]: tensor for name, tensor in model.state_dict().items() if name not in ("mean", "std")}


def without_counters(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def same(a: nn.Module, b: nn.Module) -> bool:
    first, second = without_counters(a.state_dict()), without_counters(b.state_dict())
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def save(folder: Path, content: object, name: str = "weights.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
