"""The dress rehearsal: every dataset as its files really are, at their real sizes, with a few made-up videos each.

    python -m tests.rehearsal FOLDER

writes FOLDER/workspace, the released workspace of TarViS with all eleven datasets and their inference splits, and
FOLDER/official, the same videos as the datasets' own downloads have them. The tests of this folder train, read and
infer from it.
"""

import pathlib
from collections.abc import Iterable

from tests.rehearsal import burst, davis, panoptic_images, panoptic_video, vipseg, youtube_vis

WRITERS = {
    "COCO": panoptic_images.write_coco,
    "ADE20K": panoptic_images.write_ade20k,
    "CITYSCAPES": panoptic_images.write_cityscapes,
    "MAPILLARY": panoptic_images.write_mapillary,
    "YOUTUBE_VIS": youtube_vis.write_youtube_vis,
    "OVIS": youtube_vis.write_ovis,
    "KITTI_STEP": panoptic_video.write_kitti_step,
    "CITYSCAPES_VPS": panoptic_video.write_cityscapes_vps,
    "VIPSEG": vipseg.write_vipseg,
    "DAVIS": davis.write_davis,
    "BURST": burst.write_burst,
}


def write_tree(folder: str | pathlib.Path, datasets: Iterable[str] = WRITERS) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes the files of `datasets` below `folder`, which must be new or empty; returns workspace and official.

    Raises:
      ValueError: the folder has something in it.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: expected a new or empty folder")
    workspace, official = folder / "workspace", folder / "official"
    for name in datasets:
        WRITERS[name](workspace, official)
    return workspace, official
