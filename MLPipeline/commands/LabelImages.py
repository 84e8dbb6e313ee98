"""`python Engine.py label PHOTOS`: a page on which photographs are labelled; `--review RUN`: labels that look wrong."""

from __future__ import annotations

import shlex
from pathlib import Path

from MLPipeline.commands.LabelPlaces import exported_copies, labels_file
from MLPipeline.Config import Config
from MLPipeline.console.Console import note, progress, say
from MLPipeline.Errors import UsageError
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.labelling.LabelFile import LabelFile
from MLPipeline.labelling.Photographs import Photographs, list_photographs
from MLPipeline.labelling.Session import Session
from MLPipeline.serve.Packages import require_web_packages

NETWORK = "efficientnet_lite0"  # its weights need no download, and the training afterwards uses the same features


def run(config: Config) -> None:
    """Show the page on `--host` and `--port` until a signal comes; with `--export-folders`, copy what is labelled.

    Raises:
        UsageError: there is not one folder of photographs, or something would be written where nothing may be.
        DataError: there are no images.
        ResourceError: a package is missing, the port is in use, or the labels cannot be written.
        Interrupted: a signal has come.
    """
    if config.review is not None:
        from MLPipeline.commands.ReviewLabels import review

        review(config)
        return
    if len(config.paths) != 1:
        raise UsageError("label: takes one folder of photographs", "python Engine.py label photos/")
    photographs = list_photographs(config.paths[0], config.follow_links)
    file = LabelFile(labels_file(config, photographs.root), photographs.root)
    if config.export_folders:
        _export(config, photographs, file)
    else:
        _label(config, photographs, file)


def _label(config: Config, photographs: Photographs, file: LabelFile) -> None:
    require_web_packages("label")
    from MLPipeline.labelling.Background import in_background
    from MLPipeline.labelling.FeatureFeed import FeatureFeed, OnRows, OnUnreadable
    from MLPipeline.labelling.LabelPage import label_api
    from MLPipeline.serve.Server import listen

    def make_feed(on_rows: OnRows, on_unreadable: OnUnreadable) -> FeatureFeed:
        from MLPipeline.Device import choose_device
        from MLPipeline.frozen.FrozenStages import FrozenStages
        from MLPipeline.similarity.FeatureNetwork import pretrained_network

        network = pretrained_network(NETWORK, choose_device(config.device))
        stages = FrozenStages(network.model, network.origin.image_size, config.precision)
        return FeatureFeed(stages, config.output / "cache", decoding_threads(config.workers), on_rows, on_unreadable)

    with listen(config.host, config.port, config.token) as server, file.opened(photographs.names):
        session = Session(photographs, file)
        for each in photographs.skipped:
            session.notes.append(f"{each.path}: {each.reason}")
        labelled = f", {len(file.labels):,} of them labelled" if file.labels else ""
        say(f"label    {photographs.root}: {len(photographs):,} photographs{labelled}")
        say(f"labels   {file.file}")
        say(f"train    {training_command(photographs.root, file.file)}")
        api = label_api(session, photographs.root.resolve().name, training_command(photographs.root, file.file))
        with in_background(session, make_feed):
            server.run(api, open_browser=config.open)


def training_command(root: Path, labels: Path) -> str:
    """Return the command that trains on the labels."""
    words = ["python", "Engine.py", "--model", NETWORK, "--data", str(root), "--labels", str(labels)]
    return shlex.join(words)


def _export(config: Config, photographs: Photographs, file: LabelFile) -> None:
    """Copy the labelled photographs into a folder for each class."""
    with file.opened(photographs.names):
        labels = dict(file.labels)
    for each in file.notes:
        note(each)
    if not labels:
        raise UsageError(f"--export-folders: {file.file} has no labels yet", "Label some pictures first")
    copies = exported_copies(config, photographs.root, [*dict.fromkeys(label.name for label in labels.values())])
    for name, label in progress(labels.items(), "copying", len(labels)):
        copies.add(photographs.root / name, label.name)
    say(f"saved    {config.export_folders}: {len(labels):,} copies in {len(copies.folders):,} class folders")
