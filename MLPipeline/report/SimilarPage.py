"""`similar.html`: each query beside the images that are most similar to it, on one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from MLPipeline.decoding.Preprocessing import PLAIN, Preprocessing
from MLPipeline.report.Page import write_page
from MLPipeline.report.Thumbnails import Thumbnail, embed
from MLPipeline.similarity.SimilarImages import Similar

MAX_SHOWN = 96  # images per query
MAX_BYTES = 12 * 2**20  # of all pictures together


def write_similar_page(
    page: Path,
    found: Sequence[Similar],
    num_searched: int,
    place: str,
    network: str,
    preprocessing: Preprocessing = PLAIN,
) -> None:
    """Write the queries and their matches to `page`.

    Args:
        page: the file.
        found: the queries.
        num_searched: how many images were searched.
        place: where: a folder or a file of features.
        network: whose features were compared.
        preprocessing: that of the network.

    Raises:
        ResourceError: it cannot be written.
    """
    paths = [path for each in found for path in (each.path, *(match.path for match in each.matches[:MAX_SHOWN]))]
    paths = list(dict.fromkeys(paths))
    photos = dict.fromkeys(paths, Thumbnail("")) | dict(
        zip(paths, embed(paths, MAX_BYTES, preprocessing=preprocessing), strict=False)
    )
    content = {
        "found": found,
        "num_searched": num_searched,
        "place": place,
        "network": network,
        "photos": photos,
        "max_shown": MAX_SHOWN,
        "num_copies": sum(bool(match.copy) for each in found for match in each.matches),
        "written": datetime.now().strftime("%Y-%m-%d %H:%M"),
    }
    write_page(page, "similar.html.jinja", content)
