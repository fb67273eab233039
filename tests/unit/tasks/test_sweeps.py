"""fab sweep as it is typed: what ends it, what it goes on with, and what it leaves as it was."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from cluster import sweeps as library
from cluster.command import load_cluster
from cluster.errors import ClusterError, HostError, HostsFailedError, VerdictError
from cluster.fanout import Results
from cluster.faults import Fault
from cluster.release import Release
from cluster.suites import SUITES
from lab.errors import LabError
from tasks import sweeps
from tests.unit.analysis.test_sweep import write_run

Capture = pytest.CaptureFixture[str]
LOST = ClusterError("pi2: probe failed: no connection")
APART = VerdictError("1 keys differ between their replicas, such as a")
RELEASE = Release("0123456789ab", {}, b"")
LINK = {"address": "10.77.0.11", "power": True, "cable": True}


class Hosts:
    """Stands for all that a sweep does on hosts: what was run there, and what is to happen."""

    def __init__(self, root: Path) -> None:
        self.logs = root / "logs"
        self.coming: list[BaseException | None] = []  # of the next runs; None is a run that counts
        self.ran: list[dict[str, Any]] = []
        self.purged: list[dict[str, list[str]]] = []
        self.links = {"pi1": "100mbit", "pi2": "50mbit"}
        self.faults: list[str] = []
        self.broken: set[str] = set()
        self.full = False

    def perform(self, operator: Any, servers: Any, options: Any, show: Any, **of: Any) -> Any:
        of.pop("disturb")()
        made = {"servers": servers, "clients": options, **of, "links": dict(self.links)}
        made["faults"] = list(self.faults)
        self.ran.append({**made, "hosts": operator.cluster.hosts})
        if self.coming and (end := self.coming.pop(0)):
            raise end
        folder = of["logs"] / f"run{len(self.ran)}"
        write_run(folder, 10 + len(self.ran) % 2, 100, flaws=["pi1 stands out"])
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        show(operator.screen, summary, [])
        return summary

    def purge(self, _operator: Any, runs: dict[str, list[str]]) -> int:
        self.purged.append(runs)
        if self.full:
            raise HostsFailedError("clean", {"pi3": HostError("no connection")})
        return 0

    def status(self, _folder: Path) -> dict[str, Any]:
        return {"hosts": {host: {**LINK, "rate": rate} for host, rate in self.links.items()}}

    def rate(self, _folder: Path, host: str, rate: str) -> None:
        if host in self.broken:
            why = f"tc: no {host}"
            raise LabError(why)
        self.links[host] = rate

    # What the last host's faults are.

    def heal(self) -> Results:
        self.faults = []
        self.links["pi2"] = "100mbit"  # as the lab itself does
        return Results("heal", {"pi2": {"ended": [], "left": {}}})

    def begin(self, fault: Fault) -> Results:
        self.faults.append(fault.text)
        return Results("fault.loss", {"pi2": {}})

    @property
    def folder(self) -> Path:
        (folder,) = self.logs.glob("sweep-*")
        return folder

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.folder / "sweep.json").read_text("utf-8"))
        return state

    @property
    def counted(self) -> list[str]:
        return sorted(run for point in self.state["points"] for run in point["runs"])


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hosts:
    hosts = Hosts(tmp_path)
    monkeypatch.setenv("RDHT_CLUSTER", "pis")
    for name in ("FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sweeps, "ROOT", tmp_path)
    monkeypatch.setattr(sweeps, "LOGS", hosts.logs)
    monkeypatch.setattr("cluster.release.build", lambda _root: RELEASE)
    monkeypatch.setattr(sweeps, "perform", hosts.perform)
    monkeypatch.setattr("cluster.collect.purge", hosts.purge)
    monkeypatch.setattr("lab.netns.status", hosts.status)
    monkeypatch.setattr("lab.netns.rate", hosts.rate)
    monkeypatch.setattr(sweeps, "faults_of", lambda _operator: hosts)
    monkeypatch.setattr(
        "analysis.sweep_report.write", lambda folder: [folder / "report.html", folder / "plots"]
    )
    return hosts


@pytest.fixture
def netns(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    """The same on the netns lab, whose links are there."""
    cluster = load_cluster("netns")
    two = [host for host in cluster.hosts if host.name in hosts.links]
    monkeypatch.setenv("RDHT_CLUSTER", "netns")
    monkeypatch.setattr("cluster.namespace.inside", nullcontext)
    assert len(two) == 2
    return hosts


def sweep(**options: Any) -> tuple[int | None, str]:
    """Type fab sweep; return its exit code and its last words."""
    try:
        sweeps.sweep(Context(), **{"key_size": "1,2", "repeat": "2", **options})
    except Exit as end:
        return end.code, str(end.message)
    return 0, ""


def test_all_points_are_run_and_shown(hosts: Hosts, capsys: Capture) -> None:
    assert sweep() == (0, "")
    out = capsys.readouterr().out
    assert len(hosts.ran) == 4
    assert hosts.counted == ["run1", "run2", "run3", "run4"]
    assert (hosts.folder / "points.csv").read_text("utf-8").count("\n") == 3
    assert hosts.state["ended"]
    assert f"sweep {hosts.folder.name}: 2 points, at most 4 runs" in out
    assert "[4 of at most 4] --key-size " in out
    assert "at most about 0 minutes left" in out
    assert "pi1 stands out" in out
    assert f"report: logs/{hosts.folder.name}/report.html" in out
    rows = [line.split()[:2] for line in out.splitlines()]
    assert ["1", "2"] in rows
    assert ["2", "2"] in rows


def test_each_run_gets_its_points_options_its_rounds_seed_and_the_sweeps_folder(
    hosts: Hosts,
) -> None:
    assert sweep(workers="3", durable="yes", clients="2") == (0, "")
    keys = [run["clients"].key_size for run in hosts.ran]
    seeds = [run["clients"].seed for run in hosts.ran]
    assert sorted(keys[:2]) == sorted(keys[2:]) == [1, 2]
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3]
    for run in hosts.ran:
        assert (run["servers"].workers, run["servers"].durable) == (3, True)
        assert [host.clients_per_host for host in run["hosts"]] == [1, 1, 0, 0, 0]
        assert (run["logs"], run["built"]) == (hosts.folder / "runs", RELEASE)


def test_a_run_that_counts_is_removed_from_all_hosts(hosts: Hosts) -> None:
    assert sweep(limit="pi1,pi2,pi4") == (0, "")
    assert hosts.purged == [
        {host: [f"run{number}"] for host in ("pi1", "pi2", "pi4")} for number in (1, 2, 3, 4)
    ]


def test_a_run_that_cannot_be_removed_counts_all_the_same(hosts: Hosts, capsys: Capture) -> None:
    hosts.full = True
    assert sweep() == (0, "")
    assert len(hosts.counted) == len(hosts.ran) == 4
    out = capsys.readouterr().out
    assert out.count("pi3: clean failed: no connection") == 4
    assert "fab clean" in out


def test_points_that_are_sure_are_run_no_more(hosts: Hosts) -> None:
    assert sweep(repeat="50", precision="0.5") == (0, "")
    assert len(hosts.ran) == 2 * 3


def test_a_failure_is_retried_with_its_seed_and_does_not_count(
    hosts: Hosts, capsys: Capture
) -> None:
    hosts.coming = [None, LOST, None, LOST]
    assert sweep() == (0, "")
    assert hosts.counted == ["run1", "run3", "run5", "run6"]
    assert [hosts.ran[1][name] for name in ("clients", "servers", "hosts")] == [
        hosts.ran[2][name] for name in ("clients", "servers", "hosts")
    ]
    assert [str(LOST) in why for why in hosts.state["failures"]] == [True, True]
    assert capsys.readouterr().out.count("This run does not count; its point is run again.") == 2


def test_two_failures_in_a_row_end_it_and_typed_again_it_goes_on(
    hosts: Hosts, capsys: Capture
) -> None:
    hosts.coming = [None, LOST, LOST]
    code, words = sweep()
    assert code == 1
    assert words.splitlines() == [
        str(LOST),
        f"two runs in a row came to nothing; typed again, {hosts.folder.name} goes on",
    ]
    assert hosts.counted == ["run1"]
    assert not hosts.state["ended"]
    capsys.readouterr()
    assert sweep() == (0, "")
    assert f"going on with {hosts.folder.name}, of which 1 runs are done" in capsys.readouterr().out
    assert hosts.counted == ["run1", "run4", "run5", "run6"]
    assert (hosts.folder / "points.csv").exists()


def test_replicas_that_differ_end_it_at_once(hosts: Hosts) -> None:
    hosts.coming = [None, APART]
    assert sweep() == (3, str(APART))
    assert len(hosts.ran) == 2
    assert hosts.counted == ["run1"]
    (failure,) = hosts.state["failures"]
    assert str(APART) in failure
    assert failure.startswith("--key-size ")


def test_typed_again_after_an_interrupt_it_goes_on(hosts: Hosts) -> None:
    hosts.coming = [None, None, KeyboardInterrupt()]
    assert sweep()[0] == 130
    assert hosts.counted == ["run1", "run2"]
    assert sweep() == (0, "")
    assert hosts.counted == ["run1", "run2", "run4", "run5"]


def test_a_sweep_whose_table_cannot_be_made_has_not_ended(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("analysis.sweep.assemble", interrupted)
        assert sweep()[0] == 130
    assert sweep() == (0, "")
    assert len(hosts.ran) == 4
    assert (hosts.folder / "points.csv").exists()


def test_a_sweep_that_has_ended_is_made_anew(hosts: Hosts) -> None:
    assert sweep() == sweep() == (0, "")
    assert len(list(hosts.logs.glob("sweep-*"))) == 2
    assert len(hosts.ran) == 8


def test_with_json_there_is_one_document(hosts: Hosts, capsys: Capture) -> None:
    hosts.coming = [LOST]
    assert sweep(json=True, key_size="2", get_ratio="0.25,1", repeat="1") == (0, "")
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["sweep"] == hosts.folder.name
    assert document["ended"] == hosts.state["ended"]
    assert document["parts"][""] == {"key_size": [2], "get_ratio": [0.25, 1.0]}
    points = document["points"]
    assert [(row["get_ratio"], row["runs"], row["throughput_low"]) for row in points] == [
        (0.25, 1, None),
        (1.0, 1, None),
    ]
    assert "0.25" in captured.err


def test_a_dry_run_touches_nothing(hosts: Hosts, capsys: Capture, tmp_path: Path) -> None:
    assert sweep(dry_run=True, json=True, durable="yes") == (0, "")
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {
        "points": [{"durable": True, "key_size": 1}, {"durable": True, "key_size": 2}]
    }
    assert "would run up to 2 times: --key-size 2 --durable yes" in captured.err
    assert (hosts.ran, hosts.purged, list(tmp_path.iterdir())) == ([], [], [])


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"key_size": "1,x"}, "--key-size: 'x' is not a whole number"),
        ({"key_size": "1,0"}, "--key-size 0 is not a number from 1 to"),
        ({"durable": "maybe"}, "--durable: 'maybe' is not yes or no"),
        ({"workload": "classic,ycsb-a"}, "--key-size is of the classic workload"),
        ({"value_bytes": "10,100"}, "--value-bytes is of a YCSB workload"),
        ({"servers": "2,6"}, "--servers 6: the inventory has 1 to 5 servers"),
        ({"limit": "pi1"}, "a table needs at least two servers"),
        ({"repeat": "0"}, "--repeat 0 is not a number from 1 on"),
        ({"repeat": "often"}, "--repeat often is not a whole number"),
        ({"precision": "5"}, "--precision 5.0 is not a number between 0 and 1"),
        ({"link_rate": "10mbit"}, "--link-rate: nobody here can change the links of cluster pis"),
        ({"commands": "5,10", "duration": "1"}, "--duration ends no clients that --commands"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    hosts: Hosts, tmp_path: Path, options: dict[str, Any], why: str, *, dry_run: bool
) -> None:
    code, words = sweep(**options, dry_run=dry_run)
    assert (code, words.count("\n")) == (2, 0)
    assert why in words
    assert (hosts.ran, list(tmp_path.iterdir())) == ([], [])


def test_while_one_sweep_is_at_work_another_is_refused(hosts: Hosts) -> None:
    with library.alone(hosts.logs, load_cluster("pis")):
        code, words = sweep()
    assert (code, hosts.ran) == (1, [])
    assert "another fab sweep is at work on cluster pis" in words


def test_a_rate_that_is_none_is_refused(netns: Hosts) -> None:
    code, words = sweep(link_rate="10mbit,fast")
    assert (code, netns.ran) == (2, [])
    assert words.startswith("--link-rate: 'fast' is no rate")


BEFORE = {"pi1": "100mbit", "pi2": "50mbit"}
ONLY_LINKS: dict[str, Any] = {"key_size": None, "limit": "pi1,pi2", "link_rate": "1mbit,9mbit"}


def test_links_have_each_points_rate_and_then_their_own(netns: Hosts) -> None:
    assert sweep(**ONLY_LINKS) == (0, "")
    had = [tuple(run["links"].values()) for run in netns.ran]
    assert sorted(had[:2]) == sorted(had[2:]) == [("1mbit", "1mbit"), ("9mbit", "9mbit")]
    assert netns.links == BEFORE


def end_with(coming: list[BaseException | None]) -> Callable[[Hosts], None]:
    def happen(netns: Hosts) -> None:
        netns.coming = coming

    return happen


@pytest.mark.parametrize(
    ("happen", "code"),
    [
        (end_with([None, KeyboardInterrupt()]), 130),
        (end_with([None, LOST, LOST]), 1),
        (end_with([APART]), 3),
    ],
)
def test_whatever_ends_it_links_have_their_own_rate_again(
    netns: Hosts, happen: Callable[[Hosts], None], code: int
) -> None:
    happen(netns)
    assert sweep(**ONLY_LINKS)[0] == code
    assert netns.links == BEFORE


def test_links_have_their_own_rate_again_even_after_it_was_killed(
    netns: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    netns.coming = [KeyboardInterrupt()]
    with monkeypatch.context() as killed:
        killed.setattr("tasks.sweeps._Links.restore", lambda _: None)
        assert sweep(**ONLY_LINKS)[0] == 130
    assert netns.links in ({"pi1": rate, "pi2": rate} for rate in ("1mbit", "9mbit"))
    assert sweep(**ONLY_LINKS) == (0, "")
    assert netns.links == BEFORE
    assert netns.state["rates_before"] is None


def test_a_link_that_cannot_be_set_ends_it_and_is_named(netns: Hosts, capsys: Capture) -> None:
    netns.broken = {"pi1"}
    code, words = sweep(**ONLY_LINKS)
    assert (code, netns.ran) == (1, [])
    assert words.startswith("tc: no pi1\ntwo runs in a row came to nothing")
    out = capsys.readouterr().out
    assert "pi1: its link does not have its 100mbit again: tc: no pi1" in out
    assert netns.links["pi2"] == "50mbit", "the others have"


def test_the_last_hosts_link_alone_is_slowed_and_loses_packets(netns: Hosts) -> None:
    chosen = {"one_link_rate": "1mbit", "one_loss": "0,5", "repeat": "1"}
    assert sweep(**{**ONLY_LINKS, "link_rate": None, **chosen}) == (0, "")
    assert [run["links"] for run in netns.ran] == [{"pi1": "100mbit", "pi2": "1mbit"}] * 2
    assert sorted(run["faults"] for run in netns.ran) == [[], ["loss of 5 %"]]
    assert (netns.links, netns.faults) == (BEFORE, [])


def test_a_loss_that_would_end_before_the_run_is_refused(netns: Hosts) -> None:
    code, words = sweep(limit="pi1,pi2", one_loss="0,5", duration="10,590")
    assert (code, netns.ran) == (2, [])
    assert words.startswith("--one-loss ends after 600 s")


def test_a_suite_is_one_sweep_of_all_its_parts(netns: Hosts, capsys: Capture) -> None:
    words = {"key_size": None, "limit": "pi1,pi2", "duration": "2", "repeat": "1"}
    assert sweep(**words, suite="original") == (0, "")
    parts = netns.state["parts"]
    assert list(parts) == list(SUITES["original"])
    assert all(axes["duration"] == [2.0] for axes in parts.values())
    assert len(netns.ran) == len(netns.state["points"]) == 34
    assert netns.state["suite"] == "original"
    out = capsys.readouterr().out
    assert "] key-size --key-size 4 --profile fast" in out
    assert [line for line in out.splitlines() if line in parts] == list(parts)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"suite": "unknown"}, "--suite unknown is none of original"),
        ({"suite": "original"}, "--key-size: part key-size of the suite sweeps it itself"),
    ],
)
def test_a_suite_that_cannot_be_is_refused(netns: Hosts, options: dict[str, Any], why: str) -> None:
    assert sweep(**options) == (2, why)
    assert netns.ran == []
