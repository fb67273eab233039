"""Fetching a run: verified, resumed, and one host that fails stops no other.

The hosts are folders; listing and removing is the real node side, a fake stands for ssh and sftp.
"""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from cluster import runs
from cluster.collect import collect, purge
from cluster.connection import Connection
from cluster.console import Screen
from cluster.errors import HostError, HostsFailedError, HostUnreachableError
from cluster.fanout import Results
from cluster.inventory import Cluster, Host
from cluster.operator import Operator
from cluster.remote import Call
from cluster.runs import Run
from rdht.node import files
from rdht.node.host import Folders


class FakeConnection:
    """What a host's files are fetched through; can break after some bytes, or spoil some."""

    fetch = Connection.fetch
    _where = "10.0.0.9:22"

    def __init__(self, home: Path) -> None:
        self.home = home
        self.read: dict[str, int] = {}  # bytes read of each file
        self.breaks_after: int | None = None
        self.spoils = 0  # how many openings still give wrong bytes
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def sftp(self) -> Self:
        return self

    def get_channel(self) -> Self:
        return self

    def settimeout(self, timeout_s: float) -> None:
        assert timeout_s > 0

    def open(self, remote: str | None = None, mode: str = "") -> Any:
        if remote is None:
            return None
        assert mode == "rb"
        spoiled = self.spoils > 0
        self.spoils -= spoiled
        return FakeFile(self, remote, spoiled=spoiled)


class FakeFile(io.BytesIO):
    def __init__(self, connection: FakeConnection, remote: str, *, spoiled: bool) -> None:
        content = (connection.home / remote).read_bytes()
        super().__init__(bytes(len(content)) if spoiled else content)
        self._connection = connection
        self._name = remote.rpartition("/")[2]

    def prefetch(self, size_bytes: int) -> None:
        assert size_bytes >= 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        read = self._connection.read
        read[self._name] = read.get(self._name, 0) + len(data)
        limit = self._connection.breaks_after
        if limit is not None and sum(read.values()) > limit:
            raise EOFError
        return data


class FakeScreen:
    def __init__(self) -> None:
        self.moved: dict[str, int] = {}

    @contextmanager
    def transfer(self, what: str, sizes: dict[str, int]) -> Iterator[Callable[[str, int], None]]:
        assert what

        def received(host: str, size: int) -> None:
            assert host in sizes
            self.moved[host] = self.moved.get(host, 0) + size

        yield received


class Shelf:
    """Stands for an Operator."""

    def __init__(self, cluster: Cluster, homes: Path, setenv: Callable[[str, str], None]) -> None:
        self.cluster = cluster
        self.dry_run = False
        self.screen = FakeScreen()
        self.connections = {host.name: FakeConnection(homes / host.name) for host in cluster.hosts}
        self.failing: set[str] = set()
        self._setenv = setenv

    def connection(self, host: Host) -> FakeConnection:
        return self.connections[host.name]

    def folders(self, host: str) -> Folders:
        self._setenv("HOME", str(self.connections[host].home))
        return Folders("shelf")

    def each(self, step: str, call: Any, **_: object) -> Results:
        results = Results(step)
        for host in self.cluster.hosts:
            made = call if isinstance(call, Call) else call(host)
            if made is None:
                continue
            if host.name in self.failing:
                results.failures[host.name] = HostUnreachableError("no connection")
            else:
                act = getattr(files, made.command.removeprefix("files."))
                results.values[host.name] = act(self.folders(host.name), made.arguments, b"")
        return results

    def restart(self) -> None:
        """Forget what was read so far."""
        for connection in self.connections.values():
            connection.read.clear()
            connection.breaks_after = None


CONTENTS = {"server.log": os.urandom(100_000), "results.json": b"{}\n", "empty.log": b""}


@pytest.fixture
def run(tmp_path: Path, make_cluster: Callable[..., Cluster]) -> Run:
    return runs.begin(tmp_path / "logs", make_cluster(3), "0123456789ab", dry_run=False)


