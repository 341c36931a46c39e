"""The page's server with a stand-in model, and a headless browser to open it with."""

import os
import pathlib
import shutil
import socket

import pytest

from tarvis_jax.visualize.video import write_video
from tests.demo.color_model import NUM_FRAMES, ColorModel, clip_frame
from tests.demo.tab import Tab

# Where there is neither a sandbox nor a graphics card; and nothing leaves this machine.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
LAPTOP, PHONE = (1280, 800), (390, 844)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> dict[str, list[pathlib.Path]]:
    """The sample clips of the page, mp4."""
    folder = tmp_path_factory.mktemp("samples")
    shapes = [clip_frame(frame) for frame in range(NUM_FRAMES)]
    upright = [frame.swapaxes(0, 1) for frame in shapes[:8]]
    clips = {"Shapes": shapes, "Upright": upright}
    return {name: [write_video(folder / f"{name}.mp4", frames, fps=10)] for name, frames in clips.items()}


@pytest.fixture(scope="module")
def model():
    """What the page segments with."""
    return ColorModel()


@pytest.fixture(scope="module")
def page(model, samples, tmp_path_factory):
    """The page, served on loopback from this process; `page.url` says where."""
    pytest.importorskip("gradio", reason="needs Gradio (pip install gradio)")
    from tarvis_jax.demo.page import Page

    with Page(model, samples, root=tmp_path_factory.mktemp("visits")) as served:
        served.url = served.launch("127.0.0.1", free_port())
        yield served


@pytest.fixture(scope="module")
def browser(page):
    """One Chromium for the tests of a module."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright (pip install playwright)")
    program = os.environ.get("TARVIS_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    with sync_api.sync_playwright() as playwright:
        if program is None and not pathlib.Path(playwright.chromium.executable_path).exists():
            pytest.skip("needs Chromium (apt-get install chromium, or playwright install chromium)")
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_tab(page, browser, tmp_path):
    """Opens the page for a visitor of its own, in a window of (width, height); waits until the first clip is there.

    At the end of a test, nothing has gone wrong in the browser, and nothing was asked of another machine.
    """
    contexts, problems = [], []

    def watch(request) -> None:
        if not request.url.startswith((page.url, "data:", "blob:")):
            problems.append(f"asks for {request.url}")

    def open_it(size: tuple[int, int] = LAPTOP, **options) -> Tab:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, accept_downloads=True, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.set_default_timeout(20_000)
        tab.on("request", watch)
        tab.on("pageerror", lambda error: problems.append(f"fails with {error}"))
        tab.goto(page.url)
        return Tab(tab, tmp_path)

    yield open_it
    for context in contexts:
        context.close()
    assert not problems
