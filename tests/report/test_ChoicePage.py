"""The page of a choice: the figures of each backbone, the chart, what was left out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from MLPipeline.report.Charts import BOTTOM, LEFT, RIGHT, TOP
from MLPipeline.report.ChoicePage import scatter, write_choice_page
from tests.support.choice_cases import choice


def words(page: Path) -> str:
    text = re.sub(r"<(style|script|title)>.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).replace("\N{NO-BREAK SPACE}", " ").split())


def test_it_shows_both_figures_and_the_command(tmp_path: Path) -> None:
    write_choice_page(choice(), tmp_path, "python Engine.py --model efficientnet_lite0")
    text = words(tmp_path / "choice.html")
    assert "3 backbones compared on 1,000 training images, in 31 s 89.8 % out of fold with efficientnet_lite0" in text
    assert "Chosen: within 0.5 points of efficientnet_lite2 at 260 pixels (89.8 instead of 90.0 %" in text
    assert "python Engine.py --model efficientnet_lite0" in text
    assert (
        "efficientnet_lite0 chosen 200 89.8 % -0.2 (" in text and "efficientnet_lite2 260 90.0 % best 20.0 19.5" in text
    )
    assert "efficientnet_lite0 at 200 pixels chosen 89.8 % in 10.0 ms per image" in text
    assert "resnet50 at 200 pixels : &lt;not&gt; here" in text
    assert "those with fewer images were less accurate" in text


def test_in_a_run_there_is_no_command(tmp_path: Path) -> None:
    write_choice_page(choice(), tmp_path)
    assert "To train it" not in words(tmp_path / "choice.html")


def test_the_chart_has_the_finalists_at_their_figures() -> None:
    chart = scatter(choice())
    assert [point.name for point in chart.points] == [
        "efficientnet_lite2 at 260 pixels",
        "efficientnet_lite0 at 200 pixels",
    ]
    best, chosen = chart.points
    assert chosen.is_chosen and not best.is_chosen and best.y == chart.best_y
    assert chosen.x - LEFT == pytest.approx((best.x - LEFT) / 2, abs=0.1)  # half the time
    assert TOP <= chosen.top < best.y < chosen.y < chosen.foot <= BOTTOM and best.x <= RIGHT
    assert best.top == best.foot == best.y


def test_a_single_backbone_has_a_chart() -> None:
    made = choice()
    (point,) = scatter(replace(made, results=made.results[:1], chosen=made.results[0])).points
    assert TOP < point.y < BOTTOM and LEFT < point.x < RIGHT