@pytest.fixture
def shelf(
    tmp_path: Path,
    make_cluster: Callable[..., Cluster],
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    made = Shelf(make_cluster(3), tmp_path / "homes", monkeypatch.setenv)
    for name in made.connections:
        folder = made.folders(name).run(run.name)
        folder.mkdir(parents=True)
        for file, content in CONTENTS.items():
            (folder / file).write_bytes(content)
    return made


def held(run: Run, host: str) -> dict[str, bytes]:
    folder = run.host_folder(host)
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def test_every_file_of_every_host_is_here_afterwards(shelf: Any, run: Run) -> None:
    results = collect(shelf, run)
    total = sum(map(len, CONTENTS.values()))
    assert results.require() == {"pi1": total, "pi2": total, "pi3": total}
    assert shelf.screen.moved == results.values
    for host in results.values:
        assert held(run, host) == CONTENTS
    assert run.manifest["collected"] == ["pi1", "pi2", "pi3"]
    assert run.manifest["not_collected"] == {}


def test_nothing_on_a_host_is_changed_by_it(shelf: Any, run: Run) -> None:
    collect(shelf, run)
    for connection in shelf.connections.values():
        left = {path.name: path.read_bytes() for path in connection.home.rglob("*.*")}
        assert {name: left[name] for name in CONTENTS} == CONTENTS


def test_what_is_here_and_complete_is_not_fetched_again(shelf: Any, run: Run) -> None:
    collect(shelf, run)
    shelf.restart()
    assert collect(shelf, run).require()["pi1"] == sum(map(len, CONTENTS.values()))
    assert all(connection.read == {} for connection in shelf.connections.values())


def test_a_file_that_has_changed_since_is_fetched_again(shelf: Any, run: Run) -> None:
    collect(shelf, run)
    (shelf.folders("pi2").run(run.name) / "server.log").write_bytes(b"longer now" * 20_000)
    shelf.restart()
    collect(shelf, run).require()
    assert held(run, "pi2")["server.log"] == b"longer now" * 20_000
    assert set(shelf.connections["pi2"].read) == {"server.log"}
    assert shelf.connections["pi1"].read == {}


def test_a_file_here_that_has_another_content_is_fetched_again(shelf: Any, run: Run) -> None:
    collect(shelf, run)
    (run.host_folder("pi2") / "results.json").write_bytes(b"[]\n")  # of the same size
    collect(shelf, run).require()
    assert held(run, "pi2") == CONTENTS


def test_a_part_is_completed(shelf: Any, run: Run) -> None:
    folder = run.host_folder("pi1")
    folder.mkdir(parents=True)
    (folder / "server.log.part").write_bytes(CONTENTS["server.log"][:99_000])
    collect(shelf, run).require()
    assert held(run, "pi1") == CONTENTS
    assert shelf.connections["pi1"].read["server.log"] == 1000


def test_a_part_that_is_complete_already_only_takes_its_name(shelf: Any, run: Run) -> None:
    folder = run.host_folder("pi1")
    folder.mkdir(parents=True)
    (folder / "server.log.part").write_bytes(CONTENTS["server.log"])
    collect(shelf, run).require()
    assert held(run, "pi1") == CONTENTS
    assert shelf.connections["pi1"].read.get("server.log", 0) == 0


@pytest.mark.parametrize("part", [b"wrong" * 1000, b"wrong" * 20_000, b"too long" * 20_000])
def test_a_part_of_something_else_is_fetched_afresh(shelf: Any, run: Run, part: bytes) -> None:
    folder = run.host_folder("pi1")
    folder.mkdir(parents=True)
    (folder / "server.log.part").write_bytes(part)
    collect(shelf, run).require()
    assert held(run, "pi1") == CONTENTS


def test_a_connection_that_breaks_leaves_a_part_to_go_on_from(shelf: Any, run: Run) -> None:
    shelf.connections["pi2"].breaks_after = 70_000
    results = collect(shelf, run)
    assert set(results.failures) == {"pi2"}
    assert isinstance(results.failures["pi2"], HostUnreachableError)
    assert shelf.connections["pi2"].closed
    assert "server.log" not in held(run, "pi2")
    got = len(held(run, "pi2")["server.log.part"])
    assert 0 < got < 100_000
    shelf.restart()
    collect(shelf, run).require()
    assert held(run, "pi2") == CONTENTS
    assert shelf.connections["pi2"].read["server.log"] == 100_000 - got


def test_one_wrong_transfer_is_tried_afresh(shelf: Any, run: Run) -> None:
    shelf.connections["pi2"].spoils = 1
    collect(shelf, run).require()
    assert held(run, "pi2") == CONTENTS


def test_a_checksum_that_is_wrong_twice_is_a_failure_that_names_the_file(
    shelf: Any, run: Run
) -> None:
    (shelf.folders("pi2").run(run.name) / "empty.log").unlink()
    shelf.connections["pi2"].spoils = 2
    results = collect(shelf, run)
    assert list(results.failures) == ["pi2"]
    assert "results.json" in str(results.failures["pi2"])
    assert "results.json" not in held(run, "pi2")
    assert held(run, "pi1") == held(run, "pi3") == CONTENTS
    shelf.restart()
    collect(shelf, run).require()
    assert held(run, "pi2")["results.json"] == CONTENTS["results.json"]


def test_a_host_that_does_not_answer_stops_no_other_and_is_noted(shelf: Any, run: Run) -> None:
    shelf.failing.add("pi1")
    shelf.connections["pi3"].breaks_after = 0
    results = collect(shelf, run)
    assert list(results.values) == ["pi2"]
    assert held(run, "pi2") == CONTENTS
    again = runs.load(run.folder.parent, run.name)
    assert again.manifest["collected"] == ["pi2"]
    assert list(again.manifest["not_collected"]) == ["pi1", "pi3"]
    assert again.manifest["not_collected"]["pi1"] == "no connection"
    with pytest.raises(HostsFailedError, match=r"(?m)^pi1: collect failed: no connection$"):
        results.require()


def test_collecting_from_some_hosts_keeps_what_is_noted_of_the_others(
    shelf: Any, run: Run, make_cluster: Callable[..., Cluster]
) -> None:
    shelf.failing.add("pi3")
    collect(shelf, run)
    shelf.cluster = make_cluster(3).limited("pi1")
    collect(shelf, run).require()
    assert sorted(run.manifest["collected"]) == ["pi1", "pi2"]
    assert list(run.manifest["not_collected"]) == ["pi3"]


def test_a_dry_run_notes_nothing_as_collected(
    run: Run, make_cluster: Callable[..., Cluster], capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = (run.folder / runs.MANIFEST).read_text(encoding="utf-8")
    collect(Operator(make_cluster(3), Screen(), dry_run=True), run)
    assert (run.folder / runs.MANIFEST).read_text(encoding="utf-8") == manifest
    assert capsys.readouterr().out.count("would list files on") == 3


def test_purge_removes_what_is_named_for_each_host(shelf: Any, run: Run) -> None:
    freed = purge(shelf, {"pi1": [run.name], "pi3": [run.name]})
    assert freed == 2 * sum(map(len, CONTENTS.values()))
    present = {host: shelf.folders(host).run(run.name).exists() for host in shelf.connections}
    assert present == {"pi1": False, "pi2": True, "pi3": False}


def test_purge_of_nothing_asks_no_host(shelf: Any) -> None:
    shelf.failing.update(shelf.connections)
    assert purge(shelf, {"pi1": []}) == 0


def test_purge_fails_if_a_host_does(shelf: Any, run: Run) -> None:
    shelf.failing.add("pi1")
    with pytest.raises(HostsFailedError, match="pi1"):
        purge(shelf, {"pi1": [run.name]})


def test_the_failure_of_a_file_system_here_is_named(shelf: Any, run: Run) -> None:
    folder = run.host_folder("pi1")
    (folder / "server.log.part").mkdir(parents=True)
    results = collect(shelf, run)
    assert list(results.failures) == ["pi1"]
    assert isinstance(results.failures["pi1"], HostError)
    assert held(run, "pi2") == CONTENTS
