"""The command that turns tracks into result files."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from tarvis_jax import command_line
from tarvis_jax.results import formats
from tarvis_jax.results.__main__ import main
from tarvis_jax.results.formats import Options
from tarvis_jax.results.tracks import write_tracks
from tests.results.formats import cases


def run(*arguments):
    main([str(argument) for argument in arguments])


def test_objects_of_several_videos(tmp_path, capsys):
    videos = [cases.objects("cat"), cases.objects("a/dog", seed=1)]
    for i, video in enumerate(videos):
        write_tracks(tmp_path / "run" / "tracks" / f"{i}.json", dataclasses.replace(video.load(), dataset="DAVIS"))
        (tmp_path / "frames" / video.id).mkdir(parents=True)
        for frame in range(cases.NUM_FRAMES):
            (tmp_path / "frames" / video.id / f"im{frame + 8}.JPG").touch()
    frames = tmp_path / "frames" / "{video}"
    run("davis2017", "--tracks", tmp_path / "run", "--output", tmp_path / "out", "--frames", frames)
    assert capsys.readouterr().out.split() == [str(tmp_path / "out"), str(tmp_path / "out.zip")]
    names = [path.name for path in sorted((tmp_path / "out" / "a" / "dog").iterdir())]
    assert names == sorted(f"im{frame}.png" for frame in range(8, 8 + cases.NUM_FRAMES))
    first = np.asarray(Image.open(tmp_path / "out" / "cat" / "im8.png"))
    assert set(np.unique(first)) == {0, 1, 2}
    run("coco_video", "--tracks", tmp_path / "run", "--output", tmp_path / "coco", "--image_suffix=.JPG")
    content = json.loads((tmp_path / "coco" / "annotations.json").read_text())
    assert content["images"][0]["file_name"] == "cat/00000.JPG" and content["categories"][0]["name"] == "object"


def test_settings_of_the_dataset(tmp_path):
    video = cases.instances(7, ids=tuple(range(1, 26)), classes=(1,) * 25)
    write_tracks(tmp_path / "tracks.json", dataclasses.replace(video.load(), dataset="OVIS"))
    run("ovis", "--tracks", tmp_path / "tracks.json", "--output", tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())) == 20
    run("ovis", "--tracks", tmp_path, "--output", tmp_path / "out", "--max_predictions=3")
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())) == 3
    run("datumaro", "--tracks", tmp_path, "--output", tmp_path / "labels", "--min_score=0.8")
    (back,) = formats.module("datumaro").read(tmp_path / "labels", Options())
    assert {track.id: track.class_id for track in back.load().tracks} == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1}


def test_errors(tmp_path, capsys):
    write_tracks(tmp_path / "tracks.json", cases.panoptic("street").load())
    common = ("--tracks", tmp_path, "--output", tmp_path / "out")
    messages = {
        ("avi", *common): "format: expected one of ytvis",
        ("kitti_step", *common): "--dataset: expected one of .* found ''",
        ("vspw", "--tracks", tmp_path / "no", "--output", tmp_path / "out"): "expected a file of tracks, or a folder",
        ("ytvis", *common): "the name of the video is 'street', the format has numbers",
        ("davis2017", *common, "--dataset=X"): "--dataset: expected one of .* found 'X'",
        ("davis2017", *common, "--score_threshold=2"): "expected --score_threshold in 0..1",
        ("davis2017", *common, f"--frames={tmp_path}/x/{{video}}"): "expected the frames of video 'street' in",
    }
    for arguments, message in messages.items():
        with pytest.raises(ValueError, match=message):
            run(*arguments)
    assert command_line.run(main, ["davis2017", "--track=x"]) == 2
    assert "error: " in capsys.readouterr().err and not (tmp_path / "out").exists()
