r"""Matches the regular expression of `--group` against the paths of all images, within a time limit.

Python's `re` may try an exponential number of ways for an expression such as `(a+)+b`, and on some systems nothing can
stop it: not a thread, nor a signal. So the matching is done by a process of its own, which can be ended; it starts in
0.03 s. (The package `regex` has a time limit, but it means something else by some expressions, and it is one more
package.)
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Sequence

from MLPipeline.Errors import ResourceError, UsageError

_LIMIT_S, _LIMIT_PER_PATH_S = 10.0, 1e-4  # an ordinary expression takes 1e-6 s per path
_CHILD = """
import json, re, sys, warnings
warnings.simplefilter("ignore")
pattern, paths = json.load(sys.stdin)
expression = re.compile(pattern)
number = 1 if expression.groups else 0
json.dump([match[number] if (match := expression.search(path)) else None for path in paths], sys.stdout)
"""


def match_paths(paths: Sequence[str], pattern: str) -> list[str | None]:
    r"""Return the text in each path that `pattern` matches: its first capturing group, or the whole match.

    None stands for a path that does not match.

    Raises:
        UsageError: `pattern` is not a regular expression, or takes too long.
        ResourceError: no process can be started.
    """
    _require_expression(pattern)
    limit_s = _LIMIT_S + _LIMIT_PER_PATH_S * len(paths)
    task = json.dumps([pattern, list(paths)]).encode()  # in ASCII, also of names that are not valid Unicode
    command = [sys.executable, "-I", "-S", "-c", _CHILD]
    try:
        done = subprocess.run(command, input=task, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=limit_s)
        return json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        what = f"--group {pattern}: took more than {limit_s:.0f} s on the {len(paths)} paths, and was stopped"
        raise UsageError(what, "Do not repeat what is repeated already: a+b instead of (a+)+b") from error
    except OSError as error:
        what = f"--group: no process can be started to match it ({error.strerror})"
        raise ResourceError(what, "End other processes, or leave the flag out") from error
    except ValueError as error:  # no answer
        what = f"--group {pattern}: cannot be matched: the process ended with code {done.returncode}"
        raise UsageError(what, "Give a simpler expression") from error


def _require_expression(pattern: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sets that look nested
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        hint = r"Give a regular expression, such as 'patient(\d+)'"
        raise UsageError(f"--group {pattern[:200]}: {reason}", hint) from error
