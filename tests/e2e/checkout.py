"""A clone of the repository in which tests type what a user types."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from cluster import inventory
from cluster.inventory import Cluster
from cluster.namespace import inside
from lab import processes
from lab.links import RUN_NETNS, Names

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(
    *(".git", ".venv", ".rdht", "logs", ".*_cache", "__pycache__"),
    "*.known_hosts",  # no test can reach a real Pi
)


@dataclass(frozen=True)
class Outcome:
    """What a command gave."""

    code: int
    stdout: str
    stderr: str

    @property
    def shown(self) -> str:
        return self.stdout + self.stderr


class Checkout:
    """A user's clone of the repository, who works with one kind of lab: `lab` or `netns`."""

    def __init__(self, folder: Path, cluster: str = "lab") -> None:
        self.folder = folder
        self.cluster = cluster
        self.inventory = folder / "inventory" / f"{cluster}.yaml"
        self.lab = folder / ".rdht" / cluster

    def start(
        self, *words: str, cluster: str | None = None, stdout: int | IO[str] = subprocess.PIPE
    ) -> "subprocess.Popen[str]":
        """Start fab without waiting for it; with an empty `cluster` on what is selected."""
        return subprocess.Popen(
            [sys.executable, "-m", "fabric", *words],
            cwd=self.folder,
            env={
                **os.environ,
                "RDHT_CLUSTER": self.cluster if cluster is None else cluster,
            },
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )

    def fab(self, *words: str, code: int = 0, cluster: str | None = None) -> Outcome:
        """Run fab; fail the test unless it ends with the exit code."""
        with self.start(*words, cluster=cluster) as process:
            stdout, stderr = process.communicate(timeout=120)
        outcome = Outcome(process.returncode, stdout, stderr)
        assert outcome.code == code, f"fab {' '.join(words)}: {outcome}"
        assert "Traceback" not in outcome.shown
        return outcome

    def json(self, *words: str) -> Any:
        """Run fab with --json and return the one document that it prints."""
        return json.loads(self.fab(*words, "--json").stdout)

    def summary(self) -> dict[str, Any]:
        """Return the summary of the latest run."""
        path = self.folder / "logs" / "latest" / "summary.json"
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return summary

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of the latest run."""
        path = self.folder / "logs" / "latest" / "manifest.json"
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return manifest

    def latest(self) -> str:
        """Return the name of the latest run."""
        return (self.folder / "logs" / "latest").resolve().name

    def home(self, host: str) -> Path:
        """Return a lab host's folder of this cluster."""
        return self.lab / host / "home" / "rdht" / self.cluster

    def pid(self, host: str, role: str) -> int:
        """Return the process id, here, of a host's server or client in the latest run."""
        record = self.home(host) / "runs" / self.latest() / f"{role}.process.json"
        there = int(json.loads(record.read_text(encoding="utf-8"))["pid"])
        if self.cluster != "netns":
            return there
        namespace = RUN_NETNS / Names.of(self.lab).host(host)
        return next(pid for pid in processes.inside([namespace]) if _pid_inside(pid) == there)

    def ports(self) -> dict[str, dict[str, int]]:
        """Return each host's ssh_port and server_port."""
        return {
            host.name: {"ssh_port": host.ssh_port, "server_port": host.server_port}
            for host in self._inventory().hosts
        }

    def connect(self, name: str) -> socket.socket:
        """Connect to a host's server as the operator's desk would."""
        cluster = self._inventory()
        host = next(host for host in cluster.hosts if host.name == name)
        with inside(cluster.network_namespace):
            return socket.create_connection((host.address, host.server_port), timeout=10)

    def _inventory(self) -> Cluster:
        return inventory.load(self.inventory)

    def secret(self) -> str:
        """Return the digits of the lab's secret."""
        return (self.lab / "secret").read_text(encoding="ascii").strip()

    def processes(self) -> list[str]:
        """Return the command lines of all processes that belong to this checkout."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    where = (entry / "cwd").readlink()
                    argv = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                except OSError:
                    continue
                if where.is_relative_to(self.folder):
                    found.append(argv)
        return found

    def wait_for_clients(self, before: str) -> None:
        """Return once every client of the run that follows `before` has reported progress."""
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            latest = self.latest()
            reports = [
                self.home(host) / "runs" / latest / "client.progress.json" for host in self.ports()
            ]
            if latest != before and all(report.exists() for report in reports):
                return
            time.sleep(0.05)  # polling to the deadline
        pytest.fail("the clients did not report")


def _pid_inside(pid: int) -> int:
    """Return the number of a process as its own host counts."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    pytest.fail(f"process {pid} has no number")
