"""The HTML page: complete, self-contained, and deaf to what its texts say."""

import base64
import html.parser

import cv2
import numpy as np
import pytest

from tarvis_jax.visualize import report as report_module
from tarvis_jax.visualize.report import DatasetSection, Picture, Report, Table, write_report

HOSTILE = """<script>alert("1")</script><img src="http://example.org/x.png" onerror='x'>&amp;"""
VOID = {"meta", "img", "wbr", "link"}


class Page(html.parser.HTMLParser):
    """Elements with their attributes, and the text; nesting is checked."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.text, self.open = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def images(self) -> list[np.ndarray]:
        sources = [attributes["src"] for tag, attributes in self.elements if tag == "img"]
        contents = [base64.b64decode(source.split("base64,")[1]) for source in sources]
        return [cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) for content in contents]


def full_report(**changes) -> Report:
    png = cv2.imencode(".png", np.full((20, 30, 3), 7, np.uint8))[1].tobytes()
    per_class = Table("per class", "class", [(HOSTILE, {"AP": 0.5, "AP50": -1}), ("dog", {"AP": 0.123})])
    values = {
        "title": f"run {HOSTILE}",
        "facts": {"device": HOSTILE, "date": "2026-11-21"},
        "datasets": [DatasetSection(HOSTILE, {"AP": 0.654, "AR1": -1}, [per_class])],
        "times": {"training": "3 min 2 s"},
        "curves": png,
        "pictures": [Picture(HOSTILE, np.full((40, 60, 3), (200, 30, 30), np.uint8))],
        "settings": {"model": {"backbone": "ResNet", "size": 64}, "data": {"datasets": [{"name": HOSTILE, "w": 0.5}]}},
        "defaults": {"model": {"backbone": "Swin", "size": 64}, "data": {"datasets": []}},
    }
    return Report(**values | changes)


def test_page(tmp_path):
    text = write_report(tmp_path / "a" / "report.html", full_report()).read_text()
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "base"}
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert not attributes.keys() & {"href", "srcset", "action"}
        if "src" in attributes:
            assert attributes["src"].startswith("data:image/")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    words = "".join(page.text)
    for expected in (HOSTILE, "65.4", "50.0", "12.3", "3 min 2 s", "model.backbone", "ResNet", "Swin", "2026-11-21"):
        assert expected in words, expected
    assert "model.size" not in words, "only what differs is listed first"
    marked = [attributes for tag, attributes in page.elements if tag == "tr" and attributes.get("class") == "changed"]
    assert len(marked) == 2, "the backbone and the datasets"
    curves, picture = page.images()
    assert curves.shape == (20, 30, 3) and (curves == 7).all()
    assert picture.shape == (40, 60, 3) and picture[20, 30, 2] > 150 > picture[20, 30, 0], "red"


def test_names_that_are_no_text(tmp_path):
    table = Table("per class", "class", [("a\x00\ud800b", {"AP": 0.5})])
    path = write_report(tmp_path / "report.html", Report("t", {}, [DatasetSection("D", {}, [table])]))
    assert "a\ufffd\ufffdb" in Page(path.read_text(encoding="utf-8")).text


def test_empty_parts_are_left_out(tmp_path):
    text = write_report(tmp_path / "report.html", Report("t", {"what": "nothing"})).read_text()
    assert "<h2>" not in text
    Page(text)


def test_size_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(report_module, "MAX_PIXELS", 5000)
    monkeypatch.setattr(report_module, "MAX_ROWS", 10)
    rng = np.random.default_rng(0)
    pictures = [Picture(str(i), rng.integers(0, 255, (100, 200, 3)).astype(np.uint8)) for i in range(30)]
    table = Table("per video", "video", [(f"v{i}", {"J": 0.5}) for i in range(25)])
    report = full_report(
        pictures=pictures, datasets=[DatasetSection("D", {}, [table])], settings={"text": "x" * 10**6}, curves=None
    )
    text = write_report(tmp_path / "report.html", report).read_text()
    images = Page(text).images()
    assert len(images) == report_module.MAX_PICTURES and "6 more pictures" in text
    assert all(image.shape[0] * image.shape[1] <= 5000 and image.shape[1] == 2 * image.shape[0] for image in images)
    assert "v9<" in text and "v10<" not in text and "15 more rows" in text
    assert len(text) < 500_000


@pytest.mark.parametrize("value", [float("nan"), -1])
def test_undefined_scores_are_dashes(tmp_path, value):
    report = Report("t", {}, [DatasetSection("D", {"AP": value, "AR1": -0.02})])
    words = Page(write_report(tmp_path / "report.html", report).read_text()).text
    assert "–" in words and "nan" not in "".join(words) and "-2.0" in words
