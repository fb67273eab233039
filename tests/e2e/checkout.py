"""A clone of the repository in which tests type what a user types."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

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
    """A user's clone of the repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.inventory = folder / "inventory" / "lab.yaml"
        self.lab = folder / ".rdht" / "lab"

    def start(self, *words: str, cluster: str = "lab") -> "subprocess.Popen[str]":
        """Start fab without waiting for it."""
        return subprocess.Popen(
            [sys.executable, "-m", "fabric", *words],
            cwd=self.folder,
            env={**os.environ, "RDHT_CLUSTER": cluster},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def fab(self, *words: str, code: int = 0, cluster: str = "lab") -> Outcome:
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
        return self.lab / host / "home" / "rdht" / "lab"

    def pid(self, host: str, role: str) -> int:
        """Return the process id of a host's server or client in the latest run."""
        record = self.home(host) / "runs" / self.latest() / f"{role}.process.json"
        return int(json.loads(record.read_text(encoding="utf-8"))["pid"])

    def ports(self) -> dict[str, dict[str, int]]:
        """Return each host's ssh_port and server_port."""
        text = self.inventory.read_text(encoding="utf-8")
        rows = re.findall(r"(pi\d):\n\s+ssh_port: (\d+)\n\s+server_port: (\d+)", text)
        return {
            host: {"ssh_port": int(ssh), "server_port": int(server)} for host, ssh, server in rows
        }

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
