"""Images with panoptic maps: one JSON in the form of COCO's panoptic annotations, and one PNG for each image.

`{"images": [{"id", "file_name", "height", "width"}], "annotations": [{"image_id", "file_name", "segments_info":
[{"id", "category_id"}]}]}`; an annotation's `file_name` is that of its PNG, in which a pixel is the id R + 256 G +
65536 B of its segment. The PNGs lie beside the JSON: in a folder of its name (COCO, ADE20K, Cityscapes), in `pan_maps`
(the released workspace), or in the JSON's own folder (Mapillary Vistas). Crowds are instances like others.
"""

import collections
import os
import pathlib
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import numpy as np

from input_pipeline import bad_records, images, workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.records import VideoRecord

Item = TypeVar("Item")
PathOf = Callable[[pathlib.Path, str, str], pathlib.Path]


def training_videos(
    config: DatasetConfig, root: str, *, path_of: PathOf = workspace.join, void: Collection[int] = ()
) -> Sequence[VideoRecord]:
    """The images that show a thing, each as a video of one frame; `path_of` and `void` as of `read`."""
    folder = workspace.resolve(config.train_images, root, dataset=config.name, key="train_images", kind="folder")
    file = workspace.resolve(config.train_annotations, root, dataset=config.name, key="train_annotations", kind="file")
    return read(file, folder, config, path_of=path_of, void=void, needs_things=True)


def evaluation_videos(
    config: DatasetConfig, split: str, root: str, *, path_of: PathOf = workspace.join, void: Collection[int] = ()
) -> Sequence[VideoRecord]:
    """All images of a split."""
    paths = {key: getattr(config, key).replace("{split}", split) for key in ("eval_images", "eval_annotations")}
    folder = workspace.resolve(paths["eval_images"], root, dataset=config.name, key="eval_images", kind="folder")
    file = workspace.resolve(paths["eval_annotations"], root, dataset=config.name, key="eval_annotations", kind="file")
    return read(file, folder, config, path_of=path_of, void=void)


def read(
    file: pathlib.Path,
    folder: pathlib.Path,
    config: DatasetConfig,
    *,
    path_of: PathOf = workspace.join,
    void: Collection[int] = (),
    needs_things: bool = False,
) -> "PanopticImages":
    """Records of all images in `file`; nothing is decoded.

    Args:
      file: the JSON.
      folder: of the images.
      config: of the dataset; `category_ids` are the numbers of its classes in `file`.
      path_of: (folder, file_name, place for errors) -> path of an image.
      void: numbers of categories whose segments count as void.
      needs_things: leaves out the images that show no thing.
    """
    content = workspace.load_json(file)
    numbers = config.category_ids or range(config.num_classes)
    labels = {number: label for label, number in enumerate(numbers)}
    _check_categories(content, labels, config, file)
    things = np.isin(np.arange(256), config.thing_classes)
    maps = _maps_folder(file)
    entries: dict[int | str, list[tuple[str, dict]]] = collections.defaultdict(list)  # annotations by image
    listed: dict[int | str, list[tuple[str, dict]]] = collections.defaultdict(list)  # images by id

    def add_annotation(item):
        where = f"{file}, annotations[{item[0]}]"
        entries[workspace.get(item[1], "image_id", (int, str), where)].append((where, item[1]))

    def add_image(item):
        where = f"{file}, images[{item[0]}]"
        listed[workspace.get(item[1], "id", (int, str), where)].append((where, item[1]))

    def read_image(item):
        image_id, ((where, image),) = item
        height, width = workspace.get_size(image, where)
        path = path_of(folder, workspace.get(image, "file_name", str, where), where)
        map_path, ids, classes = "", (), ()
        for number, (place, annotation) in enumerate(entries.get(image_id, ())):
            if number:
                raise ValueError(f"{place}: image_id {image_id!r:.80} occurs twice")
            map_path = str(workspace.join(maps, workspace.get(annotation, "file_name", str, place), place))
            ids, classes = _segments(workspace.get(annotation, "segments_info", list, place), labels, void, place)
        return image_id, str(path), height, width, map_path, ids, classes

    bad_records.keep_good(enumerate(workspace.get(content, "annotations", list, str(file))), add_annotation)
    bad_records.keep_good(enumerate(workspace.get(content, "images", list, str(file))), add_image)
    for image_id, rows in listed.items():
        if len(rows) > 1:  # nothing says which of them an annotation belongs to, so that all of them are bad
            bad_records.leave_out(ValueError(f"{rows[1][0]}: id {image_id!r:.80} occurs twice"))
    for image_id in sorted(set(entries) - set(listed), key=str):
        place = entries[image_id][0][0]
        bad_records.leave_out(ValueError(f"{place}: image_id {image_id!r:.80} is not in 'images'"))
    found = bad_records.keep_good((item for item in listed.items() if len(item[1]) == 1), read_image)
    if needs_things:
        found = [row for row in found if things[list(row[-1])].any()]
    found = keep_listed(found, lambda row: (row[1],), f"{file}, images")
    found = keep_listed(found, lambda row: (row[4],) if row[4] else (), f"{file}, annotations")
    rows, ids, classes = [], [], []
    for *row, new_ids, new_classes in found:
        rows.append((*row, len(ids)))
        ids += new_ids
        classes += new_classes
    return PanopticImages(config.name, str(file), rows, np.array(ids, np.int32), np.array(classes, np.uint8), things)


