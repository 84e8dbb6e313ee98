"""`python Engine.py audit`: finds problems in the images without training a model.

Files, duplicates and shortcuts are checked in one pass over the images; labels and the learning curve use features
from a network with ImageNet weights. Both are cached: if nothing has changed, the next audit takes a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from MLPipeline.audit.Audit import (
    Audit,
    fact_lines,
    finding_lines,
    findings_table,
    forecast_line,
    shortcut_lines,
    summary,
    suspect_lines,
)
from MLPipeline.audit.AuditPage import write_audit_page
from MLPipeline.audit.Findings import describe, find_faults
from MLPipeline.audit.Judgement import FORMAT, Judgement, decode_judgement, encode_judgement
from MLPipeline.audit.Shortcuts import find_shortcuts, metadata_signals
from MLPipeline.Config import Config
from MLPipeline.console.Console import note, progress, resumable_reading, say
from MLPipeline.decoding.Preprocessing import Preprocessing
from MLPipeline.Errors import GateMissedError, ResourceError
from MLPipeline.files.AtomicFile import write_text
from MLPipeline.files.CsvFile import write_csv
from MLPipeline.files.Json import dump_json
from MLPipeline.files.RunFolder import check_output
from MLPipeline.files.StoredResult import result_file, stored_result
from MLPipeline.frozen.DecodeOnce import RowKeeper
from MLPipeline.images.Duplicates import find_duplicates, group_images
from MLPipeline.images.Fixes import Fix, apply_fixes, read_decisions, write_fixes
from MLPipeline.images.Inspect import Inspection, inspect_images
from MLPipeline.images.ListImages import data_folder, index_images
from MLPipeline.images.ReadAhead import decoding_threads
from MLPipeline.images.ScanFolders import TRAIN, UNSPLIT, ImageIndex
from MLPipeline.report.ModelCard import AUDIT_SUMMARY

if TYPE_CHECKING:  # these load torch
    from MLPipeline.Classifier import Classifier
    from MLPipeline.frozen.FrozenStages import FrozenStages

NETWORK, IMAGE_SIZE = "efficientnet_lite0", 200  # its weights need no download, and `train` uses the same features
MAX_IMAGES = {"cpu": 30_000, "gpu": 300_000}  # their features take minutes to compute, and 1.5 GB of memory


def run(config: Config) -> None:
    """Print a summary of the images; write `output/audit/`: audit.html, audit.csv and fixes.csv.

    Raises:
        UsageError: `--output` or `--fixes` cannot be used.
        DataError: there are no class folders, or no image can be read.
        ResourceError: the disk is full or the output cannot be written.
        GateMissedError: with `--strict`, something serious was found.
    """
    config = replace(config, data=data_folder(config.data, config.labels, config.output))
    check_output(config.output, "audit", config.data)
    given = index_images(config.data, config.follow_links, config.split_folders, config.labels)
    index = apply_fixes(given, config.fixes) if config.fixes else given
    decisions = read_decisions(given, config.fixes) if config.fixes else []
    cache, workers = config.output / "cache", decoding_threads(config.workers)
    with resumable_reading():
        inspection = inspect_images(index, cache, workers, config.verify, progress, _keeper(config, index))
    pairs = find_duplicates(index, inspection, cache, progress)
    groups = group_images(index, inspection, pairs, config.group)
    facts, findings = describe(index, inspection), find_faults(index, inspection, pairs, groups)
    _say_all([*fact_lines(facts), "", *finding_lines(findings), ""])
    usable = np.flatnonzero(inspection.is_readable)
    signals = metadata_signals(inspection.prints[usable])
    shortcuts = find_shortcuts(signals, index.labels[usable], groups[usable], config.seed)
    _say_all(shortcut_lines(shortcuts, index.classes))
    judgement = _judge(config, index, inspection, groups)
    fixes = _fixes(index, judgement)
    if judgement.suspects is not None:
        _say_all(["", *suspect_lines(fixes, len(usable), judgement.suspects.accuracy)])
    if judgement.curve:
        _say_all(["", f"more     {forecast_line(judgement.curve, index.classes)}"])
    _write(
        config.output / "audit",
        Audit(index, facts, findings, shortcuts, judgement, fixes, inspection.levels),
        decisions,
    )
    serious = [each for each in findings if each.is_serious]
    if config.strict and serious:
        what = ", ".join(f"{len(each.examples)} x {each.title.lower()}" for each in serious)
        raise GateMissedError(f"{config.data}: --strict found {what}", f"See {config.output / 'audit' / 'audit.html'}")


def _say_all(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)


class _Incomplete(Exception):  # noqa: N818  not an error: carries a judgement that is not to be kept
    def __init__(self, reason: str, judgement: Judgement) -> None:
        super().__init__(reason)
        self.judgement = judgement


def _judge(config: Config, index: ImageIndex, inspection: Inspection, groups: np.ndarray) -> Judgement:
    """Return what the features say about the labels, from the cache if images, labels and groups are unchanged."""
    about = FORMAT, NETWORK, IMAGE_SIZE, config.seed
    arrays = inspection.row_keys(inspection.levels), index.labels, groups
    file = result_file(config.output / "cache", "judgements", about, *arrays)

    def evaluate() -> Judgement:
        return _evaluate(config, index, inspection, groups)

    try:
        return stored_result(file, evaluate, encode_judgement, decode_judgement)
    except _Incomplete as incomplete:
        note(str(incomplete))
        return incomplete.judgement


def _evaluate(config: Config, index: ImageIndex, inspection: Inspection, groups: np.ndarray) -> Judgement:
    """Return what the features say about the labels.

    Raises:
        _Incomplete: a package is missing, or there is no room for the features.
    """
    try:
        positions, features = _features(config, index, inspection)
    except ResourceError as error:
        raise _Incomplete(f"labels are not checked: {error}", Judgement(None, None)) from error
    from MLPipeline.audit.LabelSuspects import find_suspects
    from MLPipeline.audit.LearningCurve import learning_curve

    labels, of_groups = index.labels[positions], groups[positions]
    curve = learning_curve(features, labels, of_groups, config.seed)
    try:
        suspects = find_suspects(features, labels, of_groups, config.seed)
    except ResourceError as error:
        raise _Incomplete(str(error), Judgement(None, curve)) from error
    return Judgement(replace(suspects, positions=positions[suspects.positions]), curve)


def _keeper(config: Config, index: ImageIndex) -> RowKeeper:
    """Return the keeper that computes features while files are inspected; it loads torch only if a file is read."""

    def computation() -> FrozenStages | None:
        from MLPipeline.frozen.FrozenStages import FrozenStages

        try:
            model = _network(config.device, len(index))
        except ResourceError:  # reported by `_judge`, which needs the features
            return None
        return FrozenStages(model, IMAGE_SIZE, config.precision)

    return RowKeeper(IMAGE_SIZE, computation, config.output / "cache", len(index))


def _features(config: Config, index: ImageIndex, inspection: Inspection) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions (M,) of the images that can be read, and their features (M, D).

    Raises:
        ResourceError: the network is not available, or there are too many images for the device.
    """
    from MLPipeline.Features import extract

    model = _network(config.device, int(inspection.is_readable.sum()))
    readable = replace(index, splits=np.where(inspection.is_readable, TRAIN, UNSPLIT).astype(np.int8))
    cache, preprocessing = config.output / "cache", Preprocessing(levels=inspection.levels)
    dataset = extract(
        model,
        readable,
        IMAGE_SIZE,
        cache,
        config.precision,
        config.workers,
        progress,
        inspection.row_keys(inspection.levels),
        preprocessing=preprocessing,
    )
    positions = dataset.index.positions(TRAIN)
    return positions, dataset.rows.take(positions, 0).numpy()


