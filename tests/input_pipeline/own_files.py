"""Small videos in the formats of labeling tools: what each writer writes is `ids_of`, whatever the format."""

import json
import pathlib
import xml.etree.ElementTree as ET

import cv2
import numpy as np
from PIL import Image

from tarvis_jax.masks import rle

HEIGHT, WIDTH, NUM_FRAMES = 24, 40, 5
VIDEOS = ("beach", "lawn", "street", "yard")
CLASSES = ("ball", "box")
OBJECTS = {1: "ball", 2: "box", 3: "ball"}


def boxes_of(video: str) -> list[dict[int, tuple[int, int, int, int]]]:
    """Per frame: object -> top, left, bottom, right; object 2 comes in frame 1, object 3 is in "lawn" alone."""
    shift = VIDEOS.index(video)
    frames = []
    for t in range(NUM_FRAMES):
        frame = {1: (2 + shift, 3 + t, 10 + shift, 13 + t)}
        if t:
            frame[2] = (13, 20 - t, 21, 30 - t)
        if video == "lawn":
            frame[3] = (1, 30, 7, 36)
        frames.append(frame)
    return frames


def ids_of(video: str) -> np.ndarray:
    """uint8 [T, H, W]: the objects' ids."""
    ids = np.zeros((NUM_FRAMES, HEIGHT, WIDTH), np.uint8)
    for t, boxes in enumerate(boxes_of(video)):
        for i, (top, left, bottom, right) in boxes.items():
            ids[t, top:bottom, left:right] = i
    return ids


def write_frames(folder: pathlib.Path, name: str = "{:05d}.png") -> None:
    folder.mkdir(parents=True)
    for t in range(NUM_FRAMES):
        cv2.imwrite(str(folder / name.format(t)), np.full((HEIGHT, WIDTH, 3), 40 * t, np.uint8))


def write_masks(folder: pathlib.Path, video: str, *, mode: str = "P", name: str = "{:05d}.png") -> None:
    folder.mkdir(parents=True)
    for t, ids in enumerate(ids_of(video)):
        image = Image.fromarray(ids if mode != "I;16" else ids.astype(np.uint16))
        if mode == "P":
            image.putpalette([i for color in ((0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200)) for i in color])
        image.save(folder / name.format(t))


def id_masks(root: pathlib.Path, videos=VIDEOS) -> None:
    """frames/<video>/, masks/<video>/ with palette PNGs, and classes.json."""
    for video in videos:
        write_frames(root / "frames" / video)
        write_masks(root / "masks" / video, video)
    write_classes(root, videos)


def write_classes(root: pathlib.Path, videos=VIDEOS) -> None:
    objects = {video: {str(i): OBJECTS[i] for i in np.unique(ids_of(video)) if i} for video in videos}
    (root / "classes.json").write_text(json.dumps({"classes": CLASSES, "objects": objects}))


