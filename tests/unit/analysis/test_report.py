"""A run's folder → its report: one page that needs nothing else, and files for a paper."""

import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from analysis import report
from tests.unit.analysis import run_folder
from tests.unit.analysis.run_folder import MANIFEST

NAMES = [
    *("throughput", "latency", "latency-over-time", "threads", "conflicts", "processors"),
    *("links", "responses"),
]
EVIL = '<script>alert("$x$")</script>&amp;'


class Reader(HTMLParser):
    """What a page has in it: its elements, their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(folder: Path, **manifest: Any) -> str:
    report.write(run_folder.write(folder, **manifest))
    return (folder / report.REPORT).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = run_folder.write(tmp_path_factory.mktemp("run"))
    report.write(made)
    return made


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / report.REPORT).read_text(encoding="utf-8")


def test_the_page_says_first_what_to_think_of_the_run_and_then_how_it_was(page: str) -> None:
    text = " ".join(Reader(page).text.split())
    order = [
        "Run 20261127-021032-shelf-3fa9",
        "Complete; verdict unknown; 8,952 keys, equal on both replicas.",
        "messages a command",
        "What ran",
        "6e98768aad25",
        "Raspberry Pi 4",
        "start-servers",
        "Throughput over time",
        "Latency of gets and puts",
        "Each thread, by host",
        "Conflicts and failures",
        "Processors",
    ]
    places = [text.find(one) for one in order]
    assert -1 not in places
    assert places == sorted(places)


def test_the_page_needs_nothing_from_elsewhere(page: str) -> None:
    reader = Reader(page)
    assert set(reader.tags) & {"script", "link", "img", "iframe", "object", "image"} == set()
    urls = [(name, value) for name, value in reader.attributes if re.search(r"\w+://", value)]
    assert {name for name, _ in urls} <= {"xmlns", "xmlns:xlink"}
    for name, value in reader.attributes:
        if name in ("href", "xlink:href", "src"):
            assert value.startswith(("#", "data:"))
    assert re.search(r"@import|url\((?!#)", page) is None
    assert len(page) < 2_000_000


def test_the_same_run_gives_the_same_files_and_its_tables_only_if_wanted(folder: Path) -> None:
    def contents() -> dict[Path, bytes]:
        files = [folder / report.REPORT, *(folder / report.PLOTS).iterdir()]
        return {path: path.read_bytes() for path in files}

    before = contents()
    assert {path.name for path in before} == {
        report.REPORT,
        *(f"{name}.{kind}" for name in NAMES for kind in ("svg", "png")),
    }
    written = report.write(folder, tables=True)
    after = contents()
    assert written[0] == folder / report.REPORT
    assert set(written) == set(after)
    assert {path.name for path in set(after) - set(before)} == {f"{name}.csv" for name in NAMES}
    assert {path: after[path] for path in before} == before
    with (folder / report.PLOTS / "throughput.csv").open(newline="", encoding="utf-8") as source:
        rows = list(csv.DictReader(source))
    assert list(rows[0]) == ["until_s", "cluster", *run_folder.HOSTS]
    assert len(rows) == 40


def test_the_page_holds_the_files_of_each_chart(page: str) -> None:
    for name in NAMES:
        assert f'download="{name}.csv" href="data:text/csv;base64,' in page
        assert f'download="{name}.svg" href="data:image/svg+xml;base64,' in page


def test_nothing_from_data_becomes_part_of_the_page(tmp_path: Path) -> None:
    hosts = {EVIL: {"model": EVIL}}
    steps = [{**MANIFEST["steps"][-1], "step": EVIL, "failed": EVIL}]
    faults = [{**MANIFEST["faults"][0], "text": EVIL}]
    changed = {"hosts": hosts, "steps": steps, "faults": faults, "problems": [EVIL]}
    page = page_of(tmp_path, cluster=EVIL, release=EVIL, run=EVIL, **changed)
    reader = Reader(page)
    assert "script" not in reader.tags
    assert reader.text.count(EVIL) > 8
    assert any(name == "aria-label" and EVIL in value for name, value in reader.attributes)


def test_a_run_of_which_little_is_known_has_a_report(tmp_path: Path) -> None:
    folder = run_folder.write(tmp_path, git=None, hosts={}, faults=[], replicas=None)
    (folder / "samples.jsonl").unlink()
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del manifest["steps"][-1]["ended"]
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    report.write(folder)
    text = Reader((folder / report.REPORT).read_text(encoding="utf-8")).text
    assert "not ended" in text
    assert "the replicas were not compared" in text
    assert "Processors" not in text


def verdict(manifest: dict[str, Any], **figures: Any) -> dict[str, Any]:
    flawless: dict[str, Any] = {
        **{name: [] for name in ("missing_clients", "errors", "unsafe_servers", "flaws")},
        **{name: {} for name in ("lost", "lost_ranges")},
        "interrupted": False,
        "replicas": {"keys": 10, "differing": []},
        "verdict": {
            "verdict": "ok",
            "reasons": [],
            "counts": {"commands": 50, "keys": 9},
            "sample": 1,
        },
    }
    return report.verdict(manifest, {**flawless, **figures})


def test_a_flawless_run_is_good_and_one_with_a_mark_doubtful() -> None:
    text = "Complete; verdict ok; 50 commands on 9 keys judged; 10 keys, equal on both replicas."
    assert verdict({}) == {"level": "good", "text": text, "reasons": []}
    sampled = {"verdict": "ok", "reasons": [], "counts": {"commands": 5, "keys": 2}, "sample": 16}
    assert "2 keys judged, a sample of one key in 16;" in verdict({}, verdict=sampled)["text"]
    found = verdict({}, flaws=["pi1: throttled"])
    assert (found["level"], found["text"]) == ("doubtful", text)
    assert "pi1: throttled" in found["reasons"][0]
    unknown = {"verdict": "unknown", "reasons": ["no history"], "counts": {}}
    found = verdict({}, replicas=None, verdict=unknown)
    assert (found["level"], found["reasons"]) == ("doubtful", ["no history"])
    assert found["text"] == "Complete; verdict unknown."


@pytest.mark.parametrize(
    ("manifest", "figures", "told"),
    [
        ({}, {"errors": ["pi2: a defect"], "flaws": ["pi2: a defect"]}, "pi2: a defect"),
        ({}, {"lost_ranges": {"3": ["pi4", "pi5"]}}, "Range 3"),
        ({}, {"unsafe_servers": ["pi2"]}, "pi2 is unsafe"),
        ({}, {"verdict": {"verdict": "violated", "reasons": ["key a is not …"]}}, "key a"),
        ({"not_collected": {"pi5": "timeout"}}, {}, "pi5 was not collected: timeout"),
        ({"problems": ["pi3: server pi3 died"]}, {}, "pi3: server pi3 died"),
    ],
)
def test_a_flaw_makes_a_run_bad_and_is_named(
    manifest: dict[str, Any], figures: dict[str, Any], told: str
) -> None:
    found = verdict(manifest, **figures)
    assert found["level"] == "bad"
    assert told in found["reasons"][0]


def test_other_tasks_do_not_wait_for_matplotlib() -> None:
    program = "import sys, fabfile; sys.exit('matplotlib' in sys.modules)"
    root = Path(report.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0
