"""Processes on a host, found by their own record and never by name.

A process that was started leaves `<role>[.<number>].process.json` in its run's folder: pid, start
time and boot id tell it from any other process. Signals go through a pidfd, so that a pid that is
used again is never hit.
"""

import json
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rdht.node.host import (
    IDENTITY,
    Folders,
    NodeError,
    boot_id,
    is_alive,
    read_json,
    records,
    start_ticks,
    write_json,
)

STOP_GRACE_S = 12.0  # a client's last command may wait 10 s for a server that is gone
KILL_WAIT_S = 5.0
TAIL_LINES = 5
TAIL_BYTES = 16 * 1024
START_FILE = "start.json"
LINGER = Path("/var/lib/systemd/linger")
RUN_USER = Path("/run/user")


def start(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Start processes in a run's folder; return once each is ready.

    `arguments`: `run`, `release`, `files` (name → JSON to write into the folder first), `folders`
    (to make in it, for nobody else to read), `join` (these clients find the barrier open),
    `processes` (each with `file`, the stem of its log and record, `name`, `role`, and `argv` for
    `python -m rdht`), `ready_timeout_s`. If one does not get ready, all of these are stopped.
    """
    folder = folders.run(arguments["run"])
    release = folders.releases / arguments["release"]
    if not release.is_dir():
        why = f"release {release.name} is not on this host: run fab deploy"
        raise NodeError(why)
    for document in arguments["files"].values():
        if "secret_file" in document and not folders.secret.exists():
            why = "the cluster's secret is not on this host: run fab deploy"
            raise NodeError(why)
    folder.mkdir(parents=True, exist_ok=True)
    for name in arguments["folders"]:
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    for name, document in arguments["files"].items():
        write_json(folder / name, document)
    is_join = arguments.get("join", False)
    if any(process["role"] == "client" for process in arguments["processes"]) and not is_join:
        (folder / START_FILE).unlink(missing_ok=True)  # of some that did not get ready before
    deadline_s = time.monotonic() + arguments["ready_timeout_s"]
    started: list[tuple[dict[str, Any], int]] = []
    try:
        for process in arguments["processes"]:
            started.append(_spawn(folder, release, process))  # noqa: PERF401 - known one by one
        for record, pipe in started:
            _wait_ready(folder, record, pipe, deadline_s)
    except BaseException:
        _stop(folders, [record for record, _ in started])
        raise
    return {"started": [record["name"] for record, _ in started]}


def status(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """List the processes of this cluster that run, or with `run` all that this run had.

    With `figures` each running server is asked for its own. One that has ended has `result`, which
    tells whether it left results, and `tail`, the end of its log.
    """
    processes = []
    for record in records(folders, arguments.get("run")):
        alive = is_alive(record)
        if not alive and "run" not in arguments:
            continue
        shown = ("name", "role", "run", "release", "pid", "started_unix_s")
        row = {key: record[key] for key in shown} | {"alive": alive}
        row["stopped"] = "stopped_unix_s" in record
        if not alive:
            folder = folders.run(record["run"])
            row["result"] = (folder / _results_name(record)).is_file()
            row["tail"] = _tail(folder / f"{record['file']}.log")
        elif arguments.get("figures") and record["role"] == "server":
            row["figures"] = _figures(folders, record)
        processes.append(row)
    return {
        "current": folders.linked(folders.current),
        "processes": processes,
        "time_unix_s": time.time(),
    }


def stop(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Stop the running processes of the roles in `roles`: TERM, grace, KILL, proof."""
    running = [
        record
        for record in records(folders)
        if record["role"] in arguments["roles"] and is_alive(record)
    ]
    killed = _stop(folders, running)
    return {
        "stopped": [f"{record['role']} {record['name']}" for record in running],
        "killed": killed,
    }


def go(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Open the barrier of a run's clients: they start at `start_unix_s` of this host's clock."""
    folder = folders.run(arguments["run"])
    write_json(folder / START_FILE, {"start_unix_s": arguments["start_unix_s"]})
    return {}


def ask(folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Run a subcommand of `python -m rdht` that prints JSON about the servers of a run."""
    return _rdht(folders, arguments["release"], arguments["run"], arguments["argv"])


def _results_name(record: dict[str, Any]) -> str:
    return str(record["file"]).replace("client", "results", 1) + ".json"


def _spawn(folder: Path, release: Path, process: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Start a process in its own group with every stream redirected; record who it is."""
    path = folder / f"{process['file']}.process.json"
    before = read_json(path)
    if before and before.keys() >= IDENTITY and is_alive(before):
        why = f"{process['role']} {process['name']} of run {folder.name} runs already"
        raise NodeError(why)
    read_end, write_end = os.pipe()
    launcher, more = _launcher()
    words = [sys.executable, "-m", "rdht", *process["argv"], "--ready-fd", str(write_end)]
    with (folder / f"{process['file']}.log").open("ab") as log:
        try:
            child = subprocess.Popen(
                [*launcher, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, **more, "PYTHONPATH": str(release)},
                process_group=0,  # sshd gave the step a session already
                pass_fds=[write_end],
            )
        finally:
            os.close(write_end)
    record = {
        **process,
        "run": folder.name,
        "release": release.name,
        "pid": child.pid,
        "start_ticks": start_ticks(child.pid),
        "boot_id": boot_id(),
        "started_unix_s": time.time(),
    }
    try:
        write_json(path, record)
    except BaseException:
        child.kill()  # nobody would find it again
        child.wait()
        raise
    return record, read_end


def _launcher() -> tuple[list[str], dict[str, str]]:
    """Return what a process is started through, and its environment: nothing, or a user's systemd.

    Where that goes on after logout, a scope of it keeps logind from ending the process, and gives
    it a cgroup. systemd-run becomes the program itself: same pid, start time, streams and folder.
    """
    runtime = RUN_USER / str(os.geteuid())
    program = shutil.which("systemd-run")
    lingers = (LINGER / pwd.getpwuid(os.geteuid()).pw_name).exists()
    if program is None or not lingers or not (runtime / "systemd" / "private").exists():
        return [], {}
    options = ["--user", "--scope", "--quiet", "--collect", "--"]
    return [program, *options], {"XDG_RUNTIME_DIR": str(runtime)}


def _wait_ready(folder: Path, process: dict[str, Any], pipe: int, deadline_s: float) -> None:
    """Wait for the process's line on the pipe; NodeError with its log's end if none comes."""
    with os.fdopen(pipe, "rb") as stream:
        left_s = max(0.0, deadline_s - time.monotonic())
        if select.select([stream], [], [], left_s)[0]:
            if stream.readline():
                return
            why = f"{process['role']} {process['name']} ended while starting"
        else:
            why = f"{process['role']} {process['name']} was not ready in time"
    tail = _tail(folder / f"{process['file']}.log")
    why += f": {tail[-1] if tail else 'its log is empty'}"
    raise NodeError(why)


def _stop(folders: Folders, records: list[dict[str, Any]]) -> list[str]:
    """End processes for certain, and note that; return the names of those that needed KILL."""
    waiting = {}
    for record in records:
        try:
            descriptor = os.pidfd_open(record["pid"])
        except ProcessLookupError:
            continue
        if is_alive(record):  # AFTER the pidfd is open: now it can be no other process
            waiting[descriptor] = record
        else:
            os.close(descriptor)
    ours, killed = list(waiting.values()), []  # one that had ended was not ended by us
    _signal(waiting, signal.SIGTERM)
    _wait_gone(waiting, STOP_GRACE_S)
    if waiting:
        killed = [record["name"] for record in waiting.values()]
        _signal(waiting, signal.SIGKILL)
        _wait_gone(waiting, KILL_WAIT_S)
    if waiting:
        left = ", ".join(f"{r['name']} (pid {r['pid']})" for r in waiting.values())
        why = f"still running after KILL: {left}"
        raise NodeError(why)
    for record in ours:
        path = folders.run(record["run"]) / f"{record['file']}.process.json"
        write_json(path, {**record, "stopped_unix_s": time.time()})
    return killed


def _signal(waiting: dict[int, dict[str, Any]], number: signal.Signals) -> None:
    for descriptor in waiting:
        signal.pidfd_send_signal(descriptor, number)


def _wait_gone(waiting: dict[int, dict[str, Any]], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while waiting and time.monotonic() < deadline_s:
        left_s = max(0.0, deadline_s - time.monotonic())
        for descriptor in select.select(list(waiting), [], [], left_s)[0]:
            del waiting[descriptor]
            os.close(descriptor)


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
    except FileNotFoundError:
        return []


def _figures(folders: Folders, record: dict[str, Any]) -> dict[str, Any]:
    argv = ["status", "--roster", "roster.json", "--name", record["name"]]
    try:
        return _rdht(folders, record["release"], record["run"], argv)
    except NodeError as error:
        return {"error": str(error)}


def _rdht(folders: Folders, release: str, run: str, argv: list[str]) -> dict[str, Any]:
    """Run `python -m rdht` of a release in a run's folder; return the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "rdht", *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=folders.run(run),
        env={**os.environ, "PYTHONPATH": str(folders.releases / release)},
        check=False,
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        lines = done.stderr.decode(errors="replace").splitlines() or ["no output"]
        raise NodeError(lines[-1]) from None
    return answer
