"""A complete data folder for all four tasks, made in seconds: small videos in the official formats of four datasets.

    python -m input_pipeline.synthetic OUT --num-train 400 --num-val 32

OUT is laid out as $TARVIS_WORKSPACE_DIR, so that the readers of `input_pipeline/readers` take it for the real data:
YOUTUBE_VIS (video instance segmentation, 4 classes), KITTI_STEP (video panoptic segmentation, 3 stuff + 4 thing
classes), DAVIS (objects given by mask; also as the official folder OUT/davis) and BURST (objects given by point). What
the videos show: `synthetic_scenes.py`; the files: `synthetic_writers.py`.

Seeds: training video i of the d-th dataset is drawn from (d, seed + i), held-out video i from (d, val_seed + i). The
two ranges must not meet; held-out videos do not depend on `seed`.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from input_pipeline import synthetic_writers
from input_pipeline.config import DataConfig, SyntheticConfig
from input_pipeline.synthetic_scenes import STUFFS, THINGS, draw_video
from tarvis_jax import command_line

DATASETS = {  # in the order of their seeds; never reorder
    "YOUTUBE_VIS": synthetic_writers.write_youtube_vis,
    "KITTI_STEP": synthetic_writers.write_kitti_step,
    "DAVIS": synthetic_writers.write_davis,
    "BURST": synthetic_writers.write_burst,
}
INSTANCE_CLASSES = THINGS  # names of classes 1..K
PANOPTIC_CLASSES = STUFFS + THINGS
THING_CLASSES = tuple(range(len(STUFFS), len(PANOPTIC_CLASSES)))  # ids 0..K-1, as in semantic maps
VAL_SEED = 10**6
MANIFEST = "synthetic.json"
VERSION = 1  # raise it whenever the same arguments give other videos


def prepare_data(data: DataConfig, synthetic: SyntheticConfig, workdir: str | pathlib.Path) -> DataConfig:
    """Writes the made-up videos to `workdir`/data if the config asks for them.

    Args:
      data, synthetic: sections of a run's config.
      workdir: folder of the run.
    Returns:
      `data`, with the folder of the videos as its workspace.
    """
    if not synthetic.num_train:
        return data
    root = _root_of(workdir)
    write_synthetic_workspace(root, **dataclasses.asdict(synthetic))
    return dataclasses.replace(data, workspace=str(root))


def _root_of(workdir: str | pathlib.Path) -> pathlib.Path:
    return pathlib.Path(workdir).absolute() / "data"


class Preparation:
    """`prepare_data` in a process of its own, so that there is time for something else until `finish`.

    A context manager: on leaving, also before `finish`, nothing is written any more. The process ends with this one,
    however this one ends.
    """

    def __init__(self, data: DataConfig, synthetic: SyntheticConfig, workdir: str | pathlib.Path, writes: bool = True):
        """ValueError at once where `write_synthetic_workspace` would raise one.

        Args:
          data, synthetic, workdir: see `prepare_data`.
          writes: False in all processes but one of a run.
        """
        self._data, self._process = data, None
        if not synthetic.num_train:
            return
        self._root = _root_of(workdir)
        self._data = dataclasses.replace(data, workspace=str(self._root))
        arguments = dataclasses.asdict(synthetic)
        if writes and not _is_complete(self._root, _manifest(**arguments)):
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from input_pipeline import synthetic; synthetic.serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            )
            self._process.stdin.write(json.dumps(arguments | {"root": str(self._root)}) + "\n")
            self._process.stdin.flush()

    def __enter__(self) -> "Preparation":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.stdin.close()
            if self._process.wait():
                shutil.rmtree(_part_of(self._root), ignore_errors=True)
            self._process.stdout.close()

    def finish(self) -> DataConfig:
        """Returns when all is written; see `prepare_data`.

        Raises:
          OSError: a file cannot be written.
        """
        if self._process is not None:
            message = self._process.stdout.read()
            if status := self._process.wait():
                raise OSError(
                    f"{self._root}: the videos could not be written ({message.strip() or f'status {status}'})"
                )
        return self._data


def serve() -> None:
    """The life of the process of a `Preparation`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal; the caller decides
    arguments = json.loads(sys.stdin.readline())
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        write_synthetic_workspace(**arguments)
    except OSError as error:
        print(error)
        sys.stdout.flush()
        os._exit(1)
    os._exit(0)  # at once: a thread waits in `sys.stdin`


