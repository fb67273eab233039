"""The page of `fab report` in a real browser: wide, on a phone, light, dark, and printed."""

import base64
import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from analysis import summary
from tests.e2e.checkout import Checkout
from tests.needs import CHROMIUM
from tests.unit.analysis import run_folder

CHARTS = [
    *("throughput", "latency", "latency-over-time", "threads", "conflicts", "processors"),
    *("links", "responses"),
]
PHONE, DESK = 390, 1280
PAPER = {"light": [255, 255, 255], "dark": [20, 23, 27]}
COLOURED = 40  # between a pixel's channels: ink, grid and paper are all nearly grey
LEAST_PIXELS = 400
LEAST_TEXT_PX = 10.0
FLAGS = [
    *("--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    "--no-sandbox",  # root needs it
]
DRAWN = """
return [...document.querySelectorAll("figure")].map(figure => {
  const shown = [...figure.querySelectorAll("svg")].filter(svg => svg.checkVisibility());
  const box = shown[0].getBoundingClientRect();
  return {
    name: figure.id,
    kinds: shown.map(svg => svg.parentElement.className),
    label: shown[0].getAttribute("aria-label"),
    scale: box.width / shown[0].viewBox.baseVal.width,
    box: {x: box.x + scrollX, y: box.y + scrollY, width: box.width, height: box.height},
  };
});
"""
TEXT_SIZE = 8.5  # in an SVG's own units


SWEEP = "sweep-20261127-021032-shelf-3fa9"
CURVES = ["sweep-throughput-and-key-size", "sweep-p99-latency-and-key-size"]
NAMES = {"run": CHARTS, "sweep": CURVES}


@dataclass
class Browser:
    """A Chromium that shows one page after another."""

    driver: Chrome
    pages: dict[str, str]
    url: str = ""

    def show(self, page: str, width: int, scheme: str, media: str = "screen") -> None:
        self.url = self.pages[page]
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        scheme_of = {"name": "prefers-color-scheme", "value": scheme}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        self.command("Emulation.setEmulatedMedia", media=media, features=[scheme_of])
        self.driver.get(self.url)

    def command(self, name: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, parameters)

    def drawn(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.driver.execute_script(DRAWN)
        return found

    def pixels(self, box: dict[str, float]) -> Any:
        """Return a part of the page as rows of pixels, each with red, green and blue to 255."""
        clip = {**box, "scale": 1}
        shot = self.command("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return (imread(io.BytesIO(base64.b64decode(shot["data"])))[..., :3] * 255).round()

    def log(self, kind: str) -> list[dict[str, Any]]:
        """Return what the browser has noted since this was last asked."""
        found: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return found

    def requests(self) -> set[str]:
        """Return where the page, none of the browser's own, has sent requests to."""
        messages = [json.loads(row["message"])["message"] for row in self.log("performance")]
        return {
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
            if message["params"]["documentURL"] == self.url
        }


@pytest.fixture(scope="module")
def run(checkout: Checkout) -> Iterator[Path]:
    """The folder of a run in the clone, with the report that `fab report` makes of it."""
    folder = checkout.folder / "logs" / run_folder.MANIFEST["run"]
    run_folder.write(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def reported(checkout: Checkout, run: Path) -> dict[str, Any]:
    document: dict[str, Any] = checkout.json("report", "--run", run.name, "--csv")
    return document


@pytest.fixture(scope="module")
def swept(checkout: Checkout) -> Iterator[dict[str, Any]]:
    """What `fab report` says of a sweep over two key sizes, each run once."""
    folder = checkout.folder / "logs" / SWEEP
    points = []
    for size in (1, 4):
        run = folder / "runs" / f"run{size}"
        summary.assemble(run_folder.write(run))
        points.append({"part": "", "values": {"key_size": size}, "runs": [run.name]})
    text = "2026-11-27T02:10:28.132+00:00"
    plan = {
        **dict.fromkeys(("cluster", "release", "between_runs", "suite"), "some"),
        "sweep": SWEEP,
        "started": text,
        "ended": text,
        "precision": 0.05,
        "repeat": 1,
        "failures": [],
        "parts": {"": {"key_size": [1, 4]}},
        "points": [{**point, "figures": [1.0], "is_sure": False} for point in points],
    }
    (folder / "sweep.json").write_text(json.dumps(plan), encoding="utf-8")
    document: dict[str, Any] = checkout.json("report", "--run", SWEEP)
    yield document
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def browser(
    reported: dict[str, Any], swept: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = Chrome(options, Service(shutil.which("chromedriver")))
    try:
        pages = {"run": reported["files"][0], "sweep": swept["files"][0]}
        yield Browser(driver, {name: Path(path).as_uri() for name, path in pages.items()})
    finally:
        driver.quit()


def test_the_task_says_what_it_has_written(run: Path, reported: dict[str, Any]) -> None:
    assert reported["run"] == run.name
    assert reported["files"][0] == str(run / "report.html")
    kinds = ("csv", "svg", "png")
    expected = {str(run / "plots" / f"{name}.{kind}") for name in CHARTS for kind in kinds}
    assert set(reported["files"][1:]) == expected
    assert all(Path(name).stat().st_size > 0 for name in reported["files"])


@CHROMIUM
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "kind"), [(DESK, "wide"), (PHONE, "narrow")])
@pytest.mark.parametrize("page", ["run", "sweep"])
def test_every_chart_is_drawn_and_nothing_is_asked_for(
    browser: Browser, page: str, width: int, kind: str, scheme: str
) -> None:
    browser.show(page, width, scheme)
    found = browser.drawn()
    assert [chart["name"] for chart in found] == NAMES[page]
    for chart in found:
        assert chart["kinds"] == [kind], chart["name"]
        assert len(chart["label"]) > 20
        assert chart["scale"] * TEXT_SIZE > LEAST_TEXT_PX
        pixels = browser.pixels(chart["box"])
        assert pixels[0, 0].tolist() == PAPER[scheme]
        coloured = pixels.max(axis=-1) - pixels.min(axis=-1) > COLOURED
        assert coloured.sum() > LEAST_PIXELS, chart["name"]
    assert browser.requests() == {browser.url}
    assert browser.log("browser") == []


@CHROMIUM
@pytest.mark.parametrize("width", [DESK, PHONE])
@pytest.mark.parametrize("page", ["run", "sweep"])
def test_the_page_never_scrolls_sideways_but_its_tables_may(
    browser: Browser, page: str, width: int
) -> None:
    browser.show(page, width, "light")
    page_px, tables_px = browser.driver.execute_script(
        "scrollTo(999, 0); return [[scrollX, document.documentElement.scrollWidth],"
        "[...document.querySelectorAll('.scroll')].map(one => one.scrollWidth - one.clientWidth)]"
    )
    assert page_px == [0, width]
    assert (max(tables_px) > 0) == (width == PHONE)


@CHROMIUM
def test_paper_is_white_and_has_the_wide_charts(browser: Browser) -> None:
    browser.show("run", DESK, "dark", "print")
    for chart in browser.drawn():
        assert chart["kinds"] == ["wide"]
        assert browser.pixels(chart["box"])[0, 0].tolist() == PAPER["light"]
    assert browser.driver.execute_script(
        "return [...document.querySelectorAll('.data')].every(one => !one.checkVisibility())"
    )
