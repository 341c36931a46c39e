"""Pictures of the demo's page with a trained model, on a laptop and on a phone: README's is the first of them.

    python -m tests.tools.demo_pictures --checkpoint=runs/quickstart --output=pictures

It needs what the browser tests need: Gradio, Playwright and Chromium. docs/demo.png is vps_1280.png.
"""

import argparse
import os
import pathlib
import shutil

from playwright import sync_api

from tarvis_jax import api
from tarvis_jax.demo import samples
from tarvis_jax.demo.page import Page
from tests.demo.conftest import FLAGS, LAPTOP, PHONE, PROGRAMS, free_port
from tests.demo.tab import Tab


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    program = os.environ.get("TARVIS_CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    clips = samples.find(None, args.checkpoint)
    with Page(api.load(str(args.checkpoint)), clips) as page, sync_api.sync_playwright() as playwright:
        url = page.launch("127.0.0.1", free_port())
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        for (width, height), options in ((LAPTOP, {}), (PHONE, {"has_touch": True, "is_mobile": True})):
            for name, use in (("vps", use_vps), ("vis", use_vis), ("pet", use_pet)):
                context = browser.new_context(viewport={"width": width, "height": height}, **options)
                context.set_default_timeout(300_000)  # programs are compiled
                tab = Tab(context.new_page(), url, args.output)
                use(tab, list(clips))
                tab.page.evaluate("document.activeElement.blur()")
                tab.page.mouse.move(0, 0)
                tab.page.wait_for_timeout(300)
                tab.page.screenshot(path=args.output / f"{name}_{width}.png", full_page=True)
                context.close()
        browser.close()


def use_vps(tab: Tab, clips: list[str]) -> None:
    find(tab, [clip for clip in clips if clip.startswith("burst")][-1], "VPS", 7)


def use_vis(tab: Tab, clips: list[str]) -> None:
    find(tab, [clip for clip in clips if clip.startswith("youtube")][-1], "VIS", 5)


def find(tab: Tab, clip: str, task: str, frame: int) -> None:
    tab.choose("samples", clip)
    tab.wait_for_clip(clip)
    tab.choose("task", task)
    tab.wait_for_progress("0 of")
    tab.run()
    tab.show(frame)


def use_pet(tab: Tab, clips: list[str]) -> None:
    """A point on each of the two objects of the first clip; then the frame in which they are given."""
    for number, point_yx in enumerate(((34, 62), (50, 79)), start=1):
        if number > 1:
            tab.press("add-target")
            tab.wait_for_text("tracks", "not yet")
        tab.stroke(point_yx)
        tab.wait(f"document.querySelector('#tracks').innerText.split('given in 0').length === {number + 1}")
    tab.run()
    tab.show(0)


if __name__ == "__main__":
    main()
