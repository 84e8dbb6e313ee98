"""What `python Engine.py` shows without a command, and `--version`."""

from __future__ import annotations

from MLPipeline.Config import DEFAULT_DATA
from MLPipeline.console.Console import say
from MLPipeline.images.ScanFolders import folder_overview
from MLPipeline.report.Environment import package_versions

VERSION = "0.1.0"


def show_overview() -> None:
    """Print what is in `Data/` and the next commands."""
    for line in folder_overview(DEFAULT_DATA):
        say(line)
    say()
    say("train     python Engine.py --model resnet50     (or efficientnet_b0, efficientnet_lite0, cnn)")
    say("predict   python Engine.py predict IMAGE_OR_FOLDER")
    say("help      python Engine.py --help")


def show_versions() -> None:
    """Print the versions of the pipeline and of the packages it uses."""
    say(f"pipeline {VERSION}")
    for package, version in package_versions().items():
        say(f"{package} {version or 'not found under this name'}")
