"""Parses the command line, whose flags are generated from `Config`: `parse(argv) -> (verb, Config)`."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from MLPipeline.commands.Verbs import VERBS, Verb
from MLPipeline.Config import DEFAULT_DATA, Config, flag_name, plain_type, read_settings
from MLPipeline.Errors import UsageError, did_you_mean
from MLPipeline.Recipes import recipe

_EXAMPLES = """examples:
  python Engine.py --model resnet50                        train on Data/, one folder per class
  python Engine.py --model efficientnet_lite0 --data Pets  its ImageNet weights need no network
  python Engine.py --model cnn --epochs 30 --lr 0.01       a small network from scratch
  python Engine.py predict cat.jpg photos/ --csv out.csv   use the newest run
  python Engine.py evaluate --min-accuracy 0.9             exit code 5 below 90 %
"""

_FREE_WHEN_RESUMED = ("resume", "output", "workers", "cache_limit")


def parse(argv: Sequence[str]) -> tuple[str, Config]:
    """Return the verb and the settings of a command line (without the program's name).

    Raises:
        UsageError: an unknown verb or flag, or a value out of its range.
        SystemExit: after `--help`.
    """
    word = "train" if not argv or argv[0].startswith("-") else argv[0]
    if word not in VERBS:
        raise UsageError(f"{word}: no such command", did_you_mean(word, VERBS))
    verb, rest = VERBS[word], list(argv[1:] if argv and argv[0] == word else argv)
    end = rest.index("--") if "--" in rest else len(rest)
    stated, unknown = _make_parser(verb).parse_known_intermixed_args(rest[:end])
    if verb.paths and any(not word and not before.startswith("-") for before, word in pairwise(["", *rest])):
        what = f"{verb.name}: an empty path, such as that of a shell variable that is not set"
        raise UsageError(what, "Give images or folders; . is the working folder")
    if verb.paths:  # `predict -- *.jpg`: after the two dashes nothing is a flag
        stated.paths = (*stated.paths, *map(Path, rest[end + 1 :]))
    else:
        unknown += rest[end + 1 :]
    if unknown:
        raise _not_of(verb, unknown[0].split("=")[0])
    values = vars(stated)
    if "resume" in values:
        values = _resumed(values)
    elif "recipe" in values:
        values = recipe(values["recipe"], values)
    elif "config" in values:
        values = read_settings(values["config"]) | values
    return verb.name, Config(**{**verb.defaults, **values})


def _resumed(stated: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of an interrupted run; flags that would change its result raise an error."""
    from MLPipeline.files.RunFolder import SETTINGS_FILE, find_run, recorded_data  # imports what --help does not need

    run = find_run(Path(stated.get("output", Config.output)), stated["resume"], needs_model=False)
    if not (run.path / SETTINGS_FILE).is_file():
        raise UsageError(
            f"--resume {stated['resume']}: was stopped before it began", "Start it again, without --resume"
        )
    settings = read_settings(run.path / SETTINGS_FILE)
    typed = Path(settings.get("data", DEFAULT_DATA))
    places = (typed, recorded_data(run.path))  # the second where it was typed in another working directory
    data = next((each for each in places if each and each.is_dir()), None)
    if data is None and "data" not in stated and not run.metrics:
        what = f"--resume {stated['resume']}: its images are gone from {typed}"
        raise UsageError(what, "If the folder has moved, give its new place with --data")
    for name, value in stated.items():
        # The contents of a folder that has moved are compared later.
        is_moved = name == "data" and (data is None or Path(value).resolve() == data.resolve())
        if name not in _FREE_WHEN_RESUMED and not is_moved and settings.get(name) != value:
            what = f"{flag_name(name)} {value}: the run was started with {settings.get(name, 'none')}"
            raise UsageError(what, "Leave the flag out, or start a new run")
    settings["data"] = data or typed
    return settings | stated | {"output": run.path.parent, "resume": str(run.path)}


def _not_of(verb: Verb, word: str) -> UsageError:
    """Return the error for a word that `verb` does not accept: a flag of another verb, or an unknown one."""
    verbs_of = {flag: _verbs_of(each.name) for each in _settings() for flag in _flags(each)}
    what = f"{word}: {verb.name} " + ("has no such flag" if word.startswith("-") else "takes flags only")
    if word in verbs_of:
        return UsageError(what, f"It is a flag of {' and '.join(verbs_of[word])}")
    return UsageError(what, did_you_mean(word, [flag for flag, verbs in verbs_of.items() if verb.name in verbs]))


def _settings() -> list[dataclasses.Field]:
    return [each for each in dataclasses.fields(Config) if each.name != "paths"]


def _verbs_of(setting: str) -> list[str]:
    return [verb.name for verb in VERBS.values() if setting in verb.settings]


def _flags(each: dataclasses.Field) -> list[str]:
    return [*filter(None, [each.metadata["short"]]), flag_name(each.name)]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "), f"{self.prog} --help lists the flags")


def _make_parser(verb: Verb) -> _Parser:
    commands, is_main = "".join(f"\n  {each.name:<10}{each.help}" for each in VERBS.values()), verb.name == "train"
    parser = _Parser(
        prog="python Engine.py" if is_main else f"python Engine.py {verb.name}",
        usage=f"%(prog)s {verb.paths} [flags]" if verb.paths else "%(prog)s [flags]",
        description=f"{_EXAMPLES}\ncommands:{commands}" if is_main else verb.help,
        epilog="--version prints the versions. COMMAND --help lists the flags of a command." if is_main else "",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=32, width=110),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    hints = typing.get_type_hints(Config)
    groups: dict[str, Any] = {}
    for each in dataclasses.fields(Config):
        if each.name not in verb.settings and not (verb.paths and each.name == "paths"):
            continue
        title = each.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add_flag(groups[title], each, hints[each.name], verb.default_text(each))
    return parser


def _add_flag(group: Any, each: dataclasses.Field, hint: object, default: str) -> None:
    about, text = each.metadata, each.metadata["help"]
    if each.name == "paths":
        group.add_argument("paths", nargs="*", type=Path, default=(), metavar="PATH", help=text)
        return
    if hint is bool:
        group.add_argument(*_flags(each), dest=each.name, action="store_true", help=text)
        return
    text += default
    kind, metavar = plain_type(hint), "|".join(about["choices"]) or flag_name(each.name).split("-")[-1].upper()
    group.add_argument(*_flags(each), dest=each.name, type=kind, metavar=metavar, help=text)
