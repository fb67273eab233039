"""Rows → charts: what they say in words, and that they can be drawn."""

import re
from functools import cache
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from analysis import charts, pictures
from analysis.pictures import Chart

HOSTS = ("pi1", "pi2", "pi3")
ROWS = [
    {"until_s": 0.5 * (number + 1), "cluster": 300.0 + number, **dict.fromkeys(HOSTS, 100.0)}
    for number in range(20)
]
CUT = {"kind": "fault", "text": "pi2: cut from pi3", "from_s": 3.0, "until_s": 5.5}
AGAIN = {"kind": "step", "text": "start pi2 again", "from_s": 6.0, "until_s": 6.0}
BOUND = {
    "throughput_per_s": 6102.0,
    "share": 0.39,
    "limit": "the link of pi3, outward",
    "links": [
        {"host": host, "way": way, "rate_bits_per_s": 94e6, "used_bits_per_s": 23.5e6}
        for host in HOSTS
        for way in ("out", "in")
    ],
}
SWEEP = [
    ("classic", [(1, 4556.0, 4400.0, 4700.0), (32, 5100.0, 5000.0, 5200.0)]),
    ("fast", [(1, 11_826.0, 11_000.0, 12_500.0), (32, 31_473.0, 30_000.0, 33_000.0)]),
]
NAMED_SWEEP = [("fast", [("a", 4.0, 3.0, 5.0), ("b", 6.0, 5.0, 7.0)])]


def curve(operation: str, *values_ms: float) -> list[dict[str, Any]]:
    percentiles = (0.0, 50.0, 90.0, 99.0, 99.9)
    return [
        {"operation": operation, "percentile": percentile, "latency_ms": value_ms}
        for percentile, value_ms in zip(percentiles, values_ms, strict=True)
    ]


def threads(**rates: float) -> Chart:
    return charts.threads(
        [
            {"host": host, "client": host, "thread": number, "throughput_per_s": rate + number}
            for host, rate in rates.items()
            for number in range(3)
        ]
    )


def failures(**changed: Any) -> Chart:
    kinds = ("aborted", "unknown", "aborted_share", "unknown_share")
    some: dict[str, Any] = {**dict.fromkeys(kinds, 0), "conflicts": 40, "conflicts_share": 0.04}
    some |= {"commands": 1000, **changed}
    return charts.failures([{"host": host, **some} for host in HOSTS])


CHARTS = {
    chart.name: chart
    for chart in (
        charts.throughput(ROWS, [CUT, AGAIN]),
        charts.latency_curves([*curve("get", 1, 3, 5, 12, 40), *curve("put", 2, 6, 9, 28, 90)]),
        charts.latency_over_time(
            [
                {"until_s": n + 1.0, "commands": 9, "p50_ms": 3.0, "p99_ms": 12.0 + n}
                for n in range(9)
            ]
        ),
        threads(pi1=90, pi2=9, pi3=95),
        failures(aborted=24, aborted_share=0.024),
        charts.processors(
            [
                {"host": host, "until_s": n + 1.0, "cpu_busy": 0.25, "temperature_c": 50.0 + n}
                for host in HOSTS
                for n in range(9)
            ]
        ),
        charts.links(BOUND, "the link of pi3, outward"),
        charts.responses(
            [
                {"client_host": host, "server": server, "response_us": 2500.0}
                for host in HOSTS
                for server in HOSTS
            ]
        ),
        charts.sweep_curves("Window", "window", "commands/s", SWEEP, "A caption."),
        charts.sweep_curves(
            "Workloads",
            "workload",
            "commands/s",
            [("fast", [("a", 4.0, 3.0, 5.0), ("b", 6, 5, 7)])],
            "A caption.",
        ),
    )
}


@cache
def drawn(name: str, width: str) -> str:
    return pictures.svg(CHARTS[name], width)


def words(document: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(document).iter() if element.text]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("throughput", ["mean 310", "lowest 300", "highest 319", "pi2: cut from pi3 from 3.0"]),
        ("latency", ["gets p50 3, p99 12, p99.9 40", "puts p50 6, p99 28, p99.9 90"]),
        ("latency-over-time", ["p50 was 3 ms", "at 9 s with 20 ms"]),
        ("threads", ["pi1 91.0, pi2 10.0, pi3 96.0", "pi2: less than 70%"]),
        ("conflicts", ["120 conflicts", "72 aborted", "0 unknown", "pi1 4%"]),
        ("processors", ["pi1 25%", "58 °C"]),
        ("links", ["pi3 out 25%", "39.0%", "6,102", "the link of pi3, outward"]),
        ("responses", ["pi1 2.5", "slowest"]),
        ("sweep-window", ["classic: highest 5,100 at 32", "fast: highest 3.147e+04 at 32"]),
        ("sweep-workloads", ["fast: highest 6 at b"]),
    ],
)
def test_the_text_alternative_has_the_key_figures(name: str, told: list[str]) -> None:
    chart = CHARTS[name]
    for text in told:
        assert text in chart.description
    assert chart.caption.endswith(".")
    assert chart.caption.count(". ") == 0
    assert len({tuple(row) for row in chart.rows}) == 1