class PanopticImages(Sequence[VideoRecord]):
    """Records of images, each made when it is asked for: a hundred thousand of them would fill a gigabyte."""

    def __init__(
        self,
        dataset: str,
        source: str,
        rows: list[tuple[int | str, str, int, int, str, int]],
        ids: np.ndarray,
        classes: np.ndarray,
        things: np.ndarray,
    ):
        """Args:
        rows: id, path, height, width, path of the map ("": none) and number of the first segment of each image.
        ids, classes, things: of all segments, image after image; see `images.SegmentMap`.
        """
        self._dataset, self._source, self._rows = dataset, source, rows
        self._ids, self._classes, self._things = ids, classes, things

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        image_id, path, height, width, map_path, first = self._rows[index]
        following = index % len(self) + 1
        last = self._rows[following][5] if following < len(self) else len(self._ids)
        ids, classes = self._ids[first:last], self._classes[first:last]
        is_thing = self._things[classes]
        instances = dict(zip(ids[is_thing].tolist(), (classes[is_thing] + 1).tolist(), strict=True))
        return VideoRecord(
            dataset=self._dataset,
            id=image_id,
            source=self._source,
            frame_paths=(pathlib.Path(path),),
            height=height,
            width=width,
            instances=instances,
            segmentations=(dict.fromkeys(instances),),
            annotated_frames=(0,) if map_path else (),
            panoptic_maps=(pathlib.Path(map_path),) if map_path else None,
            read_panoptic=images.SegmentMap(ids, classes, self._things),
        )


def keep_listed(
    items: Sequence[Item], paths_of: Callable[[Item], Sequence[pathlib.Path | str]], where: str
) -> list[Item]:
    """The items all of whose files exist; it lists folders instead of asking for each file.

    Raises:
      ValueError: once for all files that do not exist, unless bad records are left out.
    """
    known: dict[str, set[str]] = {}
    missing: dict[int, pathlib.Path | str] = {}
    for i, item in enumerate(items):
        for path in paths_of(item):
            folder, name = os.path.split(path)
            if folder not in known:
                known[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
            if name not in known[folder]:
                missing.setdefault(i, path)
    if missing and not bad_records.is_leaving_out():
        shown = ", ".join(str(path) for path in list(missing.values())[:3])
        raise ValueError(f"{where}: {len(missing)} of {len(items)} files do not exist: {shown}")
    for path in missing.values():
        bad_records.leave_out(ValueError(f"{where}: {path} does not exist"))
    return [item for i, item in enumerate(items) if i not in missing]


def _maps_folder(file: pathlib.Path) -> pathlib.Path:
    candidates = (file.with_suffix(""), file.parent / "pan_maps")
    return next((folder for folder in candidates if folder.is_dir()), file.parent)


def _check_categories(content: dict, labels: dict[int, int], config: DatasetConfig, file: pathlib.Path) -> None:
    """A ValueError for a class of another name that is a thing in the file and stuff in the config, or the reverse.

    Files of other numberings, such as Cityscapes' train ids, would otherwise be read as the wrong classes.
    """
    has_categories = isinstance(content, dict) and "categories" in content
    for i, category in enumerate(workspace.get(content, "categories", list, str(file)) if has_categories else ()):
        where = f"{file}, categories[{i}]"
        number = workspace.get(category, "id", int, where)
        if number not in labels or "isthing" not in category:
            continue
        label = labels[number]
        name = config.class_names[label] if config.class_names else "no name"
        if bool(category["isthing"]) != (label in config.thing_classes) and category.get("name") != name:
            raise ValueError(
                f"{where}: id {number} has isthing {category['isthing']}, but class {label} ({name}) of {config.name} "
                f"is {'stuff' if category['isthing'] else 'a thing'}: the file numbers its classes in another way"
            )


def _segments(
    segments: list, labels: dict[int, int], void: Collection[int], where: str
) -> tuple[Sequence[int], Sequence[int]]:
    """(ids, classes 0..K-1) of the segments of one image."""
    ids, classes = [], []
    for j, segment in enumerate(segments):
        try:
            number, category = segment["id"], segment["category_id"]
            if category in void:
                continue
            label = labels.get(category)
        except (KeyError, TypeError):
            place = f"{where}.segments_info[{j}]"
            raise ValueError(f"{place}: expected id and category_id, found {segment!r:.80}") from None
        if label is None:
            raise ValueError(f"{where}.segments_info[{j}]: category_id {category!r:.20} is not one of {list(labels)}")
        if type(number) is not int or not 0 < number <= images.MAX_SEGMENT_ID:
            raise ValueError(
                f"{where}.segments_info[{j}]: id should be in 1..{images.MAX_SEGMENT_ID}, found {number!r:.20}"
            )
        ids.append(number)
        classes.append(label)
    if len(set(ids)) < len(ids):
        raise ValueError(f"{where}: two segments have one id, found {sorted(i for i in set(ids) if ids.count(i) > 1)}")
    return ids, classes
