"""A soak, with runs that only seem to be: how it goes on, and what ends it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from cluster.errors import ClusterError, VerdictError
from tasks import soak as module
from tasks.soak import soak


class Runs:
    """Stands for `perform`: each run ends with the next of these verdicts, or error."""

    def __init__(self, logs: Path) -> None:
        self.outcomes: list[str | BaseException | None] = []
        self.seeds: list[int] = []
        self.durations: list[float] = []
        self.purged: list[str] = []
        self._logs = logs

    def perform(self, _operator: Any, _servers: Any, options: Any, *_: Any, **__: Any) -> Any:
        self.seeds.append(options.seed)
        self.durations.append(options.duration)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        name = f"run{len(self.seeds)}"
        history = self._logs / name / "hosts" / "pi1" / "history.1.bin"
        history.parent.mkdir(parents=True)
        history.touch()
        summary = {
            "run": name,
            "commands": 1000,
            "unknown": 2,
            "faults": {"made": {"cut": 1, "kill server": 2}, "worst_recovery_s": 1.5},
            "verdict": {"verdict": outcome},
        }
        if outcome == "violated":
            why = "the table did not keep its promises"
            raise VerdictError(why, summary)
        return summary

    def purge(self, _operator: Any, runs: dict[str, list[str]]) -> None:
        self.purged += runs["pi1"]

    def kept(self) -> str:
        (path,) = self._logs.glob("soak-*/soak.json")
        return path.read_text(encoding="utf-8")

    def histories(self) -> list[str]:
        return sorted(path.parts[-4] for path in self._logs.glob("*/hosts/*/history*.bin"))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs(tmp_path / "logs")
    monkeypatch.setattr(module, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "perform", made.perform)
    monkeypatch.setattr("cluster.collect.purge", made.purge)
    monkeypatch.setenv("RDHT_CLUSTER", "pis")
    return made


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], float]:
    """Return a function that lets so many runs begin, and gives what to type."""

    def let(count: int) -> float:
        times = iter([*[0.0] * count, 1e9])
        monkeypatch.setattr(module, "_now_s", lambda: next(times))
        return 1.0

    return let


def test_each_run_has_the_next_seed_and_a_good_one_leaves_little(
    runs: Runs, hours: Callable[[int], float], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    runs.outcomes = ["ok", "unknown", "unknown"]
    soak(Context(), hours=hours(3), seed="7", json=True)
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert runs.seeds == [7, 8, 9]
    assert set(runs.durations) == {180.0}
    assert runs.purged == ["run1", "run2", "run3"]
    assert runs.histories() == ["run2", "run3"]
    assert told["faults"] == {"cut": 3, "kill server": 6}
    assert told["verdicts"] == {"ok": 1, "unknown": 2}
    assert (told["commands"], told["worst_recovery_s"]) == (3000, 1.5)
    assert "run run2 · seed 8 · commands 1,000" in err
    assert "3 runs ended · 3,000 commands · 9 faults (cut 3, kill server 6)" in err
    (kept,) = (tmp_path / "logs").glob("soak-*/soak.json")
    assert json.loads(kept.read_text(encoding="utf-8")) == told


@pytest.mark.parametrize(
    ("outcome", "code", "why"),
    [
        ("violated", 3, "the table did not keep its promises\nAll of it is kept"),
        (ClusterError("server pi2 died"), 1, "server pi2 died\nAll of it is kept"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_is_not_good_is_the_last_and_stays(
    runs: Runs,
    hours: Callable[[int], float],
    outcome: str | BaseException,
    code: int,
    why: str,
) -> None:
    runs.outcomes = ["ok", outcome, "ok"]
    with pytest.raises(Exit) as ended:
        soak(Context(), hours=hours(3), seed="7")
    assert ended.value.code == code
    assert why in str(ended.value.message)
    assert runs.seeds == [7, 8]
    assert runs.purged == ["run1"]
    assert runs.histories() == (["run2"] if outcome == "violated" else [])
    if outcome == "violated":
        assert '"violated": 1' in runs.kept()


@pytest.mark.parametrize("typed", [0.0, -1.0, float("inf"), float("nan")])
def test_a_time_that_is_none_is_refused(runs: Runs, typed: float) -> None:
    with pytest.raises(Exit, match="--hours"):
        soak(Context(), hours=typed)
    assert runs.seeds == []
