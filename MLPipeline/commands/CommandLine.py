"""The command line, made from `Config`: `parse(argv) -> (verb, Config)`."""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from MLPipeline.Config import VERBS, Config, flag_name, plain_type, read_settings
from MLPipeline.Errors import UsageError, did_you_mean

_EXAMPLES = """examples:
  python Engine.py --model resnet50                        train on Data/, one folder per class
  python Engine.py --model efficientnet_lite0 --data Pets  its ImageNet weights need no network
  python Engine.py --model cnn --epochs 30 --lr 0.01       a small network from scratch
  python Engine.py predict cat.jpg photos/ --csv out.csv   use the newest run
  python Engine.py evaluate --min-accuracy 0.9             exit code 5 below 90 %
"""


def parse(argv: Sequence[str]) -> tuple[str, Config]:
    """Return the verb and the settings of a command line (without the program's name).

    Raises:
        UsageError: an unknown verb or flag, or a value out of its range.
        SystemExit: after `--help`.
    """
    verb = "train" if not argv or argv[0].startswith("-") else argv[0]
    if verb not in VERBS:
        raise UsageError(f"{verb}: no such command", did_you_mean(verb, VERBS))
    rest = argv[1:] if argv and argv[0] == verb else argv
    parser = _make_parser(verb)
    stated, unknown = parser.parse_known_intermixed_args(list(rest))
    if unknown:
        flags = [option for action in parser._actions for option in action.option_strings]
        raise UsageError(f"{unknown[0]}: no such flag of {verb!r}", did_you_mean(unknown[0].split("=")[0], flags))
    values = vars(stated)
    if "config" in values:
        values = read_settings(values["config"]) | values
    return verb, Config(**values)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, "python Engine.py --help lists the flags")


def _make_parser(verb: str) -> _Parser:
    commands = "".join(f"\n  {name:<10}{text}" for name, text in VERBS.items())
    parser = _Parser(
        prog="python Engine.py" if verb == "train" else f"python Engine.py {verb}",
        usage="%(prog)s [PATH ...] [flags]" if verb == "predict" else "%(prog)s [flags]",
        description=f"{_EXAMPLES}\ncommands:{commands}" if verb == "train" else VERBS[verb],
        epilog="--version prints the versions. COMMAND --help lists the flags of a command." if verb == "train" else "",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=32, width=110),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    hints = typing.get_type_hints(Config)
    groups: dict[str, Any] = {}
    for each in dataclasses.fields(Config):
        about = each.metadata
        if verb not in about["verbs"]:
            continue
        group = groups.setdefault(about["group"], None) or parser.add_argument_group(about["group"])
        groups[about["group"]] = group
        _add_flag(group, each, hints[each.name])
    return parser


def _add_flag(group: Any, each: dataclasses.Field, hint: object) -> None:
    about, text = each.metadata, each.metadata["help"]
    if each.name == "paths":
        group.add_argument("paths", nargs="*", type=Path, metavar="PATH", help=text)
        return
    names = [*filter(None, [about["short"]]), flag_name(each.name)]
    if hint is bool:
        group.add_argument(*names, dest=each.name, action="store_true", help=text)
        return
    if each.default is not None:
        text += f" ({each.default})"
    kind, metavar = plain_type(hint), "|".join(about["choices"]) or each.name.split("_")[-1].upper()
    group.add_argument(*names, dest=each.name, type=kind, metavar=metavar, help=text)
