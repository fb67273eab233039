"""One call on a host: what is sent, what comes back, and what each failure means."""

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cluster import release, remote
from cluster.console import Screen
from cluster.errors import CommandFailedError, HostError, HostKeyError, HostUnreachableError
from cluster.inventory import Cluster, Host
from cluster.operator import Operator
from cluster.remote import STEP_TIMEOUT_S, Call
from rdht.authentication import make_secret
from rdht.node.__main__ import COMMANDS

ROOT = Path(__file__).parents[3]
HOST = Host("pi1", "10.0.0.1")
TIMEOUT_S = 20.0


class FakeProgram:
    """Gives lines, and then fails if it is told to; keeps what it was sent."""

    def __init__(self, lines: Iterable[str], failure: HostError | None) -> None:
        self._lines = lines
        self._failure = failure
        self.loaded: set[str] = set()
        self.stdin = b""

    def send(self, data: bytes, sent: Callable[[int], None]) -> None:
        self.stdin += data
        sent(len(data))

    def __iter__(self) -> Iterator[str]:
        yield from self._lines
        if self._failure:
            raise self._failure


class FakeConnection:
    """Lends a fake program; keeps what it was asked."""

    def __init__(self, *lines: str, failure: HostError | None = None) -> None:
        self._program = FakeProgram(lines, failure)
        self.asked: list[tuple[str, float]] = []

    @contextmanager
    def program(self, command: str, timeout_s: float) -> Iterator[FakeProgram]:
        self.asked.append((command, timeout_s))
        yield self._program

    @property
    def stdin(self) -> bytes:
        return self._program.stdin


