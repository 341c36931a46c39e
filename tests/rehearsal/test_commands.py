"""The commands over whole benchmarks, on files of the official layout: what they write, skip and refuse.

The network is a stand-in that finds something in every video; tests/rehearsal/test_inference.py has a real one.
"""

import copy
import dataclasses
import functools
import json
import types

import numpy as np
import pytest

import main
from configs import finetune, quickstart
from input_pipeline import readers
from input_pipeline.config import dataset_config
from input_pipeline.synthetic import prepare_data
from tarvis_jax import api
from tarvis_jax.commands import evaluate, infer_split
from tarvis_jax.config import from_mapping
from tarvis_jax.datasets import EXEMPLAR, PANOPTIC, class_counts
from tarvis_jax.evaluation import segment
from tarvis_jax.masks import rle
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.results.tracks import Track, VideoResult, read_tracks
from tarvis_jax.run_config import Config
from tests import tiny
from tests.rehearsal.recipes import NETWORK

# Dataset, split -> its videos and what is handed in.
SPLITS = {
    ("YOUTUBE_VIS", "val"): (2, {"results/results.json", "results.zip"}),
    ("OVIS", "val"): (2, {"results/results.json", "results.zip"}),
    ("KITTI_STEP", "val"): (9, {"results/0016/000000.png"}),
    ("VIPSEG", "val"): (2, {"results/pred.json", "results/pan_pred/12_1mWNahzcsAc/00001200.png"}),
    ("VIPSEG", "test"): (2, {"results/pred.json"}),
    ("DAVIS", "val"): (2, {"results/bmx-trees/00005.png"}),
    ("DAVIS", "test-dev"): (1, {"results/aerobatics/00004.png", "results.zip"}),
    ("BURST", "val"): (3, {"results/results.json"}),
    ("BURST", "test"): (3, {"results/results.json"}),
}


def find_something(predictor, dataset, spec, config, video, after_frame, clip_batch):
    """The given objects, or two tracks, each in a rectangle; in place of `segment.segment_video`."""
    masks = []
    for number in range(2):
        mask = np.zeros((video.height, video.width), bool)
        mask[20:60, 20 + 60 * number : 70 + 60 * number] = True
        masks.append(rle.encode(mask))
    if spec.task == EXEMPLAR:
        ids = sorted(target.id for target in segment.targets_of(video, spec))
        tracks = [Track(i, [masks[n % 2]] * video.num_frames) for n, i in enumerate(ids)]
    else:
        label = 1 + (spec.thing_classes or (0,))[0]
        logits = [5.0 * (k == label) for k in range(1 + spec.num_classes)]
        tracks = [Track(1 + n, [masks[n]] * video.num_frames, logits, label, 0.9) for n in range(2)]
    everywhere = rle.encode(np.ones((video.height, video.width), bool))
    semantic = [{0: everywhere}] * video.num_frames if spec.task == PANOPTIC else None
    for _ in range(video.num_frames):
        after_frame()
    size = (video.height, video.width)
    return VideoResult(str(video.id), dataset, size, video.num_frames, tracks, semantic)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    """Counts the videos that were segmented."""
    videos = []

    def segment_video(*arguments):
        videos.append(arguments[4].id)
        return find_something(*arguments)

    monkeypatch.setattr(segment, "segment_video", segment_video)
    return videos


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    model = ModelConfig(**NETWORK, semantic_classes=class_counts(finetune.DATASETS))
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny.make_model(model).save_pretrained(folder)
    return folder


@pytest.fixture
def infer(checkpoint, workspace, tmp_path, monkeypatch):
    monkeypatch.setattr(infer_split, "load", load_once)

    def infer(dataset="DAVIS", split="val", *flags):
        flags = [f"--dataset={dataset}", f"--split={split}", f"--output={tmp_path}", *flags]
        if not any(flag.startswith("--data_root") for flag in flags):
            flags.append(f"--data_root={workspace}")
        main.main(["--mode=infer", f"--checkpoint={checkpoint}", *flags])

    infer.output = tmp_path
    return infer


