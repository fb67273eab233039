"""Which servers are started, and what is made of those that run."""

import contextlib
import io
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster import experiment, processes, runs
from cluster.console import Screen
from cluster.errors import ClusterError, HostError, HostsFailedError
from cluster.fanout import Results
from cluster.inventory import Cluster, Host
from cluster.options import ClientOptions, ServerOptions
from cluster.remote import Call
from cluster.roster import roster
from cluster.runs import Run

SERVING = {"2": {"mode": "serving", "epoch": 1}}


class Shelf:
    """Stands for an Operator; answers what a test has put there, and keeps what it was asked."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.screen = Screen()
        self.dry_run = False
        self.current = "0123"
        self.asked: list[tuple[str, str, Any]] = []  # step, host, arguments
        self.servers: dict[str, list[dict[str, Any]]] = {}  # what runs on each host
        self.answers: dict[str, Any] = {}  # by step; an exception is a failure of each host

    def each(
        self,
        step: str,
        call: Call | Callable[[Host], Call | None],
        *,
        hosts: tuple[Host, ...] | None = None,
        **_: Any,
    ) -> Results:
        results = Results(step)
        for host in self.cluster.hosts if hosts is None else hosts:
            made = call(host) if callable(call) else call
            if made is None:
                continue
            self.asked.append((step, host.name, made.arguments))
            answer = self.answers.get(step, {})
            if isinstance(answer, HostError):
                results.failures[host.name] = answer
            elif made.command == "processes.status":
                rows = self.servers.get(host.name, [])
                results.values[host.name] = {"current": self.current, "processes": rows}
            else:
                results.values[host.name] = answer
        return results

    def started(self) -> dict[str, list[tuple[str, str]]]:
        """Return name and stem of each process that was started, by host."""
        return {
            host: [(row["name"], row["file"]) for row in arguments["processes"]]
            for step, host, arguments in self.asked
            if step == "start server"
        }

    def steps(self) -> set[str]:
        return {step for step, _, _ in self.asked}


def server(name: str, run: str = "r1", **more: Any) -> dict[str, Any]:
    return {"name": name, "role": "server", "run": run, "release": "0123", **more}


@pytest.fixture
def shelf(make_cluster: Callable[..., Cluster]) -> Any:
    return Shelf(make_cluster(3, servers_per_host=2))


@pytest.fixture
def run(tmp_path: Path, shelf: Any) -> Run:
    made = runs.begin(tmp_path / "logs", shelf.cluster, "0123", dry_run=True)
    servers = roster(shelf.cluster)
    made.note(roster=servers.to_json(), servers=[server.name for server in servers.servers])
    made.manifest["parameters"]["servers"] = vars(ServerOptions(3, durable=True))
    return made


def test_no_server_is_no_run(shelf: Any) -> None:
    assert processes.server_run(shelf) is None
    with pytest.raises(ClusterError, match="no server runs: fab start-servers comes first"):
        processes.complete_server_run(shelf)


def test_servers_that_do_not_run_are_named(shelf: Any) -> None:
    for host in ("pi1", "pi2", "pi3"):
        shelf.servers[host] = [server(f"{host}.0"), server(f"{host}.1")]
    assert processes.complete_server_run(shelf) == ("r1", "0123", [])
    shelf.servers["pi1"].pop()
    shelf.servers["pi3"] = [{**server("pi3"), "role": "client"}]
    assert processes.server_run(shelf) == ("r1", "0123", ["pi3.0", "pi1.1", "pi3.1"])
    with pytest.raises(ClusterError) as caught:
        processes.complete_server_run(shelf)
    assert str(caught.value) == (
        "server pi3.0, pi1.1, pi3.1 does not run: fab start-servers starts it again"
    )


def test_nothing_is_started_of_a_fault_build(shelf: Any) -> None:
    assert processes.current_release(shelf) == "0123"
    shelf.current = "fault-0123"
    with pytest.raises(ClusterError, match="fault-0123 is a fault build, made to break"):
        processes.current_release(shelf)


def test_servers_of_two_runs_are_refused(shelf: Any) -> None:
    shelf.servers = {"pi1": [server("pi1.0")], "pi2": [server("pi2.0", "r2")]}
    with pytest.raises(ClusterError, match="several runs are mixed: run fab stop"):
        processes.server_run(shelf)


def test_all_servers_start_with_the_options_of_the_manifest(shelf: Any, run: Run) -> None:
    processes.start_servers(shelf, run)
    assert shelf.started() == {
        host: [(f"{host}.0", "server.0"), (f"{host}.1", "server.1")]
        for host in ("pi1", "pi2", "pi3")
    }
    _, _, arguments = shelf.asked[0]
    assert arguments["files"] == {"roster.json": run.manifest["roster"]}
    assert arguments["folders"] == ["data"]
    assert arguments["processes"][1]["argv"] == [
        *("server", "--roster", "roster.json", "--name", "pi1.1", "--workers", "3"),
        *("--durable", "data/pi1.1"),
    ]
    assert shelf.asked[-1][0] == "ping"


def test_servers_in_memory_get_no_folder(shelf: Any, run: Run) -> None:
    run.manifest["parameters"]["servers"] = vars(ServerOptions())
    processes.start_servers(shelf, run)
    assert shelf.asked[0][2]["folders"] == []
    assert "--durable" not in shelf.asked[0][2]["processes"][0]["argv"]


def test_only_what_is_missing_starts_again_under_its_old_files(shelf: Any, run: Run) -> None:
    processes.start_servers(shelf, run, ["pi1.1", "pi3.0"])
    assert shelf.started() == {"pi1": [("pi1.1", "server.1")], "pi3": [("pi3.0", "server.0")]}
    assert [host for step, host, _ in shelf.asked if step == "ping"] == ["pi1", "pi2", "pi3"]


@pytest.mark.parametrize("step", ["start server", "ping"])
def test_a_start_that_fails_leaves_none_and_a_restart_takes_none_down(
    shelf: Any, run: Run, step: str
) -> None:
    shelf.answers[step] = HostError("it failed")
    with pytest.raises(HostsFailedError):
        processes.start_servers(shelf, run, ["pi1.1"])
    assert "stop server" not in shelf.steps()
    shelf.answers["stop server"] = {"stopped": []}
    with pytest.raises(HostsFailedError):
        processes.start_servers(shelf, run)
    assert "stop server" in shelf.steps()


def test_a_server_of_another_inventory_is_no_part_of_the_run(shelf: Any, run: Run) -> None:
    with pytest.raises(ClusterError, match=r"server pi9 is none of run .*--restart"):
        experiment.restart_servers(shelf, run, ["pi1.1", "pi9"])
    assert shelf.asked == []


def test_a_range_that_a_restart_finds_lost_is_told_in_a_line(shelf: Any, run: Run) -> None:
    shelf.answers["ping"] = HostError("server pi2.0: range 1 is lost")
    lost = {"ranges": {"1": {"mode": "lost", "epoch": 0}}}
    shelf.servers["pi2"] = [server("pi2.0", figures=lost)]
    with pytest.raises(ClusterError) as caught:
        experiment.restart_servers(shelf, run, ["pi2.0"])
    first, second = str(caught.value).splitlines()
    assert first == "range 1 is LOST: both its servers, pi2.0 and pi3.0, came back with nothing"
    assert "--restart" in second


def test_a_restart_that_fails_otherwise_says_how(shelf: Any, run: Run) -> None:
    shelf.answers["ping"] = HostError("server pi2.0: range 1 is joining")
    shelf.servers["pi2"] = [server("pi2.0", figures={"ranges": SERVING})]
    with pytest.raises(HostsFailedError, match="range 1 is joining"):
        experiment.restart_servers(shelf, run, ["pi2.0"])


def test_a_server_whose_start_was_not_answered_may_run_all_the_same(shelf: Any, run: Run) -> None:
    shelf.answers["start server"] = HostError("the connection was lost")
    shelf.servers = {"pi2": [server("pi2.1", alive=True), server("pi2.0", alive=False)]}
    assert processes.start_again(shelf, run, ["pi2.1", "pi2.0", "pi3.0"]) == ["pi2.1"]
    shelf.answers["start server"] = {"started": ["pi3.0"]}
    assert processes.start_again(shelf, run, ["pi3.0"]) == ["pi3.0"]


@pytest.mark.parametrize("answers", [True, False])
def test_a_client_joins_under_a_name_and_files_of_its_own(
    shelf: Any, run: Run, *, answers: bool
) -> None:
    if not answers:
        shelf.answers["start client"] = HostError("no answer")
    host = replace(shelf.cluster.hosts[1], clients_per_host=2)
    names = ("pi2.1", "pi2.1.3")
    assert processes.join_client(shelf, run, ClientOptions(seed=1), host, names) == answers
    ((step, where, arguments),) = shelf.asked
    (started,) = arguments["processes"]
    assert (step, where, arguments["join"]) == ("start client", "pi2", True)
    assert (started["name"], started["file"]) == ("pi2.1.3", "client.1.3")
    assert started["argv"][-1] == "--join"
    assert "results.1.3.json" in started["argv"]


class Disturber:
    """Makes no faults, but has cut the power of pi2."""

    def __init__(self) -> None:
        self.lefts: dict[str, int] = {}  # by thread
        self.ended = False

    def left_s(self) -> float:
        """Each host is watched for so many times."""
        name = threading.current_thread().name
        self.lefts[name] = self.lefts.get(name, 3) - 1
        return float(self.lefts[name])

    def excuses(self, host: str) -> bool:
        return host == "pi2"

    def end(self) -> list[str]:
        self.ended = True
        return ["server pi2 has not taken its place again"]


def test_who_was_killed_on_purpose_has_not_died_and_power_comes_back(
    shelf: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "AGAIN_S", 0.0)
    run.note(nemesis={"killed_clients": ["pi1.0"]})
    gone: dict[str, Any] = {"alive": False, "stopped": False, "result": False, "tail": []}
    rows = [server("pi1.0", **gone), server("pi1.1", **gone), server("pi1.0", **gone)]
    shelf.servers = {"pi1": [{**row, "role": "client"} for row in rows[:2]] + rows[2:]}
    shelf.answers["watch"] = HostError("the connection was lost")
    monkeypatch.setattr(run, "appending", lambda *_, **__: contextlib.nullcontext(io.StringIO()))
    disturber = Disturber()
    deaths, silent = processes.wait_for_clients(shelf, run, 5.0, disturber)
    assert disturber.ended
    assert deaths == [
        "server pi2 has not taken its place again",
        "pi1: client pi1.1 died; its log is empty",
        "pi1: server pi1.0 died; its log is empty",
    ]
    assert set(silent) == {"pi1", "pi3"}
    watched = [host for step, host, _ in shelf.asked if step == "watch"]
    assert sorted(watched) == ["pi1", "pi2", "pi2", "pi3"]


def test_figures_are_those_of_the_servers_that_tell_them(shelf: Any, run: Run) -> None:
    shelf.servers = {"pi1": [server("pi1.0", figures={"keys": 7}), server("pi1.1")]}
    assert processes.server_figures(shelf, run) == {"pi1.0": {"keys": 7}}
    assert shelf.asked[0][2] == {"run": run.name, "figures": True}


def test_a_run_notes_what_its_servers_tell_and_what_is_lost(shelf: Any, run: Run) -> None:
    lost = {"ranges": {"1": {"mode": "lost", "epoch": 0}}, "unsafe": True}
    shelf.servers = {
        "pi1": [server("pi1.0", figures={"ranges": SERVING})],
        "pi2": [server("pi2.0", figures=lost)],
    }
    told = experiment._ask_servers(shelf, run)
    assert told[0].startswith("range 1 is LOST: both its servers, pi2.0 and pi3.0,")
    assert told[1].startswith("server pi2.0 is unsafe: ")
    assert run.manifest["server_figures"] == {"pi1.0": {"ranges": SERVING}, "pi2.0": lost}
    assert run.manifest["lost_ranges"] == {"1": ["pi2.0", "pi3.0"]}
    assert run.manifest["unsafe_servers"] == ["pi2.0"]


def test_servers_are_asked_again_until_they_have_settled(
    shelf: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.note(servers=["pi1.0"])
    busy = {"ranges": SERVING, "locks": 1, "in_doubt": 1}
    answers = iter([{"pi1.0": busy}, {"pi1.0": busy}, {"pi1.0": {**busy, "locks": 0}}])
    monkeypatch.setattr(processes, "server_figures", lambda *_: next(answers))
    monkeypatch.setattr(experiment, "_SETTLE_POLL_S", 0.0)
    monkeypatch.setattr(experiment, "SETTLE_TIMEOUT_S", 0.0)
    assert experiment._ask_servers(shelf, run) == []
    assert run.manifest["unsettled"] == ["server pi1.0: 1 keys locked, 1 transactions in doubt"]
    monkeypatch.setattr(experiment, "SETTLE_TIMEOUT_S", 60.0)
    answers = iter([{"pi1.0": busy}, {"pi1.0": busy}, {"pi1.0": {"ranges": SERVING}}])
    experiment._ask_servers(shelf, run)
    assert run.manifest["unsettled"] == []


def test_servers_that_are_on_their_way_back_are_waited_for_and_those_away_are_not(
    shelf: Any, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.note(servers=["pi1.0"])
    locked = {"ranges": SERVING, "locks": 1, "in_doubt": 0}
    joining = {"ranges": {"0": {"mode": "joining", "epoch": 1}}}
    answers = iter([{"pi1.0": joining}, {"pi1.0": locked}, {"pi1.0": {"ranges": SERVING}}])
    monkeypatch.setattr(processes, "server_figures", lambda *_: next(answers))
    monkeypatch.setattr(experiment, "_SETTLE_POLL_S", 0.0)
    experiment._ask_servers(shelf, run)
    assert run.manifest["unsettled"] == []
    answers = iter([{"pi1.0": {"error": "no answer"}}])
    experiment._ask_servers(shelf, run)
    assert run.manifest["unsettled"] is None


@pytest.mark.parametrize(("mode", "asked"), [("serving", False), ("joining", True)])
def test_replicas_are_compared_once_all_ranges_are_served(
    shelf: Any, run: Run, mode: str, *, asked: bool
) -> None:
    told = {"ranges": {"1": {"mode": mode, "epoch": 0}}}
    shelf.servers = {"pi2": [server("pi2.0", figures=told)]}
    assert experiment._ask_servers(shelf, run) == []
    assert experiment._compare_replicas(shelf, run) == []
    assert ("ping" in shelf.steps()) is asked
    assert "compare replicas" in shelf.steps()
