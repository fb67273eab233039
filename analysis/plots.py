"""Rows → figures. Each function draws on an empty figure, which may be narrow as a phone is."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator, PercentFormatter

from analysis.pictures import BLUE, GRID, HOST_COLOURS, INK, MUTED, ORANGE, RED, is_narrow

Row = dict[str, Any]
Series = tuple[str, Sequence[tuple[Any, float, float, float]]]  # label; x, mean, low, high
_NAMED_HOSTS = 20  # more would take the room of what they name
NAMED_EVENTS = 12  # more names than a chart has room for
SLOW_SHARE = 0.7  # of the median host's throughput: below, a host stands out
_EVENT_IN = 0.27
_AROUND_IN = 0.7  # of a figure's width and height: what stands beside the axes
_ROW_IN = 0.3
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
_NINES = (0, 50, 90, 99, 99.9, 99.99)
_DECADES = 3.0  # of a log axis: with more, only powers of ten are named
_DARKEST = 0.6  # of a heat map's cells, on which ink is still read
_CHARACTER_IN = 0.074
_BAND_ROOM = 2.0  # times the highest mean: the band of two runs may go far beyond
_COUNT = FuncFormatter(lambda value, _: f"{value:,.10g}")


def throughput(figure: Figure, rows: list[Row], events: list[Row]) -> None:
    """Draw commands/s over time, of the cluster and of each host, and what happened meanwhile."""
    by_kind = lanes(events)
    axes = (
        _under_lanes(figure, by_kind)
        if by_kind
        else _under_events(figure, events[:NAMED_EVENTS], rows[-1]["until_s"])
    )
    width_s = rows[0]["until_s"]
    middles_s = [row["until_s"] - width_s / 2 for row in rows]
    hosts = [name for name in rows[0] if name not in ("until_s", "cluster")]
    axes.plot(middles_s, [row["cluster"] for row in rows], color=INK, lw=2, label="cluster")
    for number, host in enumerate(hosts):
        label = host if len(hosts) <= _NAMED_HOSTS else None
        axes.plot(middles_s, [row[host] for row in rows], lw=1, label=label, **_host_line(number))
    for begin_s, end_s in _spans(events):
        axes.axvspan(begin_s, end_s, color=RED, alpha=0.12, lw=0)
    for event in events:
        if event["kind"] == "step":
            axes.axvline(event["from_s"], color=MUTED, lw=0.8, ls=":")
        elif event["from_s"] == event["until_s"]:
            axes.axvline(event["from_s"], color=RED, alpha=0.5, lw=0.8)
    _over_time(axes, "commands/s", rows[-1]["until_s"])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(_COUNT)
    _legend(figure, axes)


def lanes(events: list[Row]) -> dict[str, list[Row]]:
    """Return the faults by their kind, if they are too many to be named one by one."""
    faults = [event for event in events if event["kind"] == "fault"]
    kinds = sorted({event.get("what", "") for event in faults})
    if len(faults) <= NAMED_EVENTS or kinds in ([], [""]):
        return {}
    return {
        kind or "by hand": [event for event in faults if event.get("what", "") == kind]
        for kind in kinds
    }


def _spans(events: list[Row]) -> list[tuple[float, float]]:
    """Return the times in which there was a fault, each once however many there were."""
    spans: list[tuple[float, float]] = []
    for event in sorted(events, key=lambda event: float(event["from_s"])):
        if event["kind"] == "fault":
            begin_s, end_s = event["from_s"], event["until_s"]
            if spans and begin_s <= spans[-1][1]:
                begin_s, end_s = spans[-1][0], max(spans.pop()[1], end_s)
            spans.append((begin_s, end_s))
    return spans


def _under_lanes(figure: Figure, by_kind: dict[str, list[Row]]) -> Axes:
    """Return axes for a chart over time, below a line for each kind of fault with its marks."""
    strip, axes = _stacked(figure, len(by_kind))
    for number, (kind, events) in enumerate(by_kind.items()):
        begins_s = [event["from_s"] for event in events]
        strip.hlines(
            [number] * len(events), begins_s, [event["until_s"] for event in events], RED, lw=3.5
        )
        strip.plot(begins_s, [number] * len(events), "|", color=RED, ms=6)
        strip.annotate(
            f"{kind}: {len(events)}",
            (0, number),
            xycoords=strip.get_yaxis_transform(),
            xytext=(0, 4),
            textcoords="offset points",
        )
    strip.set_ylim(len(by_kind) - 0.5, -1)
    strip.set_axis_off()
    return axes


def _stacked(figure: Figure, lines: int) -> tuple[Axes, Axes]:
    """Return axes for so many lines, and below them those of the chart, which keep their height."""
    height_in = _EVENT_IN * lines
    plot_in = figure.get_figheight() - _AROUND_IN
    figure.set_figheight(figure.get_figheight() + height_in)
    strip: Axes
    axes: Axes
    strip, axes = figure.subplots(2, 1, sharex=True, height_ratios=[height_in, plot_in])
    return strip, axes


def _under_events(figure: Figure, events: list[Row], until_s: float) -> Axes:
    """Return axes for a chart over time, below a line for each event with its name."""
    if not events:
        return figure.subplots()
    strip, axes = _stacked(figure, len(events))
    for number, event in enumerate(events):
        begin_s, end_s = event["from_s"], event["until_s"]
        if event["kind"] == "fault":
            strip.plot([begin_s, end_s], [number] * 2, color=RED, lw=2.5, solid_capstyle="butt")
            strip.plot([begin_s], [number], "|", color=RED, ms=6)  # a kill is a moment
        else:
            strip.plot([begin_s] * 2, [number, len(events)], color=MUTED, lw=0.8, ls=":")
        late = begin_s > until_s / 2
        share = end_s / until_s if late else 1 - begin_s / until_s
        room = int(share * (figure.get_figwidth() - _AROUND_IN) / _CHARACTER_IN)
        strip.annotate(
            event["text"] if len(event["text"]) <= room else event["text"][: room - 1] + "…",
            (end_s if late else begin_s, number),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right" if late else "left",
        )
    strip.set_ylim(len(events) - 0.5, -1)
    strip.set_axis_off()
    return axes


def _host_line(number: int) -> dict[str, Any]:
    """Return how the line of a chart's n-th host looks, the first being 0."""
    turn, colour = divmod(number, len(HOST_COLOURS))
    return {"color": HOST_COLOURS[colour], "ls": _DASHES[turn % len(_DASHES)]}


