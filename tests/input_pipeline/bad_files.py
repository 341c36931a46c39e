"""Ways to damage small datasets, one id each: which reader, what is done to the files, and what has to come of it."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from input_pipeline.config import DatasetConfig, dataset_config
from input_pipeline.own_videos import own_dataset
from tests.input_pipeline import official_downloads, official_files, own_files, panoptic_files
from tests.input_pipeline.conftest import small

NAN, INFINITY = float("nan"), float("inf")
VIPSEG_TRAIN, CITYSCAPES_TRAIN = "VIPSeg_720P/panoptic_gt_VIPSeg_train.json", "panoptic_gt_train_city_vps.json"
VIDEOS = ("beach", "lawn", "street")  # of one's own


# Datasets: how the good files are written, and the config that reads them.


def _davis(root: pathlib.Path) -> None:
    official_downloads.davis(root)
    official_files.write_frames(root / "JPEGImages/480p/camel", seed=1)
    official_files.write_masks(root / "Annotations/480p/camel")
    (root / "ImageSets/2017/train.txt").write_text("bear\ncamel\n")


def _ade20k(root: pathlib.Path) -> None:
    classes, numbers = panoptic_files.layout()
    semantic = np.select([classes == 0, classes == 1, classes == 2], [1, 3, 150], 0).astype(np.uint8)
    instances = np.stack([np.where(numbers > 0, 100, 0), numbers, 0 * numbers], -1).astype(np.uint8)
    for number in (1, 2):
        name = f"ADE_train_{number:08d}"
        panoptic_files.write_image(root / f"annotations/training/{name}.png", semantic)
        panoptic_files.write_image(root / f"annotations_instance/training/{name}.png", instances)
        panoptic_files.write_image(root / f"images/training/{name}.jpg", panoptic_files.picture(number))


def _cityscapes(root: pathlib.Path) -> None:
    classes, numbers = panoptic_files.layout()
    values = np.select([classes == 0, classes == 1, numbers == 1, numbers == 2], [7, 23, 26_001, 26_002], 0)
    for number in (1, 2):
        name = f"aachen/aachen_{number:06d}_000019"
        panoptic_files.write_image(root / f"gtFine/train/{name}_gtFine_instanceIds.png", values.astype(np.uint16))
        panoptic_files.write_image(root / f"leftImg8bit/train/{name}_leftImg8bit.png", panoptic_files.picture(number))


def _vipseg(root: pathlib.Path) -> None:
    official_downloads.vipseg(root)
    for folder in ("images", "panomasks", "panomasksRGB"):
        shutil.copytree(root / "VIPSeg_720P" / folder / "1_a", root / "VIPSeg_720P" / folder / "2_b")

    def add(content):
        for entries in (content["videos"], content["annotations"]):
            entries.append(entries[0] | {"video_id": "2_b"})

    edit(add)(root / VIPSEG_TRAIN)


def _cityscapes_vps(root: pathlib.Path) -> None:
    official_downloads.cityscapes_vps(root)
    for path in [*root.glob("train/img/*.png"), *root.glob("train/panoptic_video/*.png")]:
        shutil.copy(path, path.with_name(path.name.replace("0003_", "0004_").replace("_000000_", "_000001_")))

    def add(content):
        for name in ("images", "annotations"):
            text = json.dumps(content[name]).replace("0003_", "0004_").replace("_000000_", "_000001_")
            content[name] += json.loads(text)

    edit(add)(root / CITYSCAPES_TRAIN)


IMAGE_CLIPS = {"min_dims": (64, 72), "buckets": ((64, 64),), "max_instances": 4, "image_min_dim": None}


def _image_dataset(name: str, **values) -> DatasetConfig:
    return dataset_config(name, **IMAGE_CLIPS, **values)


def _own(root: pathlib.Path) -> DatasetConfig:
    return own_dataset(root, held_out=0)


# name -> (writer of the files, root -> config, ids of the training videos)
DATASETS: dict[str, tuple[Callable, Callable[[pathlib.Path], DatasetConfig], tuple]] = {
    "YOUTUBE_VIS": (official_files.workspace, lambda root: small("YOUTUBE_VIS"), (1, 2, 3)),
    "KITTI_STEP": (official_files.workspace, lambda root: small("KITTI_STEP"), ("0000", "0001")),
    "DAVIS": (official_files.workspace, lambda root: small("DAVIS"), ("0000", "0001")),
    "BURST": (official_files.workspace, lambda root: small("BURST"), ("YFCC100M/clip", "Charades/clip")),
    "VIPSEG": (official_files.workspace, lambda root: small("VIPSEG"), ("1_a", "2_b")),
    "COCO": (panoptic_files.workspace, lambda root: _image_dataset("COCO"), (9, 25)),
    "KITTI_STEP download": (
        official_downloads.kitti_step,
        lambda root: small("KITTI_STEP", root=str(root)),
        ("0000", "0001"),
    ),
    "DAVIS download": (_davis, lambda root: small("DAVIS", root=str(root)), ("bear", "camel")),
    "CITYSCAPES download": (
        _cityscapes,
        lambda root: _image_dataset("CITYSCAPES", root=str(root)),
        ("aachen_000001_000019", "aachen_000002_000019"),
    ),
    "ADE20K download": (
        _ade20k,
        lambda root: _image_dataset("ADE20K", root=str(root)),
        ("ADE_train_00000001", "ADE_train_00000002"),
    ),
    "VIPSEG download": (_vipseg, lambda root: small("VIPSEG", root=str(root)), ("1_a", "2_b")),
    "CITYSCAPES_VPS download": (
        _cityscapes_vps,
        lambda root: small("CITYSCAPES_VPS", root=str(root)),
        ("0003", "0004"),
    ),
    **{
        name: (lambda root, write=write: write(root, VIDEOS), _own, VIDEOS)
        for name, write in own_files.WRITERS.items()
        if name in ("id_masks", "coco_video", "mots", "datumaro", "cvat_video")
    },
}
READERS = {
    "YOUTUBE_VIS": "youtube_vis",
    "KITTI_STEP": "kitti_step (generic)",
    "DAVIS": "davis (generic)",
    "BURST": "burst",
    "VIPSEG": "vipseg",
    "COCO": "panoptic_images",
    "KITTI_STEP download": "kitti_step_official",
    "DAVIS download": "davis_official",
    "CITYSCAPES download": "cityscapes",
    "ADE20K download": "ade20k_official",
    "VIPSEG download": "vipseg_official",
    "CITYSCAPES_VPS download": "cityscapes_vps_official",
}


# Kinds of damage.


def edit(change: Callable) -> Callable[[pathlib.Path], None]:
    """Changes the content of a JSON file."""

    def damage(path: pathlib.Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def put(*keys, value) -> Callable[[pathlib.Path], None]:
    """Puts a value at a place of a JSON file."""

    def change(content) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return edit(change)


def drop(*keys) -> Callable[[pathlib.Path], None]:
    """Removes a key of a JSON file."""

    def change(content) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return edit(change)


def text(change: Callable[[str], str]) -> Callable[[pathlib.Path], None]:
    return lambda path: path.write_text(change(path.read_text()), encoding="utf-8")


def replace(pattern: str, replacement: str) -> Callable[[pathlib.Path], None]:
    def change(content: str) -> str:
        content, count = re.subn(pattern, lambda _: replacement, content, count=1, flags=re.DOTALL)
        assert count, pattern
        return content

    return text(change)


def cut(share: float) -> Callable[[pathlib.Path], None]:
    """Leaves the first part of a file."""
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def picture(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[pathlib.Path], None]:
    """Changes the pixels of an image; its values, not the colors of a palette."""

    def damage(path: pathlib.Path) -> None:
        with Image.open(path) as image:
            values = np.array(image)
        values = change(values)
        path.unlink()
        assert cv2.imwrite(str(path), values[..., ::-1] if values.ndim == 3 else values)

    return damage


def folder(path: pathlib.Path) -> None:
    path.unlink()
    path.mkdir()


def bomb(height: int, width: int, channels: int = 3) -> Callable[[pathlib.Path], None]:
    """A PNG of few bytes that declares a huge image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def damage(path: pathlib.Path) -> None:
        header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
        pixels = zlib.compress(bytes(2**20))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))

    return damage


