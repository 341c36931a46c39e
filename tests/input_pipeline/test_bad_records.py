"""What is left out is counted once, logged, kept over a resume, and the same whichever process meets it."""

import collections
import itertools
import json
import shutil

import numpy as np
import pytest

from input_pipeline import bad_records, batches
from input_pipeline.bad_records import BadRecord, LeftOut
from input_pipeline.shards import __main__ as command
from input_pipeline.shards import index as files
from input_pipeline.shards import videos as shards
from tests.input_pipeline.bad_files import DAVIS, FRAME_0, cut, put


@pytest.fixture
def config(make_config, make_dataset, own_workspace):
    """Of a dataset with a cut frame."""
    cut(0.5)(own_workspace / FRAME_0)

    def make(**values):
        settings = {"datasets": (make_dataset("DAVIS"),), "workspace": str(own_workspace), "on_bad_record": "skip"}
        return make_config(**{**settings, "num_parallel": 1, **values})

    return make


def take(config, count, **options):
    return list(itertools.islice(batches.train_batches(config, **options), count))


def test_samples_are_drawn_again_alike_everywhere(config):
    """In worker processes, and after a start in the middle; the counts come from there."""
    whole, in_workers, later = LeftOut(), LeftOut(), LeftOut()
    expected = take(config(), 6, left_out=whole)
    cases = (
        (take(config(num_parallel=2), 6, left_out=in_workers), expected),
        (take(config(), 3, start_step=3, left_out=later), expected[3:]),
    )
    for found, wanted in cases:
        for (info, batch), (wanted_info, wanted_batch) in zip(found, wanted, strict=True):
            assert info == wanted_info
            for key, value in wanted_batch.items():
                np.testing.assert_array_equal(batch[key], value, err_msg=key)
    records = [record for record in whole.take_new() if record.step < 6]
    assert len(records) > 3 and all("00002.jpg: the JPEG is cut off" in record.error for record in records)
    # Batches are made ahead of those that are taken.
    assert set(records) <= set(in_workers.take_new())
    assert {record for record in records if record.step >= 3} <= set(later.take_new())


def test_samples_that_show_no_bad_frame_are_as_they_were(config, workspace):
    left_out = LeftOut()
    damaged = take(config(), 6, left_out=left_out)
    again = {(record.step, record.sample) for record in left_out.take_new()}
    same = 0
    for (info, batch), (_, good) in zip(damaged, take(config(workspace=str(workspace)), 6), strict=True):
        for row in range(4):
            equal = np.array_equal(batch["images"][row], good["images"][row])
            assert equal or (info.step, row) in again
            same += equal
    assert same > 4


def test_nothing_left_is_an_error(config, own_workspace):
    for frame in sorted((own_workspace / "dataset_images/training/davis").glob("*/*.jpg")):
        if frame.stem != "00000":  # whose header is read at the start
            cut(0.5)(frame)
    with pytest.raises(ValueError, match=r"no sample could be read, in this and the 9 samples tried before it"):
        take(config(), 6)
    for number in (0, 1):
        put("sequences", number, "width", value=0)(own_workspace / DAVIS)
    with pytest.raises(
        ValueError, match=r"DAVIS.*has no video \(bad data was left out before, such as: .*sequences\[0\]"
    ):
        take(config(), 1)


def test_each_is_counted_once_and_told_in_part(caplog, tmp_path):
    left_out = LeftOut()
    for number in range(60):
        left_out.add(BadRecord("DAVIS", f"frame {number}", number, 0))
        left_out.add(BadRecord("DAVIS", f"frame {number}", number, 0))
    left_out.add(BadRecord("OVIS", "a name \ud800"))
    assert left_out.counts() == {"DAVIS": (0, 60), "OVIS": (1, 0)}
    assert left_out.scalars() == {"data/videos_left_out": 1, "data/samples_drawn_again": 60}
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 8 and "frame 4" in texts[4] and "50 videos and samples" in texts[-1]

    left_out.keep_in(tmp_path, 0)
    with open(tmp_path / "bad_records-0.jsonl", "a") as file:
        file.write('{"dataset": "DA')  # a run that was killed
    resumed, other = LeftOut(), LeftOut()
    resumed.add(BadRecord("OVIS", "a name \\ud800"))  # found once more when the annotations are read again
    resumed.keep_in(tmp_path, 0)
    resumed.add(BadRecord("DAVIS", "frame 59", 59, 0))
    resumed.add(BadRecord("DAVIS", "frame 60", 60, 0))
    assert resumed.counts() == {"DAVIS": (0, 61), "OVIS": (1, 0)}
    other.keep_in(tmp_path, 1)
    other.add(BadRecord("OVIS", "a name \\ud800"))  # every process reads the annotations
    told = bad_records.summary(tmp_path, 60)
    assert told["DAVIS"] == "0 videos or images were left out, 60 samples were drawn again", "step 60 is not trained"
    assert told["OVIS"] == "1 videos or images were left out, 0 samples were drawn again"
    assert told["DAVIS, 5"] == "frame 4" and "DAVIS, 6" not in told
    assert bad_records.summary(tmp_path / "other", 60) == {"all datasets": "nothing was left out"}


def test_shards_leave_out_the_video_of_a_bad_frame(config, tmp_path, own_workspace):
    dataset = config().datasets[0]
    with pytest.raises(ValueError, match="00002.jpg: the JPEG is cut off"):
        command.prepare(dataset, str(own_workspace), str(tmp_path / "strict"))
    command.prepare(dataset, str(own_workspace), str(tmp_path / "skip"), on_bad_record="skip", frames_per_shard=3)
    (video,) = shards.training_videos(dataset, str(tmp_path / "skip"))
    assert video.id == "0001" and [video.load_frame(t).shape for t in range(6)] == [(48, 64, 3)] * 6
    assert len(files.read_index(files.folder_of(tmp_path / "skip", "DAVIS"), "train").shards) == 2
    shutil.copy(own_workspace / "dataset_images/training/davis/0001/00002.jpg", own_workspace / FRAME_0)
    from_files = [v for v in batches.read_videos(config())[0] if v.id == "0001"]
    assert collections.Counter(from_files[0].instances) == collections.Counter(video.instances)
    for t in range(6):
        np.testing.assert_array_equal(from_files[0].frame_masks(t, (1,)), video.frame_masks(t, (1,)))


def test_a_held_out_video_may_be_bad(config, own_workspace, make_dataset):
    put("sequences", 1, "width", value=0)(own_workspace / DAVIS)
    (videos,) = batches.read_videos(config(datasets=(make_dataset("DAVIS", held_out=("0001",)),)))
    assert [video.id for video in videos] == ["0000"]


def test_records_are_lines_of_json(tmp_path):
    left_out = LeftOut()
    left_out.keep_in(tmp_path, 3)
    left_out.add(BadRecord("DAVIS", "é\n", 1, 2))
    (line,) = (tmp_path / "bad_records-3.jsonl").read_text(encoding="ascii").splitlines()
    assert json.loads(line) == {"dataset": "DAVIS", "error": "é\n", "step": 1, "sample": 2}
