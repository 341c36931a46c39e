"""The demo with its page open in a headless browser: time from the command to the first mask, memory over a long clip.

    python -m benchmarks.demo --checkpoint=runs/quickstart --frames=2000 --out=demo.json

Needs Playwright and Chromium. In the clip a disk moves over a background; the target is given by a point on it. Times
are wall seconds since the command was started. Memory is what the server has in RAM besides files, and the page's
JavaScript heap.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np

from benchmarks.common import environment, write_json
from tarvis_jax.visualize.video import write_video

SIZE = (64, 96)
EVERY = 50  # frames between two looks at the memory
LONGEST = 3600  # seconds of a run


def frames(count: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    background = cv2.resize(rng.integers(60, 120, (8, 12, 3), np.uint8), SIZE[::-1])
    for frame in range(count):
        image = background.copy()
        cv2.circle(image, center(frame), 12, (220, 40, 40), -1)
        yield image


def center(frame: int) -> tuple[int, int]:
    """(x, y) of the disk: it moves on a circle."""
    angle = 2 * np.pi * frame / 100
    return round(48 + 20 * np.cos(angle)), round(32 + 10 * np.sin(angle))


def anonymous_mb(process: int) -> float:
    lines = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:")) / 1024


def watch(url: str, server: int, start: float, num_frames: int) -> dict:
    """Opens the page, clicks on the disk, runs, and looks at the memory while masks appear."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(1000 * LONGEST)
        page.goto(url)
        page.wait_for_selector("#canvas canvas[data-frame]")
        seconds = {"first_frame": time.monotonic() - start}
        box = page.locator("#canvas canvas").bounding_box()
        x, y = center(0)
        page.locator("#canvas canvas").click(
            position={"x": (x + 0.5) / SIZE[1] * box["width"], "y": (y + 0.5) / SIZE[0] * box["height"]}
        )
        page.wait_for_function("document.querySelector('#tracks').innerText.includes('given in 0')")
        page.click("#run")
        page.wait_for_function("/\\d+ to \\d+;/.test(document.querySelector('#tracks').innerText)")
        seconds["first_mask"] = time.monotonic() - start
        memory = []
        for done in range(EVERY, num_frames + 1, EVERY):
            page.wait_for_function(f"parseInt(document.querySelector('#progress p').innerText) >= {done}")
            heap = page.evaluate("performance.memory.usedJSHeapSize") / 2**20
            memory.append({"frames": done, "server_mb": anonymous_mb(server), "page_mb": heap})
            print(f"{done} frames: server {memory[-1]['server_mb']:.0f} MB, page {heap:.0f} MB", flush=True)
        seconds["all_frames"] = time.monotonic() - start
        browser.close()
    return {"seconds": seconds, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--out", type=pathlib.Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_video(pathlib.Path(folder) / "disk.mp4", frames(args.frames), fps=10)
        command = [sys.executable, "-m", "tarvis_jax.demo", "--samples", folder, "--port", str(args.port)]
        start = time.monotonic()
        server = subprocess.Popen([*command, "--checkpoint", args.checkpoint], stdout=subprocess.PIPE, text=True)
        try:
            line = next((line for line in server.stdout if line.startswith("http")), None)
            if line is None:
                raise SystemExit("the demo did not start")
            print(line, end="")
            threading.Thread(target=server.stdout.read, daemon=True).start()
            seconds = {"ready": time.monotonic() - start}
            result = watch(line.split()[0], server.pid, start, args.frames)
        finally:
            server.terminate()
            server.wait()
    result["seconds"] = {name: round(value, 1) for name, value in (seconds | result["seconds"]).items()}
    print(result["seconds"])
    if args.out is not None:
        write_json(args.out, {"environment": environment(), "frames": args.frames, **result})


if __name__ == "__main__":
    main()
