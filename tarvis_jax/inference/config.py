"""How a video is cut, resized and stitched; free of imports, so that configs do not load the network."""

import dataclasses


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
      max_tracks: VIS and VPS: at most this many tracks per clip.
      score_threshold: VIS and VPS: least class score of a clip's track; also that of a track in a panoptic map.
      duplicate_iou: VIS and VPS: of two tracks of a clip with a greater mask IoU than this only the better one stays;
        1 keeps all, as the reference does.
      association_iou: VIS and VPS: masks of successive clips are one track if their IoU in the overlap exceeds this.
      max_predictions: VIS: (track, class) pairs per video in the results file.
    """

    clip_length: int = 12
    overlap: int = 6
    min_dim: int | None = None
    max_dim: int = 1333
    max_tracks: int = 10
    score_threshold: float = 0.0
    duplicate_iou: float = 1.0
    association_iou: float = 0.5
    max_predictions: int = 10

    def __post_init__(self) -> None:
        check_schedule(self.clip_length, self.overlap)
        if self.min_dim is not None and self.min_dim < 1:
            raise ValueError(f"min_dim: expected at least 1 pixel or None, found {self.min_dim}")


INFERENCE_DEFAULTS: dict[str, InferenceConfig] = {
    "YOUTUBE_VIS": InferenceConfig(min_dim=448),
    "OVIS": InferenceConfig(min_dim=576, max_predictions=20),
    "KITTI_STEP": InferenceConfig(clip_length=6, overlap=3, max_tracks=1000, score_threshold=0.5),
    "CITYSCAPES_VPS": InferenceConfig(clip_length=10, overlap=5, max_dim=2048, max_tracks=1000, score_threshold=0.5),
    "VIPSEG": InferenceConfig(min_dim=576, max_tracks=1000, score_threshold=0.5),
    "DAVIS": InferenceConfig(),
    "BURST": InferenceConfig(clip_length=8, overlap=4, min_dim=512),
}
