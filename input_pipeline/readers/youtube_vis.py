"""YouTube-VIS and OVIS: one JSON with `videos`, `categories` and `annotations` (one entry per object track)."""

import collections
import pathlib

from absl import logging

from input_pipeline import bad_records, workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.records import VideoRecord
from tarvis_jax.datasets import EXEMPLAR
from tarvis_jax.masks import rle

# Official names of the evaluation files ("valid_2021.json") for the split that everyone calls "val".
_SPLIT_FILES = {"val": "valid"}


def training_videos(config: DatasetConfig, root: str) -> list[VideoRecord]:
    """Videos of the training JSON; each has `annotations`."""
    folder = workspace.resolve(config.train_images, root, dataset=config.name, key="train_images", kind="folder")
    file = workspace.resolve(config.train_annotations, root, dataset=config.name, key="train_annotations", kind="file")
    return read(file, folder, config, needs_annotations=True)


def evaluation_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """Videos of an evaluation JSON; the public ones have no annotations, then the records have no instances."""
    return read(*_evaluation_files(config, split, root), config, needs_annotations=False)


def ground_truth_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """The same videos, of a JSON that has annotations."""
    return read(*_evaluation_files(config, split, root), config, needs_annotations=True)


def _evaluation_files(config: DatasetConfig, split: str, root: str) -> tuple[pathlib.Path, pathlib.Path]:
    """The JSON of a split and the folder of its frames."""
    name = _SPLIT_FILES.get(split, split)
    images = config.eval_images.replace("{split}", name)
    annotations = config.eval_annotations.replace("{split}", name)
    folder = workspace.resolve(images, root, dataset=config.name, key="eval_images", kind="folder")
    file = workspace.resolve(annotations, root, dataset=config.name, key="eval_annotations", kind="file")
    return file, folder


def read(
    file: pathlib.Path, folder: pathlib.Path, config: DatasetConfig, *, needs_annotations: bool, check: bool = True
) -> list[VideoRecord]:
    """Records of all videos in `file`, frames under `folder`; instance ids are the annotations' official ids.

    With `check` false the frames need not exist (evaluation from annotations alone).
    """
    content = workspace.load_json(file, with_runs=True)
    listed = workspace.get(content, "videos", list, str(file))
    annotations = content.get("annotations")
    if (annotations is None and needs_annotations) or not isinstance(annotations, (list, type(None))):
        found = "is missing" if annotations is None else f"is {type(annotations).__name__}"
        raise ValueError(f"{file}: key 'annotations' {found}, expected a list of object tracks")
    classes = _class_ids(content, config, file)

    entries: dict[int, list[tuple[str, dict]]] = collections.defaultdict(list)

    def add_video(entry):
        where = f"{file}, videos[{entry[0]}]"
        entries[workspace.get(entry[1], "id", int, where)].append((where, entry[1]))

    bad_records.keep_good(enumerate(listed), add_video)
    for video_id, rows in entries.items():
        if len(rows) > 1:  # nothing says which of them the tracks belong to, so that all of them are bad
            bad_records.leave_out(ValueError(f"{rows[1][0]}: id {video_id} occurs twice"))
    tracks, stray = collections.defaultdict(list), set()

    def add_track(entry):
        where, track = f"{file}, annotations[{entry[0]}]", entry[1]
        video_id = workspace.get(track, "video_id", int, where)
        if video_id not in entries and video_id not in stray:  # one video that is not listed is one bad record
            stray.add(video_id)
            raise ValueError(f"{where}: video_id {video_id} is the id of no video")
        tracks[video_id].append((where, track))

    bad_records.keep_good(enumerate(annotations or ()), add_track)
    seen: set[int] = set()

    def read_video(entry):
        video_id, ((where, video),) = entry
        for place, track in tracks[video_id]:
            track_id = workspace.get(track, "id", int, place)
            if track_id in seen:
                raise ValueError(f"{place}: id {track_id} occurs twice")
            seen.add(track_id)
        return _video(video, tracks[video_id], classes, folder, file, config, check, where)

    return bad_records.keep_good((entry for entry in entries.items() if len(entry[1]) == 1), read_video)


def _class_ids(content: dict, config: DatasetConfig, file: pathlib.Path) -> dict[int, int]:
    """Id of a category -> class: by name where all names are in `class_names`, else the ids are the classes 1..K.

    Names that differ from the config's are only told then.
    """
    # Without annotations nothing is of a class.
    listed = workspace.get(content, "categories", list, str(file)) if content.get("annotations") else []
    ids = [workspace.get(category, "id", int, f"{file}, categories[{i}]") for i, category in enumerate(listed)]
    if config.task == EXEMPLAR:
        return dict.fromkeys(ids, 0)
    names = [category.get("name") for category in listed]
    if config.class_names and all(name in config.class_names for name in names):
        return {label: config.class_names.index(name) + 1 for label, name in zip(ids, names, strict=True)}
    for i, label in enumerate(ids):
        if not 1 <= label <= config.num_classes:
            raise ValueError(f"{file}, categories[{i}]: id {label} is not in 1..{config.num_classes} (num_classes)")
    given = {label: str(name) for label, name in zip(ids, names, strict=True) if name}
    other = [i for i, name in given.items() if config.class_names and _plain(name) != _plain(config.class_names[i - 1])]
    if other:
        logging.warning(
            "%s: %d of %d classes have other names than in the config of dataset %s; class %d is %r in the file and %r "
            "in the config (the classes of YouTube-VIS 2019 are not those of 2021: see class_names)",
            *(file, len(other), len(given), config.name, other[0], given[other[0]], config.class_names[other[0] - 1]),
        )
    return {label: label for label in range(1, config.num_classes + 1)}


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").replace("-", " ")


def _video(video, tracks, classes, folder, file, config, check, where) -> VideoRecord:
    names = workspace.get(video, "file_names", list, where)
    height, width = workspace.get_size(video, where)
    paths = [workspace.join(folder, name, f"{where}.file_names") for name in names]
    if check:
        workspace.check_files(paths, f"{where}.file_names")
    instances, crowd = {}, set()
    segmentations: list[dict[int, rle.Rle]] = [{} for _ in names]
    for place, track in tracks:
        label = workspace.get(track, "category_id", int, place)
        if label not in classes:
            raise ValueError(f"{place}: category_id {label} is none of the categories {sorted(classes)}")
        segments = workspace.get(track, "segmentations", list, place)
        if len(segments) != len(names):
            raise ValueError(f"{place}: {len(segments)} segmentations for the {len(names)} frames of its video")
        instances[track["id"]] = classes[label]
        if track.get("iscrowd"):
            crowd.add(track["id"])
        for t, segment in enumerate(segments):
            if not segment:  # null: absent from this frame
                continue
            encoded = rle.to_rle(segment, height, width, f"{place}.segmentations[{t}]")
            if rle.area(encoded):
                segmentations[t][track["id"]] = encoded
    return VideoRecord(
        dataset=config.name,
        id=video["id"],
        source=str(file),
        frame_paths=tuple(paths),
        height=height,
        width=width,
        instances=instances,
        segmentations=tuple(segmentations),
        annotated_frames=tuple(range(len(names))),
        crowd=frozenset(crowd),
    )
