"""Power cuts, cables taken out and disks that refuse, on hosts with real sshd and real links."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster import connection, experiment, processes, release, runs
from cluster.collect import collect
from cluster.console import Screen
from cluster.errors import HostsFailedError, HostUnreachableError
from cluster.fanout import Results
from cluster.inventory import Cluster, Host
from cluster.namespace import inside
from cluster.operator import Operator, close_connections
from cluster.options import ServerOptions
from cluster.release import Release
from lab import netns
from lab.host_files import USER_ID
from tests.cluster.three_hosts import in_host
from tests.needs import NETNS

pytestmark = NETNS
ROOT = Path(__file__).parents[2]
HOSTS = netns.addresses(3)
LIMIT_S = 2  # instead of LINK_TIMEOUT_S, to wait less
LATE_S = 5.0  # after which a dead link is noticed at the latest, with such a limit


class Watched(Screen):
    """A screen that tells a test how far a transfer is."""

    moved = 0

    def __init__(self, act: Callable[[str, int], None] = lambda *_: None) -> None:
        super().__init__()
        self._act = act

    @contextmanager
    def transfer(self, *_: object) -> Iterator[Callable[[str, int], None]]:
        def move(host: str, size: int) -> None:
            if host == "pi2":
                self.moved += size
            self._act(host, self.moved)

        yield move


class Doomed(Operator):
    """An operator to whose hosts something happens BEFORE a step."""

    def __init__(self, cluster: Cluster, step: str, act: Callable[[], None]) -> None:
        super().__init__(cluster, Screen())
        self._step, self._act = step, act

    def each(self, step: str, *words: Any, **named: Any) -> Results:
        if step == self._step:
            self._act()
        return super().each(step, *words, **named)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("outages") / "lab"
    assert netns.up(folder, HOSTS)
    yield folder
    assert netns.down(folder)


@pytest.fixture
def cluster(lab: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The lab's hosts, reached from here; after the test all have power and cable again."""
    monkeypatch.setattr(connection, "LINK_TIMEOUT_S", LIMIT_S)
    monkeypatch.setattr(connection, "KEEPALIVE_S", 1)
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_S", LIMIT_S)
    key = lab / "id_ed25519"
    hosts = tuple(Host(name, address, identity_file=key) for name, address in HOSTS.items())
    made = Cluster("here", lab / "here.yaml", "", lab / "known_hosts", hosts, {}, lab / "operator")
    with inside(made.network_namespace):
        yield made
        close_connections()
    for name in HOSTS:
        netns.power_on(lab, name)
        netns.cable(lab, name, plugged=True)
        netns.rate(lab, name, netns.DEFAULT_RATE)


@pytest.fixture
def built(cluster: Cluster, tmp_path: Path) -> list[Release]:
    """Two releases, of which the first is current; it does not compress well."""
    made = []
    for name in ("old", "new"):
        source = tmp_path / name / "rdht" / "__init__.py"
        source.parent.mkdir(parents=True)
        source.write_text(f"# {os.urandom(100_000).hex()}\n", encoding="utf-8")
        made.append(release.build(tmp_path / name))
    _deploy(Operator(cluster, Screen()), made[0])
    return made


def _deploy(operator: Operator, built: Release) -> None:
    experiment.deploy(operator, built, operator.cluster.known_hosts.parent / "desk")


def _base(lab: Path, host: str) -> Path:
    return lab / host / "home" / "rdht" / "here"


def _current(lab: Path) -> list[str]:
    return [(_base(lab, host) / "current").readlink().name for host in HOSTS]


def _left(lab: Path) -> list[Path]:
    """Return all that a deploy leaves only while it goes on."""
    bases = [_base(lab, host) for host in HOSTS]
    return [path for base in bases for path in (*base.glob("deploy.lock"), *base.rglob("*.tmp"))]


def test_a_power_cut_while_it_stages(lab: Path, cluster: Cluster, built: list[Release]) -> None:
    netns.rate(lab, "pi2", "1mbit")

    def cut(host: str, sent: int) -> None:
        if host == "pi2" and sent > len(built[1].bundle) / 2:
            netns.power_off(lab, "pi2")

    operator = Operator(cluster, Watched(cut))
    with pytest.raises(HostsFailedError, match=r"^pi2: stage failed: .*was lost") as caught:
        _deploy(operator, built[1])
    assert "every host keeps its old release" in str(caught.value)
    assert _current(lab) == [built[0].name] * 3
    assert _left(lab) == [_base(lab, "pi2") / "deploy.lock"], "who has no power cannot let go"
    (_base(lab, "pi2") / "releases" / f"{built[1].name}.12.tmp").mkdir()  # as if a moment later
    netns.power_on(lab, "pi2")
    netns.rate(lab, "pi2", netns.DEFAULT_RATE)
    _deploy(Operator(cluster, Screen()), built[1])
    assert _current(lab) == [built[1].name] * 3
    assert _left(lab) == []


def test_a_power_cut_between_stage_and_flip(
    lab: Path, cluster: Cluster, built: list[Release]
) -> None:
    operator = Doomed(cluster, "flip", lambda: netns.power_off(lab, "pi2"))
    began_s = time.monotonic()
    with pytest.raises(HostsFailedError, match=r"^pi2: flip failed: ") as caught:
        _deploy(operator, built[1])
    assert time.monotonic() - began_s < 2 * LATE_S
    assert "Every other host has its old release again." in str(caught.value)
    assert _current(lab) == [built[0].name] * 3
    netns.power_on(lab, "pi2")
    _deploy(Operator(cluster, Screen()), built[1])
    assert _current(lab) == [built[1].name] * 3
    assert _left(lab) == []