@functools.cache
def load_once(path, dtype=None):
    return api.load(path, dtype=dtype)


def done(folder) -> set[str]:
    return {path.stem for path in (folder / "tracks").iterdir()}


@pytest.mark.parametrize(("dataset", "split"), SPLITS)
def test_every_split(dataset, split, infer, workspace):
    infer(dataset, split)
    num_videos, expected = SPLITS[dataset, split]
    videos = readers.evaluation_videos(dataset_config(dataset), split, workspace)
    assert len(done(infer.output)) == len(videos) == num_videos
    assert all((infer.output / name).is_file() for name in expected)
    for path in (infer.output / "tracks").iterdir():
        result = read_tracks(path)
        (video,) = (video for video in videos if str(video.id) == result.video)
        assert result.num_frames == video.num_frames and result.tracks


def test_cityscapes_vps_takes_its_names_from_the_ground_truth(infer, tree):
    """Of a download; the released workspace does not have it, and tracks are all that can be written."""
    with pytest.raises(ValueError, match="eval_truth: expected a file at .* the result files take their names from it"):
        infer("CITYSCAPES_VPS")
    infer("CITYSCAPES_VPS", "val", "--format=none")
    assert done(infer.output) == {"1", "2"} and not (infer.output / "results").exists()
    infer("CITYSCAPES_VPS", "val", f"--data_root={tree[1]}/cityscapes_vps")
    assert len(list((infer.output / "results/pan_pred").iterdir())) == 12


@pytest.mark.parametrize("name", ["YOUTUBE_VOS", "MOSE"])
def test_benchmarks_that_are_like_davis(name, infer, workspace, tmp_path_factory):
    """Masks of the first frame alone; of YouTube-VOS, a list of the frames that are handed in."""
    folder = tmp_path_factory.mktemp("download") / "valid"
    for kind in ("JPEGImages", "Annotations"):
        (folder / kind / "a1b2").mkdir(parents=True)
    for t in range(3):
        frame = f"{workspace}/dataset_images/inference/davis/bmx-trees/0000{t}.jpg"
        (folder / f"JPEGImages/a1b2/0000{t}.jpg").symlink_to(frame)
    first = f"{workspace}/dataset_annotations/inference/davis/Annotations/bmx-trees/00000.png"
    (folder / "Annotations/a1b2/00000.png").symlink_to(first)
    meta = {"videos": {"a1b2": {"objects": {"1": {"category": "x", "frames": ["00000", "00002"]}}}}}
    (folder / "meta.json").write_text(json.dumps(meta))
    infer(name, "val", f"--data_root={folder.parent}")
    written = {path.stem for path in (infer.output / "results").rglob("*.png")}
    assert written == ({"00000", "00002"} if name == "YOUTUBE_VOS" else {"00000", "00001", "00002"})
    assert (infer.output / "results.zip").is_file()
    assert {track.id for track in read_tracks(infer.output / "tracks/a1b2.json").tracks} == {1, 3, 4}


def test_shares_and_a_killed_run(infer, stand_in, monkeypatch):
    infer("BURST", "val", "--share=2/2")
    assert len(stand_in) == 1 and not (infer.output / "results").exists()
    segment_video = segment.segment_video

    def killed(*arguments):
        if len(stand_in) == 2:
            raise KeyboardInterrupt
        return segment_video(*arguments)

    monkeypatch.setattr(segment, "segment_video", killed)
    with pytest.raises(KeyboardInterrupt):
        infer("BURST", "val", "--share=1/2")
    assert len(done(infer.output)) == 2 and not list((infer.output / "tracks").glob(".*"))
    monkeypatch.setattr(segment, "segment_video", segment_video)
    infer("BURST", "val", "--share=1/2")
    assert len(stand_in) == 3 == len(set(stand_in)) and (infer.output / "results/results.json").is_file()
    infer("BURST")
    assert len(stand_in) == 3, "all are there"


