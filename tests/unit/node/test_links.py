"""How fast a link is: measured between this host and itself."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from rdht.node import links
from rdht.node.host import Folders, NodeError

HERE = "127.0.0.1"
Asked = Callable[..., dict[str, Any]]


@pytest.fixture
def asked() -> Asked:
    """Return a function that makes the arguments of a host that sends to itself, or elsewhere."""
    with socket.create_server((HERE, 0)) as taken:
        port: int = taken.getsockname()[1]

    def make(peer_port: int = port) -> dict[str, Any]:
        return {"listen": [HERE, port], "peer": [HERE, peer_port], "token": "a token"}

    return make


def test_what_arrives_in_a_time_is_the_rate(folders: Folders, asked: Asked) -> None:
    found = links.measure(folders, asked(), b"")
    assert found["in_bits_per_s"] > 1e7
    assert found["overhead_bytes"] in (66, 90)


def connect(port: int, said: bytes) -> socket.socket:
    """Connect as soon as somebody listens, and say something."""
    end_s = time.monotonic() + 5
    while True:
        try:
            sock = socket.create_connection((HERE, port), 5)
        except OSError:
            assert time.monotonic() < end_s
            time.sleep(0.01)
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(said)
            return sock


def test_headers_take_the_link_too_and_strangers_are_turned_away(
    folders: Folders, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "_TIMEOUT_S", 2.0)
    chosen = asked(peer_port=1)  # where nobody listens
    found: dict[str, Any] = {}
    thread = threading.Thread(target=lambda: found.update(links.measure(folders, chosen, b"")))
    thread.start()
    port = chosen["listen"][1]
    with connect(port, b"A TOKEN") as stranger:
        assert stranger.recv(1) == b""
    with connect(port, b"a token") as sock, suppress(OSError):
        while thread.is_alive():
            sock.sendall(bytes(1000))
            time.sleep(0.02)
    thread.join()
    most = 8 * 50 * (1000 + found["overhead_bytes"])
    assert 0.5 * most < found["in_bits_per_s"] < 1.15 * most  # a sleep is longer, never shorter


def test_a_port_that_is_taken_is_named(folders: Folders, asked: Asked) -> None:
    chosen = asked()
    with (
        socket.create_server((HERE, chosen["listen"][1])),
        pytest.raises(NodeError, match=rf"{HERE}:\d+: .*in use"),
    ):
        links.measure(folders, chosen, b"")


def test_a_host_that_nobody_sends_to_says_so(
    folders: Folders, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "_TIMEOUT_S", 0.3)
    with pytest.raises(NodeError, match="too little came"):
        links.measure(folders, asked(peer_port=1), b"")
