"""The page in a browser: drawn, quiet, no wider than a phone, by touch, mouse, keys and paper."""

import contextlib
import json
import shutil

import pytest

from compressm.report import read_run
from compressm.report.page import page_text

from .runs import CUTS, event, write_looks, write_run

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium on this machine")
HOSTILE = "<script>alert('run')</script><b>%{y}$x$"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox"], timeout=120_000
        )
        with contextlib.closing(started):
            yield started


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    """Open the report of runs in a new tab; what it complains about is collected."""

    def opened(records, width=360, **options):
        file = tmp_path_factory.mktemp("page") / "report.html"
        file.write_text(page_text(records, title=", ".join(r.label for r in records)))
        page = browser.new_page(viewport={"width": width, "height": 800}, **options)
        page.set_default_timeout(120_000)
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("dialog", lambda dialog: page.complaints.append(dialog.message))
        page.goto(file.as_uri())
        return page

    return opened


def drawn(page, name):
    """Paths of lines in a chart."""
    page.wait_for_selector(f"#{name} .main-svg .lines path, #{name} .main-svg .points path")
    return page.locator(f"#{name} .scatterlayer .trace").count()


def fits(page):
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_one_run_on_a_phone(opened, tmp_path):
    folder = write_run(tmp_path / "run", CUTS, seconds=True)
    write_looks(folder, (0, 50))
    page = opened([read_run(folder, HOSTILE)], has_touch=True, color_scheme="dark")
    assert drawn(page, "chart-states") == 3, "two layers and the marks"
    assert drawn(page, "chart-metric") == 1
    assert page.inner_text("h1") == HOSTILE
    assert fits(page)

    said = page.locator("#when-said")
    assert said.inner_text() == "step 10 (cut): 16 → 8 states"
    # A line of the chart, by mouse: Plotly listens to the layer above the line.
    area = page.locator("#chart-states .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    height = page.evaluate("""() => {
        const { yaxis } = byId("chart-states")._fullLayout;
        return yaxis.l2p(Math.log10(3)) / yaxis._length;
    }""")
    place = box["x"] + 0.9 * box["width"], box["y"] + height * box["height"]
    page.mouse.move(*place)
    page.mouse.click(*place)
    page.wait_for_function("byId('layer').selectedIndex === 1")
    assert page.inner_text("#said") == "Spectrum of blocks.1"
    assert said.inner_text() == "step 10 (cut): 16 → 6 states"
    # By keys: the slider, and the axis of all charts.
    page.locator("#when").press("ArrowRight")
    assert said.inner_text() == "step 20 (cut): 6 → 3 states"
    page.locator("input[value=x]").press("ArrowRight")
    page.wait_for_function("byId('chart-metric').data[0].x.at(-1) === 10")  # 0.1 s a step
    assert page.evaluate("byId('chart-states')._fullLayout.xaxis.title.text").startswith("wall")

    assert page.evaluate("byId('chart-states')._fullLayout.paper_bgcolor") == "#0d1117"
    page.locator("#theme").press("Enter")
    assert page.evaluate("byId('chart-states')._fullLayout.paper_bgcolor") == "#ffffff"
    assert page.complaints == []


def test_several_runs_and_on_paper(opened, tmp_path):
    runs = [
        read_run(write_run(tmp_path / "cut", CUTS)),
        read_run(write_run(tmp_path / "full", start=(16, 16), end=(16, 16), test=0.9)),
    ]
    page = opened(runs, width=1280, color_scheme="dark")
    assert drawn(page, "by-states") == drawn(page, "by-seconds") == 1
    assert drawn(page, "chart-metric") == 2
    assert page.locator("#axis").count() == 0, "these runs do not say their wall-clock"
    page.locator("summary").first.click()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function("byId('chart-metric')._fullLayout.width === paper.width")
    assert page.evaluate("byId('chart-metric')._fullLayout.paper_bgcolor") == "#ffffff"
    assert page.locator("details:not([open])").count() == 0, "paper cannot be opened"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 1, "what the reader had opened"
    page.wait_for_function("byId('chart-metric')._fullLayout.paper_bgcolor === '#0d1117'")
    assert page.complaints == []


def test_a_run_that_has_only_begun(opened, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "sessions.jsonl").write_text(json.dumps({"step": 0}) + "\n")
    page = opened([read_run(tmp_path / "new")])
    assert "only begun" in page.inner_text("main")
    assert page.is_hidden("#spectra")
    assert fits(page)
    assert page.complaints == []


def test_of_many_layers_the_first_are_drawn_and_any_can_be_chosen(opened, tmp_path):
    names = [f"stages.{i // 10}.{i % 10}" for i in range(40)]
    cut = event(10, (16,) * 40, tuple(range(1, 11)) * 4, sites=names)
    page = opened([read_run(write_run(tmp_path / "run", [cut], finished=False))])
    assert drawn(page, "chart-states") == 4, "smallest, median, largest, and the marks"
    assert page.locator("#panels .panel").count() == 12
    page.select_option("#layer", "stages.3.6")
    page.wait_for_function("byId('chart-states').data.length === 5")
    assert page.evaluate("[...new Set(byId('chart-states').data[3].y)]") == [16, 7]
    assert page.inner_text("#when-said") == "step 10 (cut): 16 → 7 states"
    assert fits(page)
    assert page.complaints == []


def test_long_names_do_not_widen_a_phone(opened, tmp_path):
    long = "averylongnamewithoutanyplacetobreak" * 4
    runs = [
        read_run(write_run(tmp_path / "a", CUTS, seconds=True), long),
        read_run(write_run(tmp_path / "b", CUTS, seconds=True, test=0.9), HOSTILE),
    ]
    page = opened(runs)
    assert drawn(page, "by-states") == 1
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert fits(page)
    assert page.evaluate("byId('by-states').data[0].text[0].length") == 18
    assert page.complaints == []