def video_files(root: pathlib.Path, videos=VIDEOS) -> None:
    """videos/<video>.avi (lossless), masks/<video>/ in 16 bits, and classes.json."""
    (root / "videos").mkdir(parents=True)
    for video in videos:
        writer = cv2.VideoWriter(
            str(root / "videos" / f"{video}.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (WIDTH, HEIGHT)
        )
        for t in range(NUM_FRAMES):
            writer.write(np.full((HEIGHT, WIDTH, 3), 40 * t, np.uint8))
        writer.release()
        write_masks(root / "masks" / video, video, mode="I;16", name="mask_{:03d}.png")
    write_classes(root, videos)


def youtube_vis(root: pathlib.Path, videos=VIDEOS) -> None:
    """train.json with categories of odd ids, JPEGImages/<video>/."""
    listed, annotations = [], []
    for v, video in enumerate(videos):
        write_frames(root / "JPEGImages" / video)
        names = [f"{video}/{t:05d}.png" for t in range(NUM_FRAMES)]
        listed.append({"id": v + 1, "height": HEIGHT, "width": WIDTH, "file_names": names})
        for i in sorted(set(np.unique(ids_of(video))) - {0}):
            masks = [rle.encode(ids == i) if (ids == i).any() else None for ids in ids_of(video)]
            category = 10 * (CLASSES.index(OBJECTS[i]) + 1)
            annotation = {"id": len(annotations) + 1, "video_id": v + 1, "category_id": category}
            annotations.append(annotation | {"segmentations": masks, "iscrowd": 0})
    content = {"videos": listed, "annotations": annotations, "categories": categories(10)}
    (root / "train.json").write_text(json.dumps(content))


def categories(step: int = 1) -> list[dict]:
    return [{"id": step * (k + 1), "name": name} for k, name in enumerate(CLASSES)]


def coco_video(root: pathlib.Path, videos=VIDEOS) -> None:
    """CocoVID: annotations.json with videos, images in any order, and every kind of segmentation."""
    images, annotations = [], []
    for v, video in enumerate(videos):
        write_frames(root / "data" / video)
        for t in reversed(range(NUM_FRAMES)):
            image = {"id": len(images), "video_id": v, "frame_id": t, "file_name": f"{video}/{t:05d}.png"}
            images.append(image | {"height": HEIGHT, "width": WIDTH})
            for i, (top, left, bottom, right) in boxes_of(video)[t].items():
                mask = ids_of(video)[t] == i
                runs = np.diff(np.flatnonzero(np.diff(np.r_[2, mask.ravel(order="F"), 2].astype(int)))).tolist()
                kinds = (
                    rle.encode(mask),
                    {"size": [HEIGHT, WIDTH], "counts": runs if not mask[0, 0] else [0, *runs]},
                    [[left, top, right, top, right, bottom, left, bottom]],
                )
                annotation = {"id": len(annotations), "image_id": image["id"], "instance_id": i, "iscrowd": 0}
                annotation["category_id"] = CLASSES.index(OBJECTS[i]) + 1
                annotations.append(annotation | {"segmentation": kinds[(i + t) % 3]})
    listed = [{"id": v, "name": video} for v, video in enumerate(videos)]
    content = {"videos": listed, "images": images, "annotations": annotations, "categories": categories()}
    (root / "annotations.json").write_text(json.dumps(content))


def coco_of_cvat(root: pathlib.Path, videos=VIDEOS) -> None:
    """One export of CVAT per video: <video>/annotations/instances_default.json, the tracks in attributes."""
    for video in videos:
        write_frames(root / video / "images" / "default", "frame_{:06d}.PNG")
        images, annotations = [], []
        for t, boxes in enumerate(boxes_of(video)):
            images.append({"id": t + 1, "file_name": f"frame_{t:06d}.PNG", "height": HEIGHT, "width": WIDTH})
            for i, (top, left, bottom, right) in boxes.items():
                outline = [left, top, right, top, right, bottom, left, bottom]
                annotation = {"id": len(annotations) + 1, "image_id": t + 1, "segmentation": [outline]}
                annotation["category_id"] = CLASSES.index(OBJECTS[i]) + 1
                annotations.append(annotation | {"attributes": {"track_id": i, "keyframe": True}})
        folder = root / video / "annotations"
        folder.mkdir()
        content = {"images": images, "annotations": annotations, "categories": categories()}
        (folder / "instances_default.json").write_text(json.dumps(content))


def mots(root: pathlib.Path, videos=VIDEOS) -> None:
    """As CVAT exports: <video>/images, <video>/instances with labels.txt."""
    for video in videos:
        write_frames(root / video / "images", "frame_{:06d}.png")
        folder = root / video / "instances"
        folder.mkdir()
        (folder / "labels.txt").write_text("\n".join(CLASSES) + "\n")
        for t, ids in enumerate(ids_of(video)):
            values = np.zeros(ids.shape, np.uint16)
            for i, name in OBJECTS.items():
                values[ids == i] = 1000 * (CLASSES.index(name) + 1) + i
            values[-1] = 10_000  # ignored
            Image.fromarray(values).save(folder / f"frame_{t:06d}.png")


def datumaro(root: pathlib.Path, videos=VIDEOS) -> None:
    """annotations/default.json, images/default/<video>/; masks and polygons, tracks in attributes."""
    items = []
    for video in videos:
        write_frames(root / "images" / "default" / video)
        for t, boxes in enumerate(boxes_of(video)):
            annotations = [{"id": 0, "type": "label", "label_id": 0, "attributes": {}, "group": 0}]
            for i, (top, left, bottom, right) in boxes.items():
                each = {"id": 0, "attributes": {"track_id": i}, "group": 0, "label_id": CLASSES.index(OBJECTS[i])}
                if (t + i) % 2:
                    each |= {"type": "mask", "rle": rle.encode(ids_of(video)[t] == i)}
                else:
                    each |= {"type": "polygon", "points": [left, top, right, top, right, bottom, left, bottom]}
                annotations.append(each)
            item = {"id": f"{video}/{t:05d}", "annotations": annotations, "attr": {"frame": t}}
            items.append(item | {"image": {"path": f"/elsewhere/{t:05d}.png", "size": [HEIGHT, WIDTH]}})
    (root / "annotations").mkdir()
    labels = [{"name": name, "parent": "", "attributes": []} for name in CLASSES]
    content = {"info": {}, "categories": {"label": {"labels": labels}}, "items": items}
    (root / "annotations" / "default.json").write_text(json.dumps(content))


def cvat_video(root: pathlib.Path, videos=VIDEOS) -> None:
    """<video>/annotations.xml and <video>/images: a track of masks, one of polygons, one of a box that stays."""
    for video in videos:
        write_frames(root / video / "images", "frame_{:06d}.png")
        tree = ET.Element("annotations")
        ET.SubElement(tree, "version").text = "1.1"
        task = ET.SubElement(ET.SubElement(tree, "meta"), "task")
        for key, text in (("size", NUM_FRAMES), ("mode", "interpolation"), ("start_frame", 0), ("frame_filter", "")):
            ET.SubElement(task, key).text = str(text)
        labels = ET.SubElement(task, "labels")
        for name in CLASSES:
            ET.SubElement(ET.SubElement(labels, "label"), "name").text = name
        size = ET.SubElement(task, "original_size")
        ET.SubElement(size, "width").text, ET.SubElement(size, "height").text = str(WIDTH), str(HEIGHT)
        frames = boxes_of(video)
        for i in sorted({i for frame in frames for i in frame}):
            track = ET.SubElement(tree, "track", id=str(i), label=OBJECTS[i], source="manual")
            for t, boxes in enumerate(frames):
                if i not in boxes or (i == 3 and t):  # the third object stays where it is
                    continue
                top, left, bottom, right = boxes[i]
                common = {"frame": str(t), "keyframe": "1", "outside": "0", "occluded": "0"}
                if i == 1:
                    box = {"left": str(left), "top": str(top), "width": str(right - left), "height": str(bottom - top)}
                    ET.SubElement(track, "mask", common | box | {"rle": f"0, {(right - left) * (bottom - top)}"})
                elif i == 2:
                    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
                    text = ";".join(f"{x:.2f},{y:.2f}" for x, y in corners)
                    ET.SubElement(track, "polygon", common | {"points": text})
                else:
                    corners = {"xtl": left, "ytl": top, "xbr": right, "ybr": bottom}
                    ET.SubElement(track, "box", common | {key: f"{value:.2f}" for key, value in corners.items()})
        ET.ElementTree(tree).write(root / video / "annotations.xml", encoding="utf-8", xml_declaration=True)


WRITERS = {
    "id_masks": id_masks,
    "video_files": video_files,
    "youtube_vis": youtube_vis,
    "coco_video": coco_video,
    "coco_of_cvat": coco_of_cvat,
    "mots": mots,
    "datumaro": datumaro,
    "cvat_video": cvat_video,
}
READERS = {"video_files": "id_masks", "coco_of_cvat": "coco_video"}
