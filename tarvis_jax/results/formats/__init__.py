"""Result files: the formats of the benchmarks' servers and of labeling tools, one module each (docs/results.md).

Each module has

- `write(output: Path, videos: Iterable[ResultVideo], options: Options = DEFAULTS) -> list[Path]`, which writes the
  files of all videos and returns what is to be handed in. It loads one video at a time. What it writes lies under
  a temporary name until it is whole.
- `read(path: Path, options: Options = DEFAULTS) -> Iterator[ResultVideo]`, which reads such files back.
"""

import importlib
import types

from tarvis_jax.results.formats.video import Options, ResultVideo

__all__ = ["FORMATS", "Options", "ResultVideo", "module"]

# Name of the format -> module below this package.
FORMATS = {
    "ytvis": "youtube_vis",
    "ovis": "youtube_vis",
    "kitti_step": "kitti_step",
    "cityscapes_vps": "cityscapes_vps",
    "vipseg": "vipseg",
    "vspw": "vspw",
    "davis2017": "davis",
    "youtube_vos": "youtube_vos",
    "mose": "davis",
    "burst": "burst",
    "mots": "mots",
    "mots_txt": "mots_txt",
    "coco_video": "coco_video",
    "datumaro": "datumaro",
    "cvat_video": "cvat_video",
}


def module(name: str) -> types.ModuleType:
    """The module of a format; ValueError for a name that the table does not have."""
    if name not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, found {name!r}")
    return importlib.import_module(f"{__name__}.{FORMATS[name]}")
