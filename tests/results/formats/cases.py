"""Small results in every form, for the tests of the formats."""

import numpy as np

from tarvis_jax.masks import rle
from tarvis_jax.results.formats import ResultVideo
from tarvis_jax.results.tracks import Track, VideoResult, encode_semantic

SIZE = (24, 40)
NUM_FRAMES = 6
NAMES = tuple(f"{frame:05d}" for frame in range(NUM_FRAMES))


def masks(seed: int, count: int) -> np.ndarray:
    """bool [count, T, H, W]: ragged, no two overlap; the first is absent in frame 1, the last comes in frame 2."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, count + 1, (NUM_FRAMES, 6, 10)).repeat(4, 1).repeat(4, 2)
    owner[rng.random(owner.shape) < 0.1] = 0
    shown = owner == np.arange(1, count + 1)[:, None, None, None]
    shown[0, 1] = False
    shown[-1, :2] = False
    return shown


def track(track_id, shown: np.ndarray, class_id=None, score=1.0) -> Track:
    return Track(track_id, [rle.encode(mask) if mask.any() else None for mask in shown], None, class_id, score)


def objects(video, ids=(1, 2, 7), seed=0) -> ResultVideo:
    """Targets given by example."""
    tracks = [track(i, shown) for i, shown in zip(ids, masks(seed, len(ids)), strict=True)]
    return video_of(video, VideoResult(str(video), "", SIZE, NUM_FRAMES, tracks))


def instances(video, ids=(1, 2, 7), classes=(1, 2, 1), seed=0) -> ResultVideo:
    """Tracks with classes and scores."""
    scores = np.linspace(0.9, 0.3, len(ids)).tolist()
    shown = masks(seed, len(ids))
    tracks = [track(*each) for each in zip(ids, shown, classes, scores, strict=True)]
    return video_of(video, VideoResult(str(video), "", SIZE, NUM_FRAMES, tracks))


def panoptic(video, ids=(3, 300), thing=4, num_classes=5, seed=0, void=True) -> ResultVideo:
    """Class maps 0..K-1 and two tracks of the last class but one."""
    rng = np.random.default_rng(seed)
    shown = masks(seed, len(ids))
    semantic = []
    for frame in range(NUM_FRAMES):
        classes = rng.integers(0, num_classes - 1, (6, 10)).repeat(4, 0).repeat(4, 1)
        classes[shown[:, frame].any(0)] = thing
        if void:
            classes[0, :5] = 255
        semantic.append(encode_semantic(classes))
    tracks = [track(i, each, thing + 1, 1.0) for i, each in zip(ids, shown, strict=True)]
    for each in tracks:
        for frame, encoded in enumerate(each.segmentations):
            if encoded is not None and void:
                mask = rle.decode(encoded)
                mask[0, :5] = False
                each.segmentations[frame] = rle.encode(mask)
    return video_of(video, VideoResult(str(video), "", SIZE, NUM_FRAMES, tracks, semantic))


def video_of(video, result: VideoResult, names=NAMES) -> ResultVideo:
    return ResultVideo(video, names, lambda: result)


def content(video: ResultVideo) -> dict:
    """What a round trip keeps: masks by id, classes, scores, semantic maps; empty masks are none."""
    result = video.load()
    return {
        "size": tuple(result.size),
        "num_frames": result.num_frames,
        "classes": {each.id: each.class_id for each in result.tracks},
        "scores": {each.id: each.score for each in result.tracks},
        "masks": {
            each.id: [m["counts"] if m is not None and rle.area(m) else None for m in each.segmentations]
            for each in result.tracks
        },
        "semantic": None
        if result.semantic is None
        else [result.semantic_map(frame).tolist() for frame in range(result.num_frames)],
    }


def same(written: ResultVideo, back: ResultVideo, *, without: tuple[str, ...] = ()) -> None:
    """Asserts that a video was read back as it was written, but for what the format does not hold."""
    expected, found = content(written), content(back)
    for key in without:
        del expected[key], found[key]
    assert found == expected
