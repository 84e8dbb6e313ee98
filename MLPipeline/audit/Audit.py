"""The results of an audit, and the lines in which the console shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from MLPipeline.audit.Findings import Finding
from MLPipeline.audit.Judgement import Forecast, Judgement, LearningCurve
from MLPipeline.audit.Shortcuts import PROPORTIONS, Shortcuts
from MLPipeline.decoding.Levels import Levels
from MLPipeline.images.Fixes import Fix
from MLPipeline.images.ScanFolders import ImageIndex

_LINES_OF_SERIOUS, _LINES_OF_OTHERS, _LINES_OF_SUSPECTS = 5, 2, 5


@dataclass(frozen=True)
class Audit:
    """The results, as the console, the page and the table show them."""

    index: ImageIndex
    facts: dict[str, str]
    findings: list[Finding]
    shortcuts: Shortcuts
    judgement: Judgement
    fixes: list[Fix]  # the suspects of the judgement, the most suspicious first
    levels: Levels | None = None  # black and white levels for showing images of more than 8 bits

    @property
    def serious(self) -> list[Finding]:
        """The findings that make `--strict` fail."""
        return [each for each in self.findings if each.is_serious]


def fact_lines(facts: dict[str, str]) -> list[str]:
    """Return the lines that describe the images."""
    return [_line(name.lower() if name != "Rotated by EXIF" else "rotated", text) for name, text in facts.items()]


def finding_lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield a headline per finding, with its worst examples and advice."""
    for each in findings:
        shown = _LINES_OF_SERIOUS if each.is_serious else _LINES_OF_OTHERS
        yield _line("SERIOUS" if each.is_serious else "look at", each.headline)
        for example in each.examples[:shown]:
            yield _line("", f"  {' = '.join(example.paths)}{': ' if example.paths else ''}{example.text}")
        if len(each.examples) > shown:
            yield _line("", f"  and {len(each.examples) - shown:,} more")
        yield _line("", each.advice)
    if not any(each.is_serious for each in findings):
        yield _line("fine", "every file can be read; no picture has two labels or is in two splits")


def shortcut_lines(shortcuts: Shortcuts, classes: Sequence[str]) -> Iterator[str]:
    """Yield how well the classes can be predicted without the content of the images, and from which signals."""
    low, high = shortcuts.interval
    figures = (
        f"size, format, mean colour and border alone predict {100 * shortcuts.accuracy:.1f} % of the classes correctly "
        f"({100 * low:.1f} to {100 * high:.1f} %); majority-class baseline {100 * shortcuts.baseline:.1f} %"
    )
    if not shortcuts.is_alarming:
        yield _line("fine", f"no shortcut: {figures}")
        return
    yield _line("SHORTCUT", figures)
    for each in shortcuts.giveaways:
        yield _line(
            "",
            f"  {classes[each.label]} by {each.signal}: recall {100 * each.found:.0f} %, "
            f"{100 * each.false:.0f} % of the others confused with it "
            f"(typically {each.typical}; others {each.typical_of_others})",
        )
    yield _line(
        "",
        "If this is not what distinguishes the classes, store the files of all classes in the same way: "
        "a model may learn it.",
    )
    if shortcuts.per_signal.get(PROPORTIONS, 0) - shortcuts.baseline > (1 - shortcuts.baseline) / 2:
        yield _line("", "Train with --fit crop: the square of a stretched or padded image reveals its proportions.")


def suspect_lines(fixes: Sequence[Fix], num_images: int, accuracy: float) -> Iterator[str]:
    """Yield how many labels look wrong, and the most suspicious ones."""
    yield _line(
        "labels",
        f"{len(fixes):,} of {num_images:,} labels look{'s' if len(fixes) == 1 else ''} wrong; "
        f"a quick classifier agrees with {100 * accuracy:.1f} % of all labels",
    )
    for fix in fixes[:_LINES_OF_SUSPECTS]:
        yield _line(
            "", f"  {fix.path}: labelled {fix.label}, more likely {fix.suggested} ({100 * fix.confidence:.0f} %)"
        )


def forecast_line(curve: LearningCurve, classes: Sequence[str]) -> str:
    """Return the forecast for twice as many images in one line."""
    label, most = next(iter(curve.per_class.items()))
    return (
        f"with twice as many images: accuracy {_forecast(curve.overall, 1)}; "
        f"largest gain: recall of {classes[label]} {_forecast(most, 0)}"
    )


def findings_table(audit: Audit) -> pd.DataFrame:
    """Return the rows of `audit.csv`: all findings, one row per image or pair."""
    rows = [
        (each.name, each.is_serious, *(*example.paths, "", "")[:2], example.text)
        for each in audit.findings
        for example in each.examples
    ]
    rows += [
        ("suspect", False, fix.path, "", f"labelled {fix.label}, more likely {fix.suggested}, {fix.confidence:.3f}")
        for fix in audit.fixes
    ]
    rows += [("shortcut", False, "", "", text) for text in _giveaways(audit)]
    return pd.DataFrame(rows, columns=["finding", "serious", "path", "other_path", "what"], dtype=object)


def summary(audit: Audit) -> dict[str, Any]:
    """Return what the model card of a run on the same images states, ready for JSON."""
    shortcuts = list(_giveaways(audit))
    if audit.shortcuts.is_alarming and not shortcuts:
        shortcuts = [
            f"size, format, mean colour and border alone predict {100 * audit.shortcuts.accuracy:.1f} % of classes"
        ]
    return {
        "data": str(audit.index.root.resolve()),
        "images": len(audit.index),
        "shortcuts": shortcuts,
        "label_suspects": None if audit.judgement.suspects is None else len(audit.fixes),
    }


def _giveaways(audit: Audit) -> Iterator[str]:
    """Yield a sentence for each class that can be predicted without the content of its images."""
    for each in audit.shortcuts.giveaways:
        name = audit.index.classes[each.label]
        yield f"{name} by {each.signal}: typically {each.typical}; others {each.typical_of_others}"


def _forecast(forecast: Forecast, decimals: int) -> str:
    now, then, low, high = (
        f"{100 * share:.{decimals}f}" for share in (forecast.now, forecast.then, *forecast.interval)
    )
    return f"{now} % now, about {then} % then ({low} to {high} %)"


def _line(head: str, text: str) -> str:
    return f"{head:9}{text}"
