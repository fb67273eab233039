"""Hosts in folders: what runs on them is the real node side, and a fake stands for ssh."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import deploy_lock, release
from cluster.errors import HostError
from cluster.fanout import Results
from cluster.inventory import Cluster, Host
from cluster.release import Release
from cluster.remote import Call
from rdht.node import releases
from rdht.node.host import Folders, NodeError, read_json

SOURCES = {
    "rdht/__init__.py": "",
    "rdht/ring.py": "RING = 1\n",
    "rdht/node/__main__.py": "print('node')\n",
}
BEFORE, AFTER = "before it was done", "after it was done"  # when a host fails


class FakeScreen:
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    warn = note

    @contextmanager
    def transfer(self, *_: object) -> Iterator[Callable[[str, int], None]]:
        yield lambda *_: None


class Shelf:
    """Stands for an Operator: hosts in folders, which can fail in a step."""

    def __init__(self, cluster: Cluster, homes: Path) -> None:
        self.cluster = cluster
        self.screen = FakeScreen()
        self.dry_run = False
        self.calls: list[tuple[str, str]] = []
        self.failing: dict[tuple[str, str], str] = {}
        self.acts: dict[tuple[str, str], Callable[[], object]] = {}  # BEFORE a step on a host
        self.clocks: dict[str, float] = {}
        self._homes = homes

    def folders(self, host: str) -> Folders:
        folders = Folders("shelf")
        base = self._homes / host
        for name in ("releases", "runs", "current", "previous", "secret"):
            setattr(folders, name, base / name)
        folders.base = base
        return folders

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
            made = call if isinstance(call, Call) else call(host)
            if made is None:
                continue
            self.calls.append((step, host.name))
            failure = self.failing.pop((step, host.name), None)
            self.acts.pop((step, host.name), lambda: None)()
            module, _dot, function = made.command.partition(".")
            assert module == "releases"
            if failure != BEFORE:
                act = getattr(releases, function)
                arguments = {**made.arguments, **({"secret": made.secret} if made.secret else {})}
                try:
                    answer = act(self.folders(host.name), arguments, made.payload)
                    if step == "probe":
                        answer["clock_offset_s"] = self.clocks.get(host.name, 0.0)
                    results.values[host.name] = answer
                except NodeError as error:
                    results.failures[host.name] = HostError(str(error))
            if failure is not None:
                results.values.pop(host.name, None)
                results.failures[host.name] = HostError(failure)
        return results

    def steps(self) -> list[str]:
        """Return the steps since the last time, in order, each once."""
        steps = list(dict.fromkeys(step for step, _ in self.calls))
        self.calls.clear()
        return steps

    def locks(self) -> list[dict[str, Any] | None]:
        """Return the deploy lock on each host."""
        paths = [self.folders(host.name).base / "deploy.lock" for host in self.cluster.hosts]
        return [read_json(path) for path in paths]

    def linked(self, link: str) -> list[str | None]:
        """Return what a link points to on each host."""
        every = [self.folders(host.name) for host in self.cluster.hosts]
        return [folders.linked(getattr(folders, link)) for folders in every]


def deploy(shelf: Any, built: Release, *, break_lock: bool = False) -> dict[str, str]:
    """Deploy as the task does, but for the secret."""
    wanted = {"current": built.name}
    with deploy_lock.changing(shelf, "deploy", wanted, {}, break_lock=break_lock) as was:
        return release.deploy(shelf, built, was)
