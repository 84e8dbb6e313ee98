"""`comparison.html`: two runs on the same images, and every image that only one of them classifies correctly."""

from __future__ import annotations

from pathlib import Path

from MLPipeline.decoding.Preprocessing import PLAIN, Preprocessing
from MLPipeline.report.Page import write_page
from MLPipeline.report.Thumbnails import embed
from MLPipeline.scoring.Comparison import Comparison

MAX_BYTES = 11_000_000


def write_comparison(page: Path, comparison: Comparison, root: Path, preprocessing: Preprocessing = PLAIN) -> None:
    """Write `page`, which shows the images below `root` that two runs classify differently.

    Raises:
        ResourceError: it cannot be written.
    """
    paths = [root / flip.path for flip in comparison.flips]
    thumbnails = embed(paths, MAX_BYTES, preprocessing=preprocessing)
    shown = list(zip(comparison.flips, thumbnails, strict=False))
    write_page(page, "comparison.html.jinja", {"comparison": comparison, "shown": shown})
