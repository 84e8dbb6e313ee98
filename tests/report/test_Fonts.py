"""Class names of any script in PNG plots: drawn with a font of the system, or numbered with a note; never boxes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from MLPipeline.report import Fonts
from MLPipeline.report.Drawing import drawing
from MLPipeline.report.Fonts import families_for, figure_names, is_drawable
from MLPipeline.report.Names import drawable, width
from MLPipeline.report.Plots import confusion_figure, plot_samples
from MLPipeline.report.PlotStyle import save_figure
from tests.support.figure_texts import assert_apart
from tests.support.harness import SMALL, succeed

IMAGES = np.full((2, 3, 8, 12), 128, np.uint8)


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    known = list(font_manager.fontManager.ttflist)
    Fonts._families_for.cache_clear()
    Fonts._register.cache_clear()
    yield
    font_manager.fontManager.ttflist[:] = known
    Fonts._families_for.cache_clear()
    Fonts._register.cache_clear()


def make_font(path: Path, letters: str, has_outlines: bool = True) -> str:
    """Write a font in which each of `letters` is a triangle of its own height; return its path."""
    builder = FontBuilder(1000, isTTF=True)
    names = [".notdef", *(f"glyph{number}" for number in range(len(letters)))]
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:], strict=True)})
    glyphs = {}
    for number, name in enumerate(names):
        pen = TTGlyphPen(None)
        if number and has_outlines:
            pen.moveTo((50, 0))
            pen.lineTo((450, 0))
            pen.lineTo((250, 200 + 90 * number))
            pen.closePath()
        glyphs[name] = pen.glyph()
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(dict.fromkeys(names, (500, 50)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


def installed(monkeypatch: pytest.MonkeyPatch, *fonts: str) -> None:
    """Let the system have these fonts and no others."""
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(fonts))


def saved(names: list[str], path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as matplotlib's own for a glyph that is missing
        plot_samples(IMAGES[: len(names)], names, path)
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture


@pytest.mark.parametrize("letters", ["狗猫", "いぬ", "고양", "แม", "𓃠𓃡", "🐈🐕"])
def test_a_font_of_the_system_draws_what_the_default_font_lacks(
    letters: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    useless = make_font(tmp_path / "Another.ttf", "xyz")
    damaged = tmp_path / "Damaged.ttf"
    damaged.write_bytes(b"no font")
    empty = make_font(tmp_path / "Blank.ttf", letters, has_outlines=False)  # as bitmap emoji fonts are
    installed(monkeypatch, useless, str(damaged), empty, make_font(tmp_path / "Drawn Sans.ttf", letters))
    assert families_for(letters) == (["DejaVu Sans", "Drawn Sans"], frozenset())
    assert figure_names([letters, "plain"]) == {letters: letters, "plain": "plain"}
    first, second = saved([letters[0]], tmp_path / "first.png"), saved([letters[1]], tmp_path / "second.png")
    assert not np.array_equal(first, second)


def test_several_fonts_share_the_characters_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, make_font(tmp_path / "Han.ttf", "猫"), make_font(tmp_path / "Thai.ttf", "แม"))
    assert families_for("cat 猫 แม")[0] == ["DejaVu Sans", "Han", "Thai"]


def test_upright_sans_serif_fonts_of_normal_weight_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("A Serif", "B Sans Bold", "C Sans Mono", "D Sans")
    installed(monkeypatch, *(make_font(tmp_path / f"{name}.ttf", "猫") for name in names))
    assert families_for("猫")[0] == ["DejaVu Sans", "D Sans"]


def test_names_that_no_font_has_become_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    names = ["cat", "猫", "Żółw é", "кот", "แมว"]
    assert list(figure_names(names).values()) == ["cat", "class 2", "Żółw é", "кот", "class 5"]
    assert figure_names(["class 2", "猫"])["猫"] == "number 2"  # not the name of another class


def test_latin_names_load_no_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fonts, "_default_font", lambda: pytest.fail("a font was loaded"))
    assert all(map(is_drawable, ["cat", "Żółw", "a b_c-1", "\udcff", "\0", ""]))


def test_the_default_font_has_every_letter_that_is_taken_for_granted() -> None:
    known = font_manager.get_font(Fonts._default_font()).get_charmap()
    letters = range(0x20, Fonts._FIRST_UNCERTAIN)
    assert [chr(code) for code in letters if chr(code).isprintable() and code not in known] == []


@pytest.mark.parametrize(("version", "right"), [((3, 10, 8), False), ((3, 11, 0), True)])
def test_right_to_left_names_are_numbers_where_matplotlib_cannot_lay_them_out(
    version: tuple[int, ...], right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matplotlib, "__version_info__", version)
    assert [is_drawable(name) for name in ("قطة", "חתול")] == [right, right]  # DejaVu Sans has the letters
    assert is_drawable("кот ♥")


def test_wide_names_are_cut_to_the_columns_they_take() -> None:
    assert (width("cat"), width("猫cat"), width("🐈")) == (3, 5, 2)
    assert drawable("高麗の犬と猫", 12) == "高麗の犬と猫" and width(drawable("高麗の犬と猫", 9)) <= 9
    assert drawable("高麗の犬と猫", 9) == "高麗…と猫"
    assert drawable("🐈\u200d⬛", 9) == "🐈⬛" and drawable("a\u202eb", 9) == "a\ufffdb"


def test_wide_names_have_room_in_the_confusion_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, make_font(tmp_path / "Han.ttf", "猫狗"))
    figure = confusion_figure([[1, 0], [0, 1]], ["猫" * 9, "x"])
    save_figure(figure, tmp_path / "wide.png")  # in that font
    assert_apart(figure)


@pytest.mark.parametrize("has_fonts", [True, False])
def test_a_run_shows_the_names_or_says_that_it_cannot(
    tmp_path: Path, make_images, monkeypatch: pytest.MonkeyPatch, has_fonts: bool
) -> None:
    monkeypatch.setattr(drawing, "begin", lambda: None)  # drawn in this process
    installed(monkeypatch, *([make_font(tmp_path / "Han.ttf", "狗猫魚鳥")] if has_fonts else []))
    for number, names in enumerate((("狗", "猫"), ("魚", "鳥"))):
        make_images(tmp_path / str(number), dict.fromkeys(names, 12))
        folder = tmp_path / f"output{number}"
        errors = succeed([*SMALL, "--output", folder, "--data", tmp_path / str(number)], paints=True).err
        run = next(folder.glob("001-*"))
        page = (run / "report.html").read_text(encoding="utf-8")
        note = f"no font on this system can draw the name of class '{names[0]}' and 1 more: the PNG plots show numbers"
        assert (note in errors) != has_fonts
        assert ("Numbers in the PNG plots" in page) != has_fonts
        if not has_fonts:
            legend = page[page.index("Numbers in the PNG plots") :]
            assert f'<th scope="row">class 2</th><td>{names[1]}</td>' in legend
        assert "Glyph" not in errors  # matplotlib's own word for boxes
