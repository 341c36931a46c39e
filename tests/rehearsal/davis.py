"""DAVIS: palette PNGs; for training also the generic JSON without classes.

Official files: `DAVIS/{JPEGImages,Annotations}/480p` and `DAVIS/ImageSets/2017/{train,val,test-dev}.txt`.
"""

import pathlib

import numpy as np
from PIL import Image

from tests.rehearsal import files
from tests.rehearsal.scenes import Scene, spread


def write_davis(workspace: pathlib.Path, official: pathlib.Path) -> None:
    official = official / "DAVIS"
    training = {
        "bear": (Scene(480, 854, 8, spread((1,)), seed=1), (1,)),
        # Five objects, more than a clip may have; one leaves and returns.
        "bike-packing": (Scene(480, 910, 8, spread([1] * 5, {1: (0, 1, 2, 6, 7)}), seed=2), (1, 2, 3, 4, 5)),
        # Ids with a gap, and one that is 0 in the JSON alone; an object that comes later.
        "shooting": (Scene(480, 1152, 7, spread([1] * 3, {2: range(3, 7)}), seed=3), (0, 2, 9)),
        # No reference frame: no clip can start before its last three frames.
        "short": (Scene(480, 854, 3, spread((1, 1)), seed=4), (1, 2)),
    }
    sequences = []
    for name, (scene, ids) in training.items():
        _write_video(workspace / "dataset_images/training/davis", official, name, scene, ids, range(scene.num_frames))
        sequences.append(
            {
                "id": name,
                "height": scene.height,
                "width": scene.width,
                "length": scene.num_frames,
                "image_paths": [f"{name}/{t:05d}.jpg" for t in range(scene.num_frames)],
                "categories": {str(i): 1 for i in ids},
                "segmentations": [
                    {
                        str(ids[i - 1]): _code(scene, counts, name)
                        for i, counts in files.runs(scene.id_map(t)).items()
                        if i
                    }
                    for t in range(scene.num_frames)
                ],
            }
        )
    sequences[1]["segmentations"][4]["2"] = None  # absent, said aloud
    content = {"meta": {"category_labels": {"1": "object"}}, "sequences": sequences}
    files.write_json(workspace / "dataset_annotations/training/davis_semisupervised.json", content)
    files.write_text(official / "ImageSets/2017/train.txt", "".join(f"{name}\n" for name in training))

    splits = {
        "val": {
            "blackswan": (Scene(480, 854, 14, spread((1,)), seed=5), (1,)),
            "bmx-trees": (Scene(480, 910, 6, spread((1, 1, 1), {1: (0, 1, 4, 5)}), seed=6), (1, 3, 4)),
        },
        "testdev": {"aerobatics": (Scene(480, 854, 5, spread((1, 1)), seed=7), (1, 2))},
    }
    for split, videos in splits.items():
        for name, (scene, ids) in videos.items():
            annotated = range(scene.num_frames) if split == "val" else (0,)
            _write_video(workspace / "dataset_images/inference/davis", official, name, scene, ids, annotated)
            for t in annotated:
                mask = f"{name}/{t:05d}.png"
                same = official / "Annotations/480p" / mask
                files.same_file(workspace / "dataset_annotations/inference/davis/Annotations" / mask, same)
        # Lists that were made on Windows.
        listed = "".join(f"{name}\r\n" for name in videos)
        files.write_text(workspace / f"dataset_annotations/inference/davis/ImageSet_{split}.txt", listed)
        official_name = "test-dev" if split == "testdev" else split
        files.write_text(official / f"ImageSets/2017/{official_name}.txt", "".join(f"{name}\n" for name in videos))


def _code(scene: Scene, counts: list[int], name: str):
    return counts if name == "shooting" else files.to_text(counts, scene.height, scene.width)


def _write_video(images, official, name, scene, ids, annotated) -> None:
    """Frames and palette PNGs: the third mask has void (255), the fourth is a gray PNG without palette."""
    numbers = np.array((0, *(i or 1 for i in ids)), np.uint8)
    for t in range(scene.num_frames):
        file = f"{name}/{t:05d}.jpg"
        files.write_picture(images / file, scene.picture(t))
        files.same_file(official / "JPEGImages/480p" / file, images / file)
        if t not in annotated:
            continue
        mask = numbers[scene.id_map(t)]
        path = official / f"Annotations/480p/{name}/{t:05d}.png"
        if t == 2:
            mask[:4, :9] = 255
        if t == 3:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask, mode="L").save(path)
        else:
            files.write_palette(path, mask)
