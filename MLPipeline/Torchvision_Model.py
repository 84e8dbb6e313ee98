"""Torchvision's other classification networks, each split into stages that can be frozen one by one.

    images -> torchvision's own modules, in the order of its `forward` -> (B, D) -> head: (B, C)

Stages keep torchvision's names: `denseblock2`, or `features3` for `features.3`. Functions that `forward` calls between
its modules become modules as well (`Family.before`), so that the chain computes the same result.
B batch, C classes, D features, H height, W width, N tokens.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision import models

from MLPipeline.Classifier import Classifier, ModelSpec, Pretrained
from MLPipeline.Errors import UsageError


@dataclass(frozen=True)
class Family:
    """Networks that torchvision builds in the same way."""

    source: str
    head: str  # path of the last layer
    before: Mapping[str, str] = field(default_factory=dict)  # path of a module -> the FUNCTIONS called before it
    options: Mapping[str, object] = field(default_factory=dict)  # arguments of torchvision's builder


# Inception's weights require pixels from -1 to 1. torchvision converts ImageNet's normalisation to that range inside
# the network (`transform_input`); here images are normalised to it directly. Auxiliary classifiers are used in training
# only.
HALF = (0.5, 0.5, 0.5)
INCEPTION = {"aux_logits": False, "init_weights": False}

# Prefix of a model's name -> its family; the longest matching prefix applies.
FAMILIES: Mapping[str, Family] = {
    "alexnet": Family("One weird trick, arXiv:1404.5997", "classifier.6", {"classifier.0": "flatten"}),
    "convnext": Family("A ConvNet for the 2020s, arXiv:2201.03545", "classifier.2"),
    "densenet": Family("DenseNet, arXiv:1608.06993", "classifier", {"classifier": "relu pool flatten"}),
    "efficientnet_v2": Family("EfficientNetV2, arXiv:2104.00298", "classifier.1", {"classifier.0": "flatten"}),
    "googlenet": Family("Going Deeper with Convolutions, arXiv:1409.4842", "fc", {"dropout": "flatten"}, INCEPTION),
    "inception_v3": Family("Rethinking Inception, arXiv:1512.00567", "fc", {"dropout": "flatten"}, INCEPTION),
    "maxvit": Family("MaxViT, arXiv:2204.01697", "classifier.5"),
    "mnasnet": Family("MnasNet, arXiv:1807.11626", "classifier.1", {"classifier.0": "pool flatten"}),
    "mobilenet_v2": Family("MobileNetV2, arXiv:1801.04381", "classifier.1", {"classifier.0": "pool flatten"}),
    "mobilenet_v3": Family("MobileNetV3, arXiv:1905.02244", "classifier.3", {"classifier.0": "flatten"}),
    "regnet": Family("Designing Network Design Spaces, arXiv:2003.13678", "fc", {"fc": "flatten"}),
    "shufflenet_v2": Family("ShuffleNet V2, arXiv:1807.11164", "fc", {"fc": "pool flatten"}),
    # The last layer is a convolution, followed by ReLU and averaging: the features are all positions of its input.
    "squeezenet": Family(
        "SqueezeNet, arXiv:1602.07360",
        "classifier.1",
        {"classifier.0": "flatten", "classifier.1": "columns", "": "flatten"},
    ),
    "swin": Family("Swin Transformer, arXiv:2103.14030", "head"),
    "swin_v2": Family("Swin Transformer V2, arXiv:2111.09883", "head"),
    "vgg": Family("Very Deep Convolutional Networks, arXiv:1409.1556", "classifier.6", {"classifier.0": "flatten"}),
    "vit": Family("An Image is Worth 16x16 Words, arXiv:2010.11929", "heads.head"),
}
FUNCTIONS: Mapping[str, Callable[[], nn.Module]] = {
    "columns": partial(nn.Unflatten, 1, (512, -1, 1)),  # SqueezeNet's features as one column of positions
    "flatten": nn.Flatten,
    "pool": partial(nn.AdaptiveAvgPool2d, 1),
    "relu": nn.ReLU,
}
# Containers whose children are the stages, and the path of a parameter in one of them: `features.3` + `0.weight`.
ROWS = ("encoder.layers", "encoder", "features", "classifier", "layers", "trunk_output", "blocks", "heads")
PATH = re.compile(rf"((?:{'|'.join(ROWS)})\.)?([^.]+)\.(.+)")
TOKENS = {
    "class_token": "backbone.tokens.tokens.class_token",
    "encoder.pos_embedding": "backbone.tokens.tokens.positions",
}
# Published weight files predate the current networks and use some of their former parameter names.
OLD_SPELLINGS = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
)


class Tokens(nn.Module):
    """Prepends the class token to the patches and adds position embeddings: `(B, D, H, W) -> (B, 1 + H * W, D)`.

    The embeddings are learned for one grid of patches; for other grids they are interpolated (the paper, section 3.2).
    """

    def __init__(self, class_token: nn.Parameter, positions: nn.Parameter, grid: int) -> None:
        super().__init__()
        self.class_token, self.positions, self.grid = class_token, positions, grid

    def forward(self, patches: Tensor) -> Tensor:
        """Return the tokens of `patches` (B, D, grid, grid)."""
        tokens = torch.cat([self.class_token.expand(patches.shape[0], -1, -1), patches.flatten(2).mT], dim=1)
        own_grid = math.isqrt(self.positions.shape[1] - 1)
        if own_grid == self.grid:
            return tokens + self.positions
        places = self.positions[:, 1:].mT.unflatten(2, (own_grid, own_grid))
        places = interpolate(places, size=(self.grid, self.grid), mode="bicubic", align_corners=True)
        return tokens + torch.cat([self.positions[:, :1], places.flatten(2).mT], dim=1)


class FirstToken(nn.Module):
    """Selects the class token, which holds the features: `(B, N, D) -> (B, D)`."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the first of the `tokens` (B, N, D)."""
        return tokens[:, 0]


