"""Every snippet of docs/api.md runs."""

import json

import cv2
import numpy as np
import pytest

from tarvis_jax.masks import rle
from tests import tiny
from tests.docs.snippets import run_page


def _write_frames(folder, num_frames):
    """A bright square that moves, 48x80; returns its masks."""
    folder.mkdir(parents=True)
    masks = []
    for t in range(num_frames):
        mask = np.zeros((48, 80), bool)
        mask[10:30, 5 * t : 5 * t + 20] = True
        masks.append(mask)
        cv2.imwrite(str(folder / f"{t:05d}.png"), np.where(mask, 220, 30).astype(np.uint8)[..., None].repeat(3, 2))
    return masks


@pytest.mark.slow
def test_api_page(tmp_path):
    tiny.make_model().save_pretrained(tmp_path / "model")
    _write_frames(tmp_path / "frames", 3)
    masks = _write_frames(tmp_path / "data/frames/first", 4)
    sequence = {
        "id": "first",
        "height": 48,
        "width": 80,
        "image_paths": [f"first/{t:05d}.png" for t in range(4)],
        "categories": {"1": 1},
        "segmentations": [{"1": rle.encode(mask)} for mask in masks],
    }
    (tmp_path / "data/annotations.json").write_text(json.dumps({"sequences": [sequence]}))
    steps = {
        "num_steps = 5_000": "num_steps = 1",
        "total_steps = 5_000": "total_steps = 1",
        "warmup_steps = 500": "warmup_steps = 0",  # a first step of warm-up would change nothing
    }
    sizes = {
        "min_dims=(256,)": "min_dims=(48,)",
        "max_dim=448": "max_dim=96",
        "batch_size = 4": "batch_size = 1",
    }
    small_video = {'dataset="YOUTUBE_VIS")': 'dataset="YOUTUBE_VIS", min_dim=None)'}
    names = run_page("docs/api.md", tmp_path, steps | sizes | small_video)
    assert names["video"].num_frames == 20 and names["classes"].shape == (48, 80)
    trained, start = (names[key].variables["queries/semantic"] for key in ("trained", "model"))
    assert trained.shape == start.shape and np.abs(np.asarray(trained) - np.asarray(start)).max() > 0
    assert names["logits"].shape == (1, 2, 16, 24)
