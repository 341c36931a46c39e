"""The size that frames are resized to, in training and in inference."""


def resized_size(size: tuple[int, int], min_dim: int | None, max_dim: int) -> tuple[int, int]:
    """Height and width after the smaller side became `min_dim`, or less where the larger would exceed `max_dim`.

    Args:
      size: (height, width) in pixels.
      min_dim: length of the smaller side after resizing, in pixels; None keeps the size.
      max_dim: bound on the larger side after resizing, in pixels (only with min_dim).
    """
    if min_dim is None:
        return size
    scale = min_dim / min(size)
    if scale * max(size) > max_dim:
        scale = max_dim / max(size)
    return max(1, round(scale * size[0])), max(1, round(scale * size[1]))
