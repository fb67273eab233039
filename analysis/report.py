"""A run's report: one HTML file that needs nothing else, and its charts as files for a paper."""

import base64
import csv
import io
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis import charts, physics, pictures, series, summary, timeline
from analysis.history import VIOLATED
from analysis.pictures import Chart

REPORT = "report.html"
PLOTS = "plots"
_LARGEST_PNG_BYTES = 100_000  # in the page; as a file it is there in any case
_TYPES = {".csv": "text/csv", ".svg": "image/svg+xml", ".png": "image/png"}
_SECOND_US = 1_000_000
_HOST_FACTS = ("model", "cores", "kernel", "python")
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write(folder: Path, *, tables: bool = False) -> list[Path]:
    """Assemble a run and draw it; return the files that were written, report.html first.

    With `tables` the data behind each chart are written, too.
    """
    figures, hosts = summary.assemble(folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    sections, written = draw(run_charts(folder, manifest, figures, hosts), folder, tables=tables)
    (folder / REPORT).write_text(page(manifest, figures, sections), encoding="utf-8")
    return [folder / REPORT, *written]


def draw(
    charts: Sequence[Chart], folder: Path, *, tables: bool
) -> tuple[list[dict[str, Any]], list[Path]]:
    """Write charts as files; return what a page shows of each, and the files."""
    (folder / PLOTS).mkdir(exist_ok=True)
    sections, written = [], []
    for chart in charts:
        files = chart_files(chart)
        sections.append(_section(chart, files))
        for name, content in files.items():
            if tables or not name.endswith(".csv"):
                written.append(folder / PLOTS / name)
                written[-1].write_bytes(content)
    return sections, written


def run_charts(
    folder: Path, manifest: dict[str, Any], figures: dict[str, Any], hosts: list[dict[str, Any]]
) -> list[Chart]:
    """Return the charts of a run, in their order, without those that have nothing to show."""
    found = summary.read_run(folder)
    clock = series.run_clock(found, manifest)
    lasted_s = series.duration_s(found, clock)
    width_s = series.interval_s(lasted_s)
    samples = physics.read_samples(folder)
    latencies = series.latency_curves(found)
    busy = series.processors(samples, clock, lasted_s, width_s)
    responses = series.responses(figures["response_us"])
    bound = figures["bound"]
    failures = series.failures(hosts)
    seconds = [vars(second) for row in found for second in row.record.seconds]
    latency_over_time = series.latency_over_time(seconds, width_s)
    failing = figures["verdict"]["failing"]
    return [
        *([timeline.chart(failing)] if failing else []),
        charts.throughput(
            series.throughput(found, clock, width_s), series.events(manifest, clock, lasted_s)
        ),
        *[charts.latency_curves(latencies)] * bool(latencies),
        *([charts.latency_over_time(latency_over_time)] if latency_over_time else []),
        charts.threads(summary.thread_rows(found)),
        *(
            [charts.failures(failures)]
            if any(row["conflicts"] or row["aborted"] or row["unknown"] for row in failures)
            else []
        ),
        *([charts.processors(busy)] if busy else []),
        *([charts.links(bound, figures["limit"])] if bound else []),
        *([charts.responses(responses)] if responses else []),
    ]


def chart_files(chart: Chart) -> dict[str, bytes]:
    """Return a chart as files for a paper, and its data as one, by their names."""
    return {
        f"{chart.name}.csv": _table(chart.rows).encode(),
        f"{chart.name}.svg": pictures.svg(chart, "wide").encode(),
        f"{chart.name}.png": pictures.png(chart),
    }


def _table(rows: Sequence[dict[str, Any]]) -> str:
    target = io.StringIO()
    writer = csv.DictWriter(target, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return target.getvalue()


def _section(chart: Chart, files: dict[str, bytes]) -> dict[str, Any]:
    """Return what the page shows of a chart: two drawings, and links that hold its files."""
    links = []
    for name, content in files.items():
        kind = Path(name).suffix
        if kind != ".png" or len(content) <= _LARGEST_PNG_BYTES:
            data = base64.b64encode(content).decode()
            links.append(
                {"name": name, "text": kind[1:].upper(), "data": f"{_TYPES[kind]};base64,{data}"}
            )
    wide = files[f"{chart.name}.svg"].decode()
    return {
        "chart": chart,
        "wide": pictures.for_page(wide, chart.description),
        "narrow": pictures.for_page(pictures.svg(chart, "narrow"), chart.description),
        "links": links,
    }


def page(manifest: dict[str, Any], figures: dict[str, Any], sections: list[dict[str, Any]]) -> str:
    """Return the HTML of a run's report."""
    return render(
        "report.html.j2",
        run=figures,
        verdict=verdict(manifest, figures),
        headline=_headline(figures),
        manifest=manifest,
        parameters=_parameters(manifest),
        hosts=_host_table(manifest),
        steps=[_step(step) for step in manifest["steps"]],
        sections=sections,
    )


def render(template: str, **values: Any) -> str:
    """Return a page, with whatever comes from a run escaped."""
    return _ENVIRONMENT.get_template(template).render(**values)


def verdict(manifest: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    """Return whether to trust a run: `level` (good, doubtful, bad), `text`, and the reasons."""
    replicas, judged = figures["replicas"], figures["verdict"]
    missing = _missing(manifest, figures)
    reasons = [*judged["reasons"], *missing, *figures["flaws"]]
    if judged["verdict"] == VIOLATED:
        level, text = "bad", "Violated: the table did not keep its promises."
    elif missing or not summary.is_complete(figures):
        level, text = "bad", "The run is not complete."
    else:
        level = "doubtful" if reasons else "good"
        parts = ["Complete", f"verdict {judged['verdict']}"]
        if counts := judged["counts"]:
            judged_of = f", a sample of one key in {judged['sample']}" * (judged["sample"] > 1)
            told = f"{counts['commands']:,} commands on {counts['keys']:,} keys judged"
            parts.append(told + judged_of)
        if replicas:
            parts.append(f"{replicas['keys']:,} keys, equal on both replicas")
        text = "; ".join(parts) + "."
    return {"level": level, "text": text, "reasons": reasons}


def _missing(manifest: dict[str, Any], figures: dict[str, Any]) -> list[str]:
    """Return a line for each thing that a run lost that is not in its clients' records."""
    return [
        *(
            f"Range {number} is lost: its servers, {' and '.join(pair)}, came back with nothing."
            for number, pair in figures["lost_ranges"].items()
        ),
        *(f"Server {name} is unsafe: its disk failed." for name in figures["unsafe_servers"]),
        *(
            f"{host} was not collected: {why}"
            for host, why in manifest.get("not_collected", {}).items()
        ),
        *manifest.get("problems", ()),
    ]


def _headline(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the figures that stand first, each with what it is."""
    commands = figures["commands"]
    messages = figures["messages"] / commands if commands else 0.0
    return [
        (f"{figures['throughput_per_s']:,.0f}", "commands/s"),
        *(
            (_duration(value) if value is not None else "-", f"{name} latency")
            for name, value in figures["latency_us"].items()
            if name in ("p50", "p99")
        ),
        (f"{commands:,}", "commands"),
        (f"{figures['conflicts']:,}", "conflicts"),
        (f"{messages:.1f}", "messages a command"),
    ]


def _duration(value_us: int) -> str:
    return f"{value_us / 1e6:,.3g} s" if value_us >= _SECOND_US else f"{value_us / 1000:.3g} ms"


def _parameters(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what the run was given, and from which code, each with its name."""
    git = manifest.get("git")
    changed = ", and changes" if git and git["changed"] else ""
    return [
        ("cluster", manifest["cluster"]),
        ("release", manifest["release"]),
        *([("git commit", git["commit"][:12] + changed)] if git else []),
        ("started", moment(manifest["started"])),
        *(
            (f"{role}: {name.replace('_', ' ')}", shown(value))
            for role, values in manifest["parameters"].items()
            for name, value in values.items()
        ),
    ]


def moment(text: str) -> str:
    """Return a manifest's time as people read it."""
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC"


def shown(value: Any) -> str:
    """Return an option's value as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "-" if value is None else str(value)


def _host_table(manifest: dict[str, Any]) -> list[list[str]]:
    return [
        [host, *(str(facts.get(name) or "-") for name in _HOST_FACTS)]
        for host, facts in manifest.get("hosts", {}).items()
    ]


def _step(step: dict[str, Any]) -> dict[str, Any]:
    """Return a step with its begin (UTC) and how many seconds it took; None if it never ended."""
    began = datetime.fromisoformat(step["started"])
    ended = datetime.fromisoformat(step["ended"]) if "ended" in step else None
    return {
        "name": step["step"],
        "began": f"{began:%H:%M:%S}",
        "took_s": (ended - began).total_seconds() if ended else None,
        "failed": step.get("failed"),
    }
