"""How a video is cut, resized and stitched; imports the table of datasets alone, so that configs load no network."""

import dataclasses
from typing import Annotated

from tarvis_jax import datasets
from tarvis_jax.fields import Range, check_fields

_Pixels = Annotated[int, Range(1, 65_536)]
_Share = Annotated[float, Range(0, 1)]


def check_schedule(length: int, overlap: int) -> None:
    """Raises ValueError unless clips of `length` frames may share `overlap` frames."""
    if length < 1:
        raise ValueError(f"clip_length: expected at least 1 frame, found {length}")
    if not 0 <= overlap < length:
        raise ValueError(f"overlap: expected 0..{length - 1} (below clip_length {length}), found {overlap}")


@dataclasses.dataclass(frozen=True)
class InferenceConfig:
    """How a video is cut, resized and stitched.

    Attributes:
      clip_length: frames per clip.
      overlap: frames that successive clips share, 0..clip_length-1; they carry ids and objects from clip to clip, so
        with 0 every clip begins anew.
      min_dim: smaller side after resizing, in pixels; None keeps the size.
      max_dim: bound on the larger side after resizing, in pixels.
      size_table: pad frames to the next size of a short table (`clips.padded_sizes`), so that videos of many sizes
        share the compiled programs; the numbers stay those of the least padding, up to rounding. False takes the least
        padding, with programs for each such size. Without min_dim there is no table.
      max_tracks: VIS and VPS: at most this many tracks per clip.
      score_threshold: VIS and VPS: least class score of a clip's track; also that of a track in a panoptic map.
      duplicate_iou: VIS and VPS: of two tracks of a clip with a greater mask IoU than this only the better one stays;
        1 keeps all, as the reference does.
      association_iou: VIS and VPS: masks of successive clips are one track if their IoU in the overlap exceeds this.
      max_predictions: VIS: (track, class) pairs per video in the results file.
    """

    clip_length: Annotated[int, Range(1, 10_000)] = 12
    overlap: Annotated[int, Range(0, 9_999)] = 6
    min_dim: _Pixels | None = None
    max_dim: _Pixels = 1333
    size_table: bool = False
    max_tracks: Annotated[int, Range(1, 100_000)] = 10
    score_threshold: _Share = 0.0
    duplicate_iou: _Share = 1.0
    association_iou: _Share = 0.5
    max_predictions: Annotated[int, Range(1, 10**6)] = 10

    def __post_init__(self) -> None:
        check_fields(self)
        check_schedule(self.clip_length, self.overlap)


def default_inference(dataset: str) -> InferenceConfig:
    """The settings of a dataset of the table; ValueError for a name that it does not have."""
    return InferenceConfig(**datasets.lookup(dataset).inference)
