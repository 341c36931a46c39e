"""Cityscapes-VPS: pan_pred/<image id>.png, RGB with the ids of segments, and pred.json with the segments of each.

Only annotated frames are written, in the order of the benchmark's panoptic JSON (`options.annotations`, required). Its
`images` give the ids, and the official tool pairs frames by their place. A frame is known by city, sequence and number
in its name, which are the same in img, img_all and the JSON. The ids of segments are the same in all frames of a video
(`formats.panoptic.segment_maps`).
"""

import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tarvis_jax.results import png_files
from tarvis_jax.results.formats import files, panoptic
from tarvis_jax.results.formats.video import DEFAULTS, Options, ResultVideo, loaded

_FRAME = re.compile(r"[a-zA-Z-]+_\d{6}_\d{6}")


def write(output: pathlib.Path, videos: Iterable[ResultVideo], options: Options = DEFAULTS) -> list[pathlib.Path]:
    """Writes <output>/pred.json and <output>/pan_pred/*.png; returns the folder.

    Raises:
      ValueError: no `options.annotations`, an annotated frame without result, or results without semantic maps.
    """
    output = pathlib.Path(output)
    images = _listed_images(options)
    by_key = {_key(image["file_name"]): image for image in images}
    annotations: dict[str, dict[str, Any]] = {}
    with files.whole_folder(output) as folder:
        for video, result in loaded(videos):
            where = f"video {video.id!r}"
            for name, (colors, segments) in zip(
                video.frame_names, panoptic.segment_maps(result, options, where), strict=True
            ):
                image = by_key.get(_key(name))
                if image is None:
                    continue  # between the annotated frames
                if [image["height"], image["width"]] != list(result.size):
                    raise ValueError(
                        f"{where}, frame {name}: {result.size[0]} x {result.size[1]} pixels, "
                        f"{options.annotations} has {image['height']} x {image['width']}"
                    )
                file = f"{image['id']}.png"
                png_files.save_png(files.inside(folder / "pan_pred", file, str(options.annotations)), colors)
                annotations[image["id"]] = {"image_id": image["id"], "file_name": file, "segments_info": segments}
            del result
        missing = [image["id"] for image in images if image["id"] not in annotations]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(images)} frames of {options.annotations} have no result: {missing[:3]}"
            )
        with (folder / "pred.json").open("w") as file:
            file.write('{"annotations": ')
            files.write_list(file, (annotations[image["id"]] for image in images))
            file.write("}")
    return [output]


def read(path: pathlib.Path, options: Options = DEFAULTS) -> Iterator[ResultVideo]:
    """The videos of such a folder, by `options.annotations`; `options.thing_classes` says which segments are tracks.

    The id of a video is what stands before the first "_" in the ids of its frames.

    Raises:
      ValueError: another number of frames than in the JSON, or segments that do not fit their PNG.
    """
    path = pathlib.Path(path)
    images = _listed_images(options)
    file = path / "pred.json"
    listed = files.get(files.read_json(file), "annotations", list, str(file))
    if len(listed) != len(images):
        raise ValueError(f"{file}: {len(listed)} annotations for the {len(images)} images of {options.annotations}")
    videos: dict[str, list[tuple[pathlib.Path, dict[int, int]]]] = {}
    for i, (image, annotation) in enumerate(zip(images, listed, strict=True)):
        where = f"{file}, annotations[{i}]"
        png = files.inside(path / "pan_pred", f"{image['id']}.png", where)
        videos.setdefault(image["id"].split("_")[0], []).append((png, panoptic.segment_list(annotation, where)))
    for name, frames in videos.items():
        yield panoptic.video_of_segments(name, frames, options.thing_classes)


def _listed_images(options: Options) -> list[dict[str, Any]]:
    if options.annotations is None:
        raise ValueError("Cityscapes-VPS: expected the panoptic JSON of the split (panoptic_gt_val_city_vps.json)")
    path = options.annotations
    images = files.get(files.read_json(path), "images", list, str(path))
    for i, image in enumerate(images):
        where = f"{path}, images[{i}]"
        for key, kind in (("id", str), ("file_name", str), ("height", int), ("width", int)):
            files.get(image, key, kind, where)
        if _key(image["file_name"]) is None:
            raise ValueError(f"{where}: expected <city>_<six digits>_<six digits> in {image['file_name']!r:.80}")
    return images


def _key(name: str) -> str | None:
    """City, sequence and number of a frame ("frankfurt_000000_001736"); None for a name without."""
    found = _FRAME.search(name)
    return found.group() if found else None
