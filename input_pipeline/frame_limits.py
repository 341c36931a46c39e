"""The size that an image may have. Importing it loads no library, so that files of annotations are read without any."""

MAX_PIXELS = 2**26  # of a frame; what a file declares beyond it is taken for a mistake and no memory is asked for


def check_size(height: int, width: int, where: str) -> None:
    """Raises ValueError unless this is the size of an image that can be worked on."""
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(
            f"{where}: expected height and width of at least 1 and at most {MAX_PIXELS} pixels, "
            f"found {height!r:.20} x {width!r:.20}"
        )