def _over_time(axes: Axes, unit: str, until_s: float) -> None:
    axes.set_title(unit)
    axes.set_xlabel("seconds after the start")
    axes.set_xlim(0, until_s)


def _legend(figure: Figure, axes: Axes) -> None:
    """Name the lines above the chart, where they hide nothing."""
    handles, labels = axes.get_legend_handles_labels()
    columns = min(max(1, len(labels)), 3 if is_narrow(figure) else 7)
    figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def latency_curves(figure: Figure, rows: list[Row]) -> None:
    """Draw the latency of each percentile, on an axis that gives each further nine its room."""
    axes = figure.subplots()
    for operation, colour, dashes in (("get", BLUE, "-"), ("put", ORANGE, (0, (4, 1.5)))):
        mine = [row for row in rows if row["operation"] == operation]
        nines = [_nines(row["percentile"]) for row in mine]
        values = [row["latency_ms"] for row in mine]
        if mine:
            axes.plot(nines, values, color=colour, ls=dashes, lw=1.8, label=f"{operation}s")
    axes.set_title("milliseconds")
    axes.set_xlabel("percentile of commands")
    axes.set_xlim(0, max(1.0, *(_nines(row["percentile"]) for row in rows)))
    axes.xaxis.set_major_locator(FixedLocator([_nines(percent) for percent in _NINES]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda nines, _: f"{100 - 100 * 10**-nines:.6g}"))
    _log_scale(axes, [row["latency_ms"] for row in rows])
    _legend(figure, axes)


def _nines(percentile: float) -> float:
    return -math.log10(1 - percentile / 100)


