"""A small CNN that is trained from scratch: two convolutions, then two linear layers with dropout before each.

    images (B, 3, S, S) -> conv1: (B, 16, S/2, S/2) -> conv2: (B, 32, S/4, S/4) -> flatten: (B, D) -> head: (B, C)

D is 32 * (S // 4)^2: 2048 for the 32x32 images of CIFAR-10. B batch, C classes, S image size.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from MLPipeline.Classifier import Classifier, ModelSpec


def convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a stage `(B, in, S, S) -> (B, out, S // 2, S // 2)`: convolution 3x3, ReLU, 2x2 max pooling."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))


def build_cnn(num_classes: int, image_size: int) -> Classifier:
    """Return the CNN for square images of exactly `image_size`, on which its first linear layer depends."""
    num_features = 32 * (image_size // 4) ** 2
    backbone = OrderedDict(conv1=convolution(3, 16), conv2=convolution(16, 32), flatten=nn.Flatten())
    head = nn.Sequential(
        nn.Dropout(0.25),
        nn.Linear(num_features, 512),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Linear(512, num_classes),
    )
    return Classifier(nn.Sequential(backbone), head, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


MODELS: dict[str, ModelSpec] = {
    "cnn": ModelSpec(
        build=build_cnn,
        source="after the CIFAR-10 network of Udacity's deep-learning-v2-pytorch (cifar-cnn)",
        defaults={"image_size": 32, "batch_size": 20, "epochs": 30, "optimizer": "sgd", "lr": 0.01, "freeze": "none"},
        min_image_size=4,
    )
}
