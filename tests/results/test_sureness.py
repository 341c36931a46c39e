"""Which videos a person should look at first."""

import csv

import pytest

from tarvis_jax.results.sureness import COLUMNS, expected_mistakes, write_least_sure_first
from tarvis_jax.results.tracks import Track, VideoResult


def result(video: str, *scores: float) -> VideoResult:
    return VideoResult(video, "LAB", (4, 6), 1, [Track(i, [None], None, 1, score) for i, score in enumerate(scores)])


def test_expected_mistakes():
    """Drawn from the scores as probabilities, labels have so many wrong and missing tracks on average."""
    assert expected_mistakes(result("none"), 0.5) == 0
    assert expected_mistakes(result("sure", 1.0, 0.0), 0.5) == 0
    assert expected_mistakes(result("kept", 0.9, 0.5), 0.5) == pytest.approx(0.1 + 0.5)
    assert expected_mistakes(result("left out", 0.9, 0.5), 0.6) == pytest.approx(0.1 + 0.5)
    assert expected_mistakes(result("all kept", 0.9, 0.2), 0.0) == pytest.approx(0.1 + 0.8)
    # 0.5 is the threshold with the fewest mistakes.
    scores = [k / 20 for k in range(21)]
    values = [expected_mistakes(result("all", *scores), k / 10) for k in range(11)]
    assert min(values) == values[5]


def test_the_least_sure_comes_first(tmp_path):
    results = [result("sure", 0.99, 0.02), result("un,sure", 0.6, 0.55, 0.4), result("empty")]
    order = write_least_sure_first(tmp_path / "order.csv", results, 0.5)
    assert [video for video, _ in order] == ["un,sure", "sure", "empty"]
    with open(tmp_path / "order.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        list(COLUMNS),
        ["un,sure", "1.250", "2", "0.550"],
        ["sure", "0.030", "1", "0.990"],
        ["empty", "0.000", "0", ""],
    ]
