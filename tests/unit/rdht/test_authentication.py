import os
import re
import socket
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdht.authentication import (
    NONCE_BYTES,
    SECRET_BYTES,
    TAG_BYTES,
    Handshake,
    Seal,
    Session,
    make_secret,
    read_secret,
)
from rdht.errors import AuthenticationError, ConfigurationError, RdhtError

SECRET = bytes(range(SECRET_BYTES))
OTHER_SECRET = bytes(reversed(SECRET))
HELLO = b'{"server": "pi1", "client": "pi2"}'
CLIENT_NONCE = b"c" * NONCE_BYTES
SERVER_NONCE = b"s" * NONCE_BYTES
KEY = b"k" * 32
FRAMES = [b"first", b"second frame", b"", b"first"]


def shake_hands(
    secret: bytes = SECRET,
    hello: bytes = HELLO,
    client_nonce: bytes = CLIENT_NONCE,
    server_nonce: bytes = SERVER_NONCE,
) -> Handshake:
    return Handshake(secret, hello, client_nonce, server_nonce)


def open_both() -> tuple[Session, Session]:
    """Run a handshake to its end; return the client's session and the server's."""
    at_client, at_server = shake_hands(), shake_hands()
    client = at_client.open_client(at_server.server_proof)
    return client, at_server.open_server(at_client.client_proof)


def passes(seal: Seal, frame: bytes, tag: bytes) -> bool:
    try:
        seal.check(frame, tag)
    except AuthenticationError:
        return False
    return True


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# The secret's file.


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET.hex() + "\n")
    path.chmod(0o600)
    return path


def refusal(path: Path) -> str:
    """Return why a secret's file is refused; it names the file, and what would be right."""
    with pytest.raises(ConfigurationError) as caught:
        read_secret(path)
    why = str(caught.value)
    assert why.startswith(f"{path}: cannot use this as the cluster's secret: ")
    assert why.endswith(
        "64 hex digits and a newline there, in a regular file of its user's own with mode 0600"
    )
    return why


def test_a_made_secret_is_read_back_and_is_new_each_time(secret_file: Path) -> None:
    text = make_secret()
    secret_file.write_text(text)
    assert re.fullmatch("[0-9a-f]{64}\n", text)
    assert read_secret(secret_file) == read_secret(str(secret_file)) == bytes.fromhex(text)
    assert make_secret() != text


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_that_is_its_owners_alone_is_read(secret_file: Path, mode: int) -> None:
    secret_file.chmod(mode)
    assert read_secret(secret_file) == SECRET


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o4666])
def test_a_file_that_others_can_use_is_refused(secret_file: Path, mode: int) -> None:
    secret_file.chmod(mode)
    assert f"mode {mode:04o} opens it to others" in refusal(secret_file)


def test_a_file_of_another_user_is_refused(
    secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert f"user {owner} owns it, and this is user {owner + 1}" in refusal(secret_file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "No such file or directory" in refusal(tmp_path / "secret")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize(
    ("make", "mistake"),
    [
        (Path.mkdir, "Is a directory"),
        (os.mkfifo, "not a regular file"),  # and nobody waits for a writer
        (make_socket, "No such device or address"),
    ],
)
def test_what_is_no_regular_file_is_refused(
    tmp_path: Path, make: Callable[[Path], None], mistake: str
) -> None:
    path = tmp_path / "s"
    make(path)
    path.chmod(0o700)
    assert mistake in refusal(path)


def test_a_link_to_a_good_file_is_refused(secret_file: Path) -> None:
    link = secret_file.with_name("link")
    link.symlink_to(secret_file)
    assert "symbolic link" in refusal(link)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        SECRET.hex(),
        SECRET.hex()[:-1] + "\n",
        SECRET.hex()[:-2] + "\n",
        SECRET.hex() + "0\n",
        SECRET.hex() + "\r\n",
        SECRET.hex() + "\n\n",
        SECRET.hex() + "\n" + SECRET.hex() + "\n",
        SECRET.hex(" ")[:64] + "\n",
        SECRET.hex()[:-1] + "g\n",
        SECRET.hex()[:-1] + "٣\n",
    ],
)
def test_a_file_with_another_text_is_refused_and_not_shown(secret_file: Path, text: str) -> None:
    secret_file.write_text(text, encoding="utf-8")
    why = refusal(secret_file)
    assert "it holds something else" in why
    assert SECRET.hex()[:8] not in why.removeprefix(str(secret_file))


