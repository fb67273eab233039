"""Measure this host's link to others, before a run, while nothing else uses it."""

import hmac
import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from rdht.node.host import Folders, NodeError

_SETTLE_S = 0.1  # buckets of shapers empty themselves, and TCP finds the rate
_MEASURE_S = 0.25
_LONGEST_S = 1.5  # on a slow link, so that a shaper's bucket is little of what comes
_ENOUGH_BYTES = 500_000
_TIMEOUT_S = 5.0  # not all hosts begin at one instant
_RETRY_S = 0.02
_CHUNK = bytes(64 * 1024)
_ON_THE_WAY_BYTES = 32 * 1024  # more would be dropped before a slow link, and TCP then pauses
# What each TCP segment with timestamps has besides its payload: headers of Ethernet, IPv4 and TCP;
# on a real wire also preamble, check sum and gap. A virtual link's shaper counts the headers only.
_HEADERS_BYTES = 14 + 20 + 32
_WIRE_BYTES = 8 + 4 + 12
_MORE_OF_IPV6_BYTES = 20
_INTRODUCTION_S = 0.5
_TCP_INFO = struct.Struct("=20xI116xI8xI")  # of struct tcp_info in linux/tcp.h, since Linux 4.6


class _Counts(NamedTuple):
    """What the kernel tells of a connection: how large segments are, and how many came."""

    segment_bytes: int
    segments: int
    data_segments: int


def measure(_folders: Folders, arguments: dict[str, Any], _payload: bytes) -> dict[str, Any]:
    """Return how fast one host sends to this one, while this one sends to another.

    Listens at `listen` and sends to `peer` (address and port each); who sends says the `token`
    first. `in_bits_per_s` counts all that took the link: payload, the acknowledgements of what this
    host sends, and for each segment the `overhead_bytes`.
    """
    address, port = arguments["listen"]
    try:
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((address, port), family=family)
    except OSError as error:
        where = f"{address}:{port}"
        why = f"cannot measure the link: {where}: {error.strerror}"
        raise NodeError(why) from error
    token = arguments["token"].encode()
    end_s = time.monotonic() + _TIMEOUT_S
    sender = _Sender(tuple(arguments["peer"]), token, end_s)
    sender.start()
    overhead_bytes = _HEADERS_BYTES + (_WIRE_BYTES if _has_wire() else 0)
    overhead_bytes += _MORE_OF_IPV6_BYTES if family == socket.AF_INET6 else 0
    try:
        with listener, _welcome(listener, token, end_s) as sock:
            return {
                "in_bits_per_s": round(8 * _bytes_per_s(sock, sender, overhead_bytes)),
                "overhead_bytes": overhead_bytes,
            }
    except OSError as error:
        why = f"cannot measure the link: too little came from the host that was to send: {error}"
        raise NodeError(why) from error
    finally:
        sender.join()


class _Sender(threading.Thread):
    """Sends to a peer until that has had enough; it is the peer that says how it went."""

    def __init__(self, peer: tuple[str, int], token: bytes, end_s: float) -> None:
        super().__init__(daemon=True)
        self._peer = peer
        self._token = token
        self._end_s = end_s
        self._socket: socket.socket | None = None
        self._acknowledgements = 0

    def acknowledgements(self) -> int:
        """Return how many segments came back so far."""
        if self._socket:
            with suppress(OSError):  # the peer has had enough
                self._acknowledgements = _counts(self._socket).segments
        return self._acknowledgements

    def run(self) -> None:
        while (left_s := self._end_s - time.monotonic()) > 0:
            try:
                self._socket = socket.create_connection(self._peer, left_s)
            except OSError:  # it is not there yet
                time.sleep(_RETRY_S)
                continue
            with suppress(OSError), self._socket as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ON_THE_WAY_BYTES)
                sock.sendall(self._token)
                while time.monotonic() < self._end_s:
                    sock.sendall(_CHUNK)
            return


def _welcome(listener: socket.socket, token: bytes, end_s: float) -> socket.socket:
    """Wait for the one who knows the token."""
    while (left_s := end_s - time.monotonic()) > 0:
        listener.settimeout(left_s)
        sock, _ = listener.accept()
        sock.settimeout(_INTRODUCTION_S)
        with suppress(OSError):
            if hmac.compare_digest(sock.recv(len(token), socket.MSG_WAITALL), token):
                sock.settimeout(left_s)
                return sock
        sock.close()
    raise TimeoutError


def _bytes_per_s(sock: socket.socket, sender: _Sender, overhead_bytes: int) -> float:
    """Count what comes over the link, on this connection and for the sender's."""
    _drain(sock, _SETTLE_S, _SETTLE_S)
    begin_s, begin, acknowledged = time.monotonic(), _counts(sock), sender.acknowledgements()
    _drain(sock, _MEASURE_S, _LONGEST_S)
    end = _counts(sock)
    duration_s = time.monotonic() - begin_s
    came = end.data_segments - begin.data_segments  # bytes behind a lost one would not count yet
    acknowledgements = sender.acknowledgements() - acknowledged
    wire_bytes = came * (end.segment_bytes + overhead_bytes) + acknowledgements * overhead_bytes
    return wire_bytes / duration_s


def _drain(sock: socket.socket, least_s: float, most_s: float) -> None:
    """Read for a time, and longer until enough has come."""
    buffer = bytearray(len(_CHUNK))
    begin_s, received = time.monotonic(), 0
    while (spent_s := time.monotonic() - begin_s) < least_s or (
        spent_s < most_s and received < _ENOUGH_BYTES
    ):
        count = sock.recv_into(buffer)
        if not count:
            raise ConnectionResetError
        received += count


def _counts(sock: socket.socket) -> _Counts:
    return _Counts(
        *_TCP_INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
    )


def _has_wire() -> bool:
    return any((path / "device").exists() for path in Path("/sys/class/net").iterdir())
