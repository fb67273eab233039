"""The C++ yardstick, compiled: what it counts, and that it gives every lock back."""

import json
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.needs import COMPILER
from tests.unit.rdht.table import PATIENCE_S, free_ports

pytestmark = COMPILER
SOURCE = Path(__file__).parents[3] / "benchmarks" / "yardstick" / "yardstick.cpp"
GET, PUT = range(2)
REFUSED, REQUEST, TAKEN, ABORT, ABORTED, PROCEED, DONE = range(1, 8)
NOTHING_DONE = 9
# Status, client, thread, operation, value, key; on loopback one send arrives in one piece.
_MESSAGE = struct.Struct("=5i236s")


class Connection:
    """Talks to one server message by message, of one key."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE_S)

    def ask(self, status: int, operation: int = GET, value: int = 0) -> tuple[int, int]:
        """Send one message; return the answer's status and value."""
        self.sock.sendall(_MESSAGE.pack(status, 0, 0, operation, value, b"key"))
        status, _, _, _, value, _ = _MESSAGE.unpack(self.sock.recv(_MESSAGE.size))
        return status, value


class Servers(NamedTuple):
    """Three servers that run, and how to type a client's command for them."""

    program: Path
    ports: list[int]
    processes: "list[subprocess.Popen[str]]"

    @contextmanager
    def client(self, *words: object) -> Iterator["subprocess.Popen[str]"]:
        addresses = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        command = [str(self.program), "client", "--servers", addresses, *map(str, words)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *words: object) -> tuple[int, str, str]:
        with self.client(*words) as process:
            out, err = process.communicate(timeout=PATIENCE_S)
        return process.returncode, out, err

    def figures(self, *words: object) -> dict[str, Any]:
        code, out, err = self.run(*words)
        assert (code, err) == (0, "")
        found: dict[str, Any] = json.loads(out)
        return found


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("yardstick") / "yardstick"
    flags = ["-O2", "-std=c++17", "-pthread", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["g++", *flags, "-o", built, SOURCE], check=True)
    return built


@pytest.fixture
def servers(program: Path) -> Iterator[Servers]:
    with ExitStack() as stack:
        running = Servers(program, free_ports(3), [])
        for port in running.ports:
            command = [str(program), "server", "127.0.0.1", str(port)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.terminate)
            running.processes.append(process)
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        yield running
    assert [process.returncode for process in running.processes] == [0, 0, 0]


@pytest.fixture
def connect(servers: Servers) -> Iterator[Callable[[], Connection]]:
    with ExitStack() as stack:

        def open_one() -> Connection:
            connection = Connection(servers.ports[0])
            stack.enter_context(connection.sock)
            return connection

        yield open_one


def test_a_command_is_eight_messages_and_a_retry_four_to_six(servers: Servers) -> None:
    # 16 threads at 26 keys meet, and go on all the same.
    for words in (("--threads", 1), ("--threads", 16, "--key-size", 1)):
        found = servers.figures(*words, "--seconds", 0.7, "--warmup", 0.1, "--seed", 3)
        commands = found["gets"] + found["puts"]
        beyond = found["messages"] - 8 * commands
        assert 4 * found["retries"] <= beyond <= 6 * found["retries"]
        assert found["seconds"] >= 0.7
        assert found["cpu_s"] > 0
        assert found["gets"] / commands == pytest.approx(0.6, abs=0.1)
        for operation in ("get", "put"):
            percentiles = found["latency_us"][operation]
            assert list(percentiles) == ["50", "90", "99", "99.9"]
            assert 0 < percentiles["50"] <= percentiles["90"] <= percentiles["99.9"]
        assert bool(found["retries"]) == ("--key-size" in words)


def test_a_lock_is_given_back_after_each_end_of_a_command(
    connect: Callable[[], Connection],
) -> None:
    one, other = connect(), connect()
    for end, answer in ((PROCEED, NOTHING_DONE), (ABORT, ABORTED)):
        assert one.ask(REQUEST) == (TAKEN, 0)
        assert other.ask(REQUEST) == (REFUSED, 0)
        assert one.ask(end) == (answer, 0)
        assert other.ask(REQUEST) == (TAKEN, 0)
        assert other.ask(ABORT) == (ABORTED, 0)


def test_a_lock_is_given_back_when_its_connection_ends(connect: Callable[[], Connection]) -> None:
    one, other = connect(), connect()
    assert one.ask(REQUEST) == (TAKEN, 0)
    assert other.ask(REQUEST) == (REFUSED, 0)
    one.sock.close()
    deadline_s = time.monotonic() + PATIENCE_S
    while other.ask(REQUEST) != (TAKEN, 0):
        assert time.monotonic() < deadline_s


