"""The texts of a figure: which they are, and whether they can be read."""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def parts_of(axes: Axes, num_classes: int) -> tuple[list[Text], list[Text], list[Text], list[Text]]:
    """Return the texts in the cells of a confusion matrix, on its left, below it, and on its right."""
    cells = [each for each in axes.texts if all(0 <= place <= num_classes - 1 for place in each.get_position())]
    rows = [each for each in axes.texts if each.get_va() == "center" and each not in cells and not each.get_rotation()]
    names, recalls = ([each for each in rows if each.get_ha() == side] for side in ("right", "left"))
    return cells, names, [each for each in axes.texts if each.get_va() == "top"], recalls


def assert_apart(figure: Figure) -> None:
    """Fail unless every text lies inside the figure, and none on another."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(150)
    canvas.draw()
    boxes = [each.get_window_extent() for axes in figure.axes for each in _texts_of(axes)]
    boxes = [box for box in boxes if box.width > 1]  # the others are empty or hidden
    width, height = canvas.get_width_height(physical=True)
    for box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, box
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other.padded(-1)) for other in boxes[number + 1 :]), box


def _texts_of(axes: Axes) -> Iterator[Text]:
    """Yield the texts that are drawn with `axes`."""
    yield from axes.texts
    if not axes.axison:
        return
    yield from (axes.title, axes._left_title, axes._right_title)  # type: ignore[attr-defined]
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        yield axis.label
        yield from (tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)
