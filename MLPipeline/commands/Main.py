"""Runs a command line and returns its exit code; the only place that catches errors."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from MLPipeline.commands.CommandLine import parse
from MLPipeline.commands.Verbs import VERBS, Command, Verb
from MLPipeline.Config import flag_name
from MLPipeline.console.Console import close_console, fail, open_console
from MLPipeline.console.PostponeDynamo import postpone_dynamo
from MLPipeline.console.Signals import Interrupted, stop_signals
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import DivergedError, PipelineError, ResourceError, is_out_of_memory, out_of_memory
from MLPipeline.files.Machine import require_memory
from MLPipeline.report.Drawing import drawing

_SAVING = ("batch_size", "image_size", "model", "workers")  # settings: the smaller, the less memory is used


def run_command(argv: list[str], find: Callable[[Verb], Command]) -> int:
    """Return the exit code of a command line whose verb `find` turns into a function.

    0 success, 1 a bug of ours, 2 usage or data, 3 environment, 4 diverged, 5 quality missed, 128 + n signal n
    (130 Ctrl-C, 143 SIGTERM).
    """
    postpone_dynamo()
    open_console()
    stop_signals.install(drawing.kill)
    try:
        _run(argv, find)
        ranks.leave()
        return 0
    except PipelineError as error:
        fail(str(error))
        if isinstance(error, DivergedError):  # on all ranks
            ranks.let_first_end()
        return error.exit_code
    except Interrupted as interrupted:
        stop_signals.finish()
        ranks.let_first_end()
        return interrupted.exit_code
    except Exception as error:
        if is_out_of_memory(error):
            fail(str(out_of_memory(error, *_doing(error, argv))))
            return ResourceError.exit_code
        traceback.print_exc()
        fail(f"{type(error).__name__}: {error}. This is a bug in the pipeline: please report it with the lines above")
        return 1
    finally:
        stop_signals.finish()
        drawing.abandon()  # a finished run has already waited for its pictures
        close_console()


def _run(argv: list[str], find: Callable[[Verb], Command]) -> None:
    if argv in ([], ["--version"]):
        from MLPipeline.commands.Overview import show_overview, show_versions

        show_versions() if argv else show_overview()
        return
    word, config = parse(argv)
    require_memory()
    if ranks.is_first or VERBS[word].is_shared:
        find(VERBS[word])(config)


def _doing(error: Exception, argv: list[str]) -> tuple[str, str]:
    """Return what a command was doing when memory was exhausted, and a hint: the flags of its verb that save memory."""
    places = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, (ImportError, OSError)) or any("importlib" in place for place in places):
        return "while libraries were loaded", "Close other programs, or raise the memory limit (ulimit -v, container)"
    verb = VERBS.get(argv[0] if argv else "", VERBS["train"])
    flags = [flag_name(name) for name in _SAVING if name in verb.settings]
    hint = f"Use a smaller {' or '.join(filter(None, (', '.join(flags[:-1]), *flags[-1:])))}"
    return "while computing", hint if flags else "Close other programs"
