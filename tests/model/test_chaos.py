"""A short run of the real-process experiment; the long one is `python -m tests.model.chaos`."""

import json
import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from tests.model import chaos


@pytest.mark.parametrize("durable", [False, True], ids=["memory", "durable"])
def test_nothing_is_lost_where_processes_are_killed_and_stopped(*, durable: bool) -> None:
    report = chaos.experiment(durable=durable, seconds=7, seed=7, gap_s=0.15, say=print)
    assert report.server_kills > 1
    assert report.client_kills > 0
    assert report.server_pauses > 0
    assert report.client_pauses > 0
    assert (report.all_kills > 0) is durable
    assert report.outcomes["done"] > 50
    assert report.keys >= chaos.KEYS


# What the experiment is to find; each is a history in a client's own words.
PUT = ["PUT", "r0-k1", "a-1:0", 0]
PUT_BOTH = [PUT, ["PUT", "r0-k2", "a-2:0", 0]]
GET = ["GET", "r0-k1", "", 0]
GET_BOTH = [GET, ["GET", "r0-k2", "", 0]]
FIRST = [True, 0, ""]
NOTHING = [False, 0, ""]


def history(*commands: tuple[list[list[object]], str, list[list[object]]]) -> list[object]:
    """One command after the other, the way they are written down."""
    rows: list[object] = []
    for number, (wanted, outcome, told) in enumerate(commands):
        rows.append({"begin": number, "ns": 2 * number, "commands": wanted})
        end = {"end": number, "ns": 2 * number + 1, "outcome": outcome}
        rows += [] if outcome == "open" else [end | ({"told": told} if told else {"why": ""})]
    return rows


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (history(([PUT], "done", [FIRST]), ([GET], "done", [[True, 1, "a-1:0"]])), None),
        (history(([PUT], "done", [FIRST]), ([GET], "done", [NOTHING])), "not linearizable"),
        (history(([PUT], "aborted", []), ([GET], "done", [NOTHING])), None),
        (history(([PUT], "aborted", []), ([GET], "done", [[True, 1, "a-1:0"]])), "linearizable"),
        (history(([PUT], "unknown", []), ([GET], "done", [NOTHING])), None),
        (history(([PUT], "open", []), ([GET], "done", [[True, 1, "a-1:0"]])), None),
        (history(([PUT], "done", [FIRST]), ([GET], "done", [[True, 2, "a-1:0"]])), "linearizable"),
        (
            history((PUT_BOTH, "open", []), (GET_BOTH, "done", [NOTHING, [True, 1, "a-2:0"]])),
            "not serializable",
        ),
        (
            history(
                ([PUT], "done", [FIRST]),
                ([GET], "done", [[True, 1, "damaged a-1:0: 4 bytes"]]),
            ),
            "not linearizable",
        ),
    ],
)
def test_the_judge_finds_what_cannot_be(
    rows: list[object], why: str | None, tmp_path: Path
) -> None:
    text = "".join(f"{json.dumps(row)}\n" for row in rows) + '{"begin": 9, "ns": 99, "comm'
    (tmp_path / "c1.jsonl").write_text(text, encoding="utf-8")
    outcomes: Counter[str] = Counter()
    if why is None:
        assert chaos.judge(tmp_path, outcomes) == len({row[1] for row in (PUT, GET)})
        assert outcomes.total() == 2
    else:
        with pytest.raises(chaos.Failure, match=why):
            chaos.judge(tmp_path, outcomes)


def test_a_failure_leaves_no_process_and_names_what_it_keeps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[chaos.Process] = []

    def give_up(experiment: chaos.Experiment, *_: object) -> None:
        started.extend(experiment._processes())
        chaos.fail("enough")

    monkeypatch.setattr(tempfile, "tempdir", os.fspath(tmp_path))
    monkeypatch.setattr(chaos.Experiment, "_make_faults", give_up)
    with pytest.raises(chaos.Failure, match=f"enough\n.*\n.*{tmp_path}"):
        chaos.experiment(durable=False, seconds=1, seed=1, say=print)
    assert len(started) == len(chaos.SERVERS) + len(chaos.CLIENTS)
    assert all(process.popen.poll() is not None for process in started)
    (kept,) = tmp_path.iterdir()
    assert (kept / "s0.log").stat().st_size > 0