def linked(path: pathlib.Path) -> None:
    """Moves a file or folder out of the dataset and links it there."""
    elsewhere = path.parents[2] / f"elsewhere_{path.name}"
    path.rename(elsewhere)
    os.symlink(elsewhere, path)


def unreadable(path: pathlib.Path) -> None:
    path.chmod(0)


def copy_entry(*keys, **values) -> Callable[[pathlib.Path], None]:
    """Appends a copy of the first entry of a list, with other values."""

    def change(content) -> None:
        for key in keys:
            content = content[key]
        content.append(content[0] | values)

    return edit(change)


# What has to come of it.
RECORD = "a video or image is left out"
SAMPLE = "samples are drawn again"
FILE = "an error in any case"
NOTHING = "no error"


@dataclasses.dataclass(frozen=True)
class Mutation:
    """Damage to one file of a dataset.

    Attributes:
      dataset: key of DATASETS.
      file: that is damaged.
      damage: what is done to it.
      outcome: RECORD, SAMPLE, FILE or NOTHING.
      message: that the error has: the record and what is wrong with it.
      lost: the video that is left out.
    """

    dataset: str
    file: str
    damage: Callable[[pathlib.Path], None]
    outcome: str
    message: str = ""
    lost: object = None


_TRAINING = "dataset_annotations/training/"
_IMAGES = "dataset_images/training/"
YTVIS, KITTI = _TRAINING + "youtube_vis_2021.json", _TRAINING + "kitti_step.json"
DAVIS, BURST = _TRAINING + "davis_semisupervised.json", _TRAINING + "burst.json"
VIPSEG, COCO = _TRAINING + "vipseg/video_info.json", _TRAINING + "coco_panoptic/segments.json"
COCO_MAP = _TRAINING + "coco_panoptic/pan_maps/000000000009.png"
FRAME_1, FRAME_0 = _IMAGES + "youtube_vis_2021/video1/00003.jpg", _IMAGES + "davis/0000/00002.jpg"
KITTI_FRAME = _IMAGES + "kitti_step/0000/00002.png"
STEP_MAP = "panoptic_maps/train/0001/000002.png"
SEGMENT = ("annotations", 0, "segments_info", 1)
MASK = ("annotations", 0, "segmentations", 0)
HUGE = {"height": 10**6, "width": 10**6}


