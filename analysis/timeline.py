"""The calls that show a violation as a picture: time runs to the right, a line a client thread."""

from functools import partial
from typing import Any

from matplotlib.figure import Figure

from analysis.pictures import BLUE, INK, MUTED, RED, Chart, is_narrow

Row = dict[str, Any]  # as analysis.history.rows_of returns them
_BAR = 0.36  # height, of the distance of two lines
_LANE_IN = 0.62
_AROUND_IN = 0.9
_MOST_LANES = 24
_CHARACTER_IN = 0.066


def chart(rows: list[Row], title: str = "What cannot have been") -> Chart:
    """Return the chart of a violation."""
    last = next((row for row in rows if row["is_last"]), rows[-1])
    return Chart(
        "violation",
        title,
        "Each bar is a command, from its call to its answer; a pale one had no answer. No order of "
        "these explains what was told; with one less there may be one. The red one ended last.",
        f"{len(rows)} commands of {len({row['process'] for row in rows})} clients. The last to end "
        f"is {last['asked']} of key {last['key']} by {last['process']}, told {last['told']}.",
        rows,
        partial(draw, rows=rows),
    )


def draw(figure: Figure, rows: list[Row]) -> None:
    """Draw a bar a command on the line of its client, with what was asked and told above it."""
    lanes = _lanes(rows)[:_MOST_LANES]
    figure.set_figheight(_AROUND_IN + _LANE_IN * len(lanes))
    axes = figure.subplots()
    ends = [row["ended"] for row in rows if row["ended"] is not None]
    until = max([*ends, *(row["begun"] for row in rows)], default=0.0) or 1.0
    several = len({row["key"] for row in rows}) > 1
    room = figure.get_figwidth() / _CHARACTER_IN
    for number, (_, lane) in enumerate(lanes):
        for row in lane:
            begun, ended = row["begun"], row["ended"]
            right = until * 1.12 if ended is None else ended
            colour = RED if row["is_last"] else BLUE
            axes.barh(
                number,
                max(right - begun, until * 0.004),
                _BAR,
                begun,
                color=colour,
                alpha=0.35 if ended is None else 0.9,
                hatch="////" if ended is None else None,
                edgecolor="white" if ended is None else colour,
                lw=0.5,
            )
            text = f"{row['key']}: " * several + f"{row['asked']}: {row['told']}"
            at_right = begun > until * (1 - len(text) / room)
            axes.annotate(
                text,
                (right if at_right else begun, number - _BAR / 2),
                (0, 2),
                textcoords="offset points",
                ha="right" if at_right else "left",
                va="bottom",
                fontsize=6.5 if is_narrow(figure) else 7.5,
                color=INK,
            )
    axes.set_yticks(range(len(lanes)), [name for name, _ in lanes])
    axes.set_ylim(len(lanes) - 0.5, -0.8)
    axes.set_xlim(-until * 0.02, until * 1.13)
    axes.set_title(rows[0]["unit"])
    axes.tick_params(axis="y", colors=MUTED)
    axes.grid(visible=False, axis="y")


def _lanes(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """Return the lines with their rows: one a client, or more where its commands overlap."""
    lanes: list[tuple[str, list[Row]]] = []
    for process in dict.fromkeys(row["process"] for row in rows):
        own: list[list[Row]] = []
        for row in rows:
            if row["process"] == process:
                free = (lane for lane in own if _has_ended(lane[-1], row["begun"]))
                lane = next(free, None)
                if lane is None:
                    own.append([row])
                else:
                    lane.append(row)
        lanes += [(process, lane) for lane in own]
    return lanes


def _has_ended(row: Row, time: float) -> bool:
    return row["ended"] is not None and row["ended"] <= time
