import io
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from faultbuild.mutants import MUTANTS, SIMULATED
from rdht.execution import Execution, Outcome
from rdht.messages import Message, Operation, Outgoing, Reason
from rdht.participant import Participant
from rdht.parts import Result
from tests.model import simulator
from tests.model.simulator import Report, Variant, simulate, simulate_all

SEEDS = 1000
MOST_SEEDS = 600  # in which a mistake must be found; most are found within 50
# What makes it likelier that a rare mistake shows.
OUTAGES: dict[str, Any] = {
    "durable": True,
    "faults": ((1.0, "power"), (1.8, "power"), (2.6, "power")),
    "base_delay_s": 0.001,
    "sync_s": 0.05,
    "breaks": 0.03,
    "keys": 3,
    "classic": 0.0,
    "many": 0.0,
}
CRASHES: dict[str, Any] = {
    "durable": False,
    "faults": tuple((0.7 + 0.23 * at, "crash") for at in range(10)),
    "base_delay_s": 0.005,
    "tail": 0.05,
    "breaks": 0.01,
    "keys": 3,
    "many": 0.3,
}
TROUBLES = CRASHES | {
    "faults": tuple(
        (0.7 + 0.15 * at, ("crash", "pause client", "part client")[at % 3]) for at in range(15)
    ),
    "many": 0.5,
}
AWAY: dict[str, Any] = {
    "forgetful": True,
    "faults": tuple((0.6 + 0.3 * at, ("send away", "part client")[at % 2]) for at in range(18)),
    "base_delay_s": 0.005,
    "breaks": 0.01,
    "keys": 3,
    "many": 0.3,
    "sessions": 6,
    "commands": 20,
    "window": 4,
}
MIX: dict[str, Any] = {
    "durable": True,
    "faults": tuple(
        (
            0.7 + 0.16 * at,
            ("crash", "power", "crash", "part client", "crash", "part servers")[at % 6],
        )
        for at in range(14)
    ),
    "base_delay_s": 0.003,
    "sync_s": 0.02,
    "breaks": 0.02,
    "keys": 3,
    "many": 0.5,
    "commands": 8,
    "sessions": 10,
    "tail": 0.03,
}
# Sudden ends of all servers, while servers ask each other, because clients have left them,
BREAKS = MIX | {
    "classic": 0.0,
    "many": 0.0,
    "sync_s": 0.15,
    "base_delay_s": 0.002,
    "faults": tuple((0.7 + 0.3 * at, ("break", "power")[at % 2]) for at in range(8)),
}
# or while a put of several keys is undone that others count on.
PLEDGES = MIX | {
    "many": 0.7,
    "sync_s": 0.003,
    "base_delay_s": 0.01,
    "tail": 0.05,
    "breaks": 0.01,
    "faults": tuple(
        (0.7 + 0.11 * at, ("crash", "crash", "part client", "crash")[at % 4]) for at in range(20)
    ),
}
LOSSES = CRASHES | {"risky": True, "many": 0.0}
SETTINGS = {
    "begun anew": LOSSES,
    "any resume": AWAY,
    "early yes": BREAKS,
    "epoch kept": MIX,
    "recovered unpledged": PLEDGES,
    "unsynced abort": OUTAGES,
    "unwritten copy": MIX,
    "whole request": MIX,
    "any epoch": TROUBLES,
    "broken pledge": TROUBLES,
    "forgotten many": TROUBLES,
    "hasty acknowledgement": CRASHES,
    "lost memories": TROUBLES,
}
# To search from the first seed takes some minutes in all; each was found so, in the one named here.
FIRST_SEEDS = {
    "any epoch": 15,
    "broken pledge": 269,
    "early yes": 24,
    "forgotten many": 29,
    "hasty acknowledgement": 576,
    "lost memories": 17,
    "no roll forward": 43,
    "read through locks": 27,
    "recovered unpledged": 287,
    "whole request": 215,
}
CLEAN_SEEDS = 10  # of each of the settings above
# What a server must do for its participant, and what it is called not to.
DUTIES = {
    "acknowledge a durable yes before fdatasync": "holds_votes",
    "answer what was asked on an older connection": "binds_answers",
}


