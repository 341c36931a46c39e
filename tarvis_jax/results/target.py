"""What the user points at (VOS, PET)."""

import dataclasses

import numpy as np

from tarvis_jax.results.tracks import TargetId


@dataclasses.dataclass(frozen=True)
class Target:
    """An object given by example in one frame: a mask, bool [H, W], or a point, pixel (y, x), of the original frame."""

    frame: int
    id: TargetId
    mask: np.ndarray | None = None
    point_yx: tuple[float, float] | None = None

    def check_size(self, size: tuple[int, int]) -> None:
        """Raises ValueError if the target does not fit a frame of `size` (height, width)."""
        if self.mask is not None and self.mask.shape != tuple(size):
            raise ValueError(
                f"target {self.id!r}: its mask is {self.mask.shape[0]}x{self.mask.shape[1]}, "
                f"the frames are {size[0]}x{size[1]} (height x width)"
            )
        if self.point_yx is not None and not all(0 <= p < s for p, s in zip(self.point_yx, size, strict=True)):
            raise ValueError(
                f"target {self.id!r}: its point (y, x) = {self.point_yx} lies outside the frame of "
                f"{size[0]}x{size[1]} pixels (height x width)"
            )
