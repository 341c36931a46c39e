"""The page in a real browser: what a visitor clicks is what is followed, shown and downloaded."""

import numpy as np
import pytest
from PIL import Image

from tarvis_jax.demo import downloads
from tarvis_jax.masks import rle
from tarvis_jax.results.formats import Options
from tarvis_jax.results.tracks import read_tracks
from tarvis_jax.visualize.video import write_video
from tests.demo.color_model import COLORS, NUM_FRAMES, TURNS_YELLOW, clip_frame, clip_masks, iou
from tests.demo.conftest import PHONE
from tests.demo.read_back import back

LAST = NUM_FRAMES - 1
RED, GREEN, BLUE = (36, 24), (35, 155), (98, 35)  # points (y, x) in frame 0


@pytest.fixture
def slow(model):
    """Runs that last long enough to be stopped."""
    model.predictor.seconds = 0.25
    yield
    model.predictor.seconds = 0.0


def test_click_and_watch(open_tab):
    """A point on the red disk: the mask follows it, in what the page shows and in the files."""
    tab = open_tab()
    assert not tab.poor_contrasts() and not tab.has_sideways_scrolling()
    tab.stroke(RED)
    tab.wait_for_text("tracks", "given in 0")
    tab.run()
    assert tab.tracks() == [["1", "target", "", f"0 to {LAST}; given in 0"]]
    assert not tab.poor_contrasts()
    for frame in (LAST, 8):
        tab.show(frame)
        assert iou(tab.mask(1, frame), clip_masks(frame)["red"]) > 0.8
    result = read_tracks(tab.download("tracks"))
    for frame, encoded in enumerate(result.tracks[0].segmentations):
        assert iou(rle.decode(encoded), clip_masks(frame)["red"]) > 0.85


def test_paint_stop_correct_continue(open_tab, slow):
    """The bar is lost when it turns yellow, and followed to the end once it is painted again."""
    tab = open_tab()
    tab.choose("task", "VOS")
    tab.pick("Paint")
    tab.stroke((98, 20), (98, 50))
    tab.wait_for_text("tracks", "given in 0")
    painted = tab.mask(1, 0)
    tab.stroke((60, 35), (75, 35))  # beside the object, by mistake
    tab.wait("document.querySelector('#message').innerText === ''")
    assert (tab.mask(1, 0) & ~painted).sum() > 100
    tab.pick("Erase")
    tab.stroke((60, 35), (75, 35))
    tab.wait("document.querySelector('#message').innerText === ''")
    assert iou(tab.mask(1, 0), painted) > 0.9
    tab.press("run")
    tab.wait_for_progress("so far")
    tab.press("stop")
    tab.wait_for_progress("stopped")
    done = int(tab.text("progress").split()[0])
    assert 0 < done < NUM_FRAMES
    tab.press("run")
    tab.wait_for_progress(", done")
    tab.show(LAST)
    assert not tab.mask(1, LAST).any()
    frame = TURNS_YELLOW + 2
    tab.show(frame)
    tab.pick("Paint")
    tab.stroke((98, 50 + 2 * 4), (98, 70 + 2 * 4))
    tab.wait_for_progress(f"from frame {frame}")
    tab.run()
    tab.show(LAST)
    assert iou(tab.mask(1, LAST), clip_masks(LAST)["blue"]) > 0.8
    video = back("masks", tab.download("masks"), Options())
    (track,) = video.load().tracks
    for at in (5, frame + 1, LAST):
        assert iou(rle.decode(track.segmentations[at]), clip_masks(at)["blue"]) > 0.85


def test_tasks_and_datasets_on_the_same_weights(open_tab):
    tab = open_tab()
    tab.choose("task", "VIS")
    tab.wait_for_text("run", "Run")
    tab.run()
    assert sorted(row[1] for row in tab.tracks()) == sorted(COLORS)
    assert all(0.9 < float(row[2]) <= 1 for row in tab.tracks())
    kinds = [kind for kind in downloads.FORMATS if kind in ("mots", "coco", "datumaro", "cvat")]
    for kind in kinds:
        tracks = back(kind, tab.download(kind), Options(class_names=tuple(COLORS))).load().tracks
        found = {tuple(COLORS)[track.class_id - 1]: track for track in tracks}
        assert iou(rle.decode(found["green"].segmentations[9]), clip_masks(9)["green"]) > 0.85
    tab.choose("dataset", "WARM")
    tab.wait_for_progress("0 of")
    tab.run()
    assert sorted(row[1] for row in tab.tracks()) == ["red", "yellow"]
    tab.choose("task", "VPS")
    tab.wait_for_progress("0 of")
    tab.run()
    masks = tab.download("masks")
    result = back("masks", masks, Options(thing_classes=(1, 2, 3, 4))).load()
    assert iou(result.semantic_map(3) == 0, ~np.any(list(clip_masks(3).values()), axis=0)) > 0.9


