"""The rows of the table of datasets; `row.py` says what each field means, docs/data.md how to add a row.

Weights, sizes and augmentation are those of the published fine-tuning, inference settings those of the published
results. `max_instances` is ours.
"""

from tarvis_jax.datasets import class_names
from tarvis_jax.datasets.row import EXEMPLAR, INSTANCE, MASK, PANOPTIC, POINT, ClassOrigin, Dataset, DatasetSpec

# fmt: off
_VIPSEG_THINGS = (
    2, 4, 8, 10, 41, 43, 44, 46, 47, 48, 49, 50, 51, 52, 54, 55, 56, 60, 61, 62, 63, 64, 65, 72, 74, 76, 77, 78, 79, 82,
    83, 84, 85, 86, 87, 88, 89, 90, 91, 92, 95, 96, 97, 99, 100, 101, 102, 106, 107, 108, 109, 114, 115, 116, 117, 118,
    122, 123,
)
# fmt: on

# The 19 classes of Cityscapes' benchmark among its 34 official ids.
_EVALUATED_IN_CITYSCAPES = ClassOrigin(
    "CITYSCAPES", (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
)

DATASETS: dict[str, Dataset] = {
    # Images, used as augmented clips for pretraining.
    "ADE20K": Dataset(DatasetSpec(PANOPTIC, 150)),
    "CITYSCAPES": Dataset(DatasetSpec(PANOPTIC, 34), class_names.CITYSCAPES),
    "COCO": Dataset(DatasetSpec(PANOPTIC, 133)),
    "MAPILLARY": Dataset(DatasetSpec(PANOPTIC, 65)),
    # Videos.
    "YOUTUBE_VIS": Dataset(
        DatasetSpec(INSTANCE, 40),
        class_names.YOUTUBE_VIS_2021,
        reader="youtube_vis",
        files={
            "train_images": "dataset_images/training/youtube_vis_2021",
            "train_annotations": "dataset_annotations/training/youtube_vis_2021.json",
            "eval_images": "dataset_images/inference/youtube_vis_2021",
            "eval_annotations": "dataset_annotations/inference/youtube_vis/{split}_2021.json",
        },
        training={
            "weight": 0.225,
            "min_dims": (448, 512),
            "max_dim": 1024,
        },
        inference={"min_dim": 448},
    ),
    "OVIS": Dataset(
        DatasetSpec(INSTANCE, 25),
        class_names.OVIS,
        reader="youtube_vis",
        files={
            "train_images": "dataset_images/training/ovis",
            "train_annotations": "dataset_annotations/training/ovis.json",
            "eval_images": "dataset_images/inference/ovis",
            "eval_annotations": "dataset_annotations/inference/ovis/{split}.json",
        },
        training={
            "weight": 0.225,
            "max_dim": 1024,
            "max_instances": 64,
        },
        inference={"min_dim": 576, "max_predictions": 20},
    ),
    "KITTI_STEP": Dataset(
        DatasetSpec(PANOPTIC, 19, thing_classes=(11, 13)),
        class_names.CITYSCAPES_EVALUATED,
        reader="kitti_step",
        files={
            "train_images": "dataset_images/training/kitti_step",
            "train_annotations": "dataset_annotations/training/kitti_step.json",
            "eval_images": "dataset_images/inference/kitti_step_val",
            "eval_annotations": "dataset_annotations/inference/kitti_step_val",
        },
        training={
            "weight": 0.075,
            "min_dims": (320,),
            "crop": (0.75, 0.5),
            "frame_sampling_factor": 2.0,
            "max_instances": 64,
            "hue_saturation": 10,
            "brightness": 20,
        },
        inference={"clip_length": 6, "overlap": 3, "max_tracks": 1000, "score_threshold": 0.5},
        class_origin=_EVALUATED_IN_CITYSCAPES,
    ),
    "CITYSCAPES_VPS": Dataset(
        DatasetSpec(PANOPTIC, 19, thing_classes=(11, 12, 13, 14, 15, 16, 17, 18)),
        class_names.CITYSCAPES_EVALUATED,
        reader="generic",
        files={
            "train_images": "dataset_images/training/cityscapes_vps",
            "train_annotations": "dataset_annotations/training/cityscapes_vps.json",
        },
        training={
            "weight": 0.075,
            "min_dims": (448,),
            "crop": (0.5, 0.5),
            "frame_sampling_factor": 1.0,
            "consecutive_frames": True,
            "max_instances": 64,
            "hue_saturation": 10,
            "brightness": 20,
        },
        inference={"clip_length": 10, "overlap": 5, "max_dim": 2048, "max_tracks": 1000, "score_threshold": 0.5},
        class_origin=_EVALUATED_IN_CITYSCAPES,
    ),
    "VIPSEG": Dataset(
        DatasetSpec(PANOPTIC, 124, thing_classes=_VIPSEG_THINGS),
        class_names.VIPSEG,
        reader="vipseg",
        files={
            "train_images": "dataset_images/training/vipseg",
            "train_annotations": "dataset_annotations/training/vipseg",
            "eval_images": "dataset_images/inference/vipseg",
            "eval_annotations": "dataset_annotations/inference/vipseg/{split}.json",
        },
        training={
            "weight": 0.15,
            "crop": (0.75, 0.5),
            "frame_sampling_factor": 5.0,
            "max_instances": 64,
            "hue_saturation": 10,
            "brightness": 20,
        },
        inference={"min_dim": 576, "max_tracks": 1000, "score_threshold": 0.5},
    ),
    "DAVIS": Dataset(
        DatasetSpec(EXEMPLAR, exemplar=MASK),
        reader="davis",
        files={
            "train_images": "dataset_images/training/davis",
            "train_annotations": "dataset_annotations/training/davis_semisupervised.json",
            "eval_images": "dataset_images/inference/davis",
            "eval_annotations": "dataset_annotations/inference/davis",
        },
        training={"weight": 0.05, "max_instances": 4},
    ),
    "BURST": Dataset(
        DatasetSpec(EXEMPLAR, exemplar=POINT),
        reader="burst",
        files={
            "train_images": "dataset_images/training/burst",
            "train_annotations": "dataset_annotations/training/burst.json",
            "eval_images": "dataset_images/inference/burst/{split}",
            "eval_annotations": "dataset_annotations/inference/burst/first_frame_annotations_{split}.json",
            "eval_truth": "dataset_annotations/inference/burst/all_classes_{split}.json",
        },
        training={"weight": 0.2, "frame_sampling_factor": 3.0, "max_instances": 4, "min_mask_area": 100},
        inference={"clip_length": 8, "overlap": 4, "min_dim": 512},
    ),
}
