"""BURST: one JSON per split; `rle` is the text of a compressed RLE, ids are text.

Official files: `annotations/{train,val,test}/*.json` and TAO's `frames/{train,val,test}/<dataset>/<sequence>`.
"""

import pathlib
from typing import Any

from input_pipeline.synthetic_writers import inner_point
from tests.rehearsal import files
from tests.rehearsal.scenes import Scene, Thing, spread

CATEGORIES = [
    {"id": 805, "name": "person", "synset": "person.n.01", "synonyms": ["person"], "def": "a human being"},
    {"id": 95, "name": "bird", "synset": "bird.n.01", "synonyms": ["bird"], "def": "a feathered animal"},
]


def write_burst(workspace: pathlib.Path, official: pathlib.Path) -> None:
    small = Thing(95, (0.5, 0.02), (0.012, 0.009))  # less than 100 pixels
    training = [
        ("YFCC100M", "v_f69ebe5b731d3e87c1a3992ee39c3b7e", Scene(480, 640, 8, (*spread([805] * 5), small), seed=1), 30),
        # The same name in another dataset; thirty tracks.
        ("Charades", "v_f69ebe5b731d3e87c1a3992ee39c3b7e", Scene(854, 480, 7, spread([805] * 30), seed=2), 24),
        ("ArgoVerse", "side_left_1", Scene(1200, 1920, 6, spread((805, 95), {0: (0, 5), 1: (2, 3, 4)}), seed=3), 10),
        # Nothing is left of it.
        ("HACS", "tiny_things", Scene(720, 1280, 5, (Thing(95, (0.3, 0.3), (0.008, 0.006)),), seed=4), 30),
        ("LaSOT", "bird-1", Scene(720, 1280, 6, spread((95,), {0: range(2, 6)}), seed=5), 30),
    ]
    sequences = []
    for number, (dataset, name, scene, fps) in enumerate(training):
        folder = workspace / "dataset_images/training/burst" / dataset / name
        names = [f"frame{1 + t * fps:04d}.jpg" for t in range(scene.num_frames)]
        # Of the frames in between only the names are needed.
        every = [f"frame{1 + t:04d}.jpg" for t in range((scene.num_frames - 1) * fps + 1)]
        for t, file in enumerate(names):
            files.write_picture(folder / file, scene.picture(t))
            files.same_file(official / "burst/frames/train" / dataset / name / file, folder / file)
        sequences.append(_sequence(number, dataset, name, scene, fps, names, every, _masks(scene)))
    content = {"sequences": sequences, "categories": CATEGORIES, "split": "train"}
    files.write_json(workspace / "dataset_annotations/training/burst.json", content)
    files.write_json(official / "burst/annotations/train/train.json", content)
    for split in ("val", "test"):
        _write_inference(workspace, official / "burst", split)
    files.write_json(official / "burst/annotations/info/categories.json", CATEGORIES)


def _write_inference(workspace: pathlib.Path, official: pathlib.Path, split: str) -> None:
    """`first_frame_annotations_*`: mask, box and point of each track where it appears; all frames of the video."""
    seed = 10 if split == "val" else 20
    videos = [
        (
            "YFCC100M",
            f"v_{split}_25685519b728afd746dfd1b2fe77c",
            Scene(480, 640, 4, spread((805, 95), {1: (1, 2)}), seed=seed),
            6,
        ),
        (
            "BDD",
            f"{split}_b1c81faa-3df17267",
            Scene(720, 1280, 3, spread((805, 805, 95), {0: (1, 2)}), seed=seed + 1),
            30,
        ),
        ("AVA", f"{split}_CMCPhm2L400_scene", Scene(640, 360, 3, spread((805,), {0: (1,)}), seed=seed + 2), 2),
    ]
    first, every_mask = [], []
    for number, (dataset, name, scene, fps) in enumerate(videos):
        folder = workspace / "dataset_images/inference/burst" / split / dataset / name
        every = [f"frame{1 + t:04d}.jpg" for t in range((scene.num_frames - 1) * fps + 1 + fps // 2)]
        for t, file in enumerate(every):
            if t % fps == 0:
                files.write_picture(folder / file, scene.picture(t // fps))
            else:  # the picture of the second before
                files.same_file(folder / file, folder / every[t // fps * fps])
            files.same_file(official / "frames" / split / dataset / name / file, folder / file)
        names, masks = every[::fps], _masks(scene)
        every_mask.append(_sequence(number, dataset, name, scene, fps, names, every, masks))
        first.append(_sequence(number, dataset, name, scene, fps, names, every, _prompts(scene, masks)))
    content = {"categories": CATEGORIES, "split": split}
    path = workspace / f"dataset_annotations/inference/burst/first_frame_annotations_{split}.json"
    files.write_json(path, {"sequences": first, **content})
    files.same_file(official / f"annotations/{split}/first_frame_annotations.json", path)
    files.write_json(official / f"annotations/{split}/all_classes.json", {"sequences": every_mask, **content})


def _sequence(number, dataset, name, scene, fps, names, every, segmentations) -> dict[str, Any]:
    tracks = {track for frame in segmentations for track in frame}
    return {
        "id": number,
        "width": scene.width,
        "height": scene.height,
        "seq_name": name,
        "dataset": dataset,
        "fps": fps,
        "all_image_paths": every,
        "annotated_image_paths": names,
        "neg_category_ids": [95],
        "not_exhaustive_category_ids": [],
        "track_category_ids": {track: scene.things[int(track) - 1].kind for track in sorted(tracks)},
        "segmentations": segmentations,
    }


def _masks(scene: Scene) -> list[dict[str, Any]]:
    return [
        {
            str(i): {"rle": files.to_text(counts, scene.height, scene.width), "is_gt": True, "score": 1.0}
            for i, counts in files.runs(scene.id_map(t)).items()
            if i
        }
        for t in range(scene.num_frames)
    ]


def _prompts(scene: Scene, masks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    seen: set[str] = set()
    prompts = []
    for t, frame in enumerate(masks):
        prompts.append({})
        for track in sorted(set(frame) - seen):
            mask = scene.id_map(t) == int(track)
            y, x = inner_point(mask)
            prompts[-1][track] = {**frame[track], "bbox": files.box(mask), "point": {"x": x, "y": y}}
        seen |= set(frame)
    return prompts
