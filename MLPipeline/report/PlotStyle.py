"""The common style of all PNG plots, and how they are saved.

The colours are those of Okabe and Ito, which people with colour blindness can distinguish (Color Universal Design,
2008).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text

from MLPipeline.decoding.EncodeImage import encode_png
from MLPipeline.files.AtomicFile import write_file
from MLPipeline.report.Fonts import DEFAULT_FAMILY, families_for

BLUE, ORANGE, INK, GREY, PALE = "#0072B2", "#D55E00", "#222222", "#777777", "#E8E8E8"
BLUES = LinearSegmentedColormap.from_list("blues", ["white", BLUE])
ORANGES = LinearSegmentedColormap.from_list("oranges", ["white", ORANGE])
STYLE: Any = {
    "font.family": DEFAULT_FAMILY,  # ships with Matplotlib: plots look the same everywhere
    "font.size": 9,
    "text.usetex": False,
    "text.parse_math": False,  # a class may be called `$\frac{$`
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "xtick.major.size": 0,  # the grid marks the positions
    "ytick.major.size": 0,
    "xtick.major.pad": 7,  # so that the labels of both axes at the origin do not touch
    "legend.edgecolor": "none",
    "savefig.dpi": "figure",
    "figure.dpi": 150,
}
POINTS = 72  # of font sizes, per inch
# Decorates every function that builds or draws a figure, because Matplotlib reads the style in both.
styled = matplotlib.rc_context(STYLE)


class Margins(NamedTuple):
    """The space beside the axes of a figure, for tick labels, axis labels and titles, in inches."""

    left: float = 0.7
    right: float = 0.3
    top: float = 0.4
    bottom: float = 0.5


_USUAL = Margins()


def panels(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    margins: Margins = _USUAL,
    gap: tuple[float, float] = (0.0, 0.0),
    **options: Any,
) -> tuple[Figure, Any]:
    """Return a figure and its axes, like `subplots` of pyplot, at fixed places.

    Finding the places by the labels, as Matplotlib's layout engines do, takes a third of the time of a picture.

    Args:
        width: of the figure, in inches, as all lengths.
        height: of the figure.
        rows: of axes.
        columns: of axes.
        margins: around all axes.
        gap: between columns, and between rows.
        options: of `Figure.subplots`.
    """
    figure = Figure(figsize=(width, height))
    inner = width - margins.left - margins.right, height - margins.top - margins.bottom
    # matplotlib's unit of a gap is the mean width, or height, of the axes.
    wide, high = ((inner[i] - (n - 1) * gap[i]) / n for i, n in enumerate((columns, rows)))
    grid = {
        "left": margins.left / width,
        "right": 1 - margins.right / width,
        "bottom": margins.bottom / height,
        "top": 1 - margins.top / height,
        "wspace": gap[0] / wide,
        "hspace": gap[1] / high,
    }
    return figure, figure.subplots(rows, columns, gridspec_kw=grid, **options)


def widest(texts: Iterable[str], font_size: float) -> float:
    """Return the width of the widest of `texts` in inches; 0 without any."""
    return max((_width(text, font_size) for text in texts), default=0.0)


@functools.lru_cache(maxsize=1000)
def _width(text: str, font_size: float) -> float:
    font = FontProperties(family=families_for(text)[0], size=font_size)
    return RendererAgg(1, 1, POINTS).get_text_width_height_descent(text, font, ismath=False)[0] / POINTS


def percent(share: float, decimals: int = 1) -> str:
    """Return `share` (0 to 1) as a percentage."""
    return f"{100 * share:.{decimals}f} %"


@styled
def save_figure(figure: Figure, path: Path) -> None:
    """Write `figure` to `path` as PNG; characters missing from DejaVu Sans are drawn in system fonts.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if not text.get_text().isascii():
            text.set_fontfamily(families_for(text.get_text())[0])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # once: `savefig` would draw the figure twice, the first time only for its layout
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # RGB without transparency
    write_file(path, lambda file: file.write(encode_png(pixels)))
