"""Connections to real ssh servers."""

import dataclasses
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster import remote
from cluster.connection import Connection
from cluster.console import Screen
from cluster.errors import HostError, HostKeyError, HostUnreachableError
from cluster.inventory import Gateway
from cluster.operator import Operator, close_connections
from cluster.remote import Call
from tests.cluster.two_hosts import Lab


def _lines(
    connection: Connection, command: str, stdin: bytes = b"", timeout_s: float = 20.0
) -> list[str]:
    return list(connection.lines(command, stdin, timeout_s, lambda _: None))


def test_a_command_gets_its_stdin_and_gives_its_lines(pi1: Connection) -> None:
    assert _lines(pi1, "cat; echo end", b"one\ntwo\n") == ["one\n", "two\n", "end\n"]


def test_a_megabyte_of_stdin_arrives_whole_and_is_counted(pi1: Connection) -> None:
    sent: list[int] = []
    data = os.urandom(1 << 20)
    assert list(pi1.lines("wc -c", data, 20.0, sent.append)) == [f"{len(data)}\n"]
    assert sum(sent) == len(data)


def test_a_failing_command_gives_the_last_line_of_its_stderr(pi1: Connection) -> None:
    with pytest.raises(HostError, match="the reason"):
        _lines(pi1, "echo first >&2; echo the reason >&2; exit 3")


def test_small_packets_leave_at_once(pi1: Connection) -> None:
    _lines(pi1, "true")
    assert pi1.transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_silent_command_ends_in_time_and_says_so(pi1: Connection) -> None:
    with pytest.raises(HostError, match="no answer within 1 s"):
        _lines(pi1, "sleep 30", timeout_s=1.0)


def test_a_step_that_takes_too_long_ends_on_the_host_too(lab: Lab, pi1: Connection) -> None:
    host = lab.cluster().hosts[0]
    pipe = lab.folder / "pi1" / "home" / "rdht" / "here" / "runs" / "r"
    pipe.mkdir(parents=True)
    os.mkfifo(pipe / "server.log")  # whoever opens it waits for ever
    call = Call("files.tail", {"run": "r", "since": "", "lines": 1, "follow": False}, timeout_s=1.0)
    with pytest.raises(HostError):
        list(remote.lines(pi1, host, "here", call, lambda _: None))
    _until(lambda: not _reading(pipe / "server.log"))


def test_a_background_process_neither_holds_the_channel_nor_dies_with_it(
    pi1: Connection, lab: Lab
) -> None:
    mark = lab.folder / "survived"
    _lines(pi1, f"setsid sh -c 'sleep 1; touch {mark}' >/dev/null 2>&1 </dev/null &")
    pi1.close()
    _until(mark.exists)


def test_a_host_that_is_not_pinned_is_refused_with_its_fingerprint(lab: Lab) -> None:
    cluster = dataclasses.replace(lab.cluster(), known_hosts=lab.folder / "nothing")
    with pytest.raises(HostKeyError, match=r"not pinned.*SHA256:"):
        _lines(Connection(cluster, cluster.hosts[0]), "true")


def test_a_changed_host_key_is_refused_with_both_fingerprints(lab: Lab) -> None:
    pins = (lab.folder / "known_hosts").read_text(encoding="utf-8").split()
    wrong = lab.folder / "wrong"
    wrong.write_text(f"{pins[0]} {pins[4]} {pins[5]}\n", encoding="utf-8")
    cluster = dataclasses.replace(lab.cluster(), known_hosts=wrong)
    with pytest.raises(HostKeyError, match=r"has changed.*SHA256:.*SHA256:"):
        _lines(Connection(cluster, cluster.hosts[0]), "true")


def test_a_refused_login_says_who_and_where(lab: Lab) -> None:
    host = dataclasses.replace(
        lab.cluster().hosts[0], identity_file=lab.folder / "pi1" / "host_key"
    )
    with pytest.raises(HostError, match=r"login as pi .*refused"):
        _lines(Connection(lab.cluster(), host), "true")


def test_a_host_that_is_down_is_unreachable(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    host = dataclasses.replace(lab.cluster().hosts[0], ssh_port=port)
    with pytest.raises(HostUnreachableError, match=f"127.0.0.1:{port}: Connection refused"):
        _lines(Connection(lab.cluster(), host), "true")


def test_a_host_that_takes_the_connection_and_is_silent_is_unreachable(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.connection.CONNECT_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = dataclasses.replace(lab.cluster().hosts[0], ssh_port=listener.getsockname()[1])
        with pytest.raises(HostUnreachableError, match=r"ssh to 127\.0\.0\.1"):
            _lines(Connection(lab.cluster(), host), "true")


def test_a_host_behind_a_gateway_is_reached_and_both_keys_are_checked(lab: Lab) -> None:
    gateway = Gateway("pi", "127.0.0.1", lab.ports["pi1"])
    host = dataclasses.replace(lab.cluster().hosts[1], gateway=gateway)
    connection = Connection(lab.cluster(), host)
    home = _lines(connection, "pwd")
    connection.close()
    assert home == [f"{lab.folder}/pi2/home\n"]
    only_pi2 = lab.folder / "only-pi2"
    pins = (lab.folder / "known_hosts").read_text(encoding="utf-8").splitlines()
    only_pi2.write_text(pins[1] + "\n", encoding="utf-8")
    cluster = dataclasses.replace(lab.cluster(), known_hosts=only_pi2)
    with pytest.raises(HostKeyError, match="not pinned"):
        _lines(Connection(cluster, host), "true")


def test_a_fetch_goes_on_where_it_stopped(lab: Lab, pi1: Connection, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (lab.folder / "pi1" / "home" / "big").write_bytes(data)
    part = tmp_path / "big.part"
    part.write_bytes(data[:123_456])
    received: list[int] = []
    pi1.fetch("big", part, len(data), received.append)
    assert part.read_bytes() == data
    assert sum(received) == len(data) - 123_456


def test_a_fetch_takes_no_more_than_it_was_told(lab: Lab, pi1: Connection, tmp_path: Path) -> None:
    (lab.folder / "pi1" / "home" / "growing").write_bytes(b"x" * 1000)
    pi1.fetch("growing", tmp_path / "part", 600, lambda _: None)
    assert (tmp_path / "part").stat().st_size == 600


def test_one_connection_a_host_serves_a_whole_chain(lab: Lab) -> None:
    operator = Operator(lab.cluster(), Screen())
    try:
        for _ in range(2):
            operator.each("probe", Call("releases.probe"), preview={}).require()
            clients = {host.name: operator.connection(host) for host in lab.cluster().hosts}
        again = Operator(lab.cluster(), Screen())
        assert {h.name: again.connection(h) for h in lab.cluster().hosts} == clients
        assert all(connection.is_connected for connection in clients.values())
    finally:
        close_connections()


def _reading(path: Path) -> bool:
    """Tell whether a process waits for somebody to write to the pipe."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def _until(true: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)  # polling to the deadline
