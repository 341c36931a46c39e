import numpy as np
import pytest
from PIL import Image

from tarvis_jax import datasets
from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.inference.frames import open_frames
from tarvis_jax.inference.session import Session
from tarvis_jax.inference.video import segment_video, stream_video
from tarvis_jax.masks import rle
from tarvis_jax.results.target import Target
from tarvis_jax.results.tracks import read_stream, read_tracks
from tests.inference.color_network import ColorNetwork, stripe, video

CONFIG = InferenceConfig(clip_length=4, overlap=2, max_tracks=3)


class TimedNetwork(ColorNetwork):
    def __init__(self):
        super().__init__()
        self.model_seconds = 0.0

    def segment_objects(self, images, inputs, place=None):
        self.model_seconds += 0.01
        return super().segment_objects(images, inputs)

    def segment_classes(self, images, dataset, place=None):
        self.model_seconds += 0.01
        return super().segment_classes(images, dataset)


def test_exemplar_files(tmp_path):
    targets = [Target(0, 1, stripe(8, 16)), Target(1, 4, point_yx=(5, 45))]
    result, summary = segment_video(
        TimedNetwork(), "DAVIS", list(video(6)), tmp_path, targets, config=CONFIG, overlays=True
    )
    assert [track.id for track in result.tracks] == [1, 4]
    assert read_tracks(tmp_path / "tracks.json") == result
    assert len(list((tmp_path / "overlays").glob("*.png"))) == 6
    assert next(iter(open_frames(tmp_path / "overlay.mp4"))).shape == (256, 256, 3)  # 64 pixels, four times
    ids = np.asarray(Image.open(tmp_path / "masks" / "00005.png"))
    np.testing.assert_array_equal(ids == 4, stripe(40, 56))
    assert summary.num_frames == 6 and summary.model_seconds == pytest.approx(0.02)
    assert "6 frames, 2 tracks; network 300.00 frames/s" in str(summary) and "\n" not in str(summary)


def test_panoptic_and_instance_files(tmp_path):
    frames = list(video(5))
    spec = datasets.DatasetSpec(datasets.PANOPTIC, 3, thing_classes=(0,))
    result, _ = segment_video(TimedNetwork(), "KS", frames, tmp_path / "vps", spec=spec, config=CONFIG)
    image = np.asarray(Image.open(tmp_path / "vps" / "panoptic" / "000004.png"))
    (thing,) = [track for track in result.tracks if track.class_id == 1 and track.score > 0.5]
    np.testing.assert_array_equal(image[..., 2] == thing.id, rle.decode(thing.segmentations[4]))
    spec = datasets.DatasetSpec(datasets.INSTANCE, 3)
    segment_video(TimedNetwork(), "YT", frames, tmp_path / "vis", spec=spec, config=CONFIG, overlays=False)
    assert (tmp_path / "vis" / "youtube_vis.json").is_file() and not (tmp_path / "vis" / "overlays").exists()


def test_results_are_streamed_to_a_file(tmp_path):
    spec = datasets.DatasetSpec(datasets.PANOPTIC, 3, thing_classes=(0,))

    def session(keep_result):
        return Session(TimedNetwork(), "KS", spec, CONFIG, keep_result=keep_result)

    kept = session(True)
    list(kept.run(video(9, first=3, last=5)))
    path = tmp_path / "new" / "results.jsonl"
    assert len(list(stream_video(session(False), video(9, first=3, last=5), path))) == 9
    assert read_stream(path) == kept.result()

    lines = path.read_text().splitlines(keepends=True)
    for content, message in (
        (lines[:-1], "cut off: found 9 frames, its last line promises None"),
        ([*lines[:3], *lines[4:]], r"results.jsonl, line 4: .*frame 2"),
        ([*lines[:3], "{", *lines[4:]], "results.jsonl, line 4"),
        (["[]"], "results.jsonl, line 1"),
    ):
        path.write_text("".join(content))
        with pytest.raises(ValueError, match=message):
            read_stream(path)


def test_online(tmp_path):
    arguments = [TimedNetwork(), "DAVIS", list(video(6)), tmp_path, [Target(0, 1, stripe(8, 16))]]
    _, summary = segment_video(*arguments, config=CONFIG, overlays=False, online=True)
    assert summary.num_frames == 6 and "ms after frames" in str(summary)


def test_overlays_need_a_second_pass(tmp_path):
    with pytest.raises(ValueError, match="read twice"):
        segment_video(TimedNetwork(), "DAVIS", video(3), tmp_path, [Target(0, 1, stripe(8, 16))], config=CONFIG)
