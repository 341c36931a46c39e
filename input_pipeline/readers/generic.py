"""The JSON that the released workspace uses for datasets without a usable one of their own.

`{"meta": {"category_labels": {class: name}}, "sequences": [{"id", "height", "width", "image_paths": [...],
"categories": {instance: class}, "segmentations": [{instance: mask}] per frame,
"semantic_segmentations" (optional): [{class: mask}] per frame}]}`, a mask being an RLE or polygons.
"""

import pathlib

import numpy as np

from input_pipeline import images, workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.records import VideoRecord
from tarvis_jax.masks import rle


def training_videos(config: DatasetConfig, root: str) -> list[VideoRecord]:
    """All sequences of the training JSON."""
    folder = workspace.resolve(config.train_images, root, dataset=config.name, key="train_images", kind="folder")
    file = workspace.resolve(config.train_annotations, root, dataset=config.name, key="train_annotations", kind="file")
    return read(file, folder, config)


def evaluation_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """All sequences of a JSON of the same form."""
    paths = {key: getattr(config, key).replace("{split}", split) for key in ("eval_images", "eval_annotations")}
    folder = workspace.resolve(paths["eval_images"], root, dataset=config.name, key="eval_images", kind="folder")
    file = workspace.resolve(paths["eval_annotations"], root, dataset=config.name, key="eval_annotations", kind="file")
    return read(file, folder, config)


def read(file: pathlib.Path, folder: pathlib.Path, config: DatasetConfig) -> list[VideoRecord]:
    """Records of all sequences in `file`, frames under `folder`.

    Classes: panoptic files count them from 0 (255 = ignore, in semantic masks only) and instance files from 1; records
    hold 1..K for instances and 0..K-1 for semantic masks. In exemplar datasets every instance gets class 0.
    """
    content = workspace.load_json(file, with_runs=True)
    sequences = workspace.get(content, "sequences", list, str(file))
    return [_video(sequence, folder, file, config, f"{file}, sequences[{i}]") for i, sequence in enumerate(sequences)]


def _video(sequence, folder, file, config, where) -> VideoRecord:
    names = workspace.get(sequence, "image_paths", list, where)
    height, width = (workspace.get(sequence, key, int, where) for key in ("height", "width"))
    paths = [workspace.join(folder, name, f"{where}.image_paths") for name in names]
    workspace.check_files(paths, f"{where}.image_paths")
    categories = workspace.get(sequence, "categories", dict, where)
    raw_ids = [workspace.to_id(key, f"{where}.categories") for key in categories]
    # Instance ids start at 0 in some files; records keep 0 for "no instance".
    shift = 1 if raw_ids and min(raw_ids) == 0 else 0
    instances = {
        raw + shift: _instance_class(label, config, f"{where}.categories[{raw}]")
        for raw, label in zip(raw_ids, categories.values(), strict=True)
    }
    segmentations = _masks(sequence, "segmentations", len(names), height, width, where, shift)
    unknown = {key - shift for frame in segmentations for key in frame} - set(raw_ids)
    if unknown:
        raise ValueError(f"{where}: instance ids {sorted(unknown)} are in segmentations but not in categories")
    semantics = None
    if "semantic_segmentations" in sequence:
        semantics = _masks(sequence, "semantic_segmentations", len(names), height, width, where, 0)
        for t, frame in enumerate(semantics):
            wrong = [label for label in frame if not 0 <= label < config.num_classes and label != images.VOID]
            if wrong:
                raise ValueError(
                    f"{where}.semantic_segmentations[{t}]: classes {sorted(wrong)} are not in "
                    f"0..{config.num_classes - 1} (num_classes) or {images.VOID} (ignore)"
                )
    if semantics is None and config.task == "panoptic":
        raise ValueError(f"{where}: key 'semantic_segmentations' is missing, which panoptic datasets need")
    return VideoRecord(
        dataset=config.name,
        id=workspace.get(sequence, "id", (str, int), where),
        source=str(file),
        frame_paths=tuple(paths),
        height=height,
        width=width,
        instances=instances,
        segmentations=segmentations,
        annotated_frames=tuple(range(len(names))),
        semantics=semantics,
    )


def _instance_class(label, config: DatasetConfig, where: str) -> int:
    if config.task == "exemplar":
        return 0
    label = workspace.to_id(label, where)
    first = 0 if config.task == "panoptic" else 1
    if not first <= label < first + config.num_classes:
        raise ValueError(f"{where}: class {label} is not in {first}..{first + config.num_classes - 1} (num_classes)")
    return label + 1 - first


def _masks(sequence, key, num_frames, height, width, where, shift) -> tuple[dict[int, rle.Rle], ...]:
    frames = workspace.get(sequence, key, list, where)
    if len(frames) != num_frames:
        raise ValueError(f"{where}: {len(frames)} {key} for {num_frames} image_paths")
    result = []
    for t, frame in enumerate(frames):
        place = f"{where}.{key}[{t}]"
        if not isinstance(frame, dict):
            raise ValueError(f"{place}: expected an object id -> mask, found {type(frame).__name__}")
        masks = {}
        for name, segment in frame.items():
            if not isinstance(segment, np.ndarray) and not segment:  # null: absent from this frame
                continue
            encoded = rle.to_rle(segment, height, width, f"{place}[{name!r}]")
            if rle.area(encoded):
                masks[workspace.to_id(name, place) + shift] = encoded
        result.append(masks)
    return tuple(result)
