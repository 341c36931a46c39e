"""The second clip of a mask case, on made-up cases: which frames it takes objects from, and what a lost object does."""

import pathlib
import types

import numpy as np
import pytest

from tests.parity import backbone_case
from tests.parity.backbone_case import ALL_LOST, compare_outputs, second_clip_tensors
from tests.parity.common import save_npz

H = W = 4  # of the mask logits
IDS = (7, 2, 5)


class Decoder:
    """Stands in for the network: keeps what it is given, predicts the id of each object and -1 for the background."""

    def __init__(self):
        self.objects = None

    def __call__(self, objects):
        self.objects = objects
        num_frames = objects.masks.shape[1]
        queries = np.repeat([*objects.ids, -1], [2] * len(objects.ids) + [1]).astype(np.float32)
        logits = np.broadcast_to(queries[:, None, None, None], (len(queries), num_frames, H, W))
        slices = {"vos": slice(0, len(queries) - 1), "background_vos": slice(len(queries) - 1, None)}
        return types.SimpleNamespace(mask_logits=logits[None, None], slice=slices.get)


def first_clip(num_frames: int, seen: dict[int, list[int]]) -> np.ndarray:
    """Mask logits [3, T, H, W]: below 0, but for one row per frame that an object of IDS is `seen` in."""
    logits = np.full((len(IDS), num_frames, H, W), -1, np.float32)
    for object_id, frames in seen.items():
        for frame in frames:
            logits[IDS.index(object_id), frame, frame % H] = 1
    return logits


@pytest.mark.parametrize("num_frames", [2, 3, 5])
def test_objects_come_from_all_frames_that_the_clips_share(num_frames):
    """The first frame of the first clip plays no part: an object that is seen only there is lost."""
    last = num_frames - 1
    logits = first_clip(num_frames, {7: [0], 2: [0, last], 5: list(range(num_frames))})
    decode = Decoder()
    tensors = second_clip_tensors(decode, IDS, logits)

    objects = decode.objects
    assert objects.masks.shape == (2, num_frames, 4 * H, 4 * W)
    np.testing.assert_array_equal(objects.valid_frames, np.arange(num_frames) < last)
    assert not objects.is_point.any()
    np.testing.assert_array_equal(objects.masks.any((2, 3)), [np.arange(num_frames) == last - 1, objects.valid_frames])
    expected = backbone_case._upsample(logits[1:, 1:])
    np.testing.assert_array_equal(objects.masks[:, :last], expected)
    np.testing.assert_array_equal(tensors["second_clip/instance_ids"], [2, 5])
    np.testing.assert_array_equal(tensors["second_clip/lost_instance_ids"], [7])
    np.testing.assert_array_equal(tensors["second_clip/pred_vos_logits"][:, 0, 0, 0], [2, 5])
    assert tensors["second_clip/pred_vos_logits"].shape == (2, num_frames, H, W)
    assert not tensors[ALL_LOST]


def test_without_objects_nothing_is_decoded():
    decode = Decoder()
    tensors = second_clip_tensors(decode, IDS, first_clip(3, {7: [0], 2: [], 5: []}))
    assert decode.objects is None
    assert tensors[ALL_LOST]
    np.testing.assert_array_equal(tensors["second_clip/lost_instance_ids"], IDS)
    assert tensors["second_clip/instance_ids"].size == 0


def missed(tmp_path: pathlib.Path, recorded: dict[str, np.ndarray], seen: dict[int, list[int]]) -> list[str]:
    """Names of the rows of a case with `recorded` that fail when objects are `seen` so in our first clip."""
    save_npz(tmp_path / "mask.npz", recorded)
    ours = second_clip_tensors(Decoder(), IDS, first_clip(3, seen))
    rows = compare_outputs(ours, backbone_case.load_npz(tmp_path / "mask.npz"), tmp_path, "mask")
    assert len(rows) == len(recorded)
    return [row.tensor for row in rows if not row.ok]


def test_a_case_may_say_that_all_are_lost(tmp_path):
    recorded = {ALL_LOST: np.array(True)}
    assert missed(tmp_path, recorded, seen={}) == []
    assert missed(tmp_path, recorded, seen={2: [1]}) == ["all_lost"]
    recorded["second_clip/lost_instance_ids"] = np.array(IDS)
    recorded["second_clip/pred_vos_logits"] = np.zeros(0, np.float32)
    assert missed(tmp_path, recorded, seen={}) == []
    assert missed(tmp_path, recorded, seen={2: [1]}) == ["all_lost", "lost_instance_ids", "pred_vos_logits"]


def test_a_case_with_survivors_fails_where_we_lose_them(tmp_path):
    recorded = second_clip_tensors(Decoder(), IDS, first_clip(3, {7: [1], 2: [2], 5: [1, 2]}))
    assert missed(tmp_path, recorded, seen={7: [2], 2: [1], 5: [2]}) == []
    everything = ["all_lost", "pred_vos_logits", "pred_background_logits", "instance_ids", "lost_instance_ids"]
    assert missed(tmp_path, recorded, seen={}) == everything
    assert missed(tmp_path, recorded, seen={7: [1], 2: [1]}) == ["pred_vos_logits", "instance_ids", "lost_instance_ids"]