def _exit_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # returns when the other end is closed
    os._exit(1)


def write_synthetic_workspace(
    root: str | pathlib.Path,
    *,
    num_train: int = 400,
    num_val: int = 32,
    num_frames: int = 10,
    height: int = 64,
    width: int = 96,
    seed: int = 0,
    val_seed: int = VAL_SEED,
    datasets: tuple[str, ...] = tuple(DATASETS),
) -> pathlib.Path:
    """Writes the folder; the same arguments give the same files. Returns `root`.

    A folder that a run with the same arguments has completed is kept as it is.

    Args:
      root: folder to be made; it must not exist, be empty, or be complete.
      num_train, num_val: videos per dataset and split.
      num_frames, height, width: of every video, in frames and pixels.
      seed, val_seed: first seeds of the training and the held-out videos.
      datasets: names out of `DATASETS`.
    Raises:
      ValueError: an argument out of range, seed ranges that meet, or a folder with something else in it.
    """
    root = pathlib.Path(root)
    manifest = _manifest(num_train, num_val, num_frames, height, width, seed, val_seed, datasets)
    if _is_complete(root, manifest):
        return root
    part = _part_of(root)  # of an earlier run that was killed, or of this one
    shutil.rmtree(part, ignore_errors=True)
    for index, name in enumerate(DATASETS):
        for split, first, count in (("train", seed, num_train), ("val", val_seed, num_val)):
            if name in datasets:
                videos = (draw_video((index, first + i), num_frames, height, width) for i in range(count))
                DATASETS[name](part, split, videos)
    (part / MANIFEST).write_text(json.dumps(manifest))
    part.rename(root)
    return root


def _part_of(root: pathlib.Path) -> pathlib.Path:
    """The folder while it is not complete."""
    return root.with_name(f"{root.name}.part")


def _manifest(
    num_train: int,
    num_val: int,
    num_frames: int,
    height: int,
    width: int,
    seed: int,
    val_seed: int,
    datasets: Sequence[str] = tuple(DATASETS),
) -> dict:
    """What the folder of these arguments says that it holds; ValueErrors are those of `write_synthetic_workspace`."""
    unknown = [name for name in datasets if name not in DATASETS]
    if unknown or not datasets:
        raise ValueError(f"datasets: expected names out of {list(DATASETS)}, found {unknown or 'none'}")
    if min(num_train, num_val) < 1 or min(seed, val_seed) < 0:
        raise ValueError(
            f"expected num_train and num_val >= 1, seed and val_seed >= 0; "
            f"found {num_train}, {num_val}, {seed}, {val_seed}"
        )
    if seed < val_seed + num_val and val_seed < seed + num_train:
        raise ValueError(
            f"training and held-out videos would share seeds: {seed}..{seed + num_train - 1} and "
            f"{val_seed}..{val_seed + num_val - 1}"
        )
    return {
        "version": VERSION,
        "num_train": num_train,
        "num_val": num_val,
        "num_frames": num_frames,
        "height": height,
        "width": width,
        "seed": seed,
        "val_seed": val_seed,
        "datasets": list(datasets),
    }


def _is_complete(root: pathlib.Path, manifest: dict) -> bool:
    """Whether the folder holds what `manifest` says; ValueError if it holds something else."""
    if not root.exists() or not any(root.iterdir()):
        return False
    file = root / MANIFEST
    found = json.loads(file.read_text()) if file.is_file() else "no complete synthetic data"
    if found != manifest:
        raise ValueError(f"{root}: expected an empty folder or the data of {manifest}, found {found}")
    return True


def main(arguments: list[str]) -> None:
    """The command: see the top of this file."""
    parser = command_line.Parser(
        prog="python -m input_pipeline.synthetic",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--debug shows the traceback of errors.",
    )
    parser.add_argument("out")
    parser.add_argument("--num-train", type=int, default=400)
    parser.add_argument("--num-val", type=int, default=32)
    parser.add_argument("--num-frames", type=int, default=10)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--val-seed", type=int, default=VAL_SEED)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=list(DATASETS))
    options = vars(parser.parse_args(arguments))
    start = time.perf_counter()
    root = write_synthetic_workspace(options.pop("out"), datasets=tuple(options.pop("datasets")), **options)
    print(f"{root}: complete after {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    command_line.run_and_exit(main)
