"""Puts a workspace before the PyTorch original's own data loaders, and says what each of them makes of it.

    PYTHONPATH=ORIGINAL python tests/tools/original_loaders.py ORIGINAL WORKSPACE [--samples 12]

ORIGINAL is a checkout of the original and WORKSPACE a tree like that of `python -m tests.rehearsal`. It needs the
packages that the original's loaders import (torch, imgaug, einops, pycocotools, detectron2's `data.transforms`), none
of ours. It ends with status 1 if any dataset or split fails.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import sys
import traceback

parser = argparse.ArgumentParser()
parser.add_argument("original", type=pathlib.Path)
parser.add_argument("workspace", type=pathlib.Path)
parser.add_argument("--samples", type=int, default=12, help="samples to draw from each training dataset")
arguments = parser.parse_args()
os.environ["TARVIS_WORKSPACE_DIR"] = str(arguments.workspace.absolute())

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from tarvis.config import cfg  # noqa: E402
from tarvis.data.inference_dataset import InferenceDataset  # noqa: E402
from tarvis.inference import dataset_parser as parsers  # noqa: E402
from tarvis.training.build_dataset import build_concat_dataset  # noqa: E402
from tarvis.utils.paths import Paths  # noqa: E402

failed = []


def attempt(name, check):
    for generator in (random, np.random):
        generator.seed(0)
    torch.manual_seed(0)
    try:
        print(f"{name}: {check()}", flush=True)
    except Exception:
        failed.append(name)
        print(f"{name}: FAILED\n{traceback.format_exc()}", flush=True)


def training(name):
    dataset = build_concat_dataset([name], [1.0], arguments.samples)
    sizes, targets, videos = set(), collections.Counter(), set()
    for i in range(len(dataset)):
        sample = dataset[i]
        sizes.add(tuple(sample["images"].shape[-2:]))
        targets[len(sample["instance_masks"])] += 1
        videos.add(str(sample["meta"]["seq_name"]))
    return f"{len(dataset)} samples of {sorted(videos)}; sizes {sorted(sizes)}; targets {dict(sorted(targets.items()))}"


def inference(name, parser):
    settings = cfg.DATASETS.get(name).INFERENCE.as_dict()
    told = []
    for info in parser:
        paths = [path for path in info["image_paths"] if os.path.exists(path)]
        # KITTI_STEP's frames are listed in the original itself; the tree has the first of each sequence.
        if len(paths) < len(info["image_paths"]) and name != "KITTI_STEP":
            raise FileNotFoundError(next(path for path in info["image_paths"] if path not in paths))
        assert cv2.imread(paths[0]).shape[:2] == tuple(info["image_dims"]), info["dirname"]
        keys = ("first_frame_mask_paths", "first_frame_mask_rles", "first_frame_object_points")
        clips = InferenceDataset(
            task_type=parser.task_type,
            image_paths=paths,
            clip_length=settings["CLIP_LENGTH"],
            overlap_length=settings["FRAME_OVERLAP"],
            image_resize_params=settings["IMAGE_RESIZE"],
            first_ref_mask_frame_index=info.get("first_ref_mask_frame_index", 0),
            **{key: info.get(key) for key in keys},
        )
        objects = 0
        for clip in range(len(clips)):
            given = clips[clip]["vos_ref_mask_info"]
            objects += 0 if given is None else len(given["instance_ids"])
        size = tuple(clips[0]["images"].shape[-2:])
        told.append(f"{info['dirname']}: {len(paths)} frames, {len(clips)} clips {size}, {objects} given")
    return "\n  ".join([f"{len(parser)} videos", *told])


configs = arguments.original / "configs"
cfg.merge_from_file(str(configs / "pretrain_resnet50_swin-tiny.yaml"))
for dataset in ("COCO", "ADE20K", "CITYSCAPES", "MAPILLARY"):
    attempt(f"{dataset} train", lambda name=dataset: training(name))
cfg.merge_from_file(str(configs / "finetune_resnet50_swin-tiny.yaml"))
for dataset in ("YOUTUBE_VIS", "OVIS", "KITTI_STEP", "CITYSCAPES_VPS", "VIPSEG", "DAVIS", "BURST"):
    attempt(f"{dataset} train", lambda name=dataset: training(name))

SPLITS = {
    ("YOUTUBE_VIS", "val"): lambda: parsers.YoutubeVISParser(**Paths.youtube_vis_val_paths()),
    ("OVIS", "val"): lambda: parsers.OVISParser(**Paths.ovis_val_paths()),
    ("KITTI_STEP", "val"): lambda: parsers.KittiStepParser(**Paths.kitti_step_val_paths()),
    ("CITYSCAPES_VPS", "val, every fifth frame"): lambda: parsers.CityscapesVPSParser(
        **Paths.cityscapes_vps_val_paths(), sparse_frames=True
    ),
    ("CITYSCAPES_VPS", "val"): lambda: parsers.CityscapesVPSParser(
        **Paths.cityscapes_vps_val_paths(), sparse_frames=False
    ),
    ("VIPSEG", "val"): lambda: parsers.VIPSegDatasetParser(**Paths.vipseg_val_paths()),
    ("VIPSEG", "test"): lambda: parsers.VIPSegDatasetParser(**Paths.vipseg_test_paths()),
    ("DAVIS", "val"): lambda: parsers.DavisDatasetParser(**Paths.davis_val_paths()),
    ("DAVIS", "testdev"): lambda: parsers.DavisDatasetParser(**Paths.davis_testdev_paths()),
}
for split, paths in (("val", Paths.burst_val_anns), ("test", Paths.burst_test_anns)):
    for mode in ("mask", "point"):
        SPLITS["BURST", f"{split}, {mode}"] = lambda paths=paths, mode=mode: parsers.BurstDatasetParser(
            **paths(), mode=mode, num_interleaved_frames=10
        )
for (dataset, split), make in SPLITS.items():
    attempt(f"{dataset} {split}", lambda name=dataset, make=make: inference(name, make()))

print(json.dumps({"failed": failed}))
sys.exit(1 if failed else 0)
