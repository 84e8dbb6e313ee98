"""Processes forked from one that has imported the whole pipeline, so that none of them imports torch again."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerContext

import imagecodecs  # noqa: F401  imported once, for all

import Engine  # noqa: F401
from MLPipeline.report import Plots, ScorePlots  # noqa: F401
from MLPipeline.steps import CheckMirrors, FinishRun, FitPhases, Prepare, ShowRates  # noqa: F401


def fork_server() -> ForkServerContext:
    """Return the context of processes that are forked from a server, which is started on first use."""
    context = multiprocessing.get_context("forkserver")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # by which the server finds the modules
    context.set_forkserver_preload([__name__])
    return context
