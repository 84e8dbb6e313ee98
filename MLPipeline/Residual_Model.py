"""A small residual network that is trained from scratch, fast enough for a CPU: for 32x32 images or larger ones.

    stem (H) -> layer1 (H/2), with a residual -> layer2 (H/4) -> layer3 (H/8), with a residual
    -> pool: (B, 256) -> head: (B, C)

It has the structure of the fast CIFAR-10 networks at half their usual width: plain 3x3 convolutions, a residual pair at
two of three resolutions, global max pooling, one linear layer. B batch, C classes, H height.

Sources: He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385, section 3; David Page, How to Train
Your ResNet, DAWNBench 2018 (the nine layers and their training); a later variant is Jordan, 94% on CIFAR-10 in 3.29
Seconds on a Single GPU, arXiv:2404.00498.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from MLPipeline.Classifier import Classifier, ModelSpec

WIDTHS = (32, 64, 128, 256)


def convolution(in_channels: int, out_channels: int, pool: bool = False) -> list[nn.Module]:
    """Return a 3x3 convolution with BatchNorm and ReLU, `(B, in, H, W) -> (B, out, H, W)`; `pool` halves H and W.

    Pooling comes before BatchNorm, as in Page's network: BatchNorm and ReLU then process a quarter of the values. It is
    not the same function as BatchNorm before pooling. In training, the statistics are those of the pooled values, and
    where BatchNorm's scale is negative, it does not commute with taking the maximum.
    """
    layer = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    halving = [nn.MaxPool2d(2)] if pool else []
    return [layer, *halving, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


class Residual(nn.Module):
    """Two convolutions with a skip connection: `(B, channels, H, W)` in and out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pair = nn.Sequential(*convolution(channels, channels), *convolution(channels, channels))

    def forward(self, activations: Tensor) -> Tensor:
        """Return the sum of the input and the output of the two convolutions."""
        return activations + self.pair(activations)


class Scale(nn.Module):
    """Multiplies by a constant: initial logits are small, so that training can begin at a high learning rate."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, features: Tensor) -> Tensor:
        """Return `features` times the constant."""
        return self.factor * features


def build_residual(num_classes: int, image_size: int) -> Classifier:
    """Return the network with random weights, for any image size of at least 16."""
    first, second, third, fourth = WIDTHS
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Sequential(*convolution(3, first)),
        layer1=nn.Sequential(*convolution(first, second, pool=True), Residual(second)),
        layer2=nn.Sequential(*convolution(second, third, pool=True)),
        layer3=nn.Sequential(*convolution(third, fourth, pool=True), Residual(fourth)),
        pool=nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), Scale(1 / 8)),
    )
    return Classifier(nn.Sequential(stages), nn.Linear(fourth, num_classes))


MODELS: dict[str, ModelSpec] = {
    "cnn_residual": ModelSpec(
        build=build_residual,
        source="after the nine-layer network of David Page's How to Train Your ResNet, and arXiv:1512.03385",
        defaults={
            "image_size": 32,
            "batch_size": 128,
            "epochs": 12,
            "optimizer": "sgd",
            "lr": 0.1,
            "schedule": "onecycle",
            "weight_decay": 5e-4,
            "label_smoothing": 0.1,
            "ema": 0.99,
            "augment": "hflip,translate",
            "freeze": "none",
        },
        min_image_size=16,
    )
}
