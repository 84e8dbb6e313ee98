"""The contract every model meets: uint8 images in, logits out, in two halves that can be frozen and cached apart.

    images (B, 3, H, W) uint8 RGB --normalize--> backbone: named stages --> features (B, D) --head--> logits (B, C)

Normalisation lives inside, as buffers, so that training, evaluation, prediction and export cannot disagree.
B batch, C classes, D features, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from MLPipeline.Errors import UsageError, did_you_mean

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Pretrained:
    """Where a model's ImageNet weights are to be had, and the hash that proves them right."""

    file_name: str  # in the weights cache, and inside `package`
    sha256: str  # of the file, lower-case hex; a leading part is enough (torchvision publishes 8 digits)
    url: str = ""  # empty: only `package` has them
    package: str = ""  # importable package that ships the file

    @classmethod
    def from_url(cls, url: str) -> Pretrained:
        """Return the weights at a URL whose file name ends in their hash: `resnet50-0676ba61.pth`."""
        file_name = url.rpartition("/")[2]
        return cls(file_name, sha256=file_name.removesuffix(".pth").rpartition("-")[2], url=url)


@dataclass(frozen=True)
class ModelSpec:
    """One entry of a model file's `MODELS`: how to build it, its default flags, its ImageNet weights."""

    build: Callable[[int, int], Classifier]  # (num_classes, image_size) -> Classifier with random weights
    source: str  # title, arXiv number
    defaults: Mapping[str, object] = field(default_factory=dict)  # Config fields this model sets
    fine_tune: Mapping[str, object] = field(default_factory=dict)  # the same, with --unfreeze-after
    min_image_size: int = 8
    pretrained: Pretrained | None = None
    # Foreign state-dict keys (torchvision's or timm's names) -> ours; the classifier's keys map to `head.*`.
    rename: Callable[[str], str] = str


class Classifier(nn.Module):
    """Logits `(B, C)` for images `(B, 3, H, W)` uint8 RGB: `forward = head(features(images))`.

    `backbone` is a Sequential of named stages ending in `(B, D)`; `head` maps `(B, D)` to `(B, C)`, so that the same
    loop trains it on stored features. `mean` and `std` are per RGB channel, in units of full brightness (0 to 1).
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

    @property
    def stages(self) -> list[str]:
        """Names of the backbone's stages, from the image to the features."""
        return [name for name, _ in self.backbone.named_children()]

    def normalize(self, images: Tensor) -> Tensor:
        """Return float `(B, 3, H, W)` with zero mean and unit deviation over ImageNet, from uint8 0 to 255."""
        if images.dtype != torch.uint8 or not images.is_contiguous(memory_format=torch.channels_last):
            return (images - self.mean) / self.std
        # The same sums, row by row as they lie in memory: a third of the time.
        rows = images.permute(0, 2, 3, 1).flatten(2).float()  # (B, H, 3 W)
        mean, std = (each.flatten().repeat(images.shape[3]) for each in (self.mean, self.std))
        return rows.sub_(mean).div_(std).unflatten(2, (-1, 3)).permute(0, 3, 1, 2)

    def features(self, images: Tensor) -> Tensor:
        """Return the features `(B, D)` of `images` `(B, 3, H, W)`: what the head decides from."""
        return self.trainable_features(self.frozen_features(images))

    def frozen_features(self, images: Tensor) -> Tensor:
        """Return what the frozen stages make of `images`: `(B, D)` if all are frozen, else `(B, ...)` activations.

        Deterministic: the frozen stages are in eval mode, so one run per image serves every epoch.
        """
        return self.backbone[: self.num_frozen_stages](self.normalize(images))

    def trainable_features(self, activations: Tensor) -> Tensor:
        """Return the features `(B, D)` of what `frozen_features` gave."""
        return self.backbone[self.num_frozen_stages :](activations)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(B, C)` for `images` `(B, 3, H, W)` uint8."""
        return self.head(self.features(images))

    def trainable_part(self) -> nn.Module:
        """Return the module from what `frozen_features` gives to logits; the whole classifier if nothing is frozen."""
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
        """Set training mode, save for the frozen stages, whose BatchNorm statistics must not move."""
        super().train(mode)
        self.backbone[: self.num_frozen_stages].eval()
        return self