def _log_scale(axes: Axes, values: Iterable[float]) -> None:
    positive = [value for value in values if value > 0]
    decades = math.log10(max(positive) / min(positive)) if positive else 0.0
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > _DECADES else (1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(_COUNT)


def latency_over_time(figure: Figure, rows: list[Row]) -> None:
    """Draw p50 and p99 of each interval."""
    axes = figure.subplots()
    times_s = [row["until_s"] for row in rows]
    width_s = min((after - before for before, after in pairwise(times_s)), default=times_s[0])
    middles_s = [time_s - width_s / 2 for time_s in times_s]
    for name, colour, width in (("p99", ORANGE, 1.2), ("p50", BLUE, 1.8)):
        values = [row[f"{name}_ms"] for row in rows]
        axes.plot(middles_s, values, color=colour, lw=width, marker="o", ms=2.5, label=name)
    _over_time(axes, "milliseconds", times_s[-1])
    _log_scale(axes, [row[name] for row in rows for name in ("p50_ms", "p99_ms")])
    _legend(figure, axes)


def threads(figure: Figure, rows: list[Row]) -> None:
    """Draw each thread's commands/s as a dot over its host, and the median of each host."""
    axes = figure.subplots()
    hosts = by_host(rows)
    medians = {host: median(values) for host, values in hosts.items()}
    for number, (host, values) in enumerate(hosts.items()):
        colour = RED if is_slow(host, medians) else BLUE
        spread = [number + 0.5 * ((at + 0.5) / len(values) - 0.5) for at in range(len(values))]
        axes.scatter(spread, values, s=14, color=colour, alpha=0.75, lw=0)
        axes.plot([number - 0.36, number + 0.36], [medians[host]] * 2, color=INK, lw=1.4)
    axes.set_title("commands/s of a thread")
    axes.set_xlabel("host, and the median of its threads")
    upright = not _fits(figure, hosts)
    labels = [f"{host}{'  ' if upright else chr(10)}{count(m)}" for host, m in medians.items()]
    axes.set_xticks(range(len(hosts)), labels, rotation=90 if upright else 0)
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, 1.08 * max(1.0, *(row["throughput_per_s"] for row in rows)))
    axes.yaxis.set_major_formatter(_COUNT)


def _fits(figure: Figure, names: Iterable[str]) -> bool:
    """Tell whether names have room side by side below a figure."""
    return _CHARACTER_IN * sum(len(name) + 1 for name in names) < figure.get_figwidth() - _AROUND_IN


def count(value: float) -> str:
    """Return a number as people read it: small ones with a digit behind the point."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"  # noqa: PLR2004


def by_host(rows: list[Row]) -> dict[str, list[float]]:
    """Return the throughput of each host's threads."""
    hosts: dict[str, list[float]] = {}
    for row in rows:
        hosts.setdefault(row["host"], []).append(row["throughput_per_s"])
    return hosts


def is_slow(host: str, medians: dict[str, float]) -> bool:
    """Tell whether a host's threads are far slower than those of the median host."""
    return medians[host] < SLOW_SHARE * median(medians.values())


def failures(figure: Figure, rows: list[Row], kinds: list[str]) -> None:
    """Draw, for each kind of failure, a bar a host: the share of its commands."""
    down, across = (len(kinds), 1) if is_narrow(figure) else (1, len(kinds))
    figure.set_figheight(0.5 + down * (0.5 + _ROW_IN * len(rows)))
    grid = figure.subplots(down, across, sharey=True, squeeze=False)
    for axes, kind in zip(grid.flat, kinds, strict=True):
        shares = [row[f"{kind}_share"] for row in rows]
        labels = [f"{row[kind]:,} ({percent(row[f'{kind}_share'])})" for row in rows]
        colour = BLUE if kind == "conflicts" else RED
        _bars(axes, [row["host"] for row in rows], shares, labels, colour)
        axes.set_xlim(0, 1.7 * max(*shares, 1e-6))  # room for the figures beside the bars
        axes.set_title(f"{kind}, in % of the commands")


def percent(share: float) -> str:
    """Return a share as people read it, with two digits or all whole ones."""
    value = 100 * share
    return f"{value:,.0f}%" if value >= 10 or not value else f"{value:.2g}%"  # noqa: PLR2004


def _bars(
    axes: Axes, names: list[str], lengths: list[float], labels: list[str], colour: str
) -> None:
    """Draw a bar a name, from the top down, with its figures beside it."""
    bars = axes.barh(range(len(names)), lengths, height=0.6, color=colour)
    axes.bar_label(bars, labels, padding=4)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.xaxis.set_major_locator(NullLocator())
    axes.spines.bottom.set_visible(False)
    axes.grid(visible=False)


