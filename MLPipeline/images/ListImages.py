"""What the user says about the images -> index: class folders or a label table, with corrected labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from MLPipeline.Config import DEFAULT_DATA
from MLPipeline.images.Fixes import apply_fixes
from MLPipeline.images.LabelTable import scan_table
from MLPipeline.images.NamedData import named_data
from MLPipeline.images.ScanFolders import ImageIndex, scan_folders


def data_folder(data: Path | None, labels: Path | None, output: Path) -> Path:
    """Return the folder of the images: where `data` is not stated, that of the label table, or else `Data/`.

    A data set known by name is fetched into `output`.

    Raises:
        ResourceError: it cannot be fetched or unpacked.
    """
    if data is None:
        return labels.parent if labels else DEFAULT_DATA
    return named_data(data, output) or data


def index_images(
    data: Path,
    follow_links: bool = False,
    split_folders: str = "auto",
    labels: Path | None = None,
    fixes: Path | None = None,
    classes: Sequence[str] = (),
) -> ImageIndex:
    """Return the index of the images below `data`, none of which is opened yet.

    Labels come from the folders, or from the table `labels`; the table `fixes` corrects them. With `classes`, those of
    a trained model, they are matched to these by name.

    Raises:
        UsageError: a table cannot be used.
        DataError: the folder cannot be used.
    """
    if labels:
        index = scan_table(labels, data, follow_links, classes)
    else:
        index = scan_folders(data, follow_links, classes, split_folders)
    return apply_fixes(index, fixes) if fixes else index
