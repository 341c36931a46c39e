"""The rows of the table of datasets; `row.py` says what each field means, docs/data.md how to add a row.

Weights, sizes and augmentation are those of the published fine-tuning, inference settings those of the published
results. `max_instances` is ours.
"""

from collections.abc import Mapping

from tarvis_jax.datasets import class_names
from tarvis_jax.datasets.row import EXEMPLAR, INSTANCE, MASK, PANOPTIC, POINT, ClassOrigin, Dataset, DatasetSpec

# fmt: off
_VIPSEG_THINGS = (
    2, 4, 8, 10, 41, 43, 44, 46, 47, 48, 49, 50, 51, 52, 54, 55, 56, 60, 61, 62, 63, 64, 65, 72, 74, 76, 77, 78, 79, 82,
    83, 84, 85, 86, 87, 88, 89, 90, 91, 92, 95, 96, 97, 99, 100, 101, 102, 106, 107, 108, 109, 114, 115, 116, 117, 118,
    122, 123,
)
_ADE20K_THINGS = (
    7, 8, 10, 12, 14, 15, 18, 19, 20, 22, 23, 24, 27, 30, 31, 32, 33, 35, 36, 37, 38, 39, 41, 42, 43, 44, 45, 47,
    49, 50, 53, 55, 56, 57, 58, 62, 64, 65, 66, 67, 69, 70, 71, 72, 73, 74, 75, 76, 78, 80, 81, 82, 83, 85, 86, 87,
    88, 89, 90, 92, 93, 95, 97, 98, 102, 103, 104, 107, 108, 110, 111, 112, 115, 116, 118, 119, 120, 121, 123, 124,
    125, 126, 127, 129, 130, 132, 133, 134, 135, 136, 137, 138, 139, 142, 143, 144, 146, 147, 148, 149,
)
_MAPILLARY_THINGS = (
    0, 1, 8, 19, 20, 21, 22, 23, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53,
    54, 55, 56, 57, 59, 60, 61, 62,
)
# Of things and then of stuff; some numbers are not in use.
_COCO_CATEGORY_IDS = (
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 27, 28, 31, 32, 33, 34,
    35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63,
    64, 65, 67, 70, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 84, 85, 86, 87, 88, 89, 90, 92, 93, 95, 100, 107,
    109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151, 154, 155, 156, 159, 161,
    166, 168, 171, 175, 176, 177, 178, 180, 181, 184, 185, 186, 187, 188, 189, 190, 191, 192, 193, 194, 195, 196,
    197, 198, 199, 200,
)
# fmt: on

