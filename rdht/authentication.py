"""Who may connect: the cluster's secret, a handshake that proves it, and a tag on each frame.

The client's HELLO carries a nonce; the server answers with its own nonce and its proof; the client
checks that and answers with its proof; from then on each frame is followed by its tag. What is
sent can be read by others, but not changed, left out, repeated or moved without being noticed.
A stream can still be cut short: that is a lost connection, and no tag tells it from an end.
"""

import hmac
import os
import re
import stat
from hashlib import blake2s, sha256
from pathlib import Path
from typing import NamedTuple

from rdht.errors import AuthenticationError, ConfigurationError

SECRET_BYTES = 32
NONCE_BYTES = 32
TAG_BYTES = 16

_NUMBER_BYTES = 8  # no session lives for 2**64 frames
_are_equal = hmac.compare_digest
_SECRET_TEXT = re.compile(rb"([0-9a-fA-F]{64})\n")


def make_secret() -> str:
    """Return the text of a new secret's file."""
    return os.urandom(SECRET_BYTES).hex() + "\n"


def read_secret(path: str | Path) -> bytes:
    """Read the secret's file; ConfigurationError if others could know or change what it holds."""
    try:
        # The open descriptor is what is checked and read, so nothing can be swapped in between.
        with open(path, "rb", opener=_open_as_it_stands) as file:
            mistake = _find_mistake(os.fstat(file.fileno()))
            text = b"" if mistake else file.read(2 * SECRET_BYTES + 2)
    except OSError as error:
        mistake = str(error.strerror)
    if not mistake:
        found = _SECRET_TEXT.fullmatch(text)
        if found:
            return bytes.fromhex(found[1].decode())
        mistake = "it holds something else"  # not shown: it may be nearly the secret
    why = (
        f"{path}: cannot use this as the cluster's secret: {mistake}; every host needs the same "
        "64 hex digits and a newline there, in a regular file of its user's own with mode 0600"
    )
    raise ConfigurationError(why)


def _open_as_it_stands(path: str, flags: int) -> int:
    """Open without following a link, and without waiting for a pipe's other end."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _find_mistake(found: os.stat_result) -> str:
    if not stat.S_ISREG(found.st_mode):
        return "not a regular file"
    if found.st_uid != os.geteuid():
        return f"user {found.st_uid} owns it, and this is user {os.geteuid()}"
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        return f"mode {mode:04o} opens it to others, who may know it: make a new one"
    return ""


class Seal:
    """One direction of a session: either tags the frames sent, or checks those received.

    A tag covers the frame and its number, so what passes the checks is always the beginning of
    what was tagged, in that order.
    """

    def __init__(self, key: bytes) -> None:
        """Start at the first frame under a key of this direction and session alone."""
        self._keyed = blake2s(key=key, digest_size=TAG_BYTES)  # a copy costs less than a new one
        self._number = 0

    def tag(self, frame: bytes | memoryview) -> bytes:
        """Return the tag of the next frame; send the frames in the order of their tags."""
        keyed = self._keyed.copy()
        keyed.update(self._number.to_bytes(_NUMBER_BYTES) + frame)
        self._number += 1
        return keyed.digest()

    def check(self, frame: bytes | memoryview, tag: bytes | memoryview) -> None:
        """Raise AuthenticationError unless this is the next frame as it was sent."""
        if not _are_equal(self.tag(frame), tag):
            self._number -= 1  # it is still to come
            why = f"frame {self._number} has a wrong tag"
            raise AuthenticationError(why)


class Session(NamedTuple):
    """An authenticated connection as one side sees it."""

    outgoing: Seal
    incoming: Seal


class Handshake:
    """What both sides compute from the secret and from what was said: proofs and keys."""

    def __init__(
        self, secret: bytes, hello: bytes, client_nonce: bytes, server_nonce: bytes
    ) -> None:
        """Take the HELLO's exact bytes, this side's fresh nonce and the other side's.

        Each handshake opens one session, once. Raises AuthenticationError for a nonce of another
        size, ConfigurationError for such a secret.
        """
        if len(secret) != SECRET_BYTES:
            why = f"a cluster's secret has {SECRET_BYTES} bytes, not {len(secret)}"
            raise ConfigurationError(why)
        if not len(client_nonce) == len(server_nonce) == NONCE_BYTES:
            why = f"nonces of {len(client_nonce)} and {len(server_nonce)} bytes, not {NONCE_BYTES}"
            raise AuthenticationError(why)
        # The nonces' sizes are fixed, so no other hello and nonces join to the same bytes.
        transcript = sha256(b"".join((client_nonce, server_nonce, hello))).digest()

        def derive(label: bytes) -> bytes:
            return hmac.digest(secret, b"rdht 1 " + label + transcript, "sha256")

        self.server_proof = derive(b"server proof")
        self.client_proof = derive(b"client proof")
        self._to_server = derive(b"client to server")
        self._to_client = derive(b"server to client")

    def open_client(self, server_proof: bytes) -> Session:
        """Return the client's session; AuthenticationError if the server's proof is wrong."""
        _check_proof(self.server_proof, server_proof, "server")
        return Session(outgoing=Seal(self._to_server), incoming=Seal(self._to_client))

    def open_server(self, client_proof: bytes) -> Session:
        """Return the server's session; AuthenticationError if the client's proof is wrong."""
        _check_proof(self.client_proof, client_proof, "client")
        return Session(outgoing=Seal(self._to_client), incoming=Seal(self._to_server))


def _check_proof(expected: bytes, received: bytes, who: str) -> None:
    if not hmac.compare_digest(expected, received):
        why = f"the {who} does not know this cluster's secret"
        raise AuthenticationError(why)
