"""Runs a command line and returns its exit code; the only place that catches errors."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from MLPipeline.commands.CommandLine import parse
from MLPipeline.commands.Verbs import VERBS, Command, Verb
from MLPipeline.console.Console import close_console, fail, open_console
from MLPipeline.console.PostponeDynamo import postpone_dynamo
from MLPipeline.console.Signals import Interrupted, stop_signals
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import DivergedError, PipelineError, ResourceError, is_out_of_memory
from MLPipeline.report.Drawing import drawing


def run_command(argv: list[str], find: Callable[[Verb], Command]) -> int:
    """Return the exit code of a command line whose verb `find` turns into a function.

    0 success, 1 a bug of ours, 2 usage or data, 3 environment, 4 diverged, 5 quality missed, 130 Ctrl-C, 143 SIGTERM.
    """
    postpone_dynamo()
    open_console()
    stop_signals.install()
    try:
        if argv in ([], ["--version"]):
            from MLPipeline.commands.Overview import show_overview, show_versions

            show_versions() if argv else show_overview()
        else:
            word, config = parse(argv)
            if ranks.is_first or VERBS[word].is_shared:
                find(VERBS[word])(config)
        ranks.leave()
        return 0
    except PipelineError as error:
        fail(str(error))
        if isinstance(error, DivergedError):  # on all ranks
            ranks.let_first_end()
        return error.exit_code
    except Interrupted as interrupted:
        ranks.let_first_end()
        return interrupted.exit_code
    except Exception as error:
        if is_out_of_memory(error):
            fail(f"out of memory ({error}). Use a smaller --batch-size, --image-size or --model")
            return ResourceError.exit_code
        traceback.print_exc()
        fail(f"{type(error).__name__}: {error}. This is a bug in the pipeline: please report it with the lines above")
        return 1
    finally:
        drawing.abandon()  # a finished run has already waited for its pictures
        close_console()
