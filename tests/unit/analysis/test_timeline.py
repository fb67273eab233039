"""The picture of a violation: a bar a command, a line a client, nothing hidden by another."""

from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis import pictures, timeline


def row(process: str, begun: float, ended: float | None, **changed: Any) -> dict[str, Any]:
    shown = {"process": process, "key": "k", "asked": "get", "told": "x at v1", "begun": begun}
    return {**shown, "ended": ended, "is_last": False, "unit": "ms", **changed}


ROWS = [
    row("pi1/0", 0.0, 1.0),
    row("pi2/3", 0.5, None, asked="put y", told="unknown"),
    row("pi1/0", 0.7, 2.0),  # in its window beside the first
    row("pi1/0", 2.5, 3.0, is_last=True, told="<nothing> & $x$"),
]


def drawn(rows: list[dict[str, Any]]) -> list[Rectangle]:
    figure = Figure(figsize=(8.0, 3.4))
    timeline.draw(figure, rows)
    (axes,) = figure.axes
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def test_each_command_is_a_bar_from_its_call_to_its_answer() -> None:
    bars = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in drawn(ROWS))
    assert bars[0] == (0.0, 1.0)
    assert bars[2] == (0.7, 2.0)
    assert bars[3] == (2.5, 3.0)
    assert bars[1][0] == 0.5
    assert bars[1][1] > 3.0  # it never ended


def test_commands_of_a_window_stand_below_each_other() -> None:
    lanes = {round(bar.get_y(), 3) for bar in drawn(ROWS)}
    assert len(lanes) == 3
    assert len({round(bar.get_y(), 3) for bar in drawn([ROWS[0], ROWS[3]])}) == 1


def test_the_last_is_told_in_words_and_what_comes_from_data_is_text() -> None:
    chart = timeline.chart(ROWS)
    assert "get of key k by pi1/0, told <nothing> & $x$" in chart.description
    assert "4 commands of 2 clients" in chart.description
    text = pictures.svg(chart, "wide")
    assert "&lt;nothing&gt; &amp; $x$" in text
    assert pictures.png(chart).startswith(b"\x89PNG")


@pytest.mark.parametrize("count", [1, 60])
def test_any_number_of_clients_can_be_drawn(count: int) -> None:
    rows = [row(f"pi{at}/0", float(at), at + 1.5) for at in range(count)]
    assert 1 <= len(drawn(rows)) <= timeline._MOST_LANES
