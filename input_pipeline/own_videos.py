"""From a folder of one's own videos to the `DatasetConfig` that trains, evaluates and segments them.

docs/own_data.md lists the formats and layouts that are recognized.
"""

import dataclasses
import os
import pathlib
import re
import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from input_pipeline import frame_files, images, readers, workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.frame_files import IMAGE_SUFFIXES, VIDEO
from input_pipeline.readers import coco_video, cvat_video, datumaro, id_masks, mots
from input_pipeline.records import VideoRecord
from input_pipeline.video_files import VIDEO_SUFFIXES, extract_videos
from tarvis_jax.datasets import EXEMPLAR, INSTANCE, MASK

FORMATS = ("id_masks", "youtube_vis", "coco_video", "mots", "datumaro", "cvat_video")
CLASS_FILES = ("classes.json", "classes.txt")
# Names of folders, in lower case.
_FRAMES = ("frames", "images", "jpegimages", "videos", "rgb", "image_02", "img1")
_MASKS = ("masks", "annotations", "instances", "labels", "ids")
_ANNOTATIONS = ("annotations", "labels")
_RESOLUTIONS = ("480p", "full-resolution")  # folders between JPEGImages and the videos in DAVIS's layout
_SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation")}
CLIP_LENGTH = 3  # frames of a clip in training
_MOST_EXEMPLARS = 4  # objects that a clip gives, at most, as in DAVIS and BURST
_LARGEST_SIDE = 480  # the smaller side of clips, at most
_MAX_FOLDERS = 10_000


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the files of one split lie and who reads them; paths as in `DatasetConfig`."""

    reader: str
    images: str
    annotations: str


def own_dataset(
    root: str | pathlib.Path,
    *,
    name: str = "MINE",
    format: str = "auto",
    task: str = "auto",
    classes: Sequence[str] = (),
    held_out: float | Sequence[str] = 0.2,
    frames_folder: str | pathlib.Path | None = None,
) -> DatasetConfig:
    """The dataset in a folder. Prints what was found.

    Args:
      root: the folder; with train/ and val/ in it, or train*.json and val*.json, these are the splits.
      name: of the dataset, by which the model knows its classes.
      format: one of FORMATS; "auto" recognizes it.
      task: "instance" (the model finds the objects of known classes), "exemplar" (it follows objects that are given)
        or "auto": instance where the classes are known.
      classes: their names, where the files do not name them (id_masks, mots).
      held_out: share of the videos that is kept for validation where there is no split for it, at least one video; 0:
        none, the videos of the training are evaluated. Or the names of the videos to keep, which stay the same when
        videos are added.
      frames_folder: where the frames of video files are written; None: beside `root`, in <root>_frames.

    Raises:
      ValueError: no annotated videos there, several formats, or files that are malformed; names the file.
    """
    root = pathlib.Path(os.path.abspath(os.path.expanduser(root)))
    if not root.is_dir():
        raise ValueError(f"{root}: expected a folder with videos and their annotations, found no such folder")
    if format not in ("auto", *FORMATS):
        raise ValueError(f"format: expected auto or one of {', '.join(FORMATS)}, found {format!r}")
    if task not in ("auto", INSTANCE, EXEMPLAR):
        raise ValueError(f"task: expected auto, {INSTANCE} or {EXEMPLAR}, found {task!r}")
    by_name = not isinstance(held_out, (int, float))
    if not by_name and not 0 <= held_out < 1:
        raise ValueError(f"held_out: expected a share in 0..1 (1 excluded), found {held_out}")
    frames = root.with_name(f"{root.name}_frames") if frames_folder is None else pathlib.Path(frames_folder).absolute()
    layouts = _split_layouts(root, format, frames)
    train, val = layouts["train"], layouts.get("val")
    if val and val.reader != train.reader:
        raise ValueError(f"{root}: expected both splits in one format, found {train.reader} and {val.reader}")
    object_classes = _class_file(root, train.reader)
    names = tuple(classes) or _declared_classes(train, object_classes)
    if task == "auto":
        task = INSTANCE if names else EXEMPLAR
    if task == INSTANCE and not names:
        raise ValueError(f"{root}: the classes are not known; {' or '.join(CLASS_FILES)} or classes=a+b names them")
    config = DatasetConfig(
        name=name,
        reader=train.reader,
        task=task,
        num_classes=len(names) if task == INSTANCE else 0,
        class_names=names if task == INSTANCE else (),
        exemplar=MASK if task == EXEMPLAR else "",
        train_images=train.images,
        train_annotations=train.annotations,
        eval_images=(val or train).images,
        eval_annotations=(val or train).annotations,
        object_classes=str(object_classes) if object_classes and task == INSTANCE else "",
    )
    videos = readers.training_videos(config)
    if val is None:
        scored = [str(v.id) for v in videos if sum(map(bool, v.segmentations)) > (task == EXEMPLAR)]
        chosen = tuple(held_out) if by_name else choose_held_out(scored, held_out)
        config = dataclasses.replace(config, held_out=chosen)
        ids = {str(video.id) for video in videos}
        if by_name and not set(chosen) < ids:
            raise ValueError(
                f"held_out: expected some of the videos {sorted(ids)!s:.200}, found {'+'.join(chosen):.200}"
            )
        evaluated = [video for video in videos if str(video.id) in config.held_out]
    elif by_name:
        raise ValueError(f"held_out={'+'.join(held_out):.200}: {root} says itself what is held out ({val.annotations})")
    else:
        evaluated = readers.evaluation_videos(config, "val")
    empty = [video.where for video in evaluated or videos if task == EXEMPLAR and not any(video.segmentations)]
    if empty:
        raise ValueError(f"{empty[0]}: it is evaluated, but has no object that could be given to the model")
    config = dataclasses.replace(config, **_sizes(videos, task))
    print("\n".join(_summary(root, config, videos, evaluated, has_split=val is not None)), flush=True)
    return config


def choose_held_out(ids: Sequence[str], share: float) -> tuple[str, ...]:
    """A share of the videos, rounded, at least one and never all; which ones follows from their ids alone."""
    count = min(max(1, round(share * len(ids))), len(ids) - 1) if share else 0
    return tuple(sorted(sorted(ids, key=lambda video: (zlib.crc32(video.encode()), video))[:count]))


def _sizes(videos: Sequence[VideoRecord], task: str) -> dict:
    """Fields of the config that follow from the videos."""
    side = int(min(np.median([min(video.height, video.width) for video in videos]), _LARGEST_SIDE))
    # A clip of 3 frames can show no more objects than its frames together.
    most = max(min(len(v.instances), CLIP_LENGTH * max(map(len, v.segmentations))) for v in videos)
    if task == EXEMPLAR:
        most = min(most, _MOST_EXEMPLARS)
    return {"min_dims": (side,), "max_dim": 2 * side, "max_instances": max(most, 1), "buckets": ()}


def _summary(
    root: pathlib.Path, config: DatasetConfig, videos: Sequence, evaluated: Sequence, *, has_split: bool
) -> Iterable[str]:
    yield f"{root}: {config.reader}, frames at {config.train_images}, annotations at {config.train_annotations}"
    sizes = sorted({(video.height, video.width) for video in videos})
    shown = ", ".join(f"{height}x{width}" for height, width in sizes[:3]) + (", ..." if len(sizes) > 3 else "")
    num_frames, num_objects = sum(video.num_frames for video in videos), sum(len(video.instances) for video in videos)
    yield f"  {len(videos)} videos, {num_frames} annotated frames of {shown} pixels, {num_objects} objects"
    if config.task == INSTANCE:
        counts = [
            sum(label == k for v in videos for label in v.instances.values()) for k in range(config.num_classes + 1)
        ]
        yield f"  {config.num_classes} classes: " + ", ".join(
            f"{name} ({counts[label]} objects)" for label, name in enumerate(config.class_names, start=1)
        )
    else:
        yield "  no classes: the model learns to follow objects that are given by their masks"
    ids = ", ".join(str(video.id) for video in evaluated[:10]) + (", ..." if len(evaluated) > 10 else "")
    if has_split:
        yield f"  validation: the {len(evaluated)} videos of {config.eval_annotations}"
    elif evaluated:
        yield f"  validation: {len(evaluated)} of the {len(videos)} videos, which training leaves out: {ids}"
    else:
        yield "  validation: the videos of the training, so that scores say how well the model fits them"


def _split_layouts(root: pathlib.Path, format: str, frames: pathlib.Path) -> dict[str, Layout]:
    """The layout of "train" and, if there is one, "val"."""
    folders = {split: _child(root, names) for split, names in _SPLITS.items()}
    if folders["train"] and folders["val"]:
        return {split: _layout(folder, format, frames / split) for split, folder in folders.items()}
    for folder in (root, *filter(None, [_child(root, _ANNOTATIONS)])):
        files = _annotation_files(folder, format)
        of_split = {
            split: [path for path in files if any(word in path.stem.lower() for word in words[:1])]
            for split, words in _SPLITS.items()
        }
        if len(of_split["train"]) == len(of_split["val"]) == 1 == len(files) - 1:
            return {split: _file_layout(root, paths, files[paths[0]], frames) for split, paths in of_split.items()}
    return {"train": _layout(root, format, frames)}


def _layout(root: pathlib.Path, format: str, frames: pathlib.Path) -> Layout:
    """Where everything is in a folder without splits: one file of annotations, one per video, or PNGs."""
    for folder in (root, *filter(None, [_child(root, _ANNOTATIONS)])):
        files = _annotation_files(folder, format)
        if files:
            return _file_layout(root, list(files), _only(set(files.values()), folder), frames)
    below = {}
    for folder in _folders(root):
        files = _annotation_files(folder, format)
        files = files or _annotation_files(_child(folder, _ANNOTATIONS) or folder, format)
        if len(files) > 1:
            raise ValueError(f"{folder}: expected one file of annotations, found {', '.join(p.name for p in files)}")
        for path, reader in files.items():
            below[folder] = (path.relative_to(folder), reader)
    if below:
        rest = _only({rest for rest, _ in below.values()}, root)
        reader = _only({reader for _, reader in below.values()}, root)
        if reader == "cvat_video":
            images = _frames_beside(list(below), frames)
        else:
            inside = {_folder_of_images(f, f / rest, reader).relative_to(f) for f in below}
            images = str(root / VIDEO / _only(inside, root))
        return Layout(reader, images, str(root / VIDEO / rest))
    return _png_layout(root, format, frames)


def _file_layout(root: pathlib.Path, files: list[pathlib.Path], reader: str, frames: pathlib.Path) -> Layout:
    """For one file of annotations, or several in one folder, each of its own video."""
    if len(files) > 1:
        suffix = _only({path.suffix for path in files}, files[0].parent)
        annotations = str(files[0].parent / f"{VIDEO}{suffix}")
    else:
        annotations = str(files[0])
    if reader != "cvat_video":
        folder = _folder_of_images(root, files[0], reader)
        is_own = len(files) > 1 and folder.name == files[0].stem
        return Layout(reader, str(folder.parent / VIDEO if is_own else folder), annotations)
    names = [path.stem for path in files]
    images = _frames_of_videos(root, names, frames) if len(files) > 1 else _frames_of_one(root, frames)
    return Layout(reader, images, annotations)


def _frames_beside(folders: list[pathlib.Path], frames: pathlib.Path) -> str:
    """The frames of videos with a folder each: in a folder in it, in itself, or in a video file in it."""
    found = {f: next((d for d in (_child(f, _FRAMES), f) if d and _has_images(d)), None) for f in folders}
    if all(found.values()):
        inside = _only({d.relative_to(f) for f, d in found.items()}, folders[0].parent)
        return str(folders[0].parent / VIDEO / inside)
    files = {f: _video_files(f) for f in folders}
    wrong = [f for f, paths in files.items() if len(paths) != 1]
    if wrong:
        raise ValueError(
            f"{wrong[0]}: expected frames or one video file ({', '.join(VIDEO_SUFFIXES)}), found {len(files[wrong[0]])}"
        )
    extract_videos({f.name: paths[0] for f, paths in files.items()}, frames)
    return str(frames / VIDEO)


def _frames_of_videos(root: pathlib.Path, names: Sequence[str] | None, frames: pathlib.Path) -> str:
    """The frames of videos in <folder>/<video>/, or in video files, of which those with `names` are taken."""
    for folder in filter(None, (_child(root, _FRAMES), root)):
        folder = _child(folder, _RESOLUTIONS) or folder
        if folder != root and any(_has_images(below) for below in _folders(folder)):
            return str(folder / VIDEO)
        files = {path.stem: path for path in _video_files(folder) if names is None or path.stem in names}
        if files:
            extract_videos(files, frames)
            return str(frames / VIDEO)
    raise ValueError(
        f"{root}: no frames found; expected a folder {' or '.join(_FRAMES[:3])} with a folder or a video file "
        f"({', '.join(VIDEO_SUFFIXES)}) of each video"
    )


def _frames_of_one(root: pathlib.Path, frames: pathlib.Path) -> str:
    """The frames of the one video: in a folder, or in a video file."""
    for folder in filter(None, (_child(root, _FRAMES), root)):
        if _has_images(folder):
            return str(folder)
    return _frames_of_videos(root, None, frames)


def _png_layout(root: pathlib.Path, format: str, frames: pathlib.Path) -> Layout:
    """Masks as images: <masks>/<video>/*.png, <video>/<masks>/*.png or, of one video, <masks>/*.png."""
    masks = _child(root, _MASKS)
    if masks is not None:
        masks = _child(masks, _RESOLUTIONS) or masks
        many = [folder for folder in _folders(masks) if _has_images(folder)]
        if many:
            pattern = _frames_of_videos(root, [folder.name for folder in many], frames)
            annotations, folders = str(masks / VIDEO), many
        elif _has_images(masks):
            pattern, annotations, folders = _frames_of_one(root, frames), str(masks), [masks]
        else:
            raise ValueError(f"{masks}: expected masks as images, in a folder for each video, found none")
    else:
        videos = {folder: _child(folder, _MASKS) for folder in _folders(root)}
        videos = {folder: below for folder, below in videos.items() if below and _has_images(below)}
        if not videos:
            raise ValueError(
                f"{root}: no annotations found; expected a folder {' or '.join(_MASKS[:3])} with images, or a file of "
                f"{', '.join(FORMATS[1:])} (docs/own_data.md has the layouts)"
            )
        name = _only({below.name for below in videos.values()}, root)
        pattern, annotations = _frames_beside(list(videos), frames), str(root / VIDEO / name)
        folders = list(videos.values())
    if format != "auto":
        return Layout(format, pattern, annotations)
    is_mots = any((folder / mots.LABELS_FILE).is_file() or _is_mots(folder) for folder in folders)
    return Layout("mots" if is_mots else "id_masks", pattern, annotations)


def _is_mots(folder: pathlib.Path) -> bool:
    """Whether the first mask that is not empty has values of 1000 and more."""
    for path in frame_files.frames_in(folder):
        largest = int(images.read_id_map(path, *images.image_size(path)).max())
        if largest:
            return largest >= 1000
    return False


def _annotation_files(folder: pathlib.Path, format: str) -> dict[pathlib.Path, str]:
    """The files of annotations in a folder -> their readers."""
    found = {}
    for path in sorted(folder.iterdir(), key=lambda path: frame_files.natural(path.name)):
        if path.is_file() and path.suffix.lower() in (".json", ".xml") and path.name not in CLASS_FILES:
            reader = "cvat_video" if path.suffix.lower() == ".xml" else _json_reader(path)
            if reader and format in ("auto", reader):
                found[path] = reader
    return found


def _json_reader(path: pathlib.Path) -> str | None:
    content = workspace.load_json(path)
    keys = set(content) if isinstance(content, dict) else set()
    for reader, needed in (
        ("coco_video", {"images", "annotations", "categories"}),
        ("youtube_vis", {"videos", "annotations", "categories"}),
        ("datumaro", {"items", "categories"}),
    ):
        if needed <= keys:
            return reader
    return None


def _folder_of_images(base: pathlib.Path, file: pathlib.Path, reader: str) -> pathlib.Path:
    """The folder, `base` or below, that the names of frames in `file` are relative to."""
    content = workspace.load_json(file)
    try:
        if reader == "coco_video":
            first = content["images"][0]["file_name"]
        elif reader == "youtube_vis":
            first = content["videos"][0]["file_names"][0]
        else:
            first = content["items"][0]["id"]
        names = [f"{first}{suffix}" for each in IMAGE_SUFFIXES for suffix in (each, each.upper())]
        names = [os.path.normpath(name) for name in (names if reader == "datumaro" else [first])]
    except (LookupError, TypeError) as error:
        raise ValueError(f"{file}: expected the names of frames, found none ({error!r})") from None
    waiting, seen = [base], 0
    while waiting and seen < _MAX_FOLDERS:
        folder, seen = waiting.pop(0), seen + 1
        for name in names:
            if not os.path.isabs(name) and not name.startswith(os.pardir) and (folder / name).is_file():
                return folder
        waiting += _folders(folder)
    raise ValueError(f"{file}: its first frame is {first!r:.200}, which is neither in {base} nor in a folder below")


def _class_file(root: pathlib.Path, reader: str) -> pathlib.Path | None:
    found = [root / name for name in CLASS_FILES if (root / name).is_file()] if reader == "id_masks" else []
    if len(found) > 1:
        raise ValueError(f"{root}: expected one of {' and '.join(CLASS_FILES)}, found both")
    return found[0] if found else None


def _declared_classes(layout: Layout, object_classes: pathlib.Path | None) -> tuple[str, ...]:
    """The classes that the files declare, each once, in their order; () where they declare none."""
    if object_classes is not None:
        return id_masks.read_classes(object_classes)[0]
    names: dict[str, None] = {}
    for path in frame_files.expand(layout.annotations, "", layout.annotations).values():
        if layout.reader in ("coco_video", "youtube_vis"):
            names |= dict.fromkeys(coco_video.categories(workspace.load_json(path), str(path)).values())
        elif layout.reader == "datumaro":
            names |= dict.fromkeys(datumaro.labels(workspace.load_json(path), str(path)).values())
        elif layout.reader == "cvat_video":
            names |= dict.fromkeys(cvat_video.parse(path).labels)
        elif layout.reader == "mots" and (path / mots.LABELS_FILE).is_file():
            names |= dict.fromkeys(mots.class_names(path / mots.LABELS_FILE))
    alike: dict[str, str] = {}
    for name in names:
        other = alike.setdefault(re.sub(r"[\s_-]+", "", name.casefold()), name)
        if other != name:
            raise ValueError(
                f"{layout.annotations}: expected different names of classes, found {other!r:.80} and {name!r:.80}, "
                "which differ in case or spaces alone; rename one of them in the labeling tool"
            )
    return tuple(names)


def clips_in(
    folder: str | pathlib.Path, dataset: str, frames_folder: str | pathlib.Path | None = None
) -> list[VideoRecord]:
    """The videos in a folder that are to be segmented: folders of frames and video files, in the order of their names.

    Args:
      folder: each folder in it is a video, with its frames in it or in its folder `images` (or frames, ...).
      dataset: name that the records get.
      frames_folder: where the frames of video files are written; None: beside `folder`, in <folder>_frames.

    Raises:
      ValueError: no such folder, no video in it, or two of one name.
    """
    folder = pathlib.Path(os.path.abspath(os.path.expanduser(folder)))
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder of videos, found no such folder")
    found = {}
    for below in _folders(folder):
        frames = next((each for each in (_child(below, _FRAMES), below) if each and _has_images(each)), None)
        if frames is not None:
            found[below.name] = frames
    files = {path.stem: path for path in _video_files(folder)}
    twice = sorted(set(found) & set(files))
    if twice or len(files) < len(_video_files(folder)):
        raise ValueError(f"{folder}: expected one video of each name, found two: {', '.join(twice) or 'video files'}")
    if files:
        target = folder.with_name(f"{folder.name}_frames") if frames_folder is None else pathlib.Path(frames_folder)
        extract_videos(files, target)
        found |= {name: target / name for name in files}
    if not found:
        raise ValueError(
            f"{folder}: expected folders of frames or video files ({', '.join(VIDEO_SUFFIXES)}), found none"
        )
    return [_clip(name, found[name], dataset) for name in sorted(found, key=frame_files.natural)]


def _clip(name: str, frames: pathlib.Path, dataset: str) -> VideoRecord:
    paths = frame_files.frames_in(frames)
    height, width = images.image_size(paths[0])
    nothing = ({},) * len(paths)
    return VideoRecord(dataset, name, str(frames), tuple(paths), height, width, {}, nothing, annotated_frames=())


def _folders(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")),
        key=lambda path: frame_files.natural(path.name),
    )


def _child(folder: pathlib.Path, names: Sequence[str]) -> pathlib.Path | None:
    """The folder in `folder` with the first of some names, in whatever case."""
    found = {path.name.lower(): path for path in _folders(folder)}
    return next((found[name] for name in names if name in found), None)


def _has_images(folder: pathlib.Path) -> bool:
    return bool(frame_files.images_in(folder))


def _video_files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES)


def _only(found: set, where: pathlib.Path):
    """The one thing in a set."""
    if len(found) != 1:
        raise ValueError(f"{where}: expected one kind of files and folders, found {', '.join(sorted(map(str, found)))}")
    return next(iter(found))
