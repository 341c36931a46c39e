"""Malformed files of labeling tools: one error each, which names the file and the place in it."""

import json
import pathlib
import re

import cv2
import numpy as np
import pytest

from input_pipeline import readers
from input_pipeline.own_videos import own_dataset
from tests.input_pipeline.own_files import WRITERS


def edit_json(change):
    def edit(path: pathlib.Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


def edit_text(pattern: str, replacement: str):
    def edit(path: pathlib.Path) -> None:
        text, count = re.subn(pattern, replacement, path.read_text(), count=1, flags=re.DOTALL)
        assert count, pattern
        path.write_text(text)

    return edit


def edit_image(change):
    def edit(path: pathlib.Path) -> None:
        image = change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
        cv2.imwrite(str(path), image)

    return edit


def set_values(container: str, number: int, **values):
    return edit_json(lambda content: content[container][number].update(values))


def remove(path: pathlib.Path) -> None:
    path.unlink()


COCO, DATUMARO, CVAT = "annotations.json", "annotations/default.json", "beach/annotations.xml"
NAN = float("nan")
# format, file that is damaged, how, message
CASES = {
    "id masks: no class": (
        "id_masks",
        "classes.json",
        edit_json(lambda content: content["objects"]["lawn"].pop("3")),
        r"classes.json, objects: the class of object 3 of video 'lawn' \(.*masks/lawn\) is missing",
    ),
    "id masks: unknown class": (
        "id_masks",
        "classes.json",
        edit_json(lambda content: content["objects"]["lawn"].update({"3": "bal"})),
        "classes.json, objects, 'lawn', 3: unknown class 'bal'; the classes are ball, box",
    ),
    "id masks: a class twice": (
        "id_masks",
        "classes.json",
        edit_json(lambda content: content.update(classes=["ball", "ball"])),
        "classes.json: classes: expected different names",
    ),
    "id masks: another size": (
        "id_masks",
        "masks/lawn/00003.png",
        edit_image(lambda image: image[:20, :, 0]),
        r"masks/lawn/00003.png: mask has size \[20, 40\], its frame has \[height, width\] = \[24, 40\]",
    ),
    "id masks: colors": (
        "id_masks",
        "masks/lawn/00003.png",
        edit_image(lambda image: image[..., :3]),
        "masks/lawn/00003.png: expected a palette image or gray .* found mode RGB",
    ),
    "id masks: cut off": (
        "id_masks",
        "masks/lawn/00003.png",
        lambda path: path.write_bytes(path.read_bytes()[:90]),
        "masks/lawn/00003.png: cannot be decoded as an image",
    ),
    "id masks: no such frame": (
        "id_masks",
        "masks/lawn/00003.png",
        lambda path: path.rename(path.with_name("00077.png")),
        "masks/lawn: 1 of 5 masks belong to no frame, 00077.png; the 5 frames are 00000.png ... 00004.png",
    ),
    "id masks: no such video": (
        "id_masks",
        "masks/lawn",
        lambda path: path.rename(path.with_name("meadow")),
        r"annotations of 1 videos without frames: \['meadow'\]",
    ),
    "mots: unknown class": (
        "mots",
        "lawn/instances/frame_000002.png",
        edit_image(lambda image: np.where(image == 2002, 7002, image)),
        r"frame_000002.png, value 7002: unknown class 7; .*lawn/instances/labels.txt declares 1, 2",
    ),
    "mots: classes that differ": (
        "mots",
        "lawn/instances/labels.txt",
        lambda path: path.write_text("ball\nbox\nball\n"),
        "labels.txt: expected different names of classes",
    ),
    "coco: unknown category": (
        "coco_video",
        COCO,
        set_values("annotations", 4, category_id=9),
        r"annotations.json, annotations\[4\]: unknown class 9; .*, categories declares 1, 2",
    ),
    "coco: a category twice": ("coco_video", COCO, set_values("categories", 1, id=1), r"categories\[1\]: id 1 or name"),
    "coco: two points": (
        "coco_video",
        COCO,
        set_values("annotations", 4, segmentation=[[1, 2, 3, 4]]),
        r"annotations\[4\].segmentation: a polygon needs .* at least 6 \(3 points\), found 4",
    ),
    "coco: nan": (
        "coco_video",
        COCO,
        set_values("annotations", 4, segmentation=[[1, 2, 3, 4, NAN, 6]]),
        r"annotations\[4\].segmentation: expected finite numbers .* found nan",
    ),
    "coco: endless outline": (
        "coco_video",
        COCO,
        set_values("annotations", 4, segmentation=[[0, 0, 1e8, 0, 0, 1e8]]),
        r"annotations\[4\].segmentation: the outline of the polygon is 300000000 pixels long, expected at most 4840",
    ),
    "coco: overflow": (
        "coco_video",
        COCO,
        set_values("annotations", 4, segmentation={"size": [24, 40], "counts": [900, 100]}),
        r"annotations\[4\].segmentation: the runs of the RLE add up to 1000 pixels, but the image has 24 x 40 = 960",
    ),
    "coco: size of the mask": (
        "coco_video",
        COCO,
        set_values("annotations", 4, segmentation={"size": [40, 24], "counts": [960]}),
        r"annotations\[4\].segmentation: RLE has size \[40, 24\]",
    ),
    "coco: box alone": (
        "coco_video",
        COCO,
        set_values("annotations", 4, segmentation=[]),
        r"annotations\[4\]: has no segmentation, found \[\]; boxes alone cannot be used",
    ),
    "coco: two classes": (
        "coco_video",
        COCO,
        set_values("annotations", 4, category_id=2),
        r"annotations\[4\].segmentation: the object has class 2 here and 1 before",
    ),
    "coco: size of the image": (
        "coco_video",
        COCO,
        edit_json(lambda content: [image.update(height=40, width=24) for image in content["images"]]),
        r"video 'beach': the annotations say \[height, width\] = \[40, 24\], .*beach/00000.png has \[24, 40\]",
    ),
    "coco: sizes that differ": ("coco_video", COCO, set_values("images", 2, width=50), "expected frames of one size"),
    "coco: path": (
        "coco_video",
        COCO,
        set_values("images", 2, file_name="../../secret.png"),
        r"images\[2\].file_name: path '../../secret.png' leaves its root",
    ),
    "coco: absolute path": ("coco_video", COCO, set_values("images", 2, file_name="/etc/hosts"), "leaves its root"),
    "coco: no image": ("coco_video", "data/beach/00002.png", remove, r"1 of 5 files do not exist: .*00002.png"),
    "coco: image twice": ("coco_video", COCO, set_values("images", 2, id=1), r"images\[2\]: id 1 occurs twice"),
    "coco: stray annotation": (
        "coco_video",
        COCO,
        set_values("annotations", 2, image_id=1000),
        r"annotations\[2\]: image_id 1000 is the id of no image",
    ),
    "coco: no such video": (
        "coco_video",
        COCO,
        set_values("images", 2, video_id=77),
        r"images\[2\]: video_id 77 is the id of no video",
    ),
    "coco: cut off": (
        "coco_video",
        COCO,
        lambda path: path.write_text(path.read_text()[:1000]),
        "annotations.json: not valid JSON",
    ),
    "datumaro: unknown label": (
        "datumaro",
        DATUMARO,
        edit_json(lambda content: content["items"][1]["annotations"][1].update(label_id=5)),
        r"items\[1\].annotations\[1\]: unknown class 5; .* declares 0, 1",
    ),
    "datumaro: a box": (
        "datumaro",
        DATUMARO,
        edit_json(lambda content: content["items"][1]["annotations"][1].update(type="bbox")),
        r"items\[1\].annotations\[1\]: expected type mask or polygon \(or label\), found 'bbox'",
    ),
    "datumaro: no image": (
        "datumaro",
        "images/default/lawn/00002.png",
        remove,
        r"items\[7\]: there is no image 'lawn/00002' below .*images/default",
    ),
    "datumaro: path": (
        "datumaro",
        DATUMARO,
        set_values("items", 2, id="../../beach/00002"),
        r"items\[2\]: there is no image '../../beach/00002' below",
    ),
    "datumaro: item twice": ("datumaro", DATUMARO, set_values("items", 2, id="beach/00001"), "items.2.: id .* twice"),
    "datumaro: size": (
        "datumaro",
        DATUMARO,
        set_values("items", 2, image={"size": [10, 10]}),
        r"items\[2\]: image.size is \[10, 10\], .*00000.png has \[height, width\] = \[24, 40\]",
    ),
    "cvat: document type": (
        "cvat_video",
        CVAT,
        edit_text("<annotations>", '<!DOCTYPE a [<!ENTITY b "bbbb">]><annotations>'),
        "annotations.xml, line 2: expected XML without a document type",
    ),
    "cvat: unknown label": (
        "cvat_video",
        CVAT,
        edit_text('label="box"', 'label="bx"'),
        r"annotations.xml, line \d+: unknown class 'bx'; .* declares 'ball', 'box'",
    ),
    "cvat: two points": (
        "cvat_video",
        CVAT,
        edit_text('points="[^"]*"', 'points="1,2;3,4"'),
        r"annotations.xml, line \d+: a polygon needs .* found 4",
    ),
    "cvat: nan": (
        "cvat_video",
        CVAT,
        edit_text('points="[^"]*"', 'points="1,2;3,nan;4,4"'),
        r"line \d+: expected finite numbers .* found nan",
    ),
    "cvat: three numbers": (
        "cvat_video",
        CVAT,
        edit_text('points="[^"]*"', 'points="1,2,3;3,4;1,1"'),
        r"points: expected x,y;x,y;..., found '1,2,3'",
    ),
    "cvat: mask too long": (
        "cvat_video",
        CVAT,
        edit_text('rle="[^"]*"', 'rle="5, 999999999"'),
        r"line \d+, rle: the runs add up to 1000000004, its box has 80 pixels",
    ),
    "cvat: mask outside": (
        "cvat_video",
        CVAT,
        edit_text('left="3"', 'left="35"'),
        r"line \d+: the mask reaches to row 10 and column 45, the frame has 24 x 40",
    ),
    "cvat: points": (
        "cvat_video",
        CVAT,
        edit_text("<polygon", "<points"),
        r"line \d+: a track of points has no mask; expected mask, polygon or box",
    ),
    "cvat: frame": (
        "cvat_video",
        CVAT,
        edit_text('frame="4"', 'frame="5"'),
        r"line \d+: frame 5 is none of the 5 annotated frames 0..4",
    ),
    "cvat: frame twice": ("cvat_video", CVAT, edit_text('frame="4"', 'frame="3"'), "two shapes in frame 3"),
    "cvat: track twice": ("cvat_video", CVAT, edit_text('id="2"', 'id="1"'), "track id '1' occurs twice"),
    "cvat: frames missing": (
        "cvat_video",
        "beach/images/frame_000002.png",
        remove,
        r"annotations.xml: the task has 5 frames, .*beach/images has 4 of them",
    ),
    "cvat: size": ("cvat_video", CVAT, edit_text("<width>40", "<width>44"), r"say \[height, width\] = \[24, 44\]"),
    "cvat: of images": (
        "cvat_video",
        CVAT,
        edit_text("<track .*</track>", '<image id="0" name="a.png" width="40" height="24" />'),
        "this is CVAT for images; export the task as CVAT for video 1.1",
    ),
    "cvat: a project": (
        "cvat_video",
        CVAT,
        edit_text("<meta>", "<meta><project></project>"),
        "the export of a project; export each of its tasks by itself",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_files_give_one_clear_error(case, tmp_path):
    format, file, damage, message = CASES[case]
    WRITERS[format](tmp_path, ("beach", "lawn"))
    own_dataset(tmp_path, held_out=0)
    damage(tmp_path / file)
    with pytest.raises(ValueError, match=message) as caught:
        readers.training_videos(own_dataset(tmp_path, held_out=0))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
