"""`python Engine.py similar`: finds the images that are most similar to a query, in a folder or a file of features."""

from __future__ import annotations

import os
from pathlib import Path

from MLPipeline.commands.Destinations import reserve
from MLPipeline.commands.OpenNetwork import chosen_run, open_network
from MLPipeline.Config import Config
from MLPipeline.console.Console import note, progress, require_complete_stdout, resumable_reading, say
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import DataError, UsageError
from MLPipeline.images.FindImages import find_images, index_files
from MLPipeline.images.ImageWalk import Skipped
from MLPipeline.report.SimilarPage import write_similar_page
from MLPipeline.similarity.EmbedFiles import Collection, embed_files
from MLPipeline.similarity.FeatureFile import SUFFIXES, read_features
from MLPipeline.similarity.FeatureNetwork import FeatureNetwork
from MLPipeline.similarity.SimilarImages import Similar, find_similar

_EXAMPLE = "python Engine.py similar cat.jpg --in photos"
_FOLDER = "similar"  # in the output folder


def run(config: Config) -> None:
    """Print the images in `--in` that are most similar to each of `paths`; write `output/similar/similar.html`.

    Raises:
        UsageError: there is no query or no `--in`, or no such run or model; or the features are of another model.
        DataError: a path does not exist, or no image can be read.
        ResourceError: the weights or room in the cache is missing, or the page cannot be written.
    """
    if not config.paths:
        raise UsageError("similar: no image given", _EXAMPLE)
    if config.in_ is None:
        raise UsageError("similar: nowhere to search", f"{_EXAMPLE}, or --in features.npz")
    queries, skipped = find_images(config.paths, config.follow_links)
    stored = read_features(config.in_) if _is_feature_file(config.in_) else None
    files, more = ([], []) if stored else find_images([config.in_], config.follow_links)
    chosen = chosen_run(config, stored.origin if stored else None)
    folders = [path for path in (*config.paths, config.in_) if os.path.isdir(path)]
    reserve(config, chosen, folders, [*queries, config.in_]).check_folder("--output", config.output / _FOLDER)
    network = open_network(config, chosen, stored.origin if stored else None)
    with resumable_reading():
        asked = _embed(config, network, queries)
        collection = _comparable(stored, asked, config.in_) if stored else _embed(config, network, files)
    _note_skipped([*skipped, *more, *asked.skipped, *collection.skipped])
    if not ranks.is_first:
        return
    found: list[Similar] = []
    for each in find_similar(asked, collection, config.topk, network.preprocessing.levels):
        _print(each, config.json)
        found.append(each)
    page = config.output / _FOLDER / "similar.html"
    write_similar_page(page, found, len(collection), str(config.in_), network.origin.to_text(), network.preprocessing)
    say(f"saved    {page}", on_stderr=config.json)
    if config.json:
        require_complete_stdout()


def _is_feature_file(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not os.path.isdir(path)


def _comparable(stored: Collection, asked: Collection, file: Path) -> Collection:
    """Return `stored`, the content of `file`, if its features are of the same network as those of the queries."""
    if stored.origin.is_comparable_with(asked.origin) and stored.width == asked.width:
        return stored
    what = f"--in {file}: holds features of another model ({stored.origin.to_text()}) than {asked.origin.to_text()}"
    raise UsageError(what, "Use the model that has computed them, or write the file again with embed")


def _embed(config: Config, network: FeatureNetwork, files: list[Path]) -> Collection:
    cache = config.output / "cache"
    try:
        return embed_files(
            network, index_files(files), cache, config.precision, config.workers, config.cache_limit, progress
        )
    except DataError as error:
        if len(files) > 1:
            raise
        raise DataError(f"{files[0]}: cannot be read", error.hint) from error


def _note_skipped(skipped: list[Skipped]) -> None:
    for each in skipped:
        note(f"skipped {each.path}: {each.reason}")


def _print(similar: Similar, as_json: bool) -> None:
    """Print the matches of a query, one per line; as JSON, on one line."""
    if as_json:
        say(similar.to_json())
        return
    say(f"similar to {similar.name}")
    for match in similar.matches:
        say(match.to_text())