def family_of(name: str) -> Family:
    """Return the family of the model called `name`."""
    return FAMILIES[max((start for start in FAMILIES if name.startswith(start)), key=len)]


def build_torchvision(
    name: str, mean: Sequence[float], std: Sequence[float], num_classes: int, image_size: int
) -> Classifier:
    """Return torchvision's network called `name` with random weights.

    Raises:
        UsageError: the image size is not a multiple of the network's patch or window size.
    """
    _check_size(name, image_size)
    family = family_of(name)
    options = {"input_size": (image_size, image_size)} if name.startswith("maxvit") else {}
    network = models.get_model(name, weights=None, num_classes=num_classes, **family.options, **options)
    chain = list(_vit_chain(network, image_size) if name.startswith("vit") else _chain(network, family))
    start = [path for path, _ in chain].index(family.head)
    while isinstance(chain[start - 1][1], (nn.Dropout, nn.Unflatten)):
        start -= 1
    head = nn.Sequential(OrderedDict(("last" if path == family.head else _child(path), m) for path, m in chain[start:]))
    for layer in head:
        if isinstance(layer, nn.Dropout):
            layer.inplace = False  # in place, it would overwrite features that the caller keeps
    return Classifier(_stages(chain[:start]), head, mean, std)


def _check_size(name: str, image_size: int) -> None:
    multiple = 224 if name.startswith("maxvit") else int(name[-2:]) if name.startswith("vit") else 1
    if image_size % multiple:
        nearest = multiple * max(1, round(image_size / multiple))
        raise UsageError(
            f"--image-size {image_size}: {name} requires multiples of {multiple}", f"Use --image-size {nearest}"
        )


