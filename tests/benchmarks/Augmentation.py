"""Measures each augmentation: microseconds of CPU time per image, best of several alternating rounds.

    python -m tests.benchmarks.Augmentation [--size 32 --batch 256]

ours: a whole batch at once. torchvision: its transforms.v2 at the same strengths, image by image, as in a data loader;
mixup and cutmix take batches in torchvision as well, with one share for all images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torchvision.transforms import v2

from MLPipeline import Augment
from MLPipeline.Augment import AUGMENTATIONS, make_augmentation

ROUNDS = 7
SHAPES = ((32, 256), (200, 8))  # side of the images in pixels, batch size
LISTS = ("hflip,translate", "hflip,crop,jitter")


def torchvisions(size: int) -> dict[str, v2.Transform]:
    """Return the torchvision transform that corresponds to each name."""
    crop = v2.RandomResizedCrop(size, Augment.CROP_AREA, (1 / Augment.CROP_ASPECT, Augment.CROP_ASPECT))
    translate = v2.RandomCrop(size, padding=int(Augment.TRANSLATE * size), padding_mode="symmetric")
    hue = Augment.HUE_DEGREES / 360
    jitter = v2.ColorJitter(Augment.BRIGHTNESS, Augment.CONTRAST, Augment.SATURATION, hue)
    bilinear = v2.InterpolationMode.BILINEAR
    how = {"interpolation": bilinear, "fill": Augment.FILL}
    flip = v2.RandomHorizontalFlip(Augment.FLIP_CHANCE)
    return {
        "hflip": flip,
        "vflip": v2.RandomVerticalFlip(Augment.FLIP_CHANCE),
        "crop": crop,
        "translate": translate,
        "rotate": v2.RandomRotation(Augment.ROTATE_DEGREES, bilinear),
        "randaugment": v2.RandAugment(Augment.RANDAUGMENT_NUM, Augment.RANDAUGMENT_MAGNITUDE, **how),
        "trivial": v2.TrivialAugmentWide(**how),
        "jitter": jitter,
        "erase": v2.RandomErasing(Augment.ERASE_CHANCE, Augment.ERASE_AREA),
        "mixup": v2.MixUp(num_classes=10),
        "cutmix": v2.CutMix(num_classes=10),
        "hflip,translate": v2.Compose([flip, translate]),
        "hflip,crop,jitter": v2.Compose([flip, crop, jitter]),
    }


def candidates(name: str, size: int, batch: int) -> dict[str, Callable[[], object]]:
    images = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    indices, labels, targets = torch.arange(batch), torch.arange(batch) % 10, torch.eye(10)[torch.arange(batch) % 10]
    augmentation, transform = make_augmentation(name), torchvisions(size)[name]
    if name in ("mixup", "cutmix"):
        theirs: Callable[[], object] = lambda: transform(images.float(), labels)  # noqa: E731
    else:
        theirs = lambda: torch.stack([transform(image) for image in images])  # noqa: E731
    return {"ours": lambda: augmentation(images, targets, 0, 0, indices), "torchvision": theirs}


def best_microseconds(runs: dict[str, Callable[[], object]], batch: int) -> dict[str, float]:
    """Return the microseconds per image of each candidate, in alternating rounds, so that load affects all equally."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.thread_time()
            run()
            best[name] = min(best[name], (time.thread_time() - start) / batch * 1e6)
    return best


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int)
    parser.add_argument("--batch", type=int, default=32)
    flags = parser.parse_args()
    torch.set_num_threads(1)
    for size, batch in ((flags.size, flags.batch),) if flags.size else SHAPES:
        print(f"{size} x {size} pixels, batch {batch}, one thread, torch {torch.__version__}: us/image")
        for name in (*AUGMENTATIONS, *LISTS):
            best = best_microseconds(candidates(name, size, batch), batch)
            print(f"  {name:20}ours {best['ours']:8.1f}   torchvision {best['torchvision']:8.1f}")


if __name__ == "__main__":
    main()
