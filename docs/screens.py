"""Pictures of a report for the pages: `python docs/screens.py REPORT.html FULL.html`.

They are taken by Chromium, which playwright finds by its path; REPORT is of one run, FULL of
several. The files are docs/assets/report-*.png.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

ASSETS = Path(__file__).parent / "assets"
# Name, which page, width, theme, the element at the top, height.
SHOTS = (
    ("report-top", 0, 900, "light", "header", 760),
    ("report-spectra", 0, 900, "light", "#spectra", 720),
    ("report-phone", 0, 360, "dark", "#axis", 720),
    ("report-compared", 1, 900, "light", "#tradeoffs", 800),
)


def main(pages: list[str]) -> None:
    """Take all pictures."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, page, width, theme, top, height in SHOTS:
            _shoot(browser, Path(pages[page]).resolve(), name, width, theme, top, height)
        browser.close()


def _shoot(
    browser: Any, file: Path, name: str, width: int, theme: str, top: str, height: int
) -> None:
    tab = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme=theme, device_scale_factor=1.5
    )
    tab.set_default_timeout(120_000)
    tab.goto(file.as_uri())
    tab.wait_for_selector("#chart-spectrum .main-svg")
    tab.evaluate("(top) => document.querySelector(top).scrollIntoView()", top)
    tab.wait_for_timeout(1000)
    tab.screenshot(path=ASSETS / f"{name}.png")
    tab.close()


if __name__ == "__main__":
    main(sys.argv[1:])