def _chain(network: nn.Module, family: Family) -> Iterator[tuple[str, nn.Module]]:
    """Yield the path and module of each step of torchvision's `forward`, in order; a function's path is its name."""
    for name, child in network.named_children():
        row = [(f"{name}.{part}", module) for part, module in child.named_children()] if name in ROWS else []
        for path, module in row or [(name, child)]:
            yield from _functions(family, path)
            yield path, module
    yield from _functions(family, "")


def _functions(family: Family, path: str) -> Iterator[tuple[str, nn.Module]]:
    return ((name, FUNCTIONS[name]()) for name in family.before.get(path, "").split())


def _vit_chain(network: models.VisionTransformer, image_size: int) -> Iterator[tuple[str, nn.Module]]:
    yield "conv_proj", network.conv_proj
    yield "tokens", Tokens(network.class_token, network.encoder.pos_embedding, image_size // network.patch_size)
    for name, layer in network.encoder.layers.named_children():
        yield f"encoder.layers.{name}", layer
    yield "encoder.ln", network.encoder.ln
    yield "first", FirstToken()
    yield "heads.head", network.heads.head


def _child(path: str) -> str:
    return path.rpartition(".")[2]


def _stage(path: str) -> str:
    return path.replace(".", "") if _child(path).isdigit() else _child(path)


def _stages(chain: Sequence[tuple[str, nn.Module]]) -> nn.Sequential:
    """Return the backbone; modules without weights join the stage before them, so no stage begins with an in-place one.

    Only pooling, or flattening without pooling, begins a stage of its own: its input is the last spatial feature map.
    """
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    for path, module in chain:
        stage = next(reversed(stages), "")
        if next(module.parameters(), None) is not None:
            stage = _stage(path)
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            stage = "pool"
        elif isinstance(module, nn.Flatten) and "pool" not in stages:
            stage = "flatten"
        stages.setdefault(stage, nn.Sequential()).add_module(_child(path), module)
    return nn.Sequential(stages)


def rename(head: str, key: str) -> str:
    """Return our name for torchvision's parameter `key`; `head` is the path of torchvision's last layer.

    The name is empty for auxiliary classifiers, which are not used here.
    """
    if key.startswith(("aux1.", "aux2.", "AuxLogits.")):
        return ""
    for old, new in OLD_SPELLINGS:
        key = old.sub(new, key)
    parts = PATH.fullmatch(key)
    if key in TOKENS or parts is None:
        return TOKENS.get(key, key)
    row, child, parameter = parts.groups(default="")
    path = row + child
    return f"head.last.{parameter}" if path == head else f"backbone.{_stage(path)}.{child}.{parameter}"


def _spec(name: str) -> ModelSpec:
    """Return the spec of a torchvision model with its first weights, trained on ImageNet only (see ResNet_Model)."""
    family, weights = family_of(name), models.get_model_weights(name).__members__
    # Only the two largest models lack V1. Their SWAG weights exclude commercial use (CC BY-NC 4.0).
    chosen = weights.get("IMAGENET1K_V1") or weights["IMAGENET1K_SWAG_LINEAR_V1"]
    trained_on = chosen.transforms()
    mean, std = (HALF, HALF) if family.options is INCEPTION else (trained_on.mean, trained_on.std)
    published_minimum = 1 if name.startswith(("swin", "vit")) else chosen.meta["min_size"][0]
    return ModelSpec(
        build=partial(build_torchvision, name, mean, std),
        source=family.source,
        defaults={
            "image_size": trained_on.crop_size[0],
            "batch_size": 8,
            "epochs": 10,
            "optimizer": "adam",
            "lr": 0.001,
            "freeze": "backbone",
            "head": "auto",  # where it is a single layer
        },
        min_image_size=max(32, published_minimum),
        pretrained=Pretrained.from_url(chosen.url),
        rename=partial(rename, family.head),
    )


# EfficientNet (V1) and ResNet are implemented in files of their own.
MODELS: dict[str, ModelSpec] = {
    name: _spec(name) for name in models.list_models(module=models) if name.startswith(tuple(FAMILIES))
}