@contextmanager
def _read_only(lab: Path) -> Iterator[None]:
    in_host(lab, "pi2", "mount", "--bind", "/home/pi/rdht", "/home/pi/rdht")
    in_host(lab, "pi2", "mount", "-o", "remount,bind,ro", "/home/pi/rdht")
    yield
    in_host(lab, "pi2", "umount", "/home/pi/rdht")


@contextmanager
def _full(lab: Path) -> Iterator[None]:
    place, owner = "/home/pi/rdht/here/releases", f"uid={USER_ID}"
    in_host(lab, "pi2", "mount", "-t", "tmpfs", "-o", f"size=32k,{owner}", "tmpfs", place)
    yield
    in_host(lab, "pi2", "umount", place)


@contextmanager
def _of_root(lab: Path) -> Iterator[None]:
    place = _base(lab, "pi2")
    os.chown(place, 0, 0)
    yield
    os.chown(place, USER_ID, USER_ID)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (_read_only, r"probe failed: Read-only file system: /home/pi/rdht/.*mount it writable"),
        (_full, r"stage failed: No space left on device: /home/pi/rdht/.*0\.0 MB are free"),
        (_of_root, r"probe failed: Permission denied: .*belongs to root, mode 755, and this is pi"),
    ],
)
def test_a_disk_that_refuses_is_one_line_and_changes_nothing(
    lab: Path,
    cluster: Cluster,
    built: list[Release],
    spoil: Callable[[Path], Any],
    line: str,
) -> None:
    with spoil(lab), pytest.raises(HostsFailedError, match=f"^pi2: {line}") as caught:
        _deploy(Operator(cluster, Screen()), built[1])
    assert len(str(caught.value).splitlines()) == 2
    assert _current(lab) == [built[0].name] * 3
    assert _left(lab) == []
    _deploy(Operator(cluster, Screen()), built[1])
    assert _current(lab) == [built[1].name] * 3


@pytest.mark.parametrize("size_bytes", [0, 64_000_000], ids=["waiting", "sending"])
def test_a_step_ends_in_time_when_the_cable_is_out(
    lab: Path, cluster: Cluster, size_bytes: int
) -> None:
    here = Operator(cluster, Screen()).connection(cluster.hosts[0])
    assert list(here.lines("echo here", b"", 10.0, lambda _: None)) == ["here\n"]
    netns.cable(lab, "pi1", plugged=False)
    began_s = time.monotonic()
    with pytest.raises(HostUnreachableError, match=r"10\.77\.0\.11:22 was lost"):
        list(here.lines("sleep 60", bytes(size_bytes), 120.0, lambda _: None))
    assert time.monotonic() - began_s < LATE_S


def test_a_file_goes_on_after_a_cable_was_out_and_a_dead_host_stops_no_other(
    lab: Path, cluster: Cluster, tmp_path: Path
) -> None:
    run = runs.begin(tmp_path / "logs", cluster, "0123", dry_run=False)
    content = os.urandom(4_000_000)
    for host in HOSTS:
        folder = _base(lab, host) / "runs" / run.name
        folder.mkdir(parents=True)
        (folder / "server.log").write_bytes(content)
        for path in (folder, folder.parent, folder.parent.parent):
            os.chown(path, USER_ID, USER_ID)
    netns.rate(lab, "pi2", "10mbit")
    netns.power_off(lab, "pi3")

    def pull(host: str, received: int) -> None:
        if host == "pi2" and received > len(content) / 4:
            netns.cable(lab, "pi2", plugged=False)

    results = collect(Operator(cluster, Watched(pull)), run)
    assert list(results.values) == ["pi1"]
    assert "10.77.0.12:22 was lost" in str(results.failures["pi2"])
    assert "no connection to 10.77.0.13:22" in str(results.failures["pi3"])
    part = (run.host_folder("pi2") / "server.log.part").stat().st_size
    assert len(content) / 4 < part < len(content)
    netns.cable(lab, "pi2", plugged=True)
    netns.rate(lab, "pi2", netns.DEFAULT_RATE)
    netns.power_on(lab, "pi3")
    screen = Watched()
    assert collect(Operator(cluster, screen), run).require() == dict.fromkeys(HOSTS, len(content))
    assert screen.moved == len(content) - part
    for host in HOSTS:
        assert (run.host_folder(host) / "server.log").read_bytes() == content


def test_a_run_goes_on_after_a_host_was_rebooted(
    lab: Path, cluster: Cluster, tmp_path: Path
) -> None:
    operator = Operator(cluster, Screen())
    built = release.build(ROOT)
    _deploy(Operator(cluster, Screen()), built)
    run = runs.begin(tmp_path / "logs", cluster, built.name, dry_run=False)
    experiment.start_servers(operator, run, ServerOptions())
    try:
        netns.power_off(lab, "pi2")
        netns.power_on(lab, "pi2")
        close_connections()  # as at the end of a task
        found = processes.server_run(operator)
        assert found is not None
        assert found.missing == ["pi2"]
        experiment.restart_servers(operator, run, found.missing)
        found = processes.server_run(operator)
        assert found is not None
        assert (found.run, found.missing) == (run.name, [])
    finally:
        stopped = processes.stop(operator, ["server"]).require()
    assert stopped == {host: [f"server {host}"] for host in HOSTS}
