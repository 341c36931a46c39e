"""The whole inference pipeline against the reference's finished tracks (golden/e2e_*).

The settings come from the case's meta.json; clips are joined as the reference joins them (reference_defects.py).
"""

import json
import pathlib

import cv2
import numpy as np

from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.inference.predictor import Predictor
from tarvis_jax.inference.session import Session
from tarvis_jax.masks import rle
from tarvis_jax.results.tracks import VideoResult
from tests.parity.common import OUTPUT_TOLERANCE, Row, compare, load_npz, model_config, seeded_variables
from tests.parity.reference_defects import ReferenceSession

MASK_TOLERANCE = 1e-3  # 1 - IoU of a track's masks over all frames
CLASS_MAP_TOLERANCE = 1e-3  # share of pixels with another class
DATASETS = {"instance": "YOUTUBE_VIS", "panoptic": "KITTI_STEP", "mask": "DAVIS", "point": "BURST"}


def is_case(case_dir: pathlib.Path) -> bool:
    """Whether the folder holds a case of this kind."""
    return (case_dir / "meta.json").is_file() and (case_dir / "frames").is_dir()


def run(
    case_dir: pathlib.Path,
    seed: int,
    backbone: str,
    names: tuple[str, ...] = tuple(DATASETS),
) -> list[Row]:
    """Rows of the tasks whose files the case holds; stage = task, tensor = track or map."""
    config = model_config(case_dir, backbone)
    predictor = Predictor(config, seeded_variables(case_dir, seed, config), matmul_precision="highest")
    rows = []
    for name in names:
        if (case_dir / f"{name}.json").is_file():
            rows += compare_task(case_dir, name, predictor)
    return rows


def compare_task(case_dir: pathlib.Path, name: str, predictor: Predictor) -> list[Row]:
    """Runs one task of the case and compares masks, class maps and class logits."""
    golden = json.loads((case_dir / f"{name}.json").read_text())
    golden_masks = golden["track_masks"] if "track_masks" in golden else golden["track_mask_rles"]
    # The reference encodes empty masks too: its first frame has as many as there were tracks.
    semantic, result = segment(case_dir, name, predictor, max_tracks=len(golden_masks[0]))
    rows = _compare_masks(name, result, golden_masks)
    if "track_class_logits" in golden:
        ours = {track.id: track.class_logits for track in result.tracks}
        expected = {int(i): logits for i, logits in golden["track_class_logits"].items()}
        rows.append(Row(name, "track ids", float(set(ours) != set(expected)), 0.0))
        both = sorted(set(ours) & set(expected))
        rows.append(
            compare(name, "class_logits", [ours[i] for i in both], [expected[i] for i in both], OUTPUT_TOLERANCE)
        )
    if name == "panoptic":
        golden_maps = load_npz(case_dir / "panoptic_semantic.npz")
        expected = np.stack([golden_maps[key] for key in sorted(golden_maps)])
        rows.append(Row(name, "class map", float(np.mean(np.stack(semantic) != expected)), CLASS_MAP_TOLERANCE))
    return rows


def segment(
    case_dir: pathlib.Path, name: str, predictor: Predictor, max_tracks: int
) -> tuple[list[np.ndarray | None], VideoResult]:
    """Our own class maps per frame (panoptic only) and tracks of one task of the case."""
    meta = json.loads((case_dir / "meta.json").read_text())
    session = ReferenceSession(
        predictor,
        DATASETS[name],
        config=InferenceConfig(
            clip_length=meta["clip_length"],
            overlap=meta["overlap"],
            min_dim=meta["resize"]["MIN_DIMS"] if meta["resize"]["MODE"] == "min_dim" else None,
            max_dim=meta["resize"].get("MAX_DIM", 1333),
            max_tracks=max_tracks,
            score_threshold=0.0,
        ),
    )
    _add_targets(session, case_dir, name, meta)
    semantic = [frame.semantic for frame in session.run(case_dir / "frames")]
    return semantic, session.result()


def _add_targets(session: Session, case_dir: pathlib.Path, name: str, meta: dict) -> None:
    if name == "mask":
        masks = load_npz(case_dir / "masks_input.npz")["masks"]
        for mask, (object_id, frame) in zip(masks, meta["mask_frames"].items(), strict=True):
            session.add_target(frame, int(object_id), mask=mask)
    elif name == "point":
        size = cv2.imread(str(sorted((case_dir / "frames").glob("*.png"))[0])).shape[:2]
        for object_id, point in meta["points_yx"].items():
            pixel = tuple(float(p * s - 0.5) for p, s in zip(point, size, strict=True))
            session.add_target(meta["point_frames"][object_id], int(object_id), point_yx=pixel)


def _compare_masks(name: str, result: VideoResult, golden: list[dict[str, dict]]) -> list[Row]:
    """1 - IoU per track over all frames; a frame without RLE is empty."""
    ours = {track.id: track.segmentations for track in result.tracks}
    rows = [Row(name, "frames", float(abs(result.num_frames - len(golden))), 0.0)]
    for track_id in sorted(set(ours) | {int(i) for frame in golden for i in frame}):
        intersection = union = 0
        for frame, expected in enumerate(golden):
            a = ours.get(track_id, [None] * len(golden))[frame]
            b = expected.get(str(track_id))
            a, b = (np.zeros(result.size, bool) if each is None else rle.decode(each) for each in (a, b))
            intersection += np.count_nonzero(a & b)
            union += np.count_nonzero(a | b)
        rows.append(Row(name, f"track {track_id}", 1 - intersection / union if union else 0.0, MASK_TOLERANCE))
    return rows