def first_failure(variant: Variant, settings: dict[str, Any], first_seed: int = 0) -> Report | None:
    seeds = range(first_seed, MOST_SEEDS)
    reports = (simulate(seed, variant=variant, **settings) for seed in seeds)
    return next((report for report in reports if report.failure is not None), None)


def test_no_seed_breaks_the_protocol() -> None:
    summary = simulate_all(range(SEEDS))
    assert not summary.failures, "\n\n".join(one.text() for one in summary.failures)
    counts = summary.counts
    assert counts["commands"] > 100 * SEEDS
    assert counts["done"] > 0.9 * counts["commands"]
    for name in ("aborted", "unknown", "crashes", "rejoins", "resolves", "lost"):
        assert counts[name] > 0
    for name in ("refused", "forgotten", "expired"):
        assert counts[name] > 0.1 * SEEDS
    assert counts["undecided"] == 0
    assert counts["untold"] < 0.001 * counts["done"]


@pytest.mark.parametrize(
    "settings", [OUTAGES, CRASHES, TROUBLES, AWAY, LOSSES, MIX, BREAKS, PLEDGES]
)
def test_what_finds_mistakes_finds_none_without(settings: dict[str, Any]) -> None:
    failed = [one for one in range(CLEAN_SEEDS) if simulate(one, **settings).failure is not None]
    assert not failed


def test_a_seed_always_runs_the_same() -> None:
    one, other = io.StringIO(), io.StringIO()
    assert simulate(17, trace=one) == simulate(17, trace=other)
    assert one.getvalue() == other.getvalue()


def test_a_failure_says_how_to_see_it_again() -> None:
    with MUTANTS["missing unlock"].apply():
        report = first_failure(Variant(), {})
    assert report is not None
    text = report.text()
    assert text.startswith(f"seed {report.seed}: ")
    assert "sessions = " in text
    assert f"python -m tests.model.simulator --seed {report.seed} --trace" in text


MISTAKES = {name: one for name, one in (MUTANTS | SIMULATED).items() if one.is_simulated}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_the_protocol_is_found(name: str) -> None:
    with MISTAKES[name].apply():
        first_seed = FIRST_SEEDS.get(name, 0)
        assert first_failure(Variant(), SETTINGS.get(name, {}), first_seed) is not None


@pytest.mark.parametrize("duty", DUTIES.values(), ids=DUTIES)
def test_a_mistake_of_the_server_is_found(duty: str) -> None:
    variant = Variant()._replace(**{duty: False})  # type: ignore[arg-type]
    assert first_failure(variant, OUTAGES) is not None


class WaitsOn(Participant):
    """Goes on to wait for what a connection asked that the client has replaced."""

    def connect(self, client: int, now_s: float, *, resume: bool) -> Outgoing | None:
        with mock.patch.object(self, "disconnect", return_value=[]):
            return super().connect(client, now_s, resume=resume)


def test_an_answer_that_an_older_connection_waited_for_is_found() -> None:
    assert first_failure(Variant(participant_class=WaitsOn), OUTAGES) is not None


class Acknowledges(Execution):
    """Reports a put of several keys as done that met a taken lock, and does nothing."""

    has_lied = False

    def _judge_refusals(
        self, refusals: list[Message], now_s: float, jitter: Callable[[float], float]
    ) -> None:
        is_put = len(self.commands) > 1 and self.commands[0].operation is Operation.PUT
        if is_put and any(one.reason is Reason.BUSY for one in refusals):
            self.has_lied = True
            self.outcome = Outcome.DONE
        else:
            super()._judge_refusals(refusals, now_s, jitter)

    def results(self) -> list[Result]:
        return [] if self.has_lied else super().results()


def test_a_put_that_was_acknowledged_and_not_done_is_found_without_its_results() -> None:
    assert first_failure(Variant(execution_class=Acknowledges), {}) is not None


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulator.main(["--seeds", "4", "--start", "3"]) == 0
    assert capsys.readouterr().out.startswith("4 seeds, 0 failed: commands ")
    assert simulator.main(["--seed", "3", "--trace"]) == 0
    out = capsys.readouterr().out
    assert "s0->s1 " in out
    assert "seed 3: nothing failed" in out
    with MUTANTS["missing unlock"].apply():
        assert simulator.main(["--seed", "0"]) == 1
