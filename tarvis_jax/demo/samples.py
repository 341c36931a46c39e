"""The clips that the demo offers, and a run on one of them that compiles what the first visitor will need."""

import itertools
import json
import pathlib
from collections.abc import Iterator

from tarvis_jax.api import TASKS
from tarvis_jax.demo.uploads import Clip
from tarvis_jax.demo.workbench import Workbench
from tarvis_jax.inference.frames import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from tarvis_jax.run_config import CHECKPOINTS_FOLDER

HELD_OUT = "data/dataset_images/inference"  # of a run on made-up videos
PER_DATASET = 2
FRAMES = 24  # that `warm_up` waits for: more than one clip, and one that has a clip before it

Samples = dict[str, list[pathlib.Path]]  # name -> the files of a clip, as `take_upload` takes them


def newest_quickstart(runs: pathlib.Path) -> pathlib.Path:
    """The workdir of the newest run in a folder that has a checkpoint and was trained on made-up videos.

    Raises:
      ValueError: there is none; says how to make one.
    """
    found = []
    for folder in runs.iterdir() if runs.is_dir() else ():
        steps = [each for each in folder.glob(f"{CHECKPOINTS_FOLDER}/*") if each.name.isdigit()]
        if steps and _is_made_up(folder / "config.json"):
            found.append((max(each.stat().st_mtime for each in steps), folder))
    if not found:
        raise ValueError(
            f"{runs}: no quickstart run with a checkpoint here. This makes one, in about 9 minutes on 2 CPU cores:\n"
            "  python main.py --config=configs/quickstart.py --workdir=runs/quickstart\n"
            "or give any other model with --checkpoint."
        )
    return max(found)[1]


def _is_made_up(config: pathlib.Path) -> bool:
    try:
        return json.loads(config.read_text())["synthetic"]["num_train"] > 0
    except (OSError, ValueError, KeyError, TypeError):
        return False


def find(folder: pathlib.Path | None, checkpoint: pathlib.Path) -> Samples:
    """The clips of a folder (videos, and folders of images), or else those that a run on made-up videos holds out.

    Raises:
      ValueError: a folder is given, and there is no such folder or no clip in it.
    """
    if folder is None:
        videos = _folders_of_images(checkpoint / HELD_OUT)
        of_dataset = itertools.groupby(videos, lambda each: each.relative_to(checkpoint / HELD_OUT).parts[0])
        chosen = [(name, each) for name, group in of_dataset for each in itertools.islice(group, PER_DATASET)]
        return {f"{name}: {each.name}": _images(each) for name, each in chosen}
    if not folder.is_dir():
        raise ValueError(f"--samples: {folder}: no such folder")
    samples: Samples = {each.name: _images(each) for each in _folders_of_images(folder)}
    samples |= {each.name: [each] for each in sorted(folder.iterdir()) if each.suffix.lower() in VIDEO_SUFFIXES}
    if not samples:
        raise ValueError(f"--samples: {folder}: expected videos or folders of images in it, found none")
    return samples


def warm_up(bench: Workbench, clip: Clip) -> None:
    """Runs every task on the beginning of a clip, so that the programs for clips of its size are compiled."""
    for task in TASKS:
        if not bench.datasets(task):
            continue
        bench.choose(task)
        bench.load(clip)
        if bench.takes_targets:
            height, width = clip.size
            bench.point(0, bench.add_target(), (height // 2, width // 2))
        bench.run()
        while bench.progress().is_running and bench.progress().done <= FRAMES:
            bench.wait(-1)
        bench.stop()


def _images(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(each for each in folder.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES)


def _folders_of_images(root: pathlib.Path) -> Iterator[pathlib.Path]:
    """Folders below `root` that hold images, in order; links are left out."""
    if not root.is_dir():
        return
    if _images(root):
        yield root
    for each in sorted(root.iterdir()):
        if each.is_dir() and not each.is_symlink():
            yield from _folders_of_images(each)
