"""What carries out a schedule: everything is undone, and no range loses both its servers."""

import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from cluster import clocks, nemesis, processes
from cluster.errors import HostError
from cluster.fanout import Results
from cluster.inventory import Cluster, Host
from cluster.nemesis import Nemesis
from cluster.options import ClientOptions
from cluster.remote import Call
from cluster.schedule import Deed, Scene, Schedule
from tests.unit.cluster.shelf import FakeScreen

TIMEOUT_S = 20.0
DURATION_S = 1.0
SERVED = {"ranges": {"0": {"mode": "serving"}}}
JOINING = {"ranges": {"0": {"mode": "joining"}}}


class World:
    """Five hosts, of which only what is done to them is known."""

    def __init__(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = cluster
        self.screen = FakeScreen()
        self.did: list[str] = []
        self.gone: set[str] = set()  # processes that had ended by themselves
        self.silent: set[str] = set()  # hosts
        self.unready: set[str] = set()  # servers that cannot start, or have not their ranges
        self.unstartable: set[str] = set()
        monkeypatch.setattr(nemesis, "AGAIN_S", 0.02)
        monkeypatch.setattr(processes, "start_again", self._start_again)
        monkeypatch.setattr(processes, "join_client", self._join)
        monkeypatch.setattr(processes, "server_figures", self._figures)
        monkeypatch.setattr(clocks, "measure", lambda _, hosts: {"hosts": {hosts[0].name: {}}})

    def each(self, _step: str, call: Call, *, hosts: tuple[Host, ...], **_: Any) -> Results:
        role, names = call.arguments["roles"][0], call.arguments["names"]
        if hosts[0].name in self.silent:
            return Results("kill", {}, {hosts[0].name: HostError("no answer")})
        found = {f"{role} {name}" for name in names} - self.gone
        self.did += [f"kill {name}" for name in sorted(found)]
        return Results("kill", {host.name: {"killed": sorted(found)} for host in hosts})

    def begin(self, fault: Any, hosts: tuple[Host, ...]) -> Results:
        (host,) = hosts
        if fault.kind == "power" and self.silent:
            return Results("power", {}, {host.name: HostError("no answer")})
        if fault.kind == "slow":
            return Results("slow", {}, {host.name: HostError("would not slow a link")})
        self.did.append(f"{fault.kind} {host.name}")
        return Results(fault.kind, {host.name: {}})

    def heal(self) -> Results:
        self.did.append("heal")
        return Results("heal", {"pi1": {"ended": [], "left": {"rules": 0}}})

    def _start_again(self, _operator: Any, _run: Any, names: Iterable[str]) -> list[str]:
        started = [name for name in names if name not in self.unstartable]
        self.did += [f"start {name}" for name in started]
        return started

    def _join(self, *arguments: Any) -> bool:
        self.did.append(f"join {arguments[-1][1]}")
        return True

    def _figures(self, _operator: Any, _run: Any, hosts: tuple[Host, ...]) -> dict[str, Any]:
        return {host.name: JOINING if host.name in self.unready else SERVED for host in hosts}


class FakeRun:
    def __init__(self) -> None:
        self.manifest: dict[str, Any] = {"clocks": ["at the start"]}

    def note(self, **fields: Any) -> None:
        self.manifest |= fields


@pytest.fixture
def world(make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch) -> World:
    return World(make_cluster(5), monkeypatch)


def begun(world: World, *deeds: Deed, durable: bool = False, end_s: float = 0.5) -> Nemesis:
    """Return a nemesis that has just begun."""
    scene = Scene.of(world.cluster, durable=durable, kinds=frozenset({"kill", "cut", "power"}))
    schedule = Schedule("test", deeds, end_s)
    made = Nemesis(world, world, scene, schedule, world.screen.note)  # type: ignore[arg-type]
    options = ClientOptions(duration=DURATION_S, warmup=0.0)
    made.begin(FakeRun(), options, time.time())  # type: ignore[arg-type]
    return made


def test_what_is_killed_comes_back_and_all_is_healed(world: World) -> None:
    made = begun(
        world,
        Deed(0.0, "kill", 0.05, servers=("pi1",)),
        Deed(0.1, "kill", 0.05, clients=("pi3",)),
        Deed(0.3, "kill", 0.05, clients=("pi3",)),
    )
    assert made.end() == []
    assert world.did == [
        *("kill server pi1", "start pi1", "kill client pi3", "join pi3.1", "kill client pi3.1"),
        *("join pi3.2", "heal"),
    ]
    report = made.report.to_json()
    assert report["made"] == {"kill client": 2, "kill server": 1}
    assert report["killed_clients"] == ["pi3", "pi3.1"]
    assert report["joined_clients"] == ["pi3.1", "pi3.2"]
    assert (report["recoveries"], report["not_made"]) == (1, [])
    assert made._run.manifest["clocks"] == ["at the start", *[{"hosts": {"pi3": {}}}] * 2]
    assert report["healed_s"] >= 0.5
    first = made.rows[0]
    assert (first["host"], first["text"]) == ("pi1", "kill of server pi1")
    assert 0.05 <= first["until_unix_s"] - first["from_unix_s"] < 0.5


def test_in_memory_no_server_is_taken_while_its_neighbour_is_not_back(world: World) -> None:
    world.unready.add("pi1")
    made = begun(
        world,
        Deed(0.0, "kill", 0.0, servers=("pi1",)),
        Deed(0.05, "kill", 0.0, servers=("pi2",)),
        Deed(0.05, "power", 0.1, hosts=("pi3",)),
        end_s=2.0,
    )
    _until(lambda: "start pi3" in world.did)
    assert "kill server pi2" not in world.did  # nor may it be while pi3 is away
    world.unready.clear()
    made.end()
    assert world.did.index("kill server pi2") > world.did.index("start pi3")
    assert made.excuses("pi3")
    assert not made.excuses("pi1")


def test_what_must_wait_for_too_long_is_not_made(world: World) -> None:
    world.unready.add("pi1")
    made = begun(
        world,
        Deed(0.0, "kill", 0.0, servers=("pi1",)),
        Deed(0.05, "kill", 0.0, servers=("pi5",)),
        end_s=0.2,
    )
    _until(lambda: bool(made.report.not_made))
    world.unready.clear()
    assert made.end() == []
    assert made.report.not_made == ["kill of server pi5: there was no time left when it could be"]
    assert "kill server pi5" not in world.did


def test_with_disks_all_may_be_down_at_once(world: World) -> None:
    names = tuple(host.name for host in world.cluster.hosts)
    made = begun(world, Deed(0.0, "kill", 0.05, servers=names), durable=True)
    assert made.end() == []
    assert world.did == [
        *(f"kill server {n}" for n in names),
        *(f"start {n}" for n in names),
        "heal",
    ]
    assert made.report.made == {"kill all": 1}


def test_a_server_that_had_ended_by_itself_is_a_problem(world: World) -> None:
    world.gone.add("server pi2")
    made = begun(world, Deed(0.0, "kill", 0.0, servers=("pi2",)))
    assert made.end() == ["server pi2 was to be killed, and had ended by itself"]


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("unready", "server pi2 has not taken its place again within .*: range 0 joining"),
        ("unstartable", "server pi2 could not be started again"),
    ],
)
def test_a_server_that_does_not_come_back_is_a_problem(
    world: World, monkeypatch: pytest.MonkeyPatch, where: str, why: str
) -> None:
    monkeypatch.setattr(nemesis, "SERVED_TIMEOUT_S", 0.2)
    getattr(world, where).add("pi2")
    made = begun(world, Deed(0.0, "kill", 0.0, servers=("pi2",)))
    (problem,) = made.end()
    assert re.fullmatch(why, problem)


