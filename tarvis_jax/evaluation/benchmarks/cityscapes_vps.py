"""Cityscapes-VPS: VPQ, equal to the official evaluation (mcahny/vps; see `metrics/panoptic.py` for its rules).

- `gt`: panoptic_gt_val_city_vps.json (or panpotic_gt_val_city_vps.json, as the official script spells it) with
  panoptic_video/*.png or val/panoptic_video/*.png beside it; or the path of such a JSON file.
- `results`: pred.json and pan_pred/<image id>.png.

A PNG is RGB with 8 bits: R + 256 G + 65536 B is the id of the segment, 0 is void. Every video has six annotated frames;
annotations, images and PNGs belong together by their positions in the lists, the PNGs of the truth by name.
"""

import itertools
import pathlib
from typing import Any

from input_pipeline.workspace import get, join, load_json
from tarvis_jax.evaluation.benchmarks import video_panoptic
from tarvis_jax.evaluation.benchmarks.files import first_that_exists
from tarvis_jax.fields import shown

CASE = {"results": "pred", "gt": "gt"}
FRAMES_PER_VIDEO = 6
WINDOWS = {0: 1, 5: 2, 10: 3, 15: 4}  # the k of VPQ_k, in frames of the camera -> annotated frames
_GT_JSON = ("panpotic_gt_val_city_vps.json", "panoptic_gt_val_city_vps.json")
_GT_PNG = ("panoptic_video", "val/panoptic_video")


def evaluate(results: pathlib.Path, gt: pathlib.Path) -> dict[str, Any]:
    """Percent (0..100): VPQ_k and their mean, for all, thing and stuff classes; and the sums of each window and class.

    Raises:
      ValueError: a file or record is missing, of another kind or size or with numbers out of range, or the JSON of the
        results does not fit its PNGs; names the file and the record.
    """
    true_json = gt if gt.is_file() else first_that_exists(gt / name for name in _GT_JSON)
    true_folder = first_that_exists(true_json.parent / name for name in _GT_PNG)
    predicted_json, predicted_folder = results / "pred.json", results / "pan_pred"
    truth, prediction = load_json(true_json), load_json(predicted_json)
    categories = video_panoptic.read_categories(truth, true_json)
    image_ids, true_files = _images(truth, true_json)
    annotations = get(truth, "annotations", list, str(true_json))
    guesses = get(prediction, "annotations", list, str(predicted_json))
    for path, records in ((true_json, annotations), (predicted_json, guesses)):
        if len(records) != len(image_ids):
            raise ValueError(f"{path}: expected {len(image_ids)} annotations, one per image, found {len(records)}")
    _check_image_ids(guesses, image_ids, predicted_json)

    def frame(index: int):
        where = f"annotations[{index}] of image {image_ids[index]}"
        return (
            video_panoptic.read_listed(annotations[index], categories, f"{true_json}: {where}", is_truth=True),
            join(true_folder, true_files[index], str(true_json)),
            video_panoptic.read_listed(guesses[index], categories, f"{predicted_json}: {where}", is_truth=False),
            join(predicted_folder, f"{image_ids[index]}.png", str(true_json)),
        )

    scores = video_panoptic.WindowScores(categories, list(WINDOWS.values()))
    frames = video_panoptic.read_overlaps(frame(index) for index in range(len(image_ids)))
    for start in range(0, len(image_ids), FRAMES_PER_VIDEO):
        overlaps = list(itertools.islice(frames, FRAMES_PER_VIDEO))
        scores.add_video(overlaps, f"{true_json}: the video that starts with image {image_ids[start]}")
    tables = {k: scores.table(window) for k, window in WINDOWS.items()}
    return {
        "expected": {
            "VPQ_k": {str(k): video_panoptic.groups_of(table) for k, table in tables.items()},
            "VPQ_mean": video_panoptic.mean_of(tables.values()),
        },
        "per_window_frames": {str(WINDOWS[k]): table for k, table in tables.items()},
    }


def _images(truth: Any, path: pathlib.Path) -> tuple[list[str], list[str]]:
    """Ids of the images in the order of the file, and names of the true PNGs in their own order, as they are paired."""
    ids: dict[str, None] = {}
    names = []
    for index, image in enumerate(get(truth, "images", list, str(path))):
        where = f"{path}: images[{index}]"
        image_id, name = get(image, "id", str, where), get(image, "file_name", str, where)
        if image_id in ids:
            raise ValueError(f"{where}: a second image {image_id}")
        ids[image_id] = None
        names.append(
            name.replace("_newImg8bit.png", "_final_mask.png").replace("_leftImg8bit.png", "_gtFine_color.png")
        )
    if not ids or len(ids) % FRAMES_PER_VIDEO:
        raise ValueError(f"{path}: expected {FRAMES_PER_VIDEO} images per video, found {len(ids)} in all")
    return list(ids), sorted(names)


def _check_image_ids(guesses: list[Any], image_ids: list[str], path: pathlib.Path) -> None:
    """Results may leave out the ids of their images; those that they have should be of this dataset, each once."""
    known, seen = set(image_ids), set()
    for index, guess in enumerate(guesses):
        if not isinstance(guess, dict) or "image_id" not in guess:
            continue
        image_id = get(guess, "image_id", str, f"{path}: annotations[{index}]")
        if image_id not in known:
            raise ValueError(f"{path}: annotations[{index}]: the ground truth has no image {shown(image_id)}")
        if image_id in seen:
            raise ValueError(f"{path}: annotations[{index}]: a second annotation of image {image_id}")
        seen.add(image_id)
