"""Baseline: trains a frozen network with fastai's own recipe; requires an interpreter with fastai 2.8.

python tests/benchmarks/FastaiWay.py --model resnet50 --train Photos/train --limit 200
"""

from __future__ import annotations

import argparse
import random
import time

START = time.perf_counter()

from fastai.vision.all import ImageDataLoaders, Resize, get_image_files, vision_learner  # noqa: E402
from torchvision import models  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--train", required=True)
    parser.add_argument("--limit", type=int, default=200, help="use this many training images")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=200)
    flags = parser.parse_args()
    files = random.Random(0).sample(get_image_files(flags.train), flags.limit)
    loaders = ImageDataLoaders.from_path_func(
        flags.train,
        files,
        lambda path: path.parent.name,
        valid_pct=flags.batch_size / flags.limit,  # a single batch: the plain script does not score any images either
        item_tfms=Resize(flags.image_size),
        bs=flags.batch_size,
    )
    learner = vision_learner(loaders, getattr(models, flags.model), pretrained=False)
    learner.freeze()
    loop = time.perf_counter()
    with learner.no_bar(), learner.no_logging():
        learner.fit(1)
    rate = flags.limit / (time.perf_counter() - loop)
    print(f"start_s={loop - START:.3f} images_per_s={rate:.2f}")


if __name__ == "__main__":
    main()
