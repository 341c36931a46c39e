"""What all formats of result files share: a video whose result is read when it is its turn, and the options."""

import dataclasses
import pathlib
from collections.abc import Callable

from tarvis_jax.results.tracks import VideoResult


@dataclasses.dataclass(frozen=True)
class ResultVideo:
    """The result of one video.

    Attributes:
      id: what the benchmark calls the video: a number in YouTube-VIS and OVIS, else its name ("0002",
        "LaSOT/airplane-1").
      frame_names: of its frames in order, file names without folder and suffix.
      load: gives the tracks of these frames; called once by a writer, which lets go of the result before the next
        video, so that a run over many videos holds one at a time.
    """

    id: int | str
    frame_names: tuple[str, ...]
    load: Callable[[], VideoResult]


@dataclasses.dataclass(frozen=True)
class Options:
    """What writers and readers need beside the tracks; each format takes what it needs (docs/results.md).

    Attributes:
      class_names: of class 1..K; formats of labeling tools store them.
      thing_classes: VPS: classes with instances, 0..K-1 as in semantic maps.
      score_threshold: VPS: tracks with a score up to this are not in the panoptic map, 0..1.
      max_predictions: VIS: (track, class) pairs of a video.
      annotations: the benchmark's own JSON of the split, where a format repeats parts of it: ids and order of the frames
        (Cityscapes-VPS, VIPSeg), the sequences (BURST).
    """

    class_names: tuple[str, ...] = ()
    thing_classes: tuple[int, ...] = ()
    score_threshold: float = 0.5
    max_predictions: int = 10
    annotations: pathlib.Path | None = None