def test_targets_come_and_go(open_tab):
    tab = open_tab()
    tab.stroke(RED)
    tab.wait_for_text("tracks", "given in 0")
    tab.press("add-target")
    tab.wait_for_text("tracks", "not yet")
    tab.stroke(GREEN)
    tab.wait("document.querySelectorAll('#tracks tbody tr').length === 2")
    tab.run()
    tab.show(8)
    assert iou(tab.mask(2, 8), clip_masks(8)["green"]) > 0.8 and tab.mask(1, 8).any()
    tab.choose("target", "Target 1")
    tab.press("remove-target")
    tab.wait("document.querySelectorAll('#tracks tbody tr').length === 1")
    assert tab.tracks()[0][0] == "2" and not tab.mask(1, 8).any() and tab.mask(2, 8).any()
    (track,) = read_tracks(tab.download("tracks")).tracks
    assert track.id == 2


def test_uploads(open_tab, tmp_path):
    """A file that is none of the kinds ends as a message; the page then takes an mp4, and upright images."""
    (tmp_path / "clip.mp4").write_text("<html>no video</html>")
    tab = open_tab()
    tab.upload(tmp_path / "clip.mp4")
    tab.wait_for_text("message", "clip.mp4: found")
    assert "Expected" in tab.text("message") and str(tmp_path) not in tab.text("message")
    frames = [clip_frame(frame) for frame in range(10)]
    tab.upload(write_video(tmp_path / "My clip.mp4", frames, fps=10))
    tab.wait_for_clip("My clip")
    tab.stroke(BLUE)
    tab.run()
    assert iou(tab.mask(1, 9), clip_masks(9)["blue"]) > 0.8
    tab.download("overlay")
    for frame, image in enumerate(frames[:4]):
        Image.fromarray(image.swapaxes(0, 1)).save(tmp_path / f"{frame}.png")
    tab.upload(*(tmp_path / f"{frame}.png" for frame in range(4)))
    tab.wait("document.querySelector('#canvas canvas').dataset.height === '192'")
    tab.stroke(GREEN[::-1])
    tab.wait_for_text("tracks", "given in 0")
    tab.run()
    assert "0 to 3" in tab.tracks()[0][3]


def test_two_visitors(open_tab):
    """At the same time, on one model: each sees and gets what is theirs."""
    tabs, points = [open_tab(), open_tab()], [RED, GREEN]
    for tab, point in zip(tabs, points, strict=True):
        tab.stroke(point)
        tab.wait_for_text("tracks", "given in 0")
        tab.press("run")
    for tab, name in zip(tabs, ("red", "green"), strict=True):
        tab.wait_for_progress(", done")
        assert len(tab.tracks()) == 1
        assert iou(tab.mask(1, LAST), clip_masks(LAST)[name]) > 0.8
        (track,) = read_tracks(tab.download("tracks")).tracks
        assert iou(rle.decode(track.segmentations[4]), clip_masks(4)[name]) > 0.85


def test_on_a_phone(open_tab):
    tab = open_tab(PHONE, has_touch=True, is_mobile=True)
    assert not tab.has_sideways_scrolling() and not tab.small_controls(24)
    tab.tap(RED)
    tab.wait_for_text("tracks", "given in 0")
    tab.run()
    assert iou(tab.mask(1, LAST), clip_masks(LAST)["red"]) > 0.8 and not tab.has_sideways_scrolling()
    tab.choose("task", "VOS")
    tab.wait_for_progress("0 of")
    tab.show(0)
    tab.pick("Paint")
    tab.press("add-target")
    tab.wait_for_text("tracks", "not yet")
    tab.page.locator("#canvas").scroll_into_view_if_needed()
    before = tab.page.evaluate("scrollY")
    tab.swipe((90, 20), (105, 35), (90, 50))
    tab.wait_for_text("tracks", "given in 0")
    tab.wait("document.querySelectorAll('#tracks tbody tr').length === 2")
    assert tab.mask(2, 0)[clip_masks(0)["blue"]].mean() > 0.1
    assert tab.page.evaluate("scrollY") == before, "the finger paints and does not scroll"


def test_keyboard_only(open_tab, tmp_path):
    """Tabulator, arrows, Enter and numbers suffice, from the sample to the file."""
    tab = open_tab()
    press, write = tab.page.keyboard.press, tab.page.keyboard.type
    tab.tab_to_next_option("samples")
    tab.wait_for_clip("Upright")
    for part, value in (("point-y", RED[1]), ("point-x", RED[0])):
        tab.tab_to(part, "input")
        press("Control+a")
        write(str(value))
    tab.tab_to("give-point", "button")
    press("Enter")
    tab.wait_for_text("tracks", "given in 0")
    tab.tab_to("run", "button")
    press("Enter")
    tab.wait_for_progress(", done")
    tab.tab_to("frame", "input[type=range]")
    press("Home")
    press("ArrowRight")
    tab.wait("document.querySelector('#canvas canvas').dataset.frame === '1'")
    tab.tab_to("canvas", "canvas")
    press("ArrowLeft")
    press("Enter")
    tab.wait_for_text("tracks", "given in 0, 1")
    tab.tab_to_next_option("download-kind")
    tab.tab_to("download", "button")
    with tab.page.expect_download() as download:
        press("Enter")
    assert download.value.suggested_filename == "masks.zip"


@pytest.mark.long
def test_contrast_in_the_dark(open_tab):
    tab = open_tab(color_scheme="dark")
    assert not tab.poor_contrasts()
    tab.stroke(RED)
    tab.run()
    assert not tab.poor_contrasts()
