"""One call on a host: what is sent, what comes back, and what each failure means."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
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


class FakeConnection:
    """Gives lines, and then fails if it is told to; keeps what it was asked."""

    def __init__(self, *lines: str, failure: HostError | None = None) -> None:
        self._lines = lines
        self._failure = failure
        self.asked: list[tuple[str, bytes, float]] = []

    def lines(
        self, command: str, stdin: bytes, timeout_s: float, sent: Callable[[int], None]
    ) -> Iterator[str]:
        self.asked.append((command, stdin, timeout_s))
        sent(len(stdin))
        yield from self._lines
        if self._failure:
            raise self._failure


class ProcessConnection:
    """Runs the command here, as a shell on a host would, in a home of its own."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def lines(
        self, command: str, stdin: bytes, timeout_s: float, sent: Callable[[int], None]
    ) -> Iterator[str]:
        assert timeout_s > 0
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            input=stdin,
            capture_output=True,
            cwd=self._home,
            env={"HOME": str(self._home), "PATH": os.defpath},
            timeout=TIMEOUT_S,
            check=False,
        )
        sent(len(stdin))
        yield from done.stdout.decode().splitlines(keepends=True)
        if done.returncode != 0:
            last = (done.stderr.decode().strip().splitlines() or ["no output"])[-1]
            raise CommandFailedError(last, done.returncode)


def answers(connection: Any, call: Call, host: Host = HOST) -> list[dict[str, Any]]:
    return list(remote.lines(connection, host, "shelf", call, lambda _: None))


@pytest.fixture
def here(tmp_path: Path) -> Callable[..., Any]:
    """Return a function that carries out a call with this interpreter, in a temporary home."""

    def run(call: Call, python: str = sys.executable) -> Any:
        connection: Any = ProcessConnection(tmp_path)
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
    harmless = {
        "releases": Call("releases.probe"),
        "files": Call("files.runs"),
        "facts": Call("facts.facts"),
        "faults": Call("faults.active"),
        "processes": Call("processes.status"),
        "secret": Call("secret.put", {"replaces": None}, secret="a text"),
        "setup": Call("setup.prepare"),
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
    connection = FakeConnection('{"ok": {}}\n')
    answers(connection, call)
    command, stdin, _ = connection.asked[0]
    operator = Operator(
        Cluster("shelf", tmp_path, "", tmp_path, (HOST,), {}), Screen(), dry_run=True
    )
    operator.each("deliver secret", call, preview={})
    shown = [str(caught.value), repr(call), command, *capsys.readouterr()]
    assert all(text.strip() not in each for each in shown)
    assert json.dumps(text)[1:-1].encode() in stdin


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


def test_what_is_sent_is_sources_then_the_call_then_the_payload() -> None:
    connection = FakeConnection('{"ok": {}}\n')
    call = Call("files.listing", {"run": "r"}, b"\x00payload\n", timeout_s=7.0)
    answers(connection, call)
    _, stdin, timeout_s = connection.asked[0]
    sources, header, payload = stdin.split(b"\n", 2)
    assert [name for name, _ in json.loads(sources)] == [
        "rdht.node.host",
        "rdht.node.files",
        "rdht.node.__main__",
    ]
    assert json.loads(header) == {
        "command": "files.listing",
        "cluster": "shelf",
        "arguments": {"run": "r"},
        "timeout_s": 7.0,
        "payload_bytes": 9,
    }
    assert payload == b"\x00payload\n"
    assert timeout_s == 7.0


def test_a_call_without_a_time_limit_still_bounds_each_wait() -> None:
    connection = FakeConnection('{"ok": {}}\n')
    answers(connection, Call("processes.watch", timeout_s=None))
    assert connection.asked[0][2] == STEP_TIMEOUT_S


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
