"""Sessions with a stand-in for the network: a frame's colours say which object is where."""

import numpy as np
import pytest

from tarvis_jax import datasets
from tarvis_jax.inference import predictor
from tarvis_jax.inference.predictor import ClassClip, Predictor
from tarvis_jax.inference.session import INFERENCE_DEFAULTS, InferenceConfig, Session
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.results.tracks import decode_mask

SIZE = (64, 64)  # a multiple of 64, so that no padding touches the stripes


class ColourNetwork(Predictor):
    """Objects are stripes of a colour: red 100 is one, red 200 another; queries come in a random order."""

    def __init__(self):  # no network, only the functions that bring logits to pixels
        self.config, self.device = ModelConfig(), None
        self._matmul_precision = None
        self.num_compiles, self.compile_seconds = 0, 0.0
        self._take = self._jit(lambda logits, indices: logits[indices])
        for name in ("_upsample_masks", "_pixel_masks", "_pixel_classes", "_pixel_objects"):
            setattr(self, name, self._jit(getattr(predictor, name)))
        self._rng = np.random.default_rng(0)
        self.clips = []

    def _logits(self, images, red):
        return np.where(images[:, 2::4, 2::4, 0] == red, 1.0, -1.0).astype(np.float32)

    def clip_classes(self, images, dataset):
        self.clips.append(images)
        order = self._rng.permutation(3)
        masks = np.stack([self._logits(images, red) for red in (100, 200, 250)])[order]
        classes = np.asarray([[0, 9, 0, 0], [0, 0, 0, 9], [9, 0, 0, 0]], np.float32)[order]
        semantic = np.stack([self._logits(images, 0), self._logits(images, 100), -self._logits(images, 0)])
        return ClassClip(classes, masks, semantic)

    def clip_exemplar(self, images, inputs):
        """Follows the colour under the first pixel of an object's mask, or under its point."""
        self.clips.append(inputs)
        out = []
        for row in range(len(inputs.ids)):
            if inputs.is_point[row]:
                y, x = (inputs.points_yx[row] * images.shape[1:3]).astype(int)
                red = images[inputs.point_frames[row], y, x, 0]
            else:
                red = images[..., 0][inputs.masks[row]].max()
            out.append(self._logits(images, red))
        return np.stack(out)


def _video(num_frames, first=0, last=None):
    """Stripe 100 at the left, stripe 200 further right from frame `first` to `last`."""
    for index in range(num_frames):
        frame = np.zeros((*SIZE, 3), np.uint8)
        frame[:, 8:16, 0] = 100
        if first <= index < (num_frames if last is None else last):
            frame[:, 40:56, 0] = 200
        yield frame


def _stripe(start, stop):
    mask = np.zeros(SIZE, bool)
    mask[:, start:stop] = True
    return mask


def _exemplar(config=None):
    return Session(ColourNetwork(), "DAVIS", config=config or InferenceConfig(clip_length=4, overlap=2))


def test_instance_tracks_and_scores():
    config = InferenceConfig(clip_length=4, overlap=2, max_tracks=3, score_threshold=0.5)
    session = Session(ColourNetwork(), "YT", datasets.DatasetSpec(datasets.INSTANCE, 3), config)
    frames = list(session.run(_video(9)))
    assert [f.frame for f in frames] == list(range(9))
    assert all(len(f.masks) == 2 and f.semantic is None for f in frames)
    result = session.result()
    by_class = {track.class_id: track for track in result.tracks}
    assert sorted(by_class) == [1, 3] and all(track.score > 0.99 for track in result.tracks)
    for class_id, mask in ((1, _stripe(8, 16)), (3, _stripe(40, 56))):
        assert all(np.array_equal(decode_mask(rle), mask) for rle in by_class[class_id].segmentations)


def test_panoptic_semantic_is_stuff_only():
    spec = datasets.DatasetSpec(datasets.PANOPTIC, 3, thing_classes=(1,))
    session = Session(ColourNetwork(), "KS", spec, InferenceConfig(clip_length=4, overlap=1, max_tracks=3))
    frames = list(session.run(_video(6)))
    assert set(np.unique(frames[0].semantic)) == {0, 2}  # class 1 is a thing, though its logits are the greatest
    np.testing.assert_array_equal(frames[5].semantic == 0, ~(_stripe(8, 16) | _stripe(40, 56)))
    np.testing.assert_array_equal(session.result().semantic_map(5), frames[5].semantic)