def _mutations() -> dict[str, Mutation]:
    counts = official_files.compressed(official_files.rectangle(0, 0, 9, 9))
    other_size = official_files.compressed(np.ones((9, 9), np.uint8))

    def youtube(outcome, damage, message="", lost=1, file=YTVIS):
        return Mutation("YOUTUBE_VIS", file, damage, outcome, message, lost)

    def generic(outcome, damage, message="", lost="0000", file=DAVIS, dataset="DAVIS"):
        return Mutation(dataset, file, damage, outcome, message, lost)

    def coco(outcome, damage, message="", lost=9, file=COCO):
        return Mutation("COCO", file, damage, outcome, message, lost)

    def vipseg(outcome, damage, message="", lost="1_a", file=VIPSEG):
        return Mutation("VIPSEG", file, damage, outcome, message, lost)

    def burst(outcome, damage, message="", lost="YFCC100M/clip", file=BURST):
        return Mutation("BURST", file, damage, outcome, message, lost)

    def own(dataset, file, outcome, damage, message="", lost="beach"):
        return Mutation(dataset, file, damage, outcome, message, lost)

    annotation = {"coco_video": "annotations.json", "datumaro": "annotations/default.json"}
    return {
        # frames
        "jpeg cut off": youtube(SAMPLE, cut(0.6), r"video 1, frame 3: .*00003.jpg: the JPEG is cut off", file=FRAME_1),
        "jpeg empty": youtube(SAMPLE, cut(0), r"video 1, frame 3: .*00003.jpg: cannot be decoded", file=FRAME_1),
        "first jpeg is text": youtube(
            RECORD,
            lambda p: p.write_text("<html>"),
            r"video 1: .*00000.jpg: not a readable image",
            file=FRAME_1.replace("00003", "00000"),
        ),
        "jpeg is text": youtube(
            SAMPLE, lambda p: p.write_text("<html>"), r"00003.jpg: cannot be decoded", file=FRAME_1
        ),
        "jpeg of another size": youtube(
            SAMPLE, picture(lambda p: p[:20]), r"video 1, frame 3: .*00003.jpg: image has size \[20, 64\]", file=FRAME_1
        ),
        "png cut off": generic(
            SAMPLE, cut(0.7), "'0000', frame 2: .*cannot be dec", file=KITTI_FRAME, dataset="KITTI_STEP"
        ),
        "png bomb 50000 x 50000": generic(
            SAMPLE,
            bomb(50_000, 50_000),
            r"frame 2: .*00002.png: .*(cannot be decoded|50000)",
            file=KITTI_FRAME,
            dataset="KITTI_STEP",
        ),
        "png bomb 9000 x 9000": generic(
            SAMPLE, bomb(9000, 9000), r"size \[9000, 9000\]", file=KITTI_FRAME, dataset="KITTI_STEP"
        ),
        "frame missing": generic(
            RECORD, pathlib.Path.unlink, r"sequences\[0\].image_paths: 1 of 6.*2.jpg", file=FRAME_0
        ),
        "frame is a folder": generic(RECORD, folder, r"sequences\[0\].image_paths: 1 of 6 files", file=FRAME_0),
        "frame not readable": generic(
            SAMPLE, unreadable, r"'0000', frame 2: .*00002.jpg: cannot be read", file=FRAME_0
        ),
        "frame linked": generic(NOTHING, linked, file=FRAME_0),
        "folder of frames linked": generic(NOTHING, linked, file=_IMAGES + "davis/0000"),
        # files as a whole
        "json cut off": burst(FILE, cut(0.9), "burst.json: not valid JSON"),
        "json empty": burst(FILE, cut(0), "burst.json: not valid JSON"),
        "json nested deep": burst(FILE, text(lambda _: "[" * 200_000), "burst.json: not valid JSON"),
        "json is a list": coco(FILE, text(lambda content: f"[{content}]"), "segments.json: expected an object"),
        "json is a folder": generic(FILE, folder, "davis_semisupervised.json, but it is not a file"),
        "json not readable": generic(FILE, unreadable, "davis_semisupervised.json: cannot be read"),
        "json not utf-8": generic(FILE, lambda p: p.write_bytes(b'{"\xff": 1}'), "not valid JSON"),
        "json with a mark of bytes first": generic(NOTHING, text(lambda content: "\ufeff" + content)),
        "json key twice": generic(FILE, replace('"sequences":', '"sequences": [], "sequences":'), "two values of key"),
        "section missing": generic(FILE, drop("sequences"), "key 'sequences' is missing"),
        "no video at all": generic(FILE, put("sequences", value=[]), "has no video"),
        "annotations null": youtube(FILE, put("annotations", value=None), "key 'annotations' is missing"),
        "annotations a number": youtube(FILE, put("annotations", value=3), "key 'annotations' is int"),
        "category out of range": youtube(
            FILE, put("categories", 1, "id", value=41), r"categories\[1\]: id 41 is not in"
        ),
        "category thing instead of stuff": coco(
            FILE, put("categories", value=[{"id": 92, "isthing": 1}]), r"categories\[0\]: id 92 has isthing 1"
        ),
        "list of sequences not utf-8": Mutation(
            "DAVIS download", "ImageSets/2017/train.txt", lambda p: p.write_bytes(b"\xff\xfe"), FILE, "cannot be read"
        ),
        # videos
        "size swapped": generic(
            RECORD,
            edit(lambda c: c["sequences"][0].update(height=64, width=48)),
            r"'0000': .*00000.jpg has \[height, width\] = \[48, 64\]",
        ),
        "size huge": youtube(
            RECORD, edit(lambda c: c["videos"][0].update(HUGE)), r"videos\[0\]: expected height .*found 1000000 x"
        ),
        "size of 300 digits": burst(
            RECORD, put("sequences", 0, "height", value=10**300), r"sequences\[0\]: exp.* height"
        ),
        "size zero": burst(RECORD, put("sequences", 0, "width", value=0), r"sequences\[0\]: expected height and width"),
        "size as text": youtube(
            RECORD, put("videos", 0, "width", value="64"), r"videos\[0\]: key 'width' should be of"
        ),
        "size true": generic(RECORD, put("sequences", 0, "width", value=True), r"key 'width' should be of type int"),
        "key missing": youtube(RECORD, drop("videos", 0, "file_names"), r"videos\[0\]: key 'file_names' is missing"),
        "video is a list": generic(RECORD, put("sequences", 0, value=[1]), r"sequences\[0\]: expected an object"),
        "video without frames": generic(
            RECORD,
            edit(lambda c: c["sequences"][0].update(image_paths=[], segmentations=[], categories={})),
            "video '0000': the video has no frames",
        ),
        "fewer masks than frames": generic(
            RECORD, edit(lambda c: c["sequences"][0]["segmentations"].pop()), r"sequences\[0\]: 5 segmentations for 6"
        ),
        "video id twice": youtube(RECORD, copy_entry("videos"), r"videos\[3\]: id 1 occurs twice"),
        "sequence id twice": generic(
            RECORD, put("sequences", 1, "id", value="0000"), "'0000': two videos have this id", lost="0001"
        ),
        "video id a list": generic(RECORD, put("sequences", 0, "id", value=[1]), r"sequences\[0\]: key 'id' should be"),
        "name leaves the root": youtube(
            RECORD, put("videos", 0, "file_names", 0, value="../../secret.jpg"), r"videos\[0\].* leaves its root"
        ),
        "name leaves the root inside": vipseg(
            RECORD, put("sequences", 0, "filenames", 0, value="../../x/../../../secret"), r"sequences\[0\].* leaves its"
        ),
        "name absolute": generic(
            RECORD, put("sequences", 0, "image_paths", 0, value="/etc/passwd"), r"sequences\[0\].* leaves its root"
        ),
        "name with NUL": generic(
            RECORD, put("sequences", 0, "image_paths", 0, value="0000/a\0.jpg"), r"sequences\[0\].* relative path"
        ),
        "name of 5000 letters": generic(
            RECORD, put("sequences", 0, "image_paths", 0, value="x" * 5000), r"sequences\[0\].* relative path"
        ),
        "name no text": generic(
            RECORD, put("sequences", 0, "image_paths", 0, value=7), r"sequences\[0\].* relative path"
        ),
        "name with a lone surrogate": generic(
            RECORD, put("sequences", 0, "image_paths", 0, value="\ud800.jpg"), r"sequences\[0\].* do not exist"
        ),
        # tracks and their ids
        "track id twice": youtube(
            RECORD, put("annotations", 1, "id", value=11), r"annotations\[1\]: id 11 occurs twice"
        ),
        "track id negative": youtube(RECORD, put("annotations", 0, "id", value=-5), "instance id -5 should be in 1"),
        "track id zero": youtube(RECORD, put("annotations", 0, "id", value=0), "instance id 0 should be in 1"),
        "track id of 40 bits": youtube(RECORD, put("annotations", 0, "id", value=2**40), "instance id 1099511627776"),
        "track id of 20 bits": youtube(NOTHING, put("annotations", 0, "id", value=2**20)),
        "track id a fraction": youtube(
            RECORD, put("annotations", 0, "id", value=1.5), r"annotations\[0\]: key 'id' sh"
        ),
        "track id text": youtube(RECORD, put("annotations", 0, "id", value="1"), r"annotations\[0\]: key 'id' should"),
        "track of no video": youtube(
            RECORD,
            copy_entry("annotations", id=99, video_id=77),
            r"annotations\[6\]: video_id 77 is the id of no",
            None,
        ),
        "track with an unknown category": youtube(
            RECORD, put("annotations", 0, "category_id", value=41), r"annotations\[0\]: category_id 41 is none"
        ),
        "track is null": youtube(RECORD, edit(lambda c: c["annotations"].append(None)), r"annotations\[6\]: exp", None),
        "masks of a track null": youtube(RECORD, put(*MASK[:3], value=None), r"annotations\[0\]: key 'segmentations'"),
        "class of an object unknown": generic(
            RECORD,
            put("sequences", 0, "categories", "1", value=19),
            r"sequences\[0\].categories\[1\]: class 19 is not in 0..18",
            file=KITTI,
            dataset="KITTI_STEP",
        ),
        "class of an object a fraction": generic(
            RECORD,
            put("sequences", 0, "categories", "1", value=13.7),
            "expected an integer id, found 13.7",
            file=KITTI,
            dataset="KITTI_STEP",
        ),
        "class of pixels unknown": generic(
            RECORD,
            put("sequences", 0, "semantic_segmentations", 0, "77", value=counts),
            r"semantic_segmentations\[0\]: classes \[77\]",
            file=KITTI,
            dataset="KITTI_STEP",
        ),
        "object without a class": generic(
            RECORD, drop("sequences", 0, "categories", "2"), r"instance ids \[2\] are in"
        ),
        "object id no number": generic(
            RECORD, put("sequences", 0, "categories", "x", value=1), "integer id, found 'x'"
        ),
        "object id infinite": burst(
            RECORD,
            edit(lambda c: c["sequences"][0]["segmentations"][0].update({"Infinity": {"rle": counts}})),
            "integer id, found 'Infinity'",
        ),
        "object id twice": generic(
            RECORD, put("sequences", 0, "categories", "01", value=1), "an instance id occurs tw"
        ),
        "objects of a frame null": burst(
            RECORD, put("sequences", 0, "segmentations", 2, value=None), r"sequences\[0\].segmentations\[2\]: expected"
        ),
        "track not declared": burst(
            RECORD, drop("sequences", 0, "track_category_ids", "2"), "track '2' is not in track_category_ids"
        ),
        "vipseg class unknown": vipseg(
            RECORD,
            put("sequences", 0, "instance_ids", 0, value=12_501),
            r"sequences\[0\].instance_ids: 12501 should be",
        ),
        # masks
        "rle too long": youtube(
            RECORD, put(*MASK, "counts", value=[4000, 100]), r"annotations\[0\].segmentations\[0\]: the runs .* 4100"
        ),
        "rle with a negative run": youtube(
            RECORD, put(*MASK, "counts", value=[4000, -928]), r"segmentations\[0\]: a run of the RLE is -928"
        ),
        "rle with a run of 64 bits": youtube(
            RECORD, put(*MASK, "counts", value=[2**64, 3072 - 2**64]), r"segmentations\[0\]: a run of the RLE is 1844"
        ),
        "rle that wraps around": generic(
            RECORD,
            put("sequences", 0, "segmentations", 0, "1", value="PPPPPPPPPPP8" * 16),
            r"sequences\[0\].segmentations\[0\]\['1'\]: corrupt RLE",
        ),
        "rle of other characters": generic(
            RECORD,
            put("sequences", 0, "segmentations", 0, "1", value="\x00\u00e9\ud800~~~"),
            r"segmentations\[0\]\['1'\]: corrupt RLE",
        ),
        "rle cut off": generic(
            RECORD, put("sequences", 0, "segmentations", 0, "1", value=counts[:-2]), r"\['1'\]: (the runs|corrupt RLE)"
        ),
        "rle of another picture": generic(
            RECORD, put("sequences", 0, "segmentations", 0, "1", value=other_size), r"\['1'\]: the runs .* 81 pixels"
        ),
        "rle size swapped": youtube(
            RECORD, put(*MASK, "size", value=[64, 48]), r"segmentations\[0\]: RLE has size \[64, 48\]"
        ),
        "rle size a number": youtube(RECORD, put(*MASK, "size", value=3072), r"segmentations\[0\]: RLE has size 3072"),
        "mask a number": generic(
            RECORD, put("sequences", 0, "segmentations", 0, "1", value=3), r"expected an RLE or pol"
        ),
        "polygon with nan": youtube(
            RECORD, put(*MASK, value=[[1, 1, 9, 1, NAN, 9]]), r"segmentations\[0\]: expected finite .* found nan"
        ),
        "polygon infinite": youtube(
            RECORD, put(*MASK, value=[[1, 1, 9, 1, INFINITY, 9]]), r"segmentations\[0\]: expected finite .* found inf"
        ),
        "polygon of two points": youtube(
            RECORD, put(*MASK, value=[[1, 1, 9, 9]]), r"segmentations\[0\]: a polygon needs .* found 4"
        ),
        "polygon without end": youtube(
            RECORD, put(*MASK, value=[[0, 0, 1e8, 0, 0, 1e8]]), r"segmentations\[0\]: the outline of the polygon is 3"
        ),
        "mask without pixels": generic(
            NOTHING,
            put(
                "sequences",
                0,
                "segmentations",
                0,
                "1",
                value=official_files.compressed(0 * np.eye(48, 64, dtype=np.uint8)),
            ),
        ),
        "objects without pixels everywhere": youtube(
            NOTHING,
            edit(lambda c: c["annotations"][0].update(segmentations=[[[0, 0, 0, 0, 0, 0]]] * 6)),
        ),
        # maps
        "map cut off": coco(SAMPLE, cut(0.6), "video 9, frame 0: .*9.png: cannot be decoded", file=COCO_MAP),
        "map missing": coco(RECORD, pathlib.Path.unlink, "9.png", file=COCO_MAP),
        "map of another size": coco(
            SAMPLE, picture(lambda m: m[:-1]), r"9.png: image has size \[47, 72\]", file=COCO_MAP
        ),
        "map gray": coco(
            SAMPLE, picture(lambda m: m[..., 0]), "9.png: expected colors of 8 bits, found 1", file=COCO_MAP
        ),
        "map of 16 bits": coco(
            SAMPLE, picture(lambda m: m.astype(np.uint16)), "9.png: expected colors of 8 bits, found 3", file=COCO_MAP
        ),
        "map with a segment that is not listed": coco(
            NOTHING, edit(lambda c: c["annotations"][0]["segments_info"].pop()), file=COCO
        ),
        "segment without pixels": coco(
            NOTHING,
            edit(lambda c: c["annotations"][0]["segments_info"].append({"id": 5, "category_id": 90, "iscrowd": 0})),
        ),
        "segment of an unknown category": coco(
            RECORD, put(*SEGMENT, "category_id", value=12), r"annotations\[0\].segments_info\[1\]: category_id 12"
        ),
        "segment id beyond 24 bits": coco(
            RECORD,
            put(*SEGMENT, "id", value=2**24),
            r"annotations\[0\].segments_info\[1\]: id should be in 1..16777215",
        ),
        "segment id negative": coco(RECORD, put(*SEGMENT, "id", value=-1), r"segments_info\[1\]: id should be in 1"),
        "segment id twice": coco(
            RECORD, put(*SEGMENT, "id", value=70_007), r"annotations\[0\]: two segments have one id"
        ),
        "segment is a list": coco(RECORD, put(*SEGMENT, value=[1]), r"segments_info\[1\]: expected id and category_id"),
        "image huge": coco(RECORD, edit(lambda c: c["images"][0].update(HUGE)), r"images\[0\]: expected height and"),
        "image id twice": coco(RECORD, copy_entry("images"), r"images\[3\]: id 9 occurs twice"),
        "annotation of no image": coco(
            RECORD, copy_entry("annotations", image_id=77), r"annotations\[3\]: image_id 77 is not in 'images'", None
        ),
        "name of a map leaves the root": coco(
            RECORD, put("annotations", 0, "file_name", value="../../x.png"), r"annotations\[0\]: .* leaves its root"
        ),
        "step map gray": Mutation(
            "KITTI_STEP download", STEP_MAP, picture(lambda m: m[..., 0]), RECORD, "000002.png: expected colors", "0001"
        ),
        "step map with an unknown class": Mutation(
            "KITTI_STEP download",
            STEP_MAP,
            picture(lambda m: np.where(m == 13, 99, m).astype(np.uint8)),
            RECORD,
            r"0001.000002.png: classes \[99\] are not in 0..18",
            "0001",
        ),
        "step map bomb": Mutation(
            "KITTI_STEP download", STEP_MAP, bomb(40_000, 40_000), RECORD, "0001.000002.png: ", "0001"
        ),
        "step map missing": Mutation(
            "KITTI_STEP download",
            "training/image_02/0001/000002.jpg",
            pathlib.Path.unlink,
            RECORD,
            "frames of sequence 0001: 1 of 6 files",
            "0001",
        ),
        "palette png as colors": Mutation(
            "DAVIS download",
            "Annotations/480p/bear/00002.png",
            lambda path: Image.open(path).convert("RGB").save(path),
            RECORD,
            "bear/00002.png: expected a palette .* found mode RGB",
            "bear",
        ),
        "palette png bomb": Mutation(
            "DAVIS download",
            "Annotations/480p/bear/00002.png",
            bomb(12_000, 12_000),
            RECORD,
            "bear/00002.png: mask has",
            "bear",
        ),
        "palette png cut off": Mutation(
            "DAVIS download",
            "Annotations/480p/bear/00002.png",
            cut(0.5),
            RECORD,
            "bear/00002.png: cannot be dec",
            "bear",
        ),
        "vipseg map of 8 bits with colors": vipseg(
            SAMPLE,
            picture(lambda m: np.stack([m % 256] * 3, -1).astype(np.uint8)),
            "'1_a', frame 2: .*00000002.png: expected one channel",
            file=_TRAINING + "vipseg/panoptic_masks/1_a/00000002.png",
        ),
        "vipseg map with an unknown class": vipseg(
            SAMPLE,
            picture(lambda m: np.where(m == 6101, 60_000, m).astype(np.uint16)),
            "00000002.png: value 60000 is of no class",
            file=_TRAINING + "vipseg/panoptic_masks/1_a/00000002.png",
        ),
        "instance ids with colors": Mutation(
            "CITYSCAPES download",
            "gtFine/train/aachen/aachen_000001_000019_gtFine_instanceIds.png",
            picture(lambda m: np.stack([m % 256] * 3, -1).astype(np.uint8)),
            SAMPLE,
            "instanceIds.png: expected one channel",
        ),
        "instance ids without image": Mutation(
            "CITYSCAPES download",
            "leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png",
            pathlib.Path.unlink,
            RECORD,
            "aachen_000001_000019_leftImg8bit.png",
            "aachen_000001_000019",
        ),
        "ade20k class unknown": Mutation(
            "ADE20K download",
            "annotations/training/ADE_train_00000001.png",
            picture(lambda m: np.where(m == 3, 200, m).astype(np.uint8)),
            SAMPLE,
            "ADE_train_00000001.png: value 200 is of no class",
        ),
        "ade20k classes of 16 bits": Mutation(
            "ADE20K download",
            "annotations/training/ADE_train_00000001.png",
            picture(lambda m: m.astype(np.uint16) * 256),
            SAMPLE,
            "ADE_train_00000001.png: value 38400 is of no class",
        ),
        "vipseg segment of an unknown class": Mutation(
            "VIPSEG download",
            VIPSEG_TRAIN,
            put("annotations", 0, "annotations", 1, "segments_info", 0, "category_id", value=124),
            RECORD,
            r"annotations\[0\].annotations\[1\]: segment .* of category_id 124",
            "1_a",
        ),
        "vipseg video id twice": Mutation(
            "VIPSEG download", VIPSEG_TRAIN, copy_entry("videos"), RECORD, "'1_a': two videos have this id", None
        ),
        "vipseg map missing": Mutation(
            "VIPSEG download",
            "VIPSeg_720P/panomasksRGB/1_a/00000006.png",
            pathlib.Path.unlink,
            RECORD,
            r"videos\[0\]: 1 of 12 files do not exist",
            "1_a",
        ),
        "cityscapes-vps segment id beyond 24 bits": Mutation(
            "CITYSCAPES_VPS download",
            CITYSCAPES_TRAIN,
            put("annotations", 0, "segments_info", 0, "id", value=2**24),
            RECORD,
            "'0003', annotations.0.: segment 16777216 of",
            "0003",
        ),
        "cityscapes-vps name of another form": Mutation(
            "CITYSCAPES_VPS download",
            CITYSCAPES_TRAIN,
            put("annotations", 0, "file_name", value="0003_x.png"),
            RECORD,
            r"annotations\[0\]: expected a name with <city>",
            "0003",
        ),
        "cityscapes-vps frame missing": Mutation(
            "CITYSCAPES_VPS download",
            "train/img/0003_0005_frankfurt_000000_000100_newImg8bit.png",
            pathlib.Path.unlink,
            RECORD,
            "video '0003': 1 of 6 files do not exist",
            "0003",
        ),
        # one's own videos
        "id png as colors": own(
            "id_masks", "masks/beach/00003.png", RECORD, picture(lambda m: np.stack([m] * 3, -1)), "found mode RGB"
        ),
        "id png of another size": own(
            "id_masks", "masks/beach/00003.png", RECORD, picture(lambda m: m[:20]), r"mask has size \[20, 40\]"
        ),
        "id png bomb": own("id_masks", "masks/beach/00003.png", RECORD, bomb(30_000, 30_000, 1), "beach/00003.png: "),
        "object without class": own(
            "id_masks",
            "classes.json",
            RECORD,
            edit(lambda c: c["objects"]["beach"].pop("2")),
            "object 2 of video 'beach'",
        ),
        "mots class unknown": own(
            "mots",
            "beach/instances/frame_000002.png",
            RECORD,
            picture(lambda m: np.where(m == 2002, 7002, m).astype(np.uint16)),
            "frame_000002.png, value 7002: unknown class 7",
        ),
        "coco frame missing": own(
            "coco_video", "data/beach/00002.png", RECORD, pathlib.Path.unlink, "video 'beach': 1 of 5 files"
        ),
        "coco size swapped": own(
            "coco_video",
            annotation["coco_video"],
            RECORD,
            edit(lambda c: [image.update(height=40, width=24) for image in c["images"][:5]]),
            r"video 'beach': the annotations say \[height, width\] = \[40, 24\]",
        ),
        "coco category unknown": own(
            "coco_video",
            annotation["coco_video"],
            RECORD,
            put("annotations", 0, "category_id", value=9),
            r"annotations\[0\]: unknown class 9",
        ),
        "coco image id twice": own(
            "coco_video", annotation["coco_video"], RECORD, copy_entry("images"), r"images\[15\]: id 0 occurs twice"
        ),
        "coco video id twice": own(
            "coco_video",
            annotation["coco_video"],
            RECORD,
            edit(lambda c: c["videos"].append({"id": 0, "name": "again"})),
            r"videos\[3\]: id 0 occurs twice",
        ),
        "coco name leaves the root": own(
            "coco_video",
            annotation["coco_video"],
            RECORD,
            put("images", 0, "file_name", value="../../secret.png"),
            r"images\[0\].file_name: .* leaves its root",
        ),
        "coco track of 40 bits": own(
            "coco_video",
            annotation["coco_video"],
            NOTHING,
            edit(lambda c: [each.update(instance_id=2**40 + each["instance_id"]) for each in c["annotations"]]),
        ),
        "coco huge image": own(
            "coco_video",
            annotation["coco_video"],
            RECORD,
            edit(lambda c: c["images"][0].update(HUGE)),
            r"images\[0\]: expected height and width",
        ),
        "datumaro item twice": own(
            "datumaro",
            annotation["datumaro"],
            RECORD,
            copy_entry("items"),
            r"items\[15\]: id 'beach/00000' occurs twice",
        ),
        "datumaro annotations null": own(
            "datumaro",
            annotation["datumaro"],
            RECORD,
            put("items", 0, "annotations", value=None),
            r"items\[0\]: key 'ann",
        ),
        "datumaro label unknown": own(
            "datumaro",
            annotation["datumaro"],
            RECORD,
            edit(lambda c: c["items"][1]["annotations"][1].update(label_id=5)),
            r"items\[1\].annotations\[1\]: unknown class 5",
        ),
        "cvat entities": own(
            "cvat_video",
            "beach/annotations.xml",
            RECORD,
            replace(
                "<annotations>",
                '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]><annotations>',
            ),
            "annotations.xml, line 2: expected XML without a document type",
        ),
        "cvat cut off": own("cvat_video", "beach/annotations.xml", RECORD, cut(0.5), "annotations.xml: not valid XML"),
        "cvat box not finite": own(
            "cvat_video", "beach/annotations.xml", RECORD, replace('points="[^"]*"', 'points="1,2;3,nan;4,4"'), "finite"
        ),
        "cvat mask too long": own(
            "cvat_video",
            "beach/annotations.xml",
            RECORD,
            replace('rle="[^"]*"', 'rle="5, 999999999"'),
            "the runs add up",
        ),
        "cvat huge frame": own(
            "cvat_video", "beach/annotations.xml", RECORD, replace("<width>40", "<width>999999999"), "annotations say"
        ),
    }


MUTATIONS = _mutations()
