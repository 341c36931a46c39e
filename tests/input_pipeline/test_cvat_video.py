"""What a CVAT file says beyond its shapes: how long they hold, which frames they are of, how the pixels lie."""

import codecs

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from input_pipeline import readers
from input_pipeline.config import DatasetConfig
from input_pipeline.readers import cvat_video
from tests.input_pipeline import own_files
from tests.input_pipeline.own_files import HEIGHT, WIDTH

META = "<meta><task><size>{size}</size>{more}<labels><label><name>dog</name></label></labels></task></meta>"


def read(root, tracks: str, *, size: int = 5, more: str = "", names: str = "frame_{:06d}.png"):
    own_files.write_frames(root / "images", names)
    xml = f"<annotations><version>1.1</version>{META.format(size=size, more=more)}{tracks}</annotations>"
    (root / "annotations.xml").write_text(xml)
    config = DatasetConfig(
        name="MINE",
        reader="cvat_video",
        task="instance",
        num_classes=1,
        class_names=("dog",),
        eval_images=str(root / "images"),
        eval_annotations=str(root / "annotations.xml"),
    )
    (video,) = readers.evaluation_videos(config, "val")
    return video


def box(frame: int, left: int, outside: int = 0, more: str = "") -> str:
    corners = f'xtl="{left}" ytl="4" xbr="{left + 6}" ybr="10" {more}'
    return f'<box frame="{frame}" outside="{outside}" occluded="0" keyframe="1" {corners}/>'


def track(*shapes: str) -> str:
    return f'<track id="0" label="dog">{"".join(shapes)}</track>'


def lefts(video) -> list[int | None]:
    masks = [video.instance_mask(t, 1) for t in range(video.num_frames)]
    assert all(mask.sum() in (0, 36) for mask in masks)
    return [int(np.flatnonzero(mask.any(0))[0]) if mask.any() else None for mask in masks]


def test_a_shape_holds_until_the_next_one(tmp_path):
    video = read(tmp_path, track(box(1, 3), box(3, 7), box(4, 7, outside=1)))
    assert lefts(video) == [None, 3, 3, 7, None] and video.instances == {1: 1}  # ids begin at 1


def test_every_second_frame_of_a_whole_video(tmp_path):
    more = "<start_frame>1</start_frame><stop_frame>4</stop_frame><frame_filter>step=2</frame_filter>"
    video = read(tmp_path, track(box(1, 3), box(3, 7)), size=2, more=more, names="{:06d}.png")
    assert video.annotated_frames == (1, 3) and lefts(video) == [None, 3, None, 7, None]


def test_frames_of_the_task_alone(tmp_path):
    more = "<start_frame>10</start_frame><frame_filter>step=3</frame_filter>"
    video = read(tmp_path, track(box(10, 3), box(16, 7)), more=more, names="image{}.png")
    assert video.annotated_frames == (0, 1, 2, 3, 4) and lefts(video) == [3, 3, 7, 7, 7]


def test_a_mask_lies_row_by_row_in_its_box(tmp_path):
    shape = '<mask frame="0" outside="0" rle="1, 2, 3, 4" left="5" top="2" width="4" height="3"/>'
    video = read(tmp_path, track(shape))
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[2:5, 5:9] = np.array([0, 1, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0]).reshape(3, 4)
    np.testing.assert_array_equal(video.instance_mask(0, 1), expected)


def test_polygons_have_the_pixels_of_coco(tmp_path):
    points = [(3.2, 4.9), (22.7, 2.1), (30.4, 19.5), (11.0, 21.3), (7.5, 9.75)]
    text = ";".join(f"{x},{y}" for x, y in points)
    video = read(tmp_path, track(f'<polygon frame="0" outside="0" points="{text}"/>'))
    expected = coco_mask.decode(coco_mask.frPyObjects([[v for p in points for v in p]], HEIGHT, WIDTH))[..., 0]
    np.testing.assert_array_equal(video.instance_mask(0, 1), expected.astype(bool))
    x, y = np.array(points).T
    area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    assert abs(video.instance_mask(0, 1).sum() - area) < 0.1 * area


def test_a_box_is_turned_about_its_center(tmp_path):
    corners = 'xtl="10" ytl="8" xbr="20" ybr="12"'
    video = read(tmp_path, track(f'<box frame="0" outside="0" {corners} rotation="90"/>'))
    rows, columns = np.nonzero(video.instance_mask(0, 1))
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (5, 15, 13, 17)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_never_expanded(encoding, tmp_path):
    entities = '<!ENTITY a0 "bomb">' + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))
    text = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE x [{entities}]><annotations>&a9;</annotations>'
    path = tmp_path / "annotations.xml"
    path.write_bytes((codecs.BOM_UTF16_LE + text.encode("utf-16-le")) if encoding == "utf-16" else text.encode())
    with pytest.raises(ValueError, match="expected XML without a document type"):
        cvat_video.parse(path)


def test_deep_nesting_is_refused(tmp_path):
    path = tmp_path / "annotations.xml"
    path.write_text("<annotations>" + "<a>" * 100_000)
    with pytest.raises(ValueError, match="expected annotations of CVAT"):
        cvat_video.parse(path)


def test_other_shapes_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="a track of points has no mask; expected mask, polygon or box"):
        read(tmp_path, track('<points frame="0" outside="0" points="1,2;3,4;5,6"/>'))
