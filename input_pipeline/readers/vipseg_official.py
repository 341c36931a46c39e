"""VIPSeg as its own scripts leave it: VIPSeg_720P/{images,panomasks,panomasksRGB} and panoptic_gt_VIPSeg_<split>.json.

Segments come from the JSON and panomasksRGB. Where `panomasks` is there too, it tells which things have no number.
"""

import pathlib

from input_pipeline import workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.readers import vipseg
from input_pipeline.records import VideoRecord

evaluation_videos = vipseg.evaluation_videos
ground_truth_videos = vipseg.ground_truth_videos


def training_videos(config: DatasetConfig, root: str) -> list[VideoRecord]:
    """Videos of `train_annotations`; frames without a thing have no instance."""
    folder = workspace.resolve(config.train_images, root, dataset=config.name, key="train_images", kind="folder")
    file = workspace.resolve(config.train_annotations, root, dataset=config.name, key="train_annotations", kind="file")
    colors = workspace.resolve(
        str(folder.parent / "panomasksRGB"), root, dataset=config.name, key="train_annotations", kind="folder"
    )
    numbered: pathlib.Path | None = folder.parent / "panomasks"
    if not numbered.is_dir():
        numbered = None
    return vipseg.read_official(file, folder, config, colors=colors, numbered=numbered)