class LocalProgram:
    """A program that runs here, as a shell on a host would run it."""

    def __init__(self, command: str, home: Path) -> None:
        self.loaded: set[str] = set()
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=home,
            env={"HOME": str(home), "PATH": os.defpath},
        )

    def send(self, data: bytes, sent: Callable[[int], None]) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it may have ended; what it said is read then
            self.process.stdin.write(data)
            self.process.stdin.flush()
        sent(len(data))

    def __iter__(self) -> Iterator[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield line.decode()
        _, errors = self.process.communicate(timeout=TIMEOUT_S)
        if self.process.returncode != 0:
            last = (errors.decode().strip().splitlines() or ["no output"])[-1]
            raise CommandFailedError(last, self.process.returncode)


class LocalConnection:
    """Lends the same program again and again, in a home of its own."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.programs: dict[str, LocalProgram] = {}

    @contextmanager
    def program(self, command: str, timeout_s: float) -> Iterator[LocalProgram]:
        assert timeout_s > 0
        if command not in self.programs:
            self.programs[command] = LocalProgram(command, self._home)
        yield self.programs[command]

    def close(self) -> None:
        for program in self.programs.values():
            program.process.communicate(timeout=TIMEOUT_S)


def answers(connection: Any, call: Call, host: Host = HOST) -> list[dict[str, Any]]:
    return list(remote.lines(connection, host, "shelf", call, lambda _: None))


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[LocalConnection]:
    """Return a connection to here, where the home is a temporary one."""
    with closing(LocalConnection(tmp_path)) as connection:
        yield connection


@pytest.fixture
def here(connection: LocalConnection) -> Callable[..., Any]:
    """Return a function that carries out a call with this interpreter, in a temporary home."""

    def run(call: Call, python: str = sys.executable) -> Any:
        documents = answers(connection, call, Host("pi1", "10.0.0.1", python=python))
        return documents[-1]["ok"]

    return run


def test_a_call_travels_with_its_code_and_needs_no_release(
    here: Callable[..., Any], tmp_path: Path
) -> None:
    answer = here(Call("releases.probe"))
    assert (answer["current"], answer["previous"], answer["staged"]) == (None, None, [])
    assert list(tmp_path.iterdir()) == []


# `power` would boot this machine again: it has a test of its own.
@pytest.mark.parametrize(
    "module", sorted({name.partition(".")[0] for name in COMMANDS} - {"power"})
)
def test_the_sources_come_in_the_order_of_their_imports(
    here: Callable[..., Any], module: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        end = list(taken.getsockname())
    harmless = {
        "releases": Call("releases.probe"),
        "files": Call("files.runs"),
        "facts": Call("facts.facts"),
        "links": Call("links.measure", {"listen": end, "peer": end, "token": "a token"}),
        "faults": Call("faults.active"),
        "processes": Call("processes.status"),
        "secret": Call("secret.put", {"replaces": None}, secret="a text"),
        "setup": Call("setup.prepare"),
        "watch": Call("watch.watch", {"run": "none", "clientless_s": 0.0}),
    }
    assert isinstance(here(harmless[module]), dict)


def test_a_secret_arrives_and_is_seen_nowhere_on_the_way(
    here: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = make_secret()
    call = Call("secret.put", {"replaces": None}, secret=text)
    assert here(call) == {}
    path = tmp_path / "rdht" / "shelf" / "secret"
    assert path.read_text(encoding="ascii") == text
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(HostError) as caught:
        here(call)  # another one is there now
    fake = FakeConnection('{"ok": {}}\n')
    answers(fake, call)
    command, _ = fake.asked[0]
    operator = Operator(
        Cluster("shelf", tmp_path, "", tmp_path, (HOST,), {}), Screen(), dry_run=True
    )
    operator.each("deliver secret", call, preview={})
    shown = [str(caught.value), repr(call), command, *capsys.readouterr()]
    assert all(text.strip() not in each for each in shown)
    assert json.dumps(text)[1:-1].encode() in fake.stdin


def test_an_unknown_step_of_a_known_kind_fails_with_the_hosts_words(
    here: Callable[..., Any],
) -> None:
    with pytest.raises(HostError, match=r"^there is no step releases\.vanish$"):
        here(Call("releases.vanish"))


def test_arguments_and_payload_arrive_whatever_is_in_them(
    here: Callable[..., Any], tmp_path: Path
) -> None:
    odd = "a'b\"c $(touch evil) `x` ; \\ é \n end"
    with pytest.raises(HostError) as caught:
        here(Call("releases.flip", {"release": odd, "previous": None}))
    assert odd in str(caught.value)
    assert not (tmp_path / "evil").exists()
    built = release.build(ROOT)
    call = Call("releases.stage", {"release": "abc", "files": built.files}, built.bundle)
    assert here(call) == {"staged": "abc"}
    staged = tmp_path / "rdht" / "shelf" / "releases" / "abc"
    assert (staged / "rdht" / "ring.py").read_bytes() == (ROOT / "rdht" / "ring.py").read_bytes()


def test_an_interpreter_that_is_not_there_is_said_with_what_to_do(
    here: Callable[..., Any], tmp_path: Path
) -> None:
    for python in ("no-such-python", str(tmp_path / "no-such-python")):
        with pytest.raises(HostError, match=f"{python} is not on the host.*`python`"):
            here(Call("releases.probe"), python)


@pytest.mark.parametrize(
    "text",
    [
        "bash: line 1: python3: command not found",
        "sh: 1: python3: not found",
        "bash: /opt/python3: No such file or directory",
    ],
)
def test_every_shells_way_to_say_that_is_understood(text: str) -> None:
    with pytest.raises(HostError, match="python3 is not on the host"):
        answers(FakeConnection(failure=CommandFailedError(text, 127)), Call("releases.probe"))


@pytest.mark.parametrize(
    "failure",
    [
        HostUnreachableError("no connection to 10.0.0.1:22: No such file or directory"),
        HostUnreachableError("no connection to 10.0.0.1:22: host not found"),
        HostUnreachableError("ssh to 10.0.0.1:22: connection reset"),
        HostKeyError("its host key is not pinned"),
        HostError("no answer within 30 s"),
        CommandFailedError("No such file or directory", 1),
    ],
)
def test_any_other_failure_keeps_its_kind_and_its_text(failure: HostError) -> None:
    with pytest.raises(type(failure)) as caught:
        answers(FakeConnection(failure=failure), Call("releases.probe"))
    assert str(caught.value) == str(failure)


def test_a_python_that_is_too_old_says_which_it_is(tmp_path: Path) -> None:
    loader = shlex.split(_command())[-1]
    old = "import sys; sys.version_info = (3, 9, 2); sys.version = '3.9.2 (main)'\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", old + loader],
        input=b"",
        capture_output=True,
        cwd=tmp_path,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert "3.11" in line
    assert "3.9.2" in line
    with pytest.raises(HostError) as caught:
        answers(FakeConnection(failure=HostError(line)), Call("releases.probe"))
    assert str(caught.value) == line


def _command() -> str:
    connection = FakeConnection('{"ok": {}}\n')
    answers(connection, Call("releases.probe"))
    return connection.asked[0][0]


def test_the_command_is_the_hosts_python_alone() -> None:
    words = shlex.split(_command())
    assert words[:3] == ["python3", "-I", "-c"]
    assert len(words) == 4
    compile(words[3], "loader", "exec")
    connection = FakeConnection('{"ok": {}}\n')
    answers(connection, Call("releases.probe"), Host("pi1", "a", python="/opt/my python"))
    assert shlex.split(connection.asked[0][0])[0] == "/opt/my python"


def test_what_is_sent_is_the_call_with_its_sources_and_then_the_payload() -> None:
    connection = FakeConnection('{"ok": {}}\n')
    call = Call("files.listing", {"run": "r"}, b"\x00payload\n", timeout_s=7.0)
    answers(connection, call)
    first, header, payload = connection.stdin.split(b"\n", 2)
    assert [name for name, _ in json.loads(first)] == ["rdht.node.host", "rdht.node.__main__"]
    document = json.loads(header)
    modules = document.pop("modules")
    assert [name for name, _ in modules] == ["rdht.node.files"]
    assert document == {
        "command": "files.listing",
        "cluster": "shelf",
        "arguments": {"run": "r"},
        "timeout_s": 7.0,
        "payload_bytes": 9,
    }
    assert payload == b"\x00payload\n"
    assert connection.asked[0][1] == 7.0


def test_only_the_first_call_of_a_kind_carries_its_source() -> None:
    connection = FakeConnection('{"ok": {}}\n')
    answers(connection, Call("files.runs"))
    before = len(connection.stdin)
    answers(connection, Call("files.runs"))
    answers(connection, Call("facts.facts"))
    same, other = connection.stdin[before:].splitlines()
    assert json.loads(same)["modules"] == []
    assert [name for name, _ in json.loads(other)["modules"]] == ["rdht.node.facts"]


def test_one_interpreter_carries_out_all_calls_and_each_leaves_nothing_in_it(
    here: Callable[..., Any], connection: LocalConnection
) -> None:
    here(Call("facts.facts"))
    with pytest.raises(HostError, match="no step"):
        here(Call("facts.vanish"))
    with pytest.raises(HostError, match="not done in time"):
        here(Call("files.tail", {"run": "r", "lines": 1, "since": "", "follow": True}, timeout_s=1))
    assert here(Call("releases.probe"))["staged"] == []
    (program,) = connection.programs.values()
    assert program.process.poll() is None


def test_a_call_without_a_time_limit_still_bounds_each_wait() -> None:
    connection = FakeConnection('{"ok": {}}\n')
    answers(connection, Call("processes.watch", timeout_s=None))
    assert connection.asked[0][1] == STEP_TIMEOUT_S


def test_every_document_comes_as_it_arrives_and_the_answer_last() -> None:
    connection = FakeConnection('{"progress": 1}\n', "{}\n", '{"ok": {"n": 2}}\n')
    assert answers(connection, Call("processes.watch")) == [
        {"progress": 1},
        {},
        {"ok": {"n": 2}},
    ]


def test_an_error_of_the_host_is_the_text_of_the_failure() -> None:
    connection = FakeConnection('{"progress": 1}\n', '{"error": "release x is not here"}\n')
    with pytest.raises(HostError, match=r"^release x is not here$"):
        answers(connection, Call("releases.flip"))


@pytest.mark.parametrize("line", ["7\n", "null\n", "true\n", '"text"\n', "[]\n"])
def test_an_answer_that_is_no_object_is_a_failure_of_the_host(line: str) -> None:
    with pytest.raises(HostError):
        answers(FakeConnection(line), Call("releases.probe"))


@pytest.mark.parametrize("line", ["Welcome to pi1!\n", "{\n", "\n"])
def test_an_answer_that_is_no_json_is_a_failure_that_shows_it(line: str) -> None:
    with pytest.raises(HostError) as caught:
        answers(FakeConnection(line), Call("releases.probe"))
    assert line.strip() in str(caught.value)


@pytest.mark.parametrize("lines", [[], ["{}\n"], ['{"progress": 1}\n']])
def test_a_host_that_ends_without_an_answer_is_a_failure(lines: list[str]) -> None:
    with pytest.raises(HostError, match="did not finish"):
        answers(FakeConnection(*lines), Call("processes.watch"))
