"""Downloads, read back."""

import pathlib
import zipfile

from tarvis_jax.results import formats
from tarvis_jax.results.formats import Options


def back(kind: str, path: pathlib.Path, options: Options) -> formats.ResultVideo:
    """The video of a download, by the format's reader, from where the format wants its files."""
    root = path.parent / f"{kind}-back"
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            archive.extractall(root)
    else:
        target = root / {"cvat": "clip/annotations.xml", "datumaro": "annotations/default.json"}.get(
            kind, "annotations.json"
        )
        target.parent.mkdir(parents=True)
        target.write_bytes(path.read_bytes())
    name = {"coco": "coco_video", "cvat": "cvat_video", "masks": "davis2017"}.get(kind, kind)
    (video,) = formats.module("kitti_step" if options.thing_classes else name).read(root, options)
    return video
