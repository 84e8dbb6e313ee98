"""The interface of every model: uint8 images in, logits out; a backbone of stages that can be frozen, and a head.

    images (B, 3, H, W) uint8 RGB --normalize--> backbone: named stages --> features (B, D) --head--> logits (B, C)

Normalization is part of the model (as buffers), so that training, evaluation and prediction cannot disagree.
B batch, C classes, D features, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from MLPipeline.Errors import UsageError, did_you_mean
from MLPipeline.onednn.Int8Network import Int8Network
from MLPipeline.onednn.Normalization import Normalization

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Pretrained:
    """Where to get a model's ImageNet weights, and their hash."""

    file_name: str  # in the weights cache, and inside `package`
    sha256: str  # of the file, lower-case hex, or its beginning (torchvision publishes 8 digits)
    url: str = ""  # empty if only `package` has them
    package: str = ""  # importable package that ships the file

    @classmethod
    def from_url(cls, url: str) -> Pretrained:
        """Return the weights at a URL whose file name ends in their hash: `resnet50-0676ba61.pth`."""
        file_name = url.rpartition("/")[2]
        return cls(file_name, sha256=file_name.removesuffix(".pth").rpartition("-")[2], url=url)


@dataclass(frozen=True)
class ModelSpec:
    """An entry of `MODELS` in a model file: how to build the model, its default settings, its ImageNet weights."""

    build: Callable[[int, int], Classifier]  # (num_classes, image_size) -> Classifier with random weights
    source: str  # title, arXiv number
    defaults: Mapping[str, object] = field(default_factory=dict)  # Config fields this model sets
    fine_tune: Mapping[str, object] = field(default_factory=dict)  # the same for --unfreeze-after
    min_image_size: int = 8
    pretrained: Pretrained | None = None
    # Maps the names of parameters in torchvision's or timm's files to ours; the classifier's become `head.*`.
    rename: Callable[[str], str] = str


class Classifier(nn.Module):
    """Logits `(B, C)` for images `(B, 3, H, W)` uint8 RGB: `forward = head(features(images))`.

    `backbone` is a Sequential of named stages that ends in features `(B, D)`; `head` maps these to `(B, C)`, so that it
    can also be trained on stored features. `mean` and `std` are per RGB channel, on a scale from 0 to 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Sequential,
        head: nn.Module,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1))
        self.backbone = backbone
        self.head = head
        self.num_frozen_stages = 0
        self.quantized: Int8Network | None = None  # the same backbone in 8 bits, if the head was trained on that
        self._frozen_shapes: dict[tuple[int, int], tuple[int, ...]] = {}  # by number of frozen stages, image size

    @property
    def stages(self) -> list[str]:
        """Names of the backbone's stages, from the images to the features."""
        return [name for name, _ in self.backbone.named_children()]

    @property
    def normalization(self) -> Normalization:
        """What maps images to the input of the backbone."""
        return Normalization(self.mean, self.std)

    def normalize(self, images: Tensor) -> Tensor:
        """Return `images` (uint8, 0 to 255) as float `(B, 3, H, W)`, minus `mean` and divided by `std`."""
        return self.normalization(images)

    def features(self, images: Tensor) -> Tensor:
        """Return the features `(B, D)` of `images` `(B, 3, H, W)`: the input of the head."""
        return self.trainable_features(self.frozen_features(images))

    def frozen_features(self, images: Tensor) -> Tensor:
        """Return the output of the frozen stages: features `(B, D)` if all are frozen, else activations `(B, ...)`.

        It is deterministic, because frozen stages are in eval mode, so it can be computed once for all epochs.
        """
        return self.backbone[: self.num_frozen_stages](self.normalize(images))

    def frozen_shape(self, image_size: int) -> tuple[int, ...]:
        """Return the shape `(D,)` or `(...)` of what `frozen_features` returns for an image; one is computed to see.

        Raises:
            UsageError: it is no single tensor.
        """
        key = self.num_frozen_stages, image_size
        if key not in self._frozen_shapes:
            blank = torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8, device=self.mean.device)
            with torch.inference_mode():
                found = self.frozen_features(blank)
            if not isinstance(found, Tensor):
                last = self.stages[self.num_frozen_stages - 1]
                raise UsageError(f"--freeze {last}: this stage passes on several tensors", "Name another stage")
            self._frozen_shapes[key] = tuple(found.shape[1:])
        return self._frozen_shapes[key]

    def trainable_features(self, activations: Tensor) -> Tensor:
        """Return the features `(B, D)` for the output of `frozen_features`."""
        return self.backbone[self.num_frozen_stages :](activations)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(B, C)` for `images` `(B, 3, H, W)` uint8."""
        return self.head(self.features(images))

    def trainable_part(self) -> nn.Module:
        """Return the module that maps the output of `frozen_features` to logits; without frozen stages, all of it."""
        if self.num_frozen_stages == 0:
            return self
        return nn.Sequential(self.backbone[self.num_frozen_stages :], self.head)

    def freeze(self, until: str) -> None:
        """Freeze `none` of the stages, the whole `backbone`, or all stages up to and including the one named.

        Raises:
            UsageError: no stage has that name.
        """
        frozen_stages = {"none": 0, "backbone": len(self.stages)}
        frozen_stages |= {stage: number for number, stage in enumerate(self.stages, start=1)}
        if until not in frozen_stages:
            raise UsageError(f"--freeze {until}: no such stage", did_you_mean(until, frozen_stages))
        self.num_frozen_stages = frozen_stages[until]
        for position, stage in enumerate(self.backbone):
            stage.requires_grad_(position >= self.num_frozen_stages)
        self.train(self.training)

    def train(self, mode: bool = True) -> Classifier:
        """Set training mode, except for the frozen stages, whose BatchNorm statistics must not change."""
        super().train(mode)
        self.backbone[: self.num_frozen_stages].eval()
        return self