# The handshake.


def test_both_sides_with_the_secret_can_talk_both_ways() -> None:
    client, server = open_both()
    for frame in FRAMES:
        server.incoming.check(frame, client.outgoing.tag(frame))
        client.incoming.check(memoryview(frame), memoryview(server.outgoing.tag(frame)))


def test_proofs_and_keys_are_those_of_this_version_for_ever() -> None:
    # Both sides computing another thing would still agree; old and new hosts would not.
    handshake = shake_hands()
    client = handshake.open_client(handshake.server_proof)
    assert (
        handshake.server_proof.hex()
        == "5f6a700e8797c160bc06ba837e23c53e32382b8eaa2fa1685f96f2568ab55775"
    )
    assert (
        handshake.client_proof.hex()
        == "e6a15781d9bd50801d8a359463e8aa48b714b538a8d6fe43d9e4760419884e28"
    )
    assert [client.outgoing.tag(b"frame").hex() for _ in range(2)] == [
        "5fcee98201daf5d08472764653089870",
        "d6ad8cd7a24402e7b7bed567cee35f69",
    ]


OTHERS = {
    "secret": shake_hands(secret=OTHER_SECRET),
    "hello": shake_hands(hello=flipped(HELLO, 0)),
    "longer hello": shake_hands(hello=HELLO + b"\0"),
    "client nonce": shake_hands(client_nonce=flipped(CLIENT_NONCE, 255)),
    "server nonce": shake_hands(server_nonce=flipped(SERVER_NONCE, 0)),
    "swapped nonces": shake_hands(client_nonce=SERVER_NONCE, server_nonce=CLIENT_NONCE),
    "shifted bytes": shake_hands(
        client_nonce=CLIENT_NONCE[1:] + SERVER_NONCE[:1],
        server_nonce=SERVER_NONCE[1:] + HELLO[:1],
        hello=HELLO[1:],
    ),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_proof_with_any_other_part_is_refused(other: Handshake) -> None:
    # Another nonce of the verifier's is the replay of an old handshake, or the splice of two.
    with pytest.raises(AuthenticationError, match="server does not know this cluster's secret"):
        shake_hands().open_client(other.server_proof)
    with pytest.raises(AuthenticationError, match="client does not know this cluster's secret"):
        shake_hands().open_server(other.client_proof)


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_frame_of_any_other_session_is_refused(other: Handshake) -> None:
    client, server = open_both()
    other_client = other.open_client(other.server_proof)
    other_server = other.open_server(other.client_proof)
    assert not passes(server.incoming, b"frame", other_client.outgoing.tag(b"frame"))
    assert not passes(client.incoming, b"frame", other_server.outgoing.tag(b"frame"))


def test_a_reflected_proof_is_refused() -> None:
    handshake = shake_hands()
    assert handshake.server_proof != handshake.client_proof
    with pytest.raises(AuthenticationError):
        handshake.open_server(handshake.server_proof)
    with pytest.raises(AuthenticationError):
        handshake.open_client(handshake.client_proof)


def test_a_reflected_handshake_is_refused() -> None:
    # The other side repeats this side's nonce, to be told the proof that it lacks.
    mirrored = shake_hands(server_nonce=CLIENT_NONCE)
    with pytest.raises(AuthenticationError):
        mirrored.open_client(mirrored.client_proof)


def test_a_proof_with_a_flipped_bit_is_refused() -> None:
    handshake = shake_hands()
    for bit in range(8 * 32):
        with pytest.raises(AuthenticationError):
            handshake.open_client(flipped(handshake.server_proof, bit))
        with pytest.raises(AuthenticationError):
            handshake.open_server(flipped(handshake.client_proof, bit))


@pytest.mark.parametrize("size", [0, 1, 31])
def test_a_cut_or_extended_proof_is_refused(size: int) -> None:
    handshake = shake_hands()
    with pytest.raises(AuthenticationError):
        handshake.open_server(handshake.client_proof[:size])
    with pytest.raises(AuthenticationError):
        handshake.open_server(handshake.client_proof + bytes(size + 1))


@pytest.mark.parametrize("size", [0, NONCE_BYTES - 1, NONCE_BYTES + 1])
def test_a_nonce_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(AuthenticationError, match=f"nonces of {size} and 32 bytes, not 32"):
        shake_hands(client_nonce=bytes(size))
    with pytest.raises(AuthenticationError, match=f"nonces of 32 and {size} bytes, not 32"):
        shake_hands(server_nonce=bytes(size))


@pytest.mark.parametrize("size", [0, SECRET_BYTES - 1, SECRET_BYTES + 1])
def test_a_secret_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ConfigurationError, match=f"has 32 bytes, not {size}"):
        shake_hands(secret=bytes(size))