def test_a_host_that_does_not_answer_a_kill_may_have_done_it(world: World) -> None:
    world.silent.add("pi2")
    made = begun(
        world,
        Deed(0.0, "kill", 0.0, servers=("pi2",)),
        Deed(0.0, "power", 0.0, hosts=("pi4",)),
        Deed(0.1, "kill", 0.0, clients=("pi3",)),
    )
    world.gone.add("client pi3")
    assert made.end() == []
    assert sorted(world.did) == ["heal", "join pi4.1", "start pi2", "start pi4"]
    assert made.report.made == {"kill server": 1, "power": 1}
    assert made.report.not_made[1:] == ["kill of client pi3: it does not run"]


def test_what_ends_the_thread_is_a_problem_and_all_is_healed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(processes, "start_again", fail)
    made = begun(world, Deed(0.0, "kill", 0.0, servers=("pi2",)))
    assert made.end() == ["the faults came to no good end: RuntimeError()"]
    assert world.did == ["kill server pi2", "heal"]


def test_a_fault_that_cannot_be_made_is_told_and_no_failure(world: World) -> None:
    made = begun(
        world,
        Deed(0.0, "slow", 0.1, hosts=("pi2",), rate="1gbit"),
        Deed(0.0, "cut", 0.1, hosts=("pi1", "pi2"), peers=("pi3",)),
    )
    assert made.end() == []
    assert world.did == ["cut pi1", "cut pi2", "heal"]
    (line,) = made.report.not_made
    assert line.startswith("slow link of pi2, 1gbit: pi2: would not slow")


def test_what_is_interrupted_is_healed_and_starts_nothing_more(world: World) -> None:
    made = begun(world, Deed(0.0, "kill", 5.0, servers=("pi1",)), end_s=10.0)
    _until(lambda: "kill server pi1" in world.did)
    made.abort()
    assert world.did == ["kill server pi1", "heal"]


def test_how_late_the_last_server_was_back_is_told(world: World) -> None:
    world.unready.add("pi1")
    made = begun(world, Deed(0.0, "kill", 0.0, servers=("pi1",)))
    _until(lambda: made.left_s() < -0.1)
    world.unready.clear()
    assert made.end() == []
    assert made.report.to_json()["late_s"] >= 0.1


def test_traces_that_are_left_are_a_problem(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    left = Results("heal", {"pi1": {"ended": [], "left": {"rules": 2}}})
    monkeypatch.setattr(world, "heal", lambda: left)
    assert begun(world, end_s=0.0).end() == ["pi1: left after heal: 2 rules"]


def test_before_it_has_begun_there_is_nothing_to_heal(world: World) -> None:
    scene = Scene.of(world.cluster, durable=False, kinds=frozenset({"kill"}))
    made = Nemesis(world, world, scene, Schedule("test", (), 1.0), print)  # type: ignore[arg-type]
    made.abort()
    assert (made.end(), world.did) == ([], [])


def _until(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)  # polling to the deadline
