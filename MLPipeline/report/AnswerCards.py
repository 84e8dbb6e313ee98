"""Answers as notebooks show them: the image, and a bar for each class.

The HTML has inline styles only: no script, no style sheet, nothing fetched. Text takes the colour of the notebook, and
bars and lines are half transparent, so that both light and dark themes suit. Names stay text.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from itertools import islice

from MLPipeline.Errors import one_line

MAX_CARDS = 24  # of a list: each has a picture of a few kilobytes, which the notebook stores
_BAR, _LINE = "rgba(76, 132, 224, 0.75)", "rgba(128, 128, 128, 0.35)"
_CARD = "display:flex;gap:12px;align-items:center;width:340px;padding:8px;box-sizing:border-box"
_CUT = "overflow:hidden;text-overflow:ellipsis;white-space:nowrap"
_FRAME = f"flex:none;width:128px;height:128px;display:flex;align-items:center;justify-content:center;color:{_LINE}"


def answer_card(title: str, jpeg: bytes, shares: Sequence[tuple[str, float]], remark: str = "") -> str:
    """Return the HTML of one answer.

    Args:
        title: the path or name of the image.
        jpeg: the image, no larger than 128 pixels; empty if there is none.
        shares: class names with their probabilities.
        remark: why there is no answer, or why it is withheld; empty if there is nothing to say.
    """
    address = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    picture = f'<img src="{address}" alt="" style="max-width:128px;max-height:128px">' if jpeg else "no picture"
    name = _text(title)
    bars = "".join(_bar(*share) for share in shares)
    said = f'<div style="font-style:italic">{_text(remark)}</div>' if remark else ""
    return (
        f'<div style="{_CARD}"><div style="{_FRAME}">{picture}</div>'
        f'<div style="flex:1;min-width:0;font-size:12px;line-height:1.35">'
        f'<div style="opacity:0.75;margin-bottom:4px;{_CUT}" title="{name}">{name}</div>{bars}{said}</div></div>'
    )


def answer_cards(cards: Iterable[str], number: int) -> str:
    """Return the HTML of the first of `number` answers, whose `cards` are those of `answer_card`."""
    shown = "".join(islice(cards, MAX_CARDS))
    more = f'<div style="opacity:0.75;padding:8px">and {number - MAX_CARDS:,} more</div>' if number > MAX_CARDS else ""
    return f'<div style="display:flex;flex-wrap:wrap">{shown}</div>{more or ("" if number else "no answers")}'


def _bar(name: str, share: float) -> str:
    text = _text(name)
    return (
        f'<div style="display:flex;gap:8px"><span style="flex:1;min-width:0;{_CUT}" title="{text}">{text}</span>'
        f"<span>{100 * share:.1f}&nbsp;%</span></div>"
        f'<div style="height:4px;margin-bottom:4px;background:{_LINE};border-radius:2px">'
        f'<div style="height:4px;width:{100 * share:.1f}%;background:{_BAR};border-radius:2px"></div></div>'
    )


def _text(text: str) -> str:
    """Return `text` for HTML: on one line, escaped, valid Unicode."""
    return escape(one_line(text).encode("utf-8", "backslashreplace").decode())
