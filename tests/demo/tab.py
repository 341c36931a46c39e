"""What a visitor does on the page, and sees of it."""

import base64
import pathlib

import cv2
import numpy as np

from tarvis_jax.demo.downloads import FORMATS
from tarvis_jax.visualize.overlay import color
from tests.demo.color_model import SIZE, clip_frame


class Tab:
    """The page in one tab of a browser (`playwright.sync_api.Page`, as `tab.page`)."""

    def __init__(self, page, folder: pathlib.Path):
        self.page, self._folder = page, folder
        self.wait_for_clip("Shapes")

    # What is done.

    def choose(self, part: str, option: str) -> None:
        """An option of a list."""
        self.page.locator(f"#{part} input").click()
        self.page.locator(f"#{part} [role=option]", has_text=option).click()

    def pick(self, tool: str) -> None:
        self.page.locator("#tool label", has_text=tool).click()

    def press(self, part: str) -> None:
        self.page.locator(f"#{part}").click()

    def upload(self, *paths: pathlib.Path) -> None:
        self.page.locator("#clip-upload input[type=file]").set_input_files(list(map(str, paths)))

    def show(self, frame: int) -> None:
        """Moves the slider."""
        number = self.page.locator("#frame input[type=number]")
        number.fill(str(frame))
        number.press("Enter")
        self.wait(f"document.querySelector('#canvas canvas').dataset.frame === '{frame}'")

    def stroke(self, *points_yx: tuple[float, float]) -> None:
        """Draws a line with the mouse, from corner to corner; one point is a click."""
        places = [self._place(point) for point in points_yx]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=4)
        self.page.mouse.up()

    def swipe(self, *points_yx: tuple[float, float]) -> None:
        """Draws a line with a finger."""
        places = [self._place(point) for point in points_yx]
        touch = self.page.context.new_cdp_session(self.page)
        for place, kind in zip(places, ["touchStart"] + ["touchMove"] * len(places), strict=False):
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [dict(zip("xy", place, strict=True))]})
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def tap(self, point_yx: tuple[float, float]) -> None:
        self.page.touchscreen.tap(*self._place(point_yx))

    def tab_to(self, part: str, tag: str) -> None:
        """Presses the tabulator until the element of a part has the focus."""
        for _ in range(80):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("part => document.activeElement.matches(part)", f"#{part} {tag}, {tag}#{part}"):
                return
        raise AssertionError(f"the tabulator does not reach {tag} in {part}")

    def run(self) -> None:
        """Runs to the end of the clip."""
        self.press("run")
        self.wait("/, done(?!.*anew)/.test(document.querySelector('#progress').innerText)")

    def download(self, kind: str) -> pathlib.Path:
        """The file that the browser saves."""
        self.choose("download-kind", FORMATS[kind])
        with self.page.expect_download() as download:
            self.press("download")
        path = self._folder / download.value.suggested_filename
        download.value.save_as(path)
        return path

    def _place(self, point_yx: tuple[float, float]) -> tuple[float, float]:
        """Where a pixel of the clip is in the window; the picture is scrolled into it."""
        canvas = self.page.locator("#canvas canvas")
        canvas.scroll_into_view_if_needed()
        box, (height, width) = canvas.bounding_box(), self.clip_size()
        x, y = (point_yx[1] + 0.5) / width, (point_yx[0] + 0.5) / height
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def tab_to_next_option(self, part: str) -> None:
        """Goes to a list with the tabulator, and chooses the option after the chosen one."""
        self.tab_to(part, "input")
        field = self.page.locator(f"#{part} input")
        self.page.locator(f"#{part} [aria-expanded=true]").wait_for()
        before = field.get_attribute("aria-activedescendant")
        self.page.keyboard.press("ArrowDown")
        self.page.locator(f"#{part} input:not([aria-activedescendant='{before}'])").wait_for()
        self.page.keyboard.press("Enter")
        self.page.locator(f"#{part} [aria-expanded=false]").wait_for()

    # What is seen.

    def wait(self, condition: str) -> None:
        """Until a condition in JavaScript holds."""
        self.page.wait_for_function(condition)

    def wait_for_text(self, part: str, text: str) -> None:
        self.page.locator(f"#{part}", has_text=text).wait_for()

    def wait_for_clip(self, name: str) -> None:
        self.wait_for_text("message", f"{name}:")
        self.wait("document.querySelector('#canvas canvas').dataset.frame === '0'")

    def wait_for_progress(self, text: str) -> None:
        self.wait_for_text("progress", text)

    def text(self, part: str) -> str:
        return self.page.locator(f"#{part}").inner_text()

    def tracks(self) -> list[list[str]]:
        """The rows of the table."""
        return [row.locator("td").all_inner_texts() for row in self.page.locator("#tracks tbody tr").all()]

    def clip_size(self) -> tuple[int, int]:
        """(height, width) of the clip's frames."""
        data = self.page.locator("#canvas canvas").evaluate("each => [each.dataset.height, each.dataset.width]")
        return tuple(map(int, data))

    def picture(self) -> np.ndarray:
        """What the canvas shows, at the size of the clip, uint8 RGB [H, W, 3]."""
        url = self.page.locator("#canvas canvas").evaluate("each => each.toDataURL('image/png')")
        encoded = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]
        return cv2.resize(image, self.clip_size()[::-1], interpolation=cv2.INTER_AREA)

    def mask(self, identity: int, frame: int) -> np.ndarray:
        """Where a frame of the made-up clip is tinted in the color of an id, bool [H, W]."""
        shown, plain = self.picture().astype(float), clip_frame(frame).astype(float)
        tinted = (plain + np.array(color(identity))) / 2
        distance = {name: np.abs(shown - each).sum(-1) for name, each in (("plain", plain), ("tinted", tinted))}
        mask = (distance["tinted"] < distance["plain"]) & (np.abs(tinted - plain).sum(-1) > 30)
        assert mask.shape == SIZE
        return cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) > 0

    def poor_contrasts(self) -> list[str]:
        """Texts in sight whose contrast is below 4.5, or 3 where they are large (WCAG 2, level AA)."""
        return self.page.evaluate(_POOR_CONTRASTS)

    def small_controls(self, pixels: int) -> list[str]:
        """Buttons, lists and fields in sight that are lower or narrower."""
        return self.page.evaluate(_SMALL_CONTROLS, pixels)

    def has_sideways_scrolling(self) -> bool:
        return self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


