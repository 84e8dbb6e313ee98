"""The common style of all PNG plots, and how they are saved.

The colours are those of Okabe and Ito, which people with colour blindness can distinguish (Color Universal Design,
2008).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
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
    "legend.edgecolor": "none",
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.12,  # inches
    "figure.constrained_layout.h_pad": 0.12,
    "figure.constrained_layout.wspace": 0.05,
    "savefig.dpi": "figure",
    "figure.dpi": 150,
}
# Decorates every function that builds or draws a figure, because Matplotlib reads the style in both.
styled = matplotlib.rc_context(STYLE)


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
