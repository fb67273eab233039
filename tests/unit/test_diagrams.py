"""What docs/protocol.md takes from the code: its state diagrams, and the limits that it names."""

import re
from pathlib import Path

import pytest

from docs import diagrams
from rdht import limits
from rdht.coordinator import Action, Event, State

UNITS = {"": 1, "bytes": 1, "KiB": 1024, "MiB": 1024**2, "s": 1, "ms": 0.001}
LIMIT = re.compile(r"^\| `([A-Z_]+)` \| ([0-9.]+) ?(\w*) \|", re.MULTILINE)


def wrong_limits(page: str) -> list[str]:
    """Return the limits whose number in the page is not the constant."""
    rows = LIMIT.findall(page)
    assert len(rows) >= 20
    return [
        name
        for name, number, unit in rows
        if getattr(limits, name) != pytest.approx(float(number) * UNITS[unit])
    ]


def test_the_diagrams_are_those_of_the_tables() -> None:
    assert diagrams.main(["--check"]) == 0


@pytest.mark.parametrize("name", diagrams.TABLES)
def test_a_changed_transition_is_noticed(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *rest = diagrams.TABLES[name].items()
    changed = {first[0]: (State.UNKNOWN, Action.NOTHING)} | dict(rest)
    monkeypatch.setitem(diagrams.TABLES, name, changed)
    assert diagrams.main(["--check"]) == 1
    assert "python -m docs.diagrams" in capsys.readouterr().err


def test_a_missing_transition_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    table = dict(diagrams.TABLES["coordinator"])
    del table[State.VOTING, Event.ALREADY]
    monkeypatch.setitem(diagrams.TABLES, "coordinator", table)
    assert diagrams.main(["--check"]) == 1


def test_the_page_is_drawn_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = diagrams.PAGE.read_text(encoding="utf-8")
    copy = tmp_path / "protocol.md"
    copy.write_text(page.replace("stateDiagram-v2", "nothing"), encoding="utf-8")
    monkeypatch.setattr(diagrams, "PAGE", copy)
    assert diagrams.main(["--check"]) == 1
    assert diagrams.main([]) == 0
    assert copy.read_text(encoding="utf-8") == page


def test_a_page_without_a_place_for_a_diagram_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "protocol.md"
    copy.write_text("nothing", encoding="utf-8")
    monkeypatch.setattr(diagrams, "PAGE", copy)
    with pytest.raises(SystemExit, match="no place"):
        diagrams.main([])


def test_the_limits_are_those_of_the_code() -> None:
    page = diagrams.PAGE.read_text(encoding="utf-8")
    assert wrong_limits(page) == []
    assert wrong_limits(page.replace("| `MAX_QUEUE` | 256 |", "| `MAX_QUEUE` | 255 |")) == [
        "MAX_QUEUE"
    ]
