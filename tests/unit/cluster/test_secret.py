"""The secret: made once at the desk, delivered to hosts that lack it, never under running servers.

The hosts are folders; what runs on them is the real node side, and a fake stands for ssh.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster import secret
from cluster.console import Screen
from cluster.errors import ClusterError, HostError, HostsFailedError, UsageError
from cluster.fanout import Results
from cluster.inventory import Cluster, Host
from cluster.operator import Operator
from cluster.remote import Call
from rdht.authentication import make_secret, read_secret
from rdht.errors import ConfigurationError
from rdht.node import secret as on_host
from rdht.node.host import Folders, NodeError, secret_digest


class Shelf:
    """Stands for an Operator: three hosts in folders, on which processes may run."""

    def __init__(self, cluster: Cluster, homes: Path) -> None:
        self.cluster = cluster
        self.screen = Screen()
        self.dry_run = False
        self.busy: set[str] = set()
        self.got: list[str] = []
        self._homes = homes

    def folders(self, host: str) -> Folders:
        folders = Folders("shelf")
        folders.base = self._homes / host
        folders.secret = folders.base / "secret"
        return folders

    def digests(self) -> dict[str, str | None]:
        return {host.name: secret_digest(self.folders(host.name)) for host in self.cluster.hosts}

    def each(self, step: str, call: Call | Callable[[Host], Call | None], **_: Any) -> Results:
        results = Results(step)
        for host in self.cluster.hosts:
            made = call(host) if callable(call) else call
            if made is None:
                continue
            if made.command == "processes.status":
                rows = [{"name": host.name}] if host.name in self.busy else []
                results.values[host.name] = {"current": "x", "processes": rows}
                continue
            assert made.command == "secret.put"
            self.got.append(host.name)
            arguments = {**made.arguments, "secret": made.secret}
            try:
                results.values[host.name] = on_host.put(self.folders(host.name), arguments, b"")
            except NodeError as error:
                results.failures[host.name] = HostError(str(error))
        return results


@pytest.fixture
def shelf(make_cluster: Callable[..., Cluster], tmp_path: Path) -> Any:
    return Shelf(make_cluster(3), tmp_path / "homes")


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    return tmp_path / "checkout" / ".rdht" / "shelf"


@pytest.fixture
def other_desk(tmp_path: Path) -> Path:
    return tmp_path / "another" / ".rdht" / "shelf"


def deliver(shelf: Any, desk: Path) -> list[str]:
    return secret.deliver(shelf, desk, shelf.digests())


def held(shelf: Any) -> set[bytes]:
    return {read_secret(shelf.folders(host.name).secret) for host in shelf.cluster.hosts}


ALL = ["pi1", "pi2", "pi3"]


def test_the_first_delivery_makes_it_and_the_second_does_nothing(shelf: Any, desk: Path) -> None:
    assert deliver(shelf, desk) == ALL
    assert held(shelf) == {read_secret(desk / "secret")}
    assert (desk / "secret").stat().st_mode & 0o777 == 0o600
    assert desk.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in desk.iterdir()] == ["secret"]
    shelf.got.clear()
    assert deliver(shelf, desk) == []
    assert shelf.got == []


def test_every_cluster_gets_its_own(shelf: Any, desk: Path, other_desk: Path) -> None:
    deliver(shelf, desk)
    deliver(shelf, other_desk)
    assert read_secret(desk / "secret") != read_secret(other_desk / "secret")


def test_a_folder_that_others_could_open_is_closed(shelf: Any, desk: Path) -> None:
    desk.mkdir(parents=True, mode=0o755)
    deliver(shelf, desk)
    assert desk.stat().st_mode & 0o777 == 0o700


def test_a_host_that_lacks_it_gets_it_also_while_others_run(shelf: Any, desk: Path) -> None:
    deliver(shelf, desk)
    shelf.folders("pi2").secret.unlink()
    shelf.busy = {"pi1"}
    assert deliver(shelf, desk) == ["pi2"]
    assert len(held(shelf)) == 1


@pytest.mark.parametrize("busy", ["pi1", "pi3"])
def test_another_desks_secret_stays_while_any_process_runs(
    shelf: Any, desk: Path, other_desk: Path, busy: str
) -> None:
    deliver(shelf, other_desk)
    theirs = held(shelf)
    text = make_secret()
    desk.mkdir(parents=True)
    (desk / "secret").touch(mode=0o600)
    (desk / "secret").write_text(text, encoding="ascii")
    shelf.busy = {busy}
    with pytest.raises(ClusterError) as caught:
        deliver(shelf, desk)
    why = str(caught.value)
    assert why.startswith("pi1, pi2, pi3: another secret is there")
    assert f"use it on {busy}:" in why
    assert "fab stop" in why
    assert len(why.splitlines()) == 1
    assert text.strip() not in why
    assert held(shelf) == theirs


def test_a_desk_without_one_makes_none_while_the_hosts_use_theirs(
    shelf: Any, desk: Path, other_desk: Path
) -> None:
    deliver(shelf, other_desk)
    theirs = held(shelf)
    shelf.busy = {"pi2"}
    with pytest.raises(ClusterError, match="this desk has none"):
        deliver(shelf, desk)
    assert not desk.exists()
    assert held(shelf) == theirs


def test_another_desks_secret_gives_way_where_nothing_runs_and_that_is_said(
    shelf: Any, desk: Path, other_desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deliver(shelf, other_desk)
    capsys.readouterr()
    assert deliver(shelf, desk) == ALL
    assert held(shelf) == {read_secret(desk / "secret")}
    assert "it took the place of another desk's secret" in capsys.readouterr().out


def test_a_secret_that_changed_in_between_is_not_replaced(
    shelf: Any, desk: Path, other_desk: Path
) -> None:
    digests = shelf.digests()
    deliver(shelf, other_desk)
    with pytest.raises(HostsFailedError, match="pi1: deliver secret failed: its secret has just"):
        secret.deliver(shelf, desk, digests)
    assert held(shelf) == {read_secret(other_desk / "secret")}


def test_it_is_never_shown(
    shelf: Any, desk: Path, other_desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deliver(shelf, other_desk)
    deliver(shelf, desk)
    shown = "".join(capsys.readouterr())
    for one in (desk, other_desk):
        assert (one / "secret").read_text(encoding="ascii").strip() not in shown
    assert str(desk / "secret") in shown.replace("\n", "")


def test_a_dry_run_makes_none_and_plans_to_deliver_it(
    make_cluster: Callable[..., Cluster], desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = Operator(make_cluster(2), Screen(), dry_run=True)
    assert secret.deliver(operator, desk, {"pi1": None, "pi2": None}) == []
    assert not desk.exists()
    assert capsys.readouterr().out.count("would deliver secret on pi") == 2


def test_hosts_are_compared_with_the_desk(shelf: Any, desk: Path, other_desk: Path) -> None:
    assert set(secret.compare(desk, shelf.digests()).values()) == {"missing"}
    deliver(shelf, other_desk)
    assert set(secret.compare(desk, shelf.digests()).values()) == {"no"}
    deliver(shelf, desk)
    shelf.folders("pi2").secret.chmod(0o644)
    shelf.folders("pi3").secret.unlink()
    compared = secret.compare(desk, shelf.digests())
    assert compared == {"pi1": "yes", "pi2": "no", "pi3": "missing"}
    assert json.dumps(compared)


def test_a_desks_file_that_is_not_to_be_used_is_a_mistake_that_says_what_to_do(
    shelf: Any, desk: Path
) -> None:
    deliver(shelf, desk)
    (desk / "secret").chmod(0o644)
    for act in (deliver, lambda shelf, desk: secret.compare(desk, shelf.digests())):
        with pytest.raises(UsageError, match=r"mode 0644 .*fab deploy makes another one"):
            act(shelf, desk)


def test_a_desk_that_cannot_keep_one_says_so(shelf: Any, desk: Path) -> None:
    desk.parent.mkdir(parents=True)
    desk.touch()  # as .rdht/cluster is a file
    with pytest.raises(ClusterError, match="cannot keep a secret"):
        deliver(shelf, desk)
    assert shelf.got == []


def test_two_tasks_that_make_it_at_once_agree(
    shelf: Any, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_while_another_does() -> str:
        monkeypatch.setattr(secret, "make_secret", make_secret)
        deliver(shelf, desk)
        return make_secret()

    monkeypatch.setattr(secret, "make_secret", make_while_another_does)
    with pytest.raises(HostsFailedError):  # the other one was faster on the hosts too
        deliver(shelf, desk)
    assert held(shelf) == {read_secret(desk / "secret")}
    assert [path.name for path in desk.iterdir()] == ["secret"]


def test_what_is_no_secret_reads_as_none_on_a_host(shelf: Any, desk: Path) -> None:
    folders = shelf.folders("pi1")
    folders.base.mkdir(parents=True)
    folders.secret.mkdir()
    assert secret_digest(folders) == "unusable"
    with pytest.raises(ConfigurationError):
        read_secret(folders.secret)
