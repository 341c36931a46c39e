"""Rows of `input_pipeline/statistics.py` from the training loaders of the PyTorch original.

    PYTHONPATH=REFERENCE:STUBS TARVIS_WORKSPACE_DIR=... python tests/tools/reference_clips.py \\
        --config=REFERENCE/configs/finetune_resnet50_swin-tiny.yaml --samples=200 --out=reference.json

REFERENCE is a folder with the original's package `tarvis`. It needs numpy below 2, torch, imgaug, opencv, pycocotools,
einops and fvcore; of detectron2 it imports names that video datasets never call, so a stub (STUBS) is enough. Nothing
of this project is imported.
"""

import argparse
import json
import random

import imgaug
import numpy as np
import torch

MULTIPLE = 64  # of the sides of a padded clip: `fmap_multiple_of` of the original's temporal neck
_SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file that is merged over the original's base.yaml")
    parser.add_argument("--datasets", help="comma-separated names; all of the config unless given")
    parser.add_argument("--samples", type=int, default=200, help="clips of each dataset")
    parser.add_argument("--out", required=True, help="JSON file to write")
    options = parser.parse_args()

    from tarvis.config import cfg
    from tarvis.training.build_dataset import build_concat_dataset

    cfg.merge_from_file(options.config)
    names = options.datasets.split(",") if options.datasets else cfg.TRAINING.DATASET_LIST
    rows = []
    for name in names:
        for seed in (random.seed, np.random.seed, torch.manual_seed, imgaug.seed):
            seed(_SEED)
        # Exemplar datasets list their samples in the order of the files: many are made, and some of them taken.
        dataset = build_concat_dataset([name], [1.0], 50 * options.samples)
        order = np.random.default_rng(_SEED).permutation(len(dataset))[: options.samples]
        rows += [row(name, dataset, int(index)) for index in order]
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump(rows, file)
        print(name, len(rows), flush=True)


def row(name: str, dataset, index: int) -> dict:
    """One clip of a dataset, as the fields of `ClipRow`; the fields are described there."""
    sample = dataset[index]
    height, width = sample["images"].shape[-2:]
    masks, ignored = sample["instance_masks"].numpy(), sample.get("ignore_masks")
    return {
        "dataset": name,
        "size": [height, width],
        "padded": [-(-side // MULTIPLE) * MULTIPLE for side in (height, width)],
        "cropped": was_cropped(dataset, sample),
        "targets": len(masks),
        "frames": [int(frame) for frame in sample["meta"]["frame_indices"]],
        "covered": float(masks.any(0).mean()),
        "ignored": None if ignored is None else float(ignored.numpy().astype(bool).mean()),
    }


def was_cropped(dataset, sample: dict) -> bool:
    """Whether the clip is smaller than its video: by the frames' size after the crop, or by that of the whole clip."""
    if not hasattr(dataset, "videos") and sample["task_type"] != "vos":
        return True  # clips of images
    found = tuple(sample["meta"]["orig_dims"])
    if sample["task_type"] == "vos":
        whole = dataset.resizer.compute_resized_dims(*found)
        return tuple(sample["images"].shape[-2:]) != tuple(whole)
    videos = {}
    for video in dataset.videos:
        if isinstance(video, dict):
            videos[video["name"]] = (video["height"], video["width"]) if "height" in video else None
        else:
            videos[video.id] = video.image_dims
    original = videos[sample["meta"]["seq_name"]]
    if original is None:
        import os.path

        import cv2

        name = sample["meta"]["seq_name"]
        first = next(video["filenames"][0] for video in dataset.videos if video["name"] == name)
        original = cv2.imread(os.path.join(dataset.images_dir, name, first + ".jpg")).shape[:2]
    return found != tuple(original)


if __name__ == "__main__":
    main()