def processors(figure: Figure, rows: list[Row]) -> None:
    """Draw how busy each host was over time, and below how warm, if it can tell."""
    warm = [row for row in rows if row["temperature_c"] is not None]
    figure.set_figheight(3.4 + 1.8 * bool(warm))
    grid = figure.subplots(1 + bool(warm), 1, sharex=True, squeeze=False)
    panels = [(grid[0, 0], "cpu_busy", rows), *[(grid[-1, 0], "temperature_c", warm)] * bool(warm)]
    for axes, name, shown in panels:
        hosts = dict.fromkeys(row["host"] for row in rows)
        for number, host in enumerate(hosts):
            label = host if len(hosts) <= _NAMED_HOSTS else None
            mine = [row for row in shown if row["host"] == host]
            times_s, values = [row["until_s"] for row in mine], [row[name] for row in mine]
            axes.plot(times_s, values, lw=1.2, label=label, **_host_line(number))
    busy, last = grid[0, 0], grid[-1, 0]
    until_s = max(row["until_s"] for row in rows)
    _over_time(last, "°C", until_s)
    _over_time(busy, "busy share of all cores", until_s)
    busy.set_ylim(0, 1.02)
    busy.yaxis.set_major_formatter(PercentFormatter(1.0))
    if warm:
        busy.set_xlabel("")
    _legend(figure, busy)


def links(figure: Figure, rows: list[Row]) -> None:
    """Draw what each link carried as a bar inside what it could carry."""
    figure.set_figheight(0.9 + _ROW_IN * len(rows))
    axes = figure.subplots()
    names = [f"{row['host']} {row['way']}" for row in rows]
    rates, used = ([row[f"{name}_bits_per_s"] / 1e6 for row in rows] for name in ("rate", "used"))
    labels = [f"{mine:.3g} of {whole:.3g}" for mine, whole in zip(used, rates, strict=True)]
    axes.barh(range(len(rows)), rates, height=0.6, color=GRID)
    _bars(axes, names, used, [""] * len(rows), BLUE)
    for number, (rate, label) in enumerate(zip(rates, labels, strict=True)):
        axes.annotate(label, (rate, number), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_xlim(0, 1.35 * max(rates))
    axes.set_title("Mbit/s used, of the rate measured")


def responses(figure: Figure, rows: list[Row]) -> None:
    """Draw a cell for each host's clients and server, the darker the slower."""
    hosts, servers = (
        list(dict.fromkeys(row[of] for row in rows)) for of in ("client_host", "server")
    )
    figure.set_figheight(0.9 + 1.2 * _ROW_IN * len(hosts))
    axes = figure.subplots()
    slowest = max(row["response_us"] for row in rows) or 1.0
    digits = max(0, 2 - math.floor(math.log10(slowest / 1000)))  # three figures of the slowest
    for row in rows:
        place = servers.index(row["server"]) - 0.5, hosts.index(row["client_host"]) - 0.5
        alpha = _DARKEST * row["response_us"] / slowest
        axes.add_patch(Rectangle(place, 1, 1, facecolor=BLUE, alpha=alpha, lw=0))
        if len(hosts) > _NAMED_HOSTS:
            continue
        text = f"{row['response_us'] / 1000:.{digits}f}"
        axes.text(place[0] + 0.5, place[1] + 0.5, text, ha="center", va="center")
    axes.set_xlim(-0.5, len(servers) - 0.5)
    axes.set_ylim(len(hosts) - 0.5, -0.5)
    upright = not _fits(figure, servers)
    axes.set_xticks(range(len(servers)), servers, rotation=90 if upright else 0)
    axes.set_yticks(range(len(hosts)), hosts)
    axes.set_title("clients of")
    axes.set_xlabel("server; mean response time in milliseconds")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def sweep(
    figure: Figure,
    x_name: str,
    unit: str,
    series: Sequence[Series],
) -> None:
    """Draw a curve a series with the band from low to high around it.

    Numbers stand on a log axis if all are above 0; anything else, in its order, side by side.
    """
    axes = figure.subplots()
    places = list(dict.fromkeys(point[0] for _, points in series for point in points))
    numeric = all(isinstance(x, int | float) and x > 0 for x in places)
    at = {x: x if numeric else number for number, x in enumerate(places)}
    for number, (label, points) in enumerate(series):
        look = _host_line(number)
        xs = [at[point[0]] for point in points]
        _, means, lows, highs = zip(*points, strict=True)
        axes.fill_between(xs, lows, highs, color=look["color"], alpha=0.18, lw=0)
        axes.plot(xs, means, lw=1.8, marker="o", ms=3.5, label=label, **look)
    if numeric:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(sorted(at.values()), [str(x) for x in sorted(at, key=lambda x: at[x])])
    axes.set_title(unit)
    axes.set_xlabel(x_name)
    points = [point for _, found in series for point in found]
    tallest = min(max(point[3] for point in points), _BAND_ROOM * max(point[1] for point in points))
    axes.set_ylim(0, 1.05 * tallest or 1)
    axes.yaxis.set_major_formatter(_COUNT)
    _legend(figure, axes)