@pytest.mark.parametrize("width", ["wide", "narrow"])
@pytest.mark.parametrize("name", CHARTS)
def test_the_same_data_give_the_same_drawing(name: str, width: str) -> None:
    document = drawn(name, width)
    assert document == pictures.svg(CHARTS[name], width)
    assert "<metadata" not in document
    assert len(words(document)) > 3  # text stays text


def test_a_png_is_the_same_for_the_same_data_too() -> None:
    one, other = (pictures.png(CHARTS["threads"]) for _ in range(2))
    assert one == other
    assert one.startswith(b"\x89PNG")
    assert b"matplotlib" not in one.lower()


def test_no_two_drawings_of_a_page_share_an_id() -> None:
    page = "".join(
        pictures.for_page(drawn(name, width), "") for name in CHARTS for width in ("wide", "narrow")
    )
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids)) > 20
    for used in re.findall(r'(?:href="#|url\(#)([^")]+)', page):
        assert used in ids


def test_a_page_gives_the_colours_and_the_width() -> None:
    element = pictures.for_page(drawn("throughput", "wide"), 'a "b" <c>')
    assert element.startswith('<svg role="img" aria-label="a &quot;b&quot; &lt;c&gt;"')
    assert re.findall(r"#[0-9a-f]{6}\b", element) == []
    assert {"var(--ink)", "var(--blue)", "var(--red)"} <= set(re.findall(r"var\(--\w+\)", element))
    assert "<style" not in element
    assert " width=" not in element.partition(">")[0]


def test_what_comes_from_data_is_drawn_as_it_is() -> None:
    name = "<pi & $x_1$>"
    rows = [{"until_s": row["until_s"], "cluster": 9.0, name: 9.0} for row in ROWS]
    document = pictures.svg(charts.throughput(rows, [{**CUT, "text": f"{name}: cut"}]), "wide")
    assert {name, f"{name}: cut"} <= set(words(document))


def test_a_long_event_is_cut_to_its_room_and_too_many_are_not_named() -> None:
    many = [{**CUT, "text": f"{n} " + "very long " * 30} for n in range(15)]
    chart = charts.throughput(ROWS, many)
    named = [text for text in words(pictures.svg(chart, "narrow")) if "very long" in text]
    assert len(named) == 12
    assert all(text.endswith("…") and len(text) < 50 for text in named)
    assert "3 later events are not named" in chart.caption


def test_many_scheduled_faults_have_a_line_a_kind() -> None:
    times = [(at_s / 10, at_s / 10 + (at_s % 3) / 5) for at_s in range(90)]
    kinds = ("cut", "kill server", "")
    many = [
        {**CUT, "what": kinds[n % 3], "from_s": begin_s, "until_s": end_s}
        for n, (begin_s, end_s) in enumerate(times)
    ]
    chart = charts.throughput(ROWS, many)
    named = words(pictures.svg(chart, "narrow"))
    assert {"cut: 30", "kill server: 30", "by hand: 30"} <= set(named)
    assert CUT["text"] not in named
    assert "not named" not in chart.caption
    assert "cut 30; kill server 30" in chart.description


@pytest.mark.parametrize(("rate", "stands_out"), [(60, True), (70, False)])
def test_a_slow_host_stands_out_by_itself(rate: float, *, stands_out: bool) -> None:
    chart = threads(pi1=90, pi2=rate, pi3=95)
    assert ("pi2: less than" in chart.caption) == stands_out
    assert (pictures.RED in pictures.svg(chart, "wide")) == stands_out


def test_what_never_happened_has_no_panel_but_is_said() -> None:
    chart = failures()
    assert "none aborted or unknown" in chart.caption
    assert not any("aborted" in text for text in words(pictures.svg(chart, "wide")))


def test_a_sweeps_files_are_named_after_all_of_its_title() -> None:
    chart = charts.sweep_curves("p99, by key-size", "key size", "ms", SWEEP, "A caption.")
    assert chart.name == "sweep-p99-by-key-size"


def test_a_sweep_over_numbers_has_them_as_its_ticks() -> None:
    assert {"1", "32"} <= set(words(drawn("sweep-window", "wide")))
    assert {"a", "b"} <= set(words(drawn("sweep-workloads", "wide")))
    assert CHARTS["sweep-window"].rows[0] == {
        "series": "classic",
        "window": 1,
        "middle": 4556.0,
        "low": 4400.0,
        "high": 4700.0,
    }