def _network(device_name: str, num_images: int) -> Classifier:
    """Return the network that computes the features.

    Raises:
        ResourceError: its weights are not available, or there are too many images for the device.
    """
    from MLPipeline.Device import choose_device
    from MLPipeline.similarity.FeatureNetwork import pretrained_network

    device = choose_device(device_name)
    limit = MAX_IMAGES["cpu" if device.type == "cpu" else "gpu"]
    if num_images > limit:
        what = f"computing features of {num_images:,} images takes too long on {device.type.upper()}"
        raise ResourceError(what, f"Use at most {limit:,} images")
    return pretrained_network(NETWORK, device).model


def _fixes(index: ImageIndex, judgement: Judgement) -> list[Fix]:
    if not (found := judgement.suspects):
        return []
    rows = zip(found.positions.tolist(), found.suggested.tolist(), found.confidence.tolist(), strict=True)
    return [_fix(index, position, suggested, confidence) for position, suggested, confidence in rows]


def _fix(index: ImageIndex, position: int, suggested: int, confidence: float) -> Fix:
    given = index.classes[index.labels[position]]
    return Fix(index.name(position), given, given, index.classes[suggested], round(confidence, 3))


def _write(folder: Path, audit: Audit, decisions: Sequence[Fix]) -> None:
    """Write the page and the tables, which keep earlier `decisions`; print where they are and what to do next."""
    write_csv(findings_table(audit), folder / "audit.csv")
    write_text(folder / AUDIT_SUMMARY, dump_json(summary(audit), indent=2) + "\n")
    written, decided = ["audit.html", "audit.csv"], []
    if audit.judgement.suspects is not None:
        decided = write_fixes(folder / "fixes.csv", audit.fixes, decisions)
        written.append("fixes.csv" + (f" ({len(decided)} rows of yours kept)" if decided else ""))
    write_audit_page(folder / "audit.html", audit, folder / "fixes.csv", decided)
    say()
    say(f"saved    {folder}: {', '.join(written)}")
    if audit.fixes:
        say(f"next     correct labels in {folder / 'audit.html'} or {folder / 'fixes.csv'}, then train with --fixes")