def test_settings(infer, stand_in, tmp_path):
    changes = "--clip_length=4", "--overlap=1", "--min_dim=240", "--max_dim=500"
    infer("DAVIS", "val", "--videos=bmx-trees", "--overlays", *changes)
    settings = json.loads((infer.output / "settings.json").read_text())
    assert (
        settings["inference"] | {"clip_length": 4, "overlap": 1, "min_dim": 240, "max_dim": 500}
        == (settings["inference"])
    )
    assert len(list((infer.output / "overlays/bmx-trees").rglob("*.png"))) == 6
    assert stand_in == ["bmx-trees"] and (infer.output / "results/bmx-trees/00000.png").is_file()
    with pytest.raises(ValueError, match="other settings: inference.clip_length 4 there, 5 here; give another folder"):
        infer("DAVIS", "val", "--clip_length=5", "--overlap=1", "--min_dim=240", "--max_dim=500")
    with pytest.raises(ValueError, match="--clip_length=4, the .* for DAVIS: overlap: expected 0..3 .*, found 6"):
        infer("DAVIS", "val", "--clip_length=4")


def test_a_run_says_where_its_data_is(infer, stand_in, monkeypatch, tmp_path):
    """The checkpoint of a run on made-up videos needs no other files; names of videos may stand in a file."""
    config = quickstart.get_config()
    config.synthetic.num_train, config.synthetic.num_val, config.synthetic.num_frames = 1, 2, 2
    config = from_mapping(Config, config)
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    monkeypatch.setattr(infer_split, "saved_config", lambda path: config)
    model = tiny.make_model()
    monkeypatch.setattr(infer_split, "load", lambda path, dtype: model)
    data = prepare_data(config.data, config.synthetic, tmp_path / "run")
    names = [video.id for video in readers.evaluation_videos(data.datasets[2], "val", data.workspace)]
    (tmp_path / "names").write_text(f"{names[1]}\n")
    flags = f"--checkpoint={tmp_path / 'run'}", "--dataset=DAVIS", "--split=val", f"--output={tmp_path / 'out'}"
    main.main(["--mode=infer", *flags, f"--videos={tmp_path / 'names'}"])
    assert stand_in == [names[1]] and len(list((tmp_path / "out/results").rglob("*.png"))) == 2


def test_burst_by_mask(infer):
    infer("BURST", "val", "--exemplar=mask", "--format=none")
    assert json.loads((infer.output / "settings.json").read_text())["exemplar"] == "mask"


