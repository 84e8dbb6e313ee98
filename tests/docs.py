"""Writes the pages of docs/ that follow from the code: cli.md, and the tables of metrics.md and reliability.md.

python -m tests.docs
"""

from __future__ import annotations

import dataclasses
import typing

from MLPipeline.commands.Verbs import VERBS, Verb
from MLPipeline.Config import Config, flag_name, plain_type
from MLPipeline.scoring.Metrics import metrics_document
from tests.support.paths import ROOT
from tests.support.promises import promise_tables

PAGE = ROOT / "docs" / "cli.md"
METRICS_PAGE = PAGE.with_name("metrics.md")
RELIABILITY_PAGE = PAGE.with_name("reliability.md")
HEADER = """\
# Command line

<!-- Generated from MLPipeline/Config.py and MLPipeline/commands/Verbs.py by `python -m tests.docs`. Do not edit. -->

`python Engine.py COMMAND [flags]`; without a command, `train`. The value in brackets is the default; "the model's"
means that each model has its own. Every command has `--help`, and `python Engine.py --version` prints the versions.
"""
KINDS = {"int": "integer", "float": "number", "Path": "path", "str": "text", "bool": ""}


def command_page() -> str:
    """Return the text of docs/cli.md."""
    overview = ["| command | what it does |", "| --- | --- |"]
    overview += [f"| [`{verb.name}`](#{verb.name}) | {_cell(verb.help)} |" for verb in VERBS.values()]
    return "\n".join([HEADER, *overview, "", *(_section(verb) for verb in VERBS.values())])


def _section(verb: Verb) -> str:
    """Return the heading, the usage and the flags of one verb, group by group."""
    hints = typing.get_type_hints(Config)
    usage = f"python Engine.py {verb.name} {verb.paths} [flags]".replace("  ", " ")
    lines = [f"## {verb.name}", "", f"{verb.help[0].upper()}{verb.help[1:]}.", "", f"    {usage}", ""]
    groups: dict[str, list[str]] = {}
    for each in dataclasses.fields(Config):
        if each.name in verb.settings:
            groups.setdefault(each.metadata["group"], []).append(_row(each, hints[each.name], verb.default_text(each)))
    for title, rows in groups.items():
        lines += [f"| {title} | values | |", "| --- | --- | --- |", *rows, ""]
    return "\n".join(lines)


def _row(each: dataclasses.Field, hint: object, default: str) -> str:
    about = each.metadata
    flags = ", ".join(f"`{flag}`" for flag in (about["short"], flag_name(each.name)) if flag)
    values = ", ".join(f"`{choice}`" for choice in about["choices"]) or KINDS[plain_type(hint).__name__]
    shown = "" if hint is bool else default
    return f"| {flags} | {values} | {_cell(about['help'])}{shown} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def metrics_page() -> str:
    """Return `docs/metrics.md`: its text as it stands, and the table of metrics as it is now."""
    head, table, _ = METRICS_PAGE.read_text(encoding="utf-8").partition("| in `metrics.json` |")
    assert table, f"{METRICS_PAGE}: the head of its table is missing"
    return head + metrics_document()


def reliability_page() -> str:
    """Return `docs/reliability.md`: its text as it stands, and the tables of promises and tests as they are now."""
    mark = "## Every promise and its test\n\n"
    head, found, _ = RELIABILITY_PAGE.read_text(encoding="utf-8").partition(mark)
    assert found, f"{RELIABILITY_PAGE}: the heading of its tables is missing"
    return head + mark + promise_tables()


if __name__ == "__main__":
    PAGE.write_text(command_page(), encoding="utf-8")
    METRICS_PAGE.write_text(metrics_page(), encoding="utf-8")
    RELIABILITY_PAGE.write_text(reliability_page(), encoding="utf-8")