@pytest.mark.parametrize("config", [(4, 2), (4, 3), (4, 0), (20, 5)])
def test_objects_keep_ids_and_begin_where_they_are_given(config):
    """Overlaps below and above half a clip, none, and a video shorter than a clip."""
    session = _exemplar(InferenceConfig(clip_length=config[0], overlap=config[1]))
    session.add_target(2, 7, mask=_stripe(8, 16))
    session.add_target(5, 3, point_yx=(10, 45))
    frames = list(session.run(_video(11)))
    if config[1] == 0:  # without overlap nothing carries an object over
        assert [sorted(f.masks) for f in frames] == [[], [], [7], [7], [7], [3, 7]] + [[]] * 5
        return
    assert [sorted(f.masks) for f in frames] == [[]] * 2 + [[7]] * 3 + [[3, 7]] * 6
    result = session.result()
    assert [track.id for track in result.tracks] == [3, 7] and result.num_frames == 11
    np.testing.assert_array_equal(decode_mask(result.tracks[0].segmentations[10]), _stripe(40, 56))
    np.testing.assert_array_equal(decode_mask(result.tracks[1].segmentations[10]), _stripe(8, 16))


def test_an_object_that_vanishes_is_lost_for_good():
    session = _exemplar()
    session.add_target(0, 1, mask=_stripe(8, 16))
    session.add_target(0, 2, mask=_stripe(40, 56))

    def video():  # the second object is away in frames 2..5 and comes back in frame 6
        yield from _video(2)
        yield from _video(4, last=0)
        yield from _video(6)

    frames = list(session.run(video()))
    assert [sorted(f.masks) for f in frames] == [[1, 2]] * 2 + [[1]] * 10


def test_all_lost_then_a_new_object():
    session = _exemplar()
    session.add_target(0, 2, mask=_stripe(40, 56))
    session.add_target(9, 5, mask=_stripe(8, 16))
    frames = list(session.run(_video(12, last=2)))
    assert [sorted(f.masks) for f in frames] == [[2]] * 2 + [[]] * 7 + [[5]] * 3


def test_frames_are_given_out_as_soon_as_they_are_final():
    session = _exemplar()
    session.add_target(0, 1, mask=_stripe(8, 16))
    read = 0

    def video():
        nonlocal read
        for frame in _video(40):
            read += 1
            yield frame

    lead = [read - result.frame for result in session.run(video())]
    assert max(lead) <= 4 + 1  # one clip and the frame that shows it is not the last


def test_bad_targets():
    session = _exemplar()
    session.add_target(0, 1, mask=_stripe(8, 16))
    for match, arguments in (
        ("given twice", dict(frame_index=1, id=1, mask=_stripe(0, 4))),
        ("is empty", dict(frame_index=0, id=2, mask=_stripe(0, 0))),
        ("either a mask or a point, found neither", dict(frame_index=0, id=2)),
        ("found both", dict(frame_index=0, id=2, mask=_stripe(0, 4), point_yx=(0, 0))),
        ("expected an id that is", dict(frame_index=0, id=1.5, point_yx=(0, 0))),
        ("expected an id that is", dict(frame_index=0, id=True, point_yx=(0, 0))),
        ("frame_index is -1", dict(frame_index=-1, id=2, point_yx=(0, 0))),
        (r"expected a mask \[H, W\]", dict(frame_index=0, id=2, mask=np.ones((2, 3, 4)))),
    ):
        with pytest.raises(ValueError, match=match):
            session.add_target(**arguments)
    with pytest.raises(ValueError, match="not finished"):
        session.result()
    list(session.run(_video(3)))
    with pytest.raises(ValueError, match="already ran"):
        list(session.run(_video(3)))


@pytest.mark.parametrize(
    "match, target",
    [
        ("mask is 5x5, the frames are 64x64", dict(frame_index=0, id=1, mask=np.ones((5, 5)))),
        ("outside the frame of 64x64", dict(frame_index=0, id=1, point_yx=(3, 64))),
        ("given in frame 8, but frames has 3", dict(frame_index=8, id=1, point_yx=(0, 0))),
    ],
)
def test_targets_that_do_not_fit_the_video(match, target):
    session = _exemplar()
    session.add_target(**target)
    with pytest.raises(ValueError, match=match):
        list(session.run(list(_video(3))))


def test_bad_sessions():
    with pytest.raises(ValueError, match="expected one of.*found 'NOPE'"):
        Session(ColourNetwork(), "NOPE")
    with pytest.raises(ValueError, match="needs thing and stuff classes"):
        Session(ColourNetwork(), "KS", datasets.DatasetSpec(datasets.PANOPTIC, 3), InferenceConfig())
    with pytest.raises(ValueError, match="no target was given"):
        list(_exemplar().run(_video(3)))
    with pytest.raises(ValueError, match="takes no targets"):
        Session(ColourNetwork(), "YOUTUBE_VIS").add_target(0, 1, point_yx=(0, 0))
    with pytest.raises(ValueError, match=r"overlap: expected 0\.\.3"):
        InferenceConfig(clip_length=4, overlap=4)


@pytest.mark.parametrize("dataset", INFERENCE_DEFAULTS)
def test_defaults_make_a_session(dataset):
    assert Session(ColourNetwork(), dataset).config.overlap * 2 == INFERENCE_DEFAULTS[dataset].clip_length