@pytest.mark.parametrize(
    ("dataset", "of_checkpoint", "flag", "setting"),
    [
        ("BURST", {"split_exemplar": "mask"}, None, {"exemplar": "mask"}),
        ("BURST", {"split_exemplar": "mask"}, "--exemplar=point", {"exemplar": "point"}),
        ("CITYSCAPES_VPS", {}, None, {"frame_step": 5}),
        ("CITYSCAPES_VPS", {"split_frame_step": 1}, None, {"frame_step": 1}),
        ("CITYSCAPES_VPS", {"split_frame_step": 1}, "--frame_step=5", {"frame_step": 5}),
        ("CITYSCAPES_VPS", {"split_frame_step": 5}, "--frame_step=1", {"frame_step": 1}),
    ],
)
def test_a_checkpoint_says_which_frames_and_objects(dataset, of_checkpoint, flag, setting, infer, tree, monkeypatch):
    """And flags come first."""

    def load(path, dtype):
        model = copy.copy(load_once(path))
        model.datasets = model.datasets | {dataset: dataclasses.replace(model.datasets[dataset], **of_checkpoint)}
        return model

    monkeypatch.setattr(infer_split, "load", load)
    folder = tree[1] / "cityscapes_vps"
    of_download = [f"--data_root={folder}"] if dataset == "CITYSCAPES_VPS" else []
    infer(dataset, "val", "--format=none", *of_download, *([flag] if flag else []))
    settings = json.loads((infer.output / "settings.json").read_text())
    assert settings | setting == settings
    if of_download:
        lengths = {read_tracks(path).num_frames for path in (infer.output / "tracks").iterdir()}
        assert lengths == {30 // setting["frame_step"]}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("DAVIS", "val", "--share=3/2"), "--share=3/2: expected k/n with k in 1..n"),
        (("DAVIS", "val", "--videos=bmx-tree"), "--videos=bmx-tree: .* such as bmx-trees, .*; found bmx-tree"),
        (("DAVIS", "val", "--format=avi"), "--format=avi: expected none or one of ytvis"),
        (("DAVIS", "tset"), "expected a list of sequences at .*ImageSet_tset.txt, but it does not exist"),
        (("DAVIS", "val", "--exemplar=point"), "expected a point of each object, found masks alone"),
        (("OVIS", "val", "--exemplar=point"), "--exemplar=point: objects of OVIS are not given"),
        (("OVIS", "val", "--frame_step=2"), "--frame_step=2: all frames of OVIS are taken"),
        (("CITYSCAPES_VPS", "val", "--frame_step=0"), "eval_frame_step: expected 1..1000, found 0"),
        (("COCO", "val"), "--dataset=COCO: expected a dataset with splits for inference"),
        (("DAVIS", "val", "--data_root=/nowhere"), "--data_root=/nowhere: expected a folder, found none"),
        (("BURST", "val", "--videos=BDD/val_b1c81faa-3df17267", "--format=burst"), "its files hold the whole split"),
        (
            ("DAVIS", "val", "--input=x"),
            "--input for one video, --split for those of a benchmark or --clips for a folder",
        ),
        (("DAVIS", "val", "--targets=x"), "--mode=infer with --split does not take --targets"),
    ],
)
def test_errors_of_the_user(flags, message, infer):
    with pytest.raises(ValueError, match=message):
        infer(*flags)


@pytest.fixture
def run(workspace, tmp_path, monkeypatch):
    """A run of the shipped fine-tuning on all seven datasets."""
    config = finetune.get_config()
    config.data.workspace = workspace
    config.model.update(NETWORK)
    config.train.eval_videos = 2
    config = from_mapping(Config, config)
    (tmp_path / "run").mkdir()
    opened = types.SimpleNamespace(run=config, variables=tiny.variables(config.model))
    monkeypatch.setattr(evaluate, "open_model", lambda path: opened)
    return tmp_path / "run"


def test_evaluation_of_a_fine_tuning(run, capsys):
    """The released workspace has ground truth of two of the seven datasets."""
    main.main(["--mode=eval", f"--workdir={run}"])
    scores = json.loads((run / "eval/final/scores.json").read_text())
    table, page = (run / "scores.txt").read_text(), (run / "eval/final/report.html").read_text()
    skipped = {name: each["skipped"] for name, each in scores.items() if "skipped" in each}
    assert set(scores) == set(finetune.DATASETS) and set(scores) - set(skipped) == {"DAVIS"}
    for name, reason in skipped.items():
        assert f"{name}\n  not scored: {reason}" in table and name in page
    assert "key 'annotations' is missing" in skipped["YOUTUBE_VIS"] and "eval_truth" in skipped["KITTI_STEP"]
    assert {row["video"] for row in scores["DAVIS"]["per_video"]} == {"blackswan", "bmx-trees"}


def test_evaluation_of_downloads(run, tree):
    """Chosen datasets, whose downloads have ground truth; per class and per video."""
    (run / "data").mkdir()
    (run / "data/official").symlink_to(tree[1])
    main.main(["--mode=eval", f"--workdir={run}", "--datasets=KITTI_STEP,BURST", f"--data_root={run / 'data'}"])
    scores = json.loads((run / "eval/final/scores.json").read_text())
    assert set(scores) == {"KITTI_STEP", "BURST"} and all(len(each["per_video"]) == 2 for each in scores.values())
    assert {row["name"] for row in scores["KITTI_STEP"]["per_class"]} >= {"person", "car"}
    assert len(scores["KITTI_STEP"]["pictures"]) == 2