def test_no_proof_is_a_key() -> None:
    # The proofs travel in the open.
    handshake = shake_hands()
    keys = {handshake._to_server, handshake._to_client}
    assert len(keys | {handshake.server_proof, handshake.client_proof}) == 4


def test_a_refusal_is_an_error_of_the_table() -> None:
    assert issubclass(AuthenticationError, RdhtError)


# The tags.


@given(frame=st.binary(min_size=1, max_size=300), data=st.data())
def test_a_flipped_bit_anywhere_is_refused(frame: bytes, data: st.DataObject) -> None:
    tag = Seal(KEY).tag(frame)
    assert len(tag) == TAG_BYTES
    in_frame = data.draw(st.integers(0, 8 * len(frame) - 1))
    in_tag = data.draw(st.integers(0, 8 * TAG_BYTES - 1))
    assert passes(Seal(KEY), frame, tag)
    assert not passes(Seal(KEY), flipped(frame, in_frame), tag)
    assert not passes(Seal(KEY), frame, flipped(tag, in_tag))


@given(frame=st.binary(max_size=300), more=st.binary(min_size=1, max_size=9), data=st.data())
def test_bytes_added_or_cut_anywhere_are_refused(
    frame: bytes, more: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(frame)))
    longer = frame[:at] + more + frame[at:]
    assert not passes(Seal(KEY), longer, Seal(KEY).tag(frame))
    assert not passes(Seal(KEY), frame, Seal(KEY).tag(longer))


@pytest.mark.parametrize("size", range(TAG_BYTES))
def test_a_cut_or_extended_tag_is_refused(size: int) -> None:
    tag = Seal(KEY).tag(b"frame")
    assert not passes(Seal(KEY), b"frame", tag[:size])
    assert not passes(Seal(KEY), b"frame", tag + bytes(size + 1))


def test_a_repeated_frame_is_refused() -> None:
    tag = Seal(KEY).tag(b"frame")
    receiver = Seal(KEY)
    receiver.check(b"frame", tag)
    with pytest.raises(AuthenticationError, match="frame 1 has a wrong tag"):
        receiver.check(b"frame", tag)


def test_only_the_order_of_sending_passes() -> None:
    sender = Seal(KEY)
    sent = [(frame, sender.tag(frame)) for frame in FRAMES]
    for order in permutations(sent):
        receiver = Seal(KEY)
        passed = [passes(receiver, *delivery) for delivery in order]
        assert all(passed) == (order == tuple(sent))


@pytest.mark.parametrize("missing", range(len(FRAMES) - 1))
def test_the_frame_after_a_missing_one_is_refused(missing: int) -> None:
    sender, receiver = Seal(KEY), Seal(KEY)
    tags = [sender.tag(frame) for frame in FRAMES]
    for at in range(missing):
        receiver.check(FRAMES[at], tags[at])
    assert not passes(receiver, FRAMES[missing + 1], tags[missing + 1])


def test_a_frame_sent_back_to_its_sender_is_refused() -> None:
    client, server = open_both()
    assert not passes(client.incoming, b"frame", client.outgoing.tag(b"frame"))
    assert not passes(server.incoming, b"frame", server.outgoing.tag(b"frame"))


def test_a_number_cannot_be_moved_into_its_frame() -> None:
    sender = Seal(KEY)
    first, second = sender.tag(bytes(8)), sender.tag(b"")
    assert first != second
    assert not passes(Seal(KEY), b"\0" * 7 + b"\1", second)


@given(
    frames=st.lists(st.binary(max_size=3), min_size=1, max_size=6),
    deliveries=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=40),
)
def test_whatever_a_network_delivers_what_passes_is_the_beginning_of_what_was_sent(
    frames: list[bytes], deliveries: list[tuple[int, int]]
) -> None:
    # Even for a receiver that goes on after a refusal.
    sender, receiver = Seal(KEY), Seal(KEY)
    tags = [sender.tag(frame) for frame in frames]
    passed = []
    for frame_at, tag_at in deliveries:
        frame, tag = frames[frame_at % len(frames)], tags[tag_at % len(frames)]
        if passes(receiver, frame, tag):
            passed.append(frame)
    assert passed == frames[: len(passed)]