# The 19 classes of Cityscapes' benchmark among its 34 official ids.
_EVALUATED_IN_CITYSCAPES = ClassOrigin(
    "CITYSCAPES", (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
)


def _youtube_vis(annotations: str, images: str) -> tuple[Mapping[str, str], ...]:
    """A JSON and a folder of frames for each split; {} stands for its name."""
    return (
        {
            "train_images": images.format("train"),
            "train_annotations": annotations.format("train"),
            "eval_images": images.format("{split}"),
            "eval_annotations": annotations.format("{split}"),
        },
    )


def _kitti_step(train_images: str, eval_images: str) -> tuple[Mapping[str, str], ...]:
    """KITTI's tracking images and STEP's panoptic maps."""
    return (
        {
            "reader": "kitti_step_official",
            "train_images": train_images,
            "train_annotations": "panoptic_maps/train",
            "eval_images": eval_images,
            "eval_annotations": "panoptic_maps/{split}",
        },
    )


def _cityscapes_vps(eval_images: str) -> tuple[Mapping[str, str], ...]:
    return tuple(
        {
            "reader": "cityscapes_vps_official",
            "train_images": "train/img",
            "train_annotations": f"panoptic_{kind}_train_city_vps.json",
            "eval_images": "{split}/" + eval_images,
            "eval_annotations": "im_all_info_{split}_city_vps.json",
            "eval_truth": truth + "_{split}_city_vps.json",
        }
        for kind, truth in (("gt", "panoptic_gt"), ("im", "panoptic_gt"), ("gt", "panpotic_gt"))
    )


def _vipseg(folder: str) -> tuple[Mapping[str, str], ...]:
    return (
        {
            "reader": "vipseg_official",
            "train_images": f"{folder}images",
            "train_annotations": f"{folder}panoptic_gt_VIPSeg_train.json",
            "eval_images": f"{folder}images",
            "eval_annotations": folder + "panoptic_gt_VIPSeg_{split}.json",
            "eval_truth": f"{folder}panomasksRGB",
        },
    )


def _burst(annotations: str, frames: str) -> tuple[Mapping[str, str], ...]:
    return tuple(
        {
            "train_images": f"{frames}train",
            "train_annotations": f"{annotations}train/{train}.json",
            "eval_images": frames + "{split}",
            "eval_annotations": annotations + "{split}/first_frame_annotations.json",
            "eval_truth": annotations + "{split}/all_classes.json",
        }
        for train in ("all_classes", "train")
    )


def _pictures(images: str, annotations: str, train: str, val: str, **reader: str) -> Mapping[str, str]:
    """Images and annotations of each split; {} stands for its name, which is `train` or `val`."""
    return {
        **reader,
        "train_images": images.format(train),
        "train_annotations": annotations.format(train),
        "eval_images": images.format(val),
        "eval_annotations": annotations.format(val),
    }


def _ade20k(folder: str) -> tuple[Mapping[str, str], ...]:
    """The panoptic maps that Mask2Former's script makes, or the maps of the two challenges."""
    panoptic = _pictures(folder + "images/{}", folder + "ade20k_panoptic_{}.json", "train", "{split}")
    return (
        {**panoptic, "train_images": f"{folder}images/training", "eval_images": f"{folder}images/validation"},
        _pictures(
            folder + "images/{}", folder + "annotations_instance/{}", "training", "{split}", reader="ade20k_official"
        ),
    )


def _images(
    spec: DatasetSpec,
    names: tuple[str, ...],
    folder: str,
    weight: float,
    official: tuple[Mapping[str, str], ...],
    reader: str = "panoptic_images",
    **training,
) -> Dataset:
    """Images with panoptic maps, made into clips that pretraining takes for every task in turn."""
    return Dataset(
        spec,
        names,
        reader=reader,
        files={
            "train_images": f"dataset_images/training/{folder}",
            "train_annotations": f"dataset_annotations/training/{folder}_panoptic/segments.json",
        },
        official=official,
        training={
            "weight": weight,
            "task_weights": ((INSTANCE, 0.3), (PANOPTIC, 0.3), (EXEMPLAR, 0.4)),
            "image_clips": True,
            "min_dims": (512, 544, 576),
            "buckets": ((512, 512),),
            "max_instances": 64,
            **training,
        },
    )


DATASETS: dict[str, Dataset] = {
    # Images, used as augmented clips for pretraining.
    "ADE20K": _images(
        DatasetSpec(PANOPTIC, 150, thing_classes=_ADE20K_THINGS),
        class_names.ADE20K,
        "ade20k",
        0.2,
        _ade20k("") + _ade20k("ADEChallengeData2016/"),
    ),
    "CITYSCAPES": _images(
        DatasetSpec(PANOPTIC, 34, thing_classes=tuple(range(24, 34))),
        class_names.CITYSCAPES,
        "cityscapes",
        0.05,
        (
            _pictures("leftImg8bit/{}", "gtFine/cityscapes_panoptic_{}.json", "train", "{split}"),
            _pictures("leftImg8bit/{}", "gtFine/{}", "train", "{split}"),
        ),
        reader="cityscapes",
        max_instances=128,
        same_view_crop=True,
    ),
    "COCO": _images(
        DatasetSpec(PANOPTIC, 133, thing_classes=tuple(range(80))),
        class_names.COCO,
        "coco",
        0.55,
        (_pictures("{}2017", "annotations/panoptic_{}2017.json", "train", "{split}"),),
        category_ids=_COCO_CATEGORY_IDS,
    ),
    "MAPILLARY": _images(
        DatasetSpec(PANOPTIC, 65, thing_classes=_MAPILLARY_THINGS),
        class_names.MAPILLARY,
        "mapillary",
        0.2,
        tuple(
            _pictures("{}/images", "{}/" + folder + "/panoptic_2018.json", "training", "{split}")
            for folder in ("v1.2/panoptic", "panoptic")
        ),
        category_ids=tuple(range(1, 66)),
        max_instances=128,
        same_view_crop=True,
        image_min_dim=800,
    ),
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
        official=_youtube_vis("{}/instances.json", "{}/JPEGImages") + _youtube_vis("{}.json", "{}/JPEGImages"),
        training={
            "weight": 0.225,
            "min_dims": (448, 512),
            "max_dim": 1024,
        },
        inference={"min_dim": 448, "size_table": True},
        benchmark="ytvis",
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
        official=(
            _youtube_vis("annotations_{}.json", "{}")
            + _youtube_vis("annotations/annotations_{}.json", "{}")
            + _youtube_vis("annotations_{}.json", "Images/{}")
        ),
        training={
            "weight": 0.225,
            "max_dim": 1024,
            "max_instances": 64,
        },
        inference={"min_dim": 576, "size_table": True, "max_predictions": 20},
        benchmark="ovis",
    ),
    "KITTI_STEP": Dataset(
        DatasetSpec(PANOPTIC, 19, thing_classes=(11, 13)),
        class_names.CITYSCAPES_EVALUATED,
        reader="kitti_step",
        files={
            "train_images": "dataset_images/training/kitti_step",
            "train_annotations": "dataset_annotations/training/kitti_step.json",
            "eval_images": "dataset_images/inference/kitti_step_{split}",
            "eval_truth": "dataset_annotations/inference/kitti_step_{split}",
        },
        official=_kitti_step("training/image_02", "training/image_02") + _kitti_step("images/train", "images/{split}"),
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
        benchmark="kitti_step",
        class_origin=_EVALUATED_IN_CITYSCAPES,
    ),
    "CITYSCAPES_VPS": Dataset(
        DatasetSpec(PANOPTIC, 19, thing_classes=(11, 12, 13, 14, 15, 16, 17, 18)),
        class_names.CITYSCAPES_EVALUATED,
        reader="cityscapes_vps",
        files={
            "train_images": "dataset_images/training/cityscapes_vps",
            "train_annotations": "dataset_annotations/training/cityscapes_vps.json",
            "eval_images": "dataset_images/inference/cityscapes_vps_{split}",
            "eval_annotations": "dataset_annotations/inference/cityscapes_vps/im_all_info_{split}_city_vps.json",
            "eval_truth": "dataset_annotations/inference/cityscapes_vps/panoptic_gt_{split}_city_vps.json",
        },
        official=_cityscapes_vps("img_all") + _cityscapes_vps("img"),
        training={
            "weight": 0.075,
            "min_dims": (448,),
            "crop": (0.5, 0.5),
            "frame_sampling_factor": 1.0,
            "consecutive_frames": True,
            "eval_frame_step": 5,
            "max_instances": 64,
            "hue_saturation": 10,
            "brightness": 20,
        },
        inference={"clip_length": 10, "overlap": 5, "max_dim": 2048, "max_tracks": 1000, "score_threshold": 0.5},
        benchmark="cityscapes_vps",
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
            "eval_truth": "dataset_annotations/inference/vipseg/panomasksRGB",
        },
        official=_vipseg("") + _vipseg("VIPSeg_720P/"),
        training={
            "weight": 0.15,
            "crop": (0.75, 0.5),
            "frame_sampling_factor": 5.0,
            "max_instances": 64,
            "hue_saturation": 10,
            "brightness": 20,
        },
        inference={"min_dim": 576, "size_table": True, "max_tracks": 1000, "score_threshold": 0.5},
        benchmark="vipseg",
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
        official=(
            {
                "reader": "davis_official",
                "train_images": "",
                "train_annotations": "ImageSets/2017/train.txt",
                "eval_images": "",
                "eval_annotations": "ImageSets/2017",
            },
        ),
        training={"weight": 0.05, "max_instances": 4},
        benchmark="davis2017",
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
        official=_burst("annotations/", "frames/") + _burst("annotations/", "") + _burst("", "frames/"),
        training={
            "weight": 0.2,
            "frame_sampling_factor": 3.0,
            "max_instances": 4,
            "min_mask_area": 100,
            "interleaved_frames": 10,
        },
        inference={"clip_length": 8, "overlap": 4, "min_dim": 512, "size_table": True},
        benchmark="burst",
    ),
}
