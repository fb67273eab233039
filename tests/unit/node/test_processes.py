"""Processes on a host: started until ready, known by their record, stopped for certain.

The processes are real ones, of a release whose `python -m rdht` does what its arguments say.
"""

import json
import os
import pwd
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rdht.node import processes
from rdht.node.host import Folders, NodeError, boot_id, read_json, start_ticks

# A step is a process of its own and ends at once; here it goes on, and Python notices.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

RUN = "20261123-141502-shelf-3fa9"
RELEASE = "0123456789ab"
PROGRAM = """
import json, os, pathlib, signal, sys, time

behaviour, *words = sys.argv[1:]
match behaviour:
    case "crash":
        print("the first line", file=sys.stderr)
        sys.exit("the port is taken")
    case "crash silently":
        os._exit(3)
    case "answer":
        print(json.dumps({"words": words, "cwd": os.getcwd()}))
        sys.exit(1)
    case "fail":
        print("something", file=sys.stderr)
        sys.exit("no server answers")
    case "status":
        print(json.dumps({"keys": 7, "words": words}))
        sys.exit()
    case "ignore TERM":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    case "end by itself":
        pathlib.Path("results.json").write_text("{}")
if behaviour != "never ready":
    with os.fdopen(int(words[words.index("--ready-fd") + 1]), "w") as pipe:
        pipe.write("ready\\n")
print("serves", *words[:1], flush=True)
if behaviour != "end by itself":
    time.sleep(60)
"""


