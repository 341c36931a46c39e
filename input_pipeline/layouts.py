"""Where the files of a dataset are: in the released workspace, or in a download of the dataset's own site."""

import dataclasses
import pathlib

from input_pipeline import workspace
from input_pipeline.config import DatasetConfig
from tarvis_jax.datasets import DATASETS, Dataset

# Below the workspace; a folder in it (or a link) that is called as the dataset's images in the released workspace, in
# upper or lower case, is a download.
OFFICIAL_FOLDER = "official"
# What is asked of a layout: the fields of DatasetConfig that are read.
TRAINING = ("train_images", "train_annotations")
EVALUATION = ("eval_images", "eval_annotations")
TRUTH = ("eval_images", "eval_annotations", "eval_truth")

# Other names of a split in official files.
_SPLITS = {"val": ("val", "valid", "validation")}


def locate(config: DatasetConfig, keys: tuple[str, ...], split: str, root: str) -> DatasetConfig:
    """`config` with the reader and the absolute paths of the first official layout that is there.

    That is the layout below `config.root`; or, where that is empty and the released files are absent, below the folder
    that `official_folder` gives. In all other cases `config` is returned as it is, and its reader looks for the paths
    that it holds.

    Args:
      keys: TRAINING, EVALUATION or TRUTH.
      split: of evaluation ("val", "test", ...); "" for training.
      root: the workspace.
    Raises:
      ValueError: a folder with none of the official layouts; it lists what was looked for.
    """
    row = DATASETS.get(config.name)
    layouts = row.official if row else ()
    if config.root:
        folder = workspace.resolve(config.root, root, dataset=config.name, key="root", kind="folder")
        if not layouts:
            known = [name for name, each in DATASETS.items() if each.official]
            raise ValueError(f"dataset {config.name}, root: official layouts are known of {known} only")
    else:
        folder = official_folder(config, root)
        if not folder or not folder.is_dir() or _released(config, keys, split, root):
            return config
    looked_for = []
    for layout in layouts:
        wanted = [key for key in keys if key in layout]
        for name in _SPLITS.get(split, (split,)):
            paths = {
                key: folder / path.replace("{split}", name) if path else folder
                for key, path in layout.items()
                if key != "reader"
            }
            missing = [paths[key] for key in wanted if not paths[key].exists()]
            if not missing:
                found = {key: str(paths[key]) for key in paths}
                return dataclasses.replace(config, root="", reader=layout.get("reader", config.reader), **found)
            looked_for.append(" and ".join(str(path) for path in missing))
    listed = "".join(f"\n  {each}" for each in dict.fromkeys(looked_for))
    raise ValueError(
        f"dataset {config.name}, {split or 'training'}: {folder} has none of the official layouts; there is no{listed}"
    )


def official_folder(config: DatasetConfig, root: str) -> pathlib.Path | None:
    """Where an official download is looked for if `config.root` is empty; None for a dataset with paths of its own."""
    row = DATASETS.get(config.name)
    if not row or not row.official or not _has_paths_of(config, row) or not root:
        return None
    parent = workspace.workspace_root(root) / OFFICIAL_FOLDER
    name = pathlib.PurePosixPath(row.files["train_images"]).name
    present = sorted(parent.iterdir()) if parent.is_dir() else []
    return next((path for path in present if path.name.lower() == name), parent / name)


def absent(config: DatasetConfig, keys: tuple[str, ...], split: str, root: str) -> list[str]:
    """What is missing, one text for each path that was looked for; nothing is read.

    Of a dataset with paths of its own only the reader knows what it needs; then the list is empty.
    """
    try:
        found = locate(config, keys, split, root)
    except ValueError as error:
        return [str(error)]
    row = DATASETS.get(config.name)
    if not row or found is config and not _has_paths_of(config, row):
        return []
    texts = []
    for key in keys:
        path = getattr(found, key)
        names = list(dict.fromkeys(path.replace("{split}", name) for name in _SPLITS.get(split, (split,))))
        if path and not any(workspace.find(name, root) for name in names):
            folder = workspace.workspace_root(root)
            texts.append(f"{key}: " + " or ".join(str(workspace.join(folder, name, key)) for name in names))
    folder = official_folder(config, root)
    if texts and folder:
        texts.append(f"or an official download: {folder}")
    return texts


def _has_paths_of(config: DatasetConfig, row: Dataset) -> bool:
    return config.reader == row.reader and all(getattr(config, key) == path for key, path in row.files.items())


def _released(config: DatasetConfig, keys: tuple[str, ...], split: str, root: str) -> bool:
    """Whether the last of the released files that are asked for is there (the reader tells what else is missing)."""
    paths = [getattr(config, key) for key in keys if getattr(config, key)]
    return bool(paths) and any(
        workspace.find(paths[-1].replace("{split}", name), root) for name in _SPLITS.get(split, (split,))
    )
