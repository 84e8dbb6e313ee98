"""The same frozen backbone with fastai: `vision_learner`, `freeze()`, batch 8, fp32. Its time and rate, as PlainWay.py.

pip install fastai==2.8.5; python tests/benchmarks/FastaiWay.py --train Photos/train --limit 400
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

START = time.perf_counter()

from fastai.vision.all import (  # noqa: E402
    CategoryBlock,
    DataBlock,
    ImageBlock,
    Resize,
    get_image_files,
    parent_label,
    vision_learner,
)
from torchvision import models  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--train", required=True)
    parser.add_argument("--limit", type=int, default=400)
    flags = parser.parse_args()
    files = get_image_files(Path(flags.train))
    random.seed(0)
    chosen = random.sample(list(files), min(flags.limit, len(files)))
    block = DataBlock(
        (ImageBlock, CategoryBlock),
        get_y=parent_label,
        splitter=lambda items: (range(len(items)), [0]),
        item_tfms=Resize(200, "squish"),
    )
    loaders = block.dataloaders(chosen, bs=8, num_workers=0)
    learner = vision_learner(loaders, getattr(models, flags.model), pretrained=False, normalize=True)
    learner.freeze()
    loop = time.perf_counter()
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, lr=0.001)
    end = time.perf_counter()
    print(f"total_s={end - START:.3f} start_s={loop - START:.3f} images_per_s={len(chosen) / (end - loop):.2f}")


if __name__ == "__main__":
    main()