@pytest.fixture
def release(folders: Folders) -> Path:
    path = folders.releases / RELEASE
    (path / "rdht").mkdir(parents=True)
    (path / "rdht" / "__init__.py").touch()
    (path / "rdht" / "__main__.py").write_text(PROGRAM, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def nothing_is_left(folders: Folders) -> Iterator[None]:
    """End what a test has started, by its pid, and take leave of it as its parent."""
    yield
    for path in folders.runs.glob("*/*.process.json"):
        record = read_json(path)
        if record and record.get("ours", True) and record["start_ticks"] is not None:
            if start_ticks(record["pid"]) == record["start_ticks"]:
                os.kill(record["pid"], 9)
            with_parent(record["pid"])


def with_parent(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return


def process(behaviour: str, name: str = "pi1", role: str = "server") -> dict[str, Any]:
    file = role + name.removeprefix("pi1")
    return {"name": name, "role": role, "file": file, "argv": [behaviour, name]}


def start(
    folders: Folders,
    *rows: dict[str, Any],
    run: str = RUN,
    files: dict[str, Any] | None = None,
    folders_in_it: tuple[str, ...] = (),
    ready_timeout_s: float = 10.0,
) -> Any:
    arguments = {
        "run": run,
        "release": RELEASE,
        "files": files or {},
        "folders": list(folders_in_it),
        "processes": list(rows),
        "ready_timeout_s": ready_timeout_s,
    }
    return processes.start(folders, arguments, b"")["started"]


def status(folders: Folders, **arguments: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = processes.status(folders, arguments, b"")["processes"]
    return rows


def stop(folders: Folders, *roles: str) -> dict[str, Any]:
    return processes.stop(folders, {"roles": roles or ("client", "server")}, b"")


def record_of(folders: Folders, file: str = "server") -> dict[str, Any]:
    record = read_json(folders.run(RUN) / f"{file}.process.json")
    assert record is not None
    return record


def test_start_returns_once_all_are_ready(folders: Folders, release: Path) -> None:
    both = [process("serve", "pi1.0"), process("serve", "pi1.1")]
    assert start(folders, *both) == ["pi1.0", "pi1.1"]
    rows = status(folders)
    assert [(row["name"], row["alive"]) for row in rows] == [("pi1.0", True), ("pi1.1", True)]
    assert {(row["run"], row["release"], row["role"]) for row in rows} == {(RUN, RELEASE, "server")}
    assert all(abs(row["started_unix_s"] - time.time()) < 60 for row in rows)


def test_a_process_runs_apart_from_the_step_that_started_it(
    folders: Folders, release: Path, until: Callable[[Callable[[], bool]], None]
) -> None:
    start(folders, process("serve"))
    pid = record_of(folders)["pid"]
    log = folders.run(RUN) / "server.log"
    until(lambda: log.read_text(encoding="utf-8") == "serves pi1\n")
    assert os.getpgid(pid) == pid
    streams = [Path(f"/proc/{pid}/fd/{number}").readlink() for number in range(3)]
    assert streams == [Path("/dev/null"), log, log]
    assert Path(f"/proc/{pid}/cwd").readlink() == folders.run(RUN)


def test_the_files_are_there_before_the_process_starts(folders: Folders, release: Path) -> None:
    start(folders, process("serve"), files={"roster.json": {"servers": [1, 2]}})
    text = (folders.run(RUN) / "roster.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"servers": [1, 2]}


def test_the_folders_are_there_before_the_process_starts_and_stay(
    folders: Folders, release: Path
) -> None:
    start(folders, process("serve"), folders_in_it=("data",))
    data = folders.run(RUN) / "data"
    assert data.stat().st_mode & 0o777 == 0o700
    (data / "log").write_text("promised", encoding="utf-8")
    stop(folders)
    start(folders, process("serve"), folders_in_it=("data",))
    assert (data / "log").read_text(encoding="utf-8") == "promised"


def test_a_roster_with_a_secret_needs_the_hosts_secret(folders: Folders, release: Path) -> None:
    files = {"roster.json": {"servers": [], "secret_file": "../../secret"}}
    with pytest.raises(NodeError, match="secret is not on this host: run fab deploy"):
        start(folders, process("serve"), files=files)
    assert not folders.runs.exists()
    folders.secret.write_text("known", encoding="utf-8")
    assert start(folders, process("serve"), files=files) == ["pi1"]


def test_servers_that_come_back_leave_the_clients_start_alone(
    folders: Folders, release: Path
) -> None:
    start(folders, process("serve", "pi1.0"))
    processes.go(folders, {"run": RUN, "start_unix_s": 12.5}, b"")
    start(folders, process("serve", "pi1.1"))
    assert (folders.run(RUN) / "start.json").exists()
    start(folders, process("serve", role="client"))
    assert not (folders.run(RUN) / "start.json").exists()


def test_one_that_crashes_is_an_error_with_the_last_line_of_its_log(
    folders: Folders, release: Path
) -> None:
    with pytest.raises(NodeError) as caught:
        start(folders, process("crash"))
    assert "server pi1" in str(caught.value)
    assert str(caught.value).endswith(": the port is taken")
    assert status(folders) == []


def test_one_that_crashes_without_a_word_is_an_error_too(folders: Folders, release: Path) -> None:
    with pytest.raises(NodeError, match=r"server pi1 .*log is empty"):
        start(folders, process("crash silently"))


def test_one_that_does_not_get_ready_is_stopped(folders: Folders, release: Path) -> None:
    with pytest.raises(NodeError, match="server pi1 was not ready in time"):
        start(folders, process("never ready"), ready_timeout_s=0.3)
    assert start_ticks(record_of(folders)["pid"]) is None
    assert status(folders) == []
    assert [row["stopped"] for row in status(folders, run=RUN)] == [True]


def test_if_one_fails_none_is_left_running(folders: Folders, release: Path) -> None:
    rows = [process("serve", "pi1.0"), process("crash", "pi1.1"), process("serve", "pi1.2")]
    with pytest.raises(NodeError, match=r"pi1\.1 .*the port is taken"):
        start(folders, *rows)
    for file in ("server.0", "server.1", "server.2"):
        assert start_ticks(record_of(folders, file)["pid"]) is None
    assert status(folders) == []


def test_a_release_that_is_not_here_is_an_error(folders: Folders) -> None:
    with pytest.raises(NodeError, match=f"release {RELEASE} is not on this host"):
        start(folders, process("serve"))
    assert not folders.runs.exists()


def test_stop_ends_what_runs_and_says_what_it_was(folders: Folders, release: Path) -> None:
    start(folders, process("serve", "pi1.0"), process("serve", "pi1.1"))
    pids = [row["pid"] for row in status(folders)]
    assert stop(folders) == {"stopped": ["server pi1.0", "server pi1.1"], "killed": []}
    assert [start_ticks(pid) for pid in pids] == [None, None]
    assert stop(folders) == {"stopped": [], "killed": []}


def test_stop_ends_only_the_role_that_is_named(folders: Folders, release: Path) -> None:
    start(folders, process("serve"), process("serve", role="client"))
    assert stop(folders, "client")["stopped"] == ["client pi1"]
    assert [row["role"] for row in status(folders)] == ["server"]


def test_stop_kills_what_does_not_listen(
    folders: Folders, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_GRACE_S", 0.2)
    start(folders, process("ignore TERM", "pi1.0"), process("serve", "pi1.1"))
    pid = record_of(folders, "server.0")["pid"]
    answer = stop(folders)
    assert answer == {"stopped": ["server pi1.0", "server pi1.1"], "killed": ["pi1.0"]}
    assert start_ticks(pid) is None


def test_stop_finds_the_processes_of_every_run_of_this_cluster_only(
    folders: Folders, release: Path, home: Path
) -> None:
    start(folders, process("serve"))
    start(folders, process("serve", role="client"), run="another-run")
    assert stop(Folders("another-cluster"))["stopped"] == []
    assert stop(folders)["stopped"] == ["server pi1", "client pi1"]


def test_a_zombie_counts_as_gone(
    folders: Folders, release: Path, until: Callable[[Callable[[], bool]], None]
) -> None:
    start(folders, process("serve"))
    pid = record_of(folders)["pid"]
    os.kill(pid, 9)
    stat = Path(f"/proc/{pid}/stat")
    until(lambda: stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z")
    assert status(folders) == []
    assert stop(folders) == {"stopped": [], "killed": []}


@pytest.fixture
def stranger() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that this cluster did not start."""
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(60)"])
    yield child
    child.kill()
    child.wait()


def pretend(folders: Folders, stranger: "subprocess.Popen[bytes]", **changed: Any) -> None:
    """Record the stranger as a server of the run, but for what is changed."""
    record = {
        **process("serve"),
        "run": RUN,
        "release": RELEASE,
        "pid": stranger.pid,
        "start_ticks": start_ticks(stranger.pid),
        "boot_id": boot_id(),
        "started_unix_s": 0.0,
        "ours": False,
        **changed,
    }
    folder = folders.run(RUN)
    folder.mkdir(parents=True)
    (folder / "server.process.json").write_text(json.dumps(record), encoding="utf-8")


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"start_ticks": 1}, id="started at another time"),
        pytest.param({"boot_id": "another"}, id="started before a reboot"),
        pytest.param({"start_ticks": None}, id="was gone when it was recorded"),
    ],
)
def test_a_pid_that_is_another_process_now_is_not_alive_and_never_signalled(
    folders: Folders, stranger: "subprocess.Popen[bytes]", changed: dict[str, Any]
) -> None:
    pretend(folders, stranger, **changed)
    assert status(folders) == []
    assert [row["alive"] for row in status(folders, run=RUN)] == [False]
    assert stop(folders) == {"stopped": [], "killed": []}
    processes._stop(folders, [record_of(folders)])  # as when the pid is taken over just before
    assert stranger.poll() is None


def test_a_process_that_was_gone_when_it_was_recorded_is_not_alive(
    folders: Folders, stranger: "subprocess.Popen[bytes]"
) -> None:
    stranger.kill()
    stranger.wait()
    pretend(folders, stranger)
    assert record_of(folders)["start_ticks"] is None
    assert [row["alive"] for row in status(folders, run=RUN)] == [False]
    assert stop(folders) == {"stopped": [], "killed": []}


def test_a_torn_record_hides_no_other(folders: Folders, release: Path) -> None:
    start(folders, process("serve"))
    (folders.run(RUN) / "client.process.json").write_text("{", encoding="utf-8")
    assert stop(folders)["stopped"] == ["server pi1"]


def test_status_of_a_run_tells_how_each_of_its_processes_ended(
    folders: Folders, release: Path
) -> None:
    start(folders, process("serve"), process("end by itself", role="client"))
    with pytest.raises(NodeError):
        start(folders, process("crash", "pi1.1", role="client"))
    client = record_of(folders, "client")
    with_parent(client["pid"])
    rows = {(row["role"], row["name"]): row for row in status(folders, run=RUN)}
    assert rows["server", "pi1"]["alive"]
    assert "tail" not in rows["server", "pi1"]
    ended, crashed = rows["client", "pi1"], rows["client", "pi1.1"]
    assert (ended["alive"], ended["result"], ended["tail"]) == (False, True, ["serves pi1"])
    assert (crashed["alive"], crashed["result"]) == (False, False)
    assert crashed["tail"] == ["the first line", "the port is taken"]
    assert status(folders, run="another-run") == []


def test_status_tells_one_that_was_stopped_from_one_that_died(
    folders: Folders, release: Path
) -> None:
    start(folders, process("serve"), process("serve", role="client"))
    stop(folders, "server")
    os.kill(record_of(folders, "client")["pid"], 9)
    with_parent(record_of(folders, "client")["pid"])
    assert {row["role"]: row["stopped"] for row in status(folders, run=RUN)} == {
        "client": False,
        "server": True,
    }


def test_status_asks_each_running_server_for_its_figures(folders: Folders, release: Path) -> None:
    start(folders, process("serve"), process("serve", role="client"))
    client, server = status(folders, figures=True)
    assert server["figures"]["keys"] == 7
    assert server["figures"]["words"] == ["--roster", "roster.json", "--name", "pi1"]
    assert "figures" not in client


def test_status_tells_release_and_clock(folders: Folders, release: Path) -> None:
    folders.current.symlink_to(release)
    answer = processes.status(folders, {}, b"")
    assert answer["current"] == RELEASE
    assert abs(answer["time_unix_s"] - time.time()) < 5


def test_ask_returns_what_the_command_prints_in_the_runs_folder(
    folders: Folders, release: Path
) -> None:
    folder = folders.run(RUN)
    folder.mkdir(parents=True)
    arguments = {"run": RUN, "release": RELEASE, "argv": ["answer", "--roster", "roster.json"]}
    answer = processes.ask(folders, arguments, b"")
    assert answer == {"words": ["--roster", "roster.json"], "cwd": str(folder)}


def test_ask_fails_with_the_last_thing_that_the_command_said(
    folders: Folders, release: Path
) -> None:
    folders.run(RUN).mkdir(parents=True)
    with pytest.raises(NodeError, match=r"^no server answers$"):
        processes.ask(folders, {"run": RUN, "release": RELEASE, "argv": ["fail"]}, b"")


def test_go_writes_the_instant_for_the_clients(folders: Folders) -> None:
    folders.run(RUN).mkdir(parents=True)
    assert processes.go(folders, {"run": RUN, "start_unix_s": 12.5}, b"") == {}
    assert read_json(folders.run(RUN) / "start.json") == {"start_unix_s": 12.5}


def test_a_run_goes_on_in_its_folder_after_a_reboot(folders: Folders, release: Path) -> None:
    start(folders, process("serve", "pi1.0"), process("serve", "pi1.1"))
    survivor = record_of(folders, "server.0")  # its pid is used again, by a process as old as it
    path = folders.run(RUN) / "server.0.process.json"
    path.write_text(json.dumps({**survivor, "boot_id": "before"}), encoding="utf-8")
    assert [row["name"] for row in status(folders)] == ["pi1.1"]
    assert start(folders, process("serve", "pi1.0")) == ["pi1.0"]
    with pytest.raises(NodeError, match=r"server pi1\.1 of run .* runs already"):
        start(folders, process("serve", "pi1.1"))
    assert stop(folders)["stopped"] == ["server pi1.0", "server pi1.1"]
    assert start_ticks(survivor["pid"]) == survivor["start_ticks"], "it was none of ours"
    os.kill(survivor["pid"], 9)
    with_parent(survivor["pid"])


def test_two_clusters_on_one_host_leave_each_other_alone(folders: Folders, release: Path) -> None:
    other = Folders("another-cluster")
    other.base.mkdir()
    other.releases.symlink_to(folders.releases)
    start(folders, process("serve"))
    start(other, process("serve"))
    theirs = read_json(other.run(RUN) / "server.process.json")
    assert theirs is not None
    assert stop(folders)["stopped"] == ["server pi1"]
    assert status(folders) == []
    assert [row["pid"] for row in status(other)] == [theirs["pid"]]
    assert stop(other)["stopped"] == ["server pi1"]


def test_a_record_without_an_identity_is_nobodys(folders: Folders, release: Path) -> None:
    folders.run(RUN).mkdir(parents=True)
    path = folders.run(RUN) / "server.process.json"
    path.write_text(json.dumps({"pid": os.getpid()}), encoding="utf-8")
    assert status(folders, run=RUN) == []
    assert stop(folders) == {"stopped": [], "killed": []}
    assert start(folders, process("serve")) == ["pi1"]


SYSTEMD_RUN = """\
#!/bin/sh
echo "$XDG_RUNTIME_DIR" "$@" > "{said}"
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""


@pytest.mark.parametrize("lacking", [None, "linger", "manager", "program"])
def test_a_user_systemd_that_lingers_keeps_the_processes(
    folders: Folders,
    release: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lacking: str | None,
) -> None:
    # There may be no systemd here: this stands for it as its own sources say that a scope behaves.
    said, program = tmp_path / "said", tmp_path / "bin" / "systemd-run"
    manager = tmp_path / "run" / str(os.geteuid()) / "systemd" / "private"
    user = tmp_path / "linger" / pwd.getpwuid(os.geteuid()).pw_name
    for path in (program, manager, user):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    program.write_text(SYSTEMD_RUN.format(said=said), encoding="utf-8")
    program.chmod(0o755)
    {"linger": user, "manager": manager, "program": program}.get(lacking or "", said).unlink(
        missing_ok=True
    )
    monkeypatch.setattr(processes, "LINGER", tmp_path / "linger")
    monkeypatch.setattr(processes, "RUN_USER", tmp_path / "run")
    monkeypatch.setenv("PATH", str(program.parent))
    assert start(folders, process("serve")) == ["pi1"]
    record = record_of(folders)
    assert start_ticks(record["pid"]) == record["start_ticks"]
    assert said.exists() is (lacking is None)
    if lacking is None:
        words = said.read_text(encoding="utf-8").split()
        runtime = str(tmp_path / "run" / str(os.geteuid()))
        assert words[:6] == [runtime, "--user", "--scope", "--quiet", "--collect", "--"]
    assert stop(folders) == {"stopped": ["server pi1"], "killed": []}
    assert start_ticks(record["pid"]) is None
