"""`python Engine.py embed`: writes the features of images to a file, for `similar` and for programs of one's own."""

from __future__ import annotations

from MLPipeline.commands.Destinations import reserve
from MLPipeline.commands.OpenNetwork import chosen_run, open_network
from MLPipeline.Config import Config
from MLPipeline.console.Console import note, progress, resumable_reading, say
from MLPipeline.distributed.Ranks import ranks
from MLPipeline.Errors import UsageError
from MLPipeline.images.FindImages import find_images, index_files
from MLPipeline.similarity.EmbedFiles import embed_files
from MLPipeline.similarity.FeatureFile import check_suffix, is_feature_file, write_features


def run(config: Config) -> None:
    """Write the features of the images in `paths` to `--to`; images that cannot be read are listed and left out.

    Raises:
        UsageError: there are no paths, or no such run or model, or `--to` cannot be used.
        DataError: a path does not exist, or there is no readable image.
        ResourceError: the weights, room in the cache or a package is missing, or the file cannot be written.
    """
    if not config.paths:
        raise UsageError("embed: no images given", "python Engine.py embed photos/ --to features.npz")
    if config.to is None:
        raise UsageError("embed: no file to write", "Add --to features.npz, or --to features.parquet")
    check_suffix("--to", config.to)
    files, skipped = find_images(config.paths, config.follow_links)
    chosen = chosen_run(config)
    reserved = reserve(config, chosen, files=files)
    destination = reserved.file("--to", config.to, is_feature_file, "a file of features")
    network = open_network(config, chosen)
    with resumable_reading():
        index, cache = index_files(files), config.output / "cache"
        collection = embed_files(network, index, cache, config.precision, config.workers, config.cache_limit, progress)
    for each in (*skipped, *collection.skipped):
        note(f"skipped {each.path}: {each.reason}")
    if ranks.is_first:
        write_features(destination.path, collection)
    say(f"saved    {config.to}: {collection.width:,} features of {len(collection):,} images")
    say(f"next     python Engine.py similar IMAGE --in {config.to}")