def test_clients_that_were_killed_stand_in_nobodys_way(servers: Servers) -> None:
    words = ["--key-size", 1, "--get-share", 1]  # a put may be killed between its two servers
    for _ in range(3):
        with servers.client(*words) as killed, pytest.raises(subprocess.TimeoutExpired):
            killed.wait(0.3)
    assert servers.figures(*words, "--seconds", 0.5, "--warmup", 0, "--threads", 1)["gets"] > 26


def test_a_put_leaves_a_value_that_is_there(connect: Callable[[], Connection]) -> None:
    connection = connect()

    def carry_out(operation: int, value: int = 0) -> tuple[int, int]:
        assert connection.ask(REQUEST, operation, value)[0] == TAKEN
        return connection.ask(PROCEED, operation, value)

    assert carry_out(GET) == (NOTHING_DONE, 0)
    assert carry_out(PUT, 7) == (DONE, 7)
    assert carry_out(PUT, 8) == (NOTHING_DONE, 8)
    assert carry_out(GET) == (DONE, 7)


def test_a_client_begins_at_the_agreed_time(servers: Servers) -> None:
    start_s = time.time() + 1
    servers.figures("--start", f"{start_s:.3f}", "--warmup", 0, "--seconds", 0.1)
    assert time.time() >= start_s + 0.1
    code, _, err = servers.run("--start", f"{start_s:.3f}")
    assert (code, err) == (1, f"yardstick: --start {start_s:.3f} is over\n")


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    """Stand where a client's two servers would."""
    with ExitStack() as stack:
        made = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        for listener in made:
            listener.settimeout(PATIENCE_S)
        yield made


def names_of(listeners: list[socket.socket]) -> list[str]:
    return [f"127.0.0.1:{listener.getsockname()[1]}" for listener in listeners]


def accept(listener: socket.socket) -> socket.socket:
    sock, _ = listener.accept()
    sock.settimeout(PATIENCE_S)
    return sock


def receive(sock: socket.socket, *expected: int) -> bytes:
    """Return a message that has one of the expected statuses, or nothing at the end."""
    message = sock.recv(_MESSAGE.size)
    assert not message or message[0] in expected
    return message


def answer(sock: socket.socket, message: bytes, status: int) -> None:
    sock.sendall(bytes([status]) + message[1:])


def test_a_refused_command_is_aborted_where_it_was_not_and_tried_again(
    servers: Servers, listeners: list[socket.socket]
) -> None:
    words = ["--servers", ",".join(names_of(listeners)), "--threads", 1, "--seconds", 0.3]
    with servers.client(*words, "--warmup", 0) as process, ExitStack() as stack:
        one, other = [stack.enter_context(accept(listener)) for listener in listeners]
        while message := receive(one, REQUEST):
            assert receive(other, REQUEST) == message
            answer(one, message, TAKEN)
            answer(other, message, REFUSED)
            answer(one, receive(one, ABORT), ABORTED)
            for status in (REFUSED, TAKEN):
                for sock in (one, other):
                    assert receive(sock, REQUEST) == message
                    answer(sock, message, status)
            for sock in (one, other):
                answer(sock, receive(sock, PROCEED), DONE)
        assert process.stdout
        found = json.load(process.stdout)
    commands = found["gets"] + found["puts"]
    assert commands
    assert (found["retries"], found["messages"]) == (2 * commands, (6 + 4 + 8) * commands)


def test_a_client_that_loses_a_server_says_so_once(
    servers: Servers, listeners: list[socket.socket]
) -> None:
    names = names_of(listeners)
    with servers.client("--servers", ",".join(names)) as process:
        accepted = [accept(listener) for listener in listeners for _ in range(8)]
        for sock in accepted:
            assert receive(sock, REQUEST)
        for sock in accepted:
            sock.close()
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert err in [f"yardstick: lost server {name}\n" for name in names]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--threads", "1.5"], "--threads: 1.5 is no number from 1 to 1000"),
        (["--seconds", "long"], "--seconds: long is no number from 0.001 to 86400"),
        (["--key-range", "2"], "--key-range: 2 is no number from 3 to 2147483647"),
        (["--window", "8"], "there is no option --window"),
        (["--servers", "127.0.0.1:1,127.0.0.1:1"], "connect to 127.0.0.1:1: Connection refused"),
        (["--servers", "pi1:80,pi2:80"], "pi1:80 is no IPv4 address with a port, as 10.0.0.1:8080"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(servers: Servers, words: list[str], why: str) -> None:
    assert servers.run(*words) == (1, "", f"yardstick: {why}\n")


def test_a_server_without_its_port_ends(servers: Servers) -> None:
    place = f"127.0.0.1:{servers.ports[0]}"
    command = [str(servers.program), "server", *place.split(":")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert done.stderr == f"yardstick: listen at {place}: Address already in use\n"
