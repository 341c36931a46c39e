"""How sure a model is of what it found: which of many videos a person should look at first.

The class score of a track is taken as the probability that the track is right. Of the tracks that are kept as labels
(a score of at least `min_score`), each is wrong with probability 1 - score; of those that are left out, each is missing
with probability score. The sum over all tracks of a video is the number of mistakes that are expected in its labels,
each of which costs a person a correction. Objects that no track has, and masks that are wrong, are not counted.
"""

import csv
import pathlib
from collections.abc import Iterable

from tarvis_jax.results.formats import files
from tarvis_jax.results.tracks import VideoResult

COLUMNS = ("video", "expected_mistakes", "tracks", "lowest_score")


def expected_mistakes(result: VideoResult, min_score: float) -> float:
    """The number of tracks that are expected to be wrong or missing among those of at least `min_score`, in 0..1."""
    scores = (track.score for track in result.tracks)
    return sum(1 - score if score >= min_score else score for score in scores)


def write_least_sure_first(
    path: pathlib.Path, results: Iterable[VideoResult], min_score: float
) -> list[tuple[str, float]]:
    """Writes a CSV with a row for each video, that with the most expected mistakes first.

    Columns: the video, its `expected_mistakes`, how many tracks are kept, and the lowest score of those.

    Returns:
      (Video, expected mistakes) in this order.
    """
    rows = []
    for result in results:
        kept = [track.score for track in result.tracks if track.score >= min_score]
        lowest = f"{min(kept):.3f}" if kept else ""
        rows.append((result.video, expected_mistakes(result, min_score), len(kept), lowest))
    rows.sort(key=lambda row: -row[1])
    with files.whole_file(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows((video, f"{mistakes:.3f}", *rest) for video, mistakes, *rest in rows)
    return [(video, mistakes) for video, mistakes, *_ in rows]
