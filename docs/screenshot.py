"""The picture of the page in README, of a server that runs: ``python docs/screenshot.py ADDRESS`` with the
address that ``eidetic demo`` has printed, for the digits of ``make serve``. Needs Chromium."""

import io
import math
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

TARGET = Path(__file__).parent / "images/demo.png"
SIZE = {"width": 1180, "height": 1266}
CURVES = ((0.34, 0.17, -150, 90), (0.67, 0.18, -90, 150))
"""The two bows of a 3: their centre's height and radius, from where to where, in degrees."""
ASKED = 12


def stroke() -> list[tuple[float, float]]:
    """A 3, (x, y) from 0 to 1."""
    found = []
    for middle, radius, first, last in CURVES:
        for degrees in range(first, last + 1, 10):
            angle = math.radians(degrees)
            found.append((0.48 + 1.2 * radius * math.cos(angle), middle + radius * math.sin(angle)))
    return found


def main(address: str) -> None:
    """Draw a few times, and write the picture."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.goto(address)
        field = page.locator("canvas")
        field.wait_for()
        for _ in range(ASKED):  # so that there is something to plot
            page.get_by_role("button", name="Clear the field").click()
            box = field.bounding_box()
            assert box is not None
            points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke()]
            page.mouse.move(*points[0])
            page.mouse.down()
            for point in points[1:]:
                page.mouse.move(*point)
            page.mouse.up()
            page.get_by_text("It is 3").wait_for()
            page.wait_for_timeout(1000)
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_timeout(4000)
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        shot.quantize(64, dither=Image.Dither.NONE).save(TARGET, optimize=True)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