_POOR_CONTRASTS = """() => {
  const parse = text => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const over = (top, below) => {
    const alpha = top[3] ?? 1;
    return [0, 1, 2].map(i => alpha * top[i] + (1 - alpha) * below[i]);
  };
  const behind = each => {
    const layers = [];
    for (; each; each = each.parentElement) layers.push(parse(getComputedStyle(each).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const luminance = rgb => rgb.reduce((sum, value, i) => {
    const v = value / 255;
    return sum + [0.2126, 0.7152, 0.0722][i] * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  }, 0);
  const poor = [];
  for (const each of document.body.querySelectorAll('*')) {
    if (each.closest('[disabled], script, style, progress, input:is([type=range], [type=radio])')) continue;
    if (!each.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    const own = [...each.childNodes].filter(node => node.nodeType === Node.TEXT_NODE);
    const text = String(each.value ?? own.map(node => node.textContent).join('')).trim();
    if (!text) continue;
    const style = getComputedStyle(each), ground = behind(each), ink = over(parse(style.color), ground);
    const [dark, light] = [luminance(ink), luminance(ground)].sort((a, b) => a - b);
    const size = parseFloat(style.fontSize), least = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    const contrast = (light + 0.05) / (dark + 0.05);
    if (contrast < least) poor.push(`${text.slice(0, 40)}: ${contrast.toFixed(2)}, ${style.color} on ${ground}`);
  }
  return poor;
}"""

_SMALL_CONTROLS = """pixels => {
  const small = [];
  for (const each of document.querySelectorAll('button, input, canvas, a')) {
    if (!each.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    const box = (each.closest('label, .wrap') ?? each).getBoundingClientRect();
    if (box.width > 1 && Math.min(box.width, box.height) < pixels)
      small.push(`${each.outerHTML.slice(0, 120)}: ${box.width} x ${box.height}`);
  }
  return small;
}"""
