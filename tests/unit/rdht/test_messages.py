import struct
import time
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rdht.errors import LocalProtocolError, RemoteProtocolError
from rdht.limits import MAX_FRAME_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES
from rdht.messages import (
    HEADER_BYTES,
    PROTOCOL_VERSION,
    Decoder,
    Message,
    Name,
    Operation,
    Reason,
    Status,
    encode,
)

CLASSIC_FRAME_BYTES = 256
U64 = st.integers(0, 2**64 - 1)
NAMES = st.builds(Name, U64, U64, st.integers(0, 2**32 - 1))
MESSAGES = st.builds(
    Message,
    status=st.sampled_from(Status),
    name=NAMES,
    operation=st.sampled_from(Operation),
    reason=st.sampled_from(Reason),
    version=U64,
    key=st.binary(max_size=MAX_KEY_BYTES),
    value=st.binary(max_size=4000),
)
FULL = Message(
    Status.REQUEST,
    Name(2**64 - 1, 2**63, 2**32 - 1),
    Operation.CAS,
    Reason.STOPPING,
    2**64 - 1,
    b"k" * MAX_KEY_BYTES,
    b"v" * MAX_VALUE_BYTES,
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def feed_all(chunks: list[bytes]) -> list[Message]:
    decoder = Decoder()
    return [message for chunk in chunks for message in decoder.feed(chunk)]


@given(
    st.lists(st.tuples(MESSAGES, st.sampled_from([0, 1, CLASSIC_FRAME_BYTES, 1000])), max_size=6),
    st.lists(st.integers(0, 100_000), max_size=20),
)
def test_messages_come_out_as_they_went_in_however_the_bytes_are_cut(
    sent: list[tuple[Message, int]], places: list[int]
) -> None:
    data = b"".join(encode(message, frame_bytes) for message, frame_bytes in sent)
    assert feed_all(cut(data, places)) == [message for message, _ in sent]


@pytest.mark.parametrize("frame_bytes", [0, CLASSIC_FRAME_BYTES])
def test_a_message_appears_with_its_last_byte_and_not_before(frame_bytes: int) -> None:
    first = Message(Status.YES, Name(1, 2, 3), Operation.PUT, version=4)
    second = Message(Status.DONE, Name(5, 6, 7), Operation.GET, value=b"v")
    decoder = Decoder()
    for message in (first, second):
        *head, last = encode(message, frame_bytes)
        assert [decoder.feed(bytes([byte])) for byte in head] == [[]] * len(head)
        assert decoder.feed(bytes([last])) == [message]


def test_decoded_fields_have_their_types() -> None:
    (message,) = Decoder().feed(encode(Message(Status.NO, operation=Operation.ADD)))
    assert type(message) is Message
    assert type(message.name) is Name
    assert (type(message.status), type(message.operation)) == (Status, Operation)
    assert type(message.reason) is Reason
    assert (type(message.key), type(message.value)) == (bytes, bytes)


def test_the_longest_message_survives() -> None:
    assert feed_all([encode(FULL)]) == [FULL]


def test_nothing_fed_is_nothing_received() -> None:
    decoder = Decoder()
    assert decoder.feed(b"") == []
    assert decoder.feed(encode(Message(Status.STATS))) == [Message(Status.STATS)]


def test_the_status_numbers_one_to_nine_are_those_of_the_original() -> None:
    numbers = {status.name: int(status) for status in Status if status < 10}
    assert numbers == {
        "NO": 1,
        "REQUEST": 2,
        "YES": 3,
        "ABORT": 4,
        "ABORTED": 5,
        "PROCEED": 6,
        "DONE": 7,
        "DONE_NOTHING": 9,
    }


def test_a_frame_is_laid_out_as_the_module_says() -> None:
    message = Message(Status.REQUEST, Name(1, 2, 3), Operation.PUT, Reason.BUSY, 4, b"key", b"val")
    header = struct.pack("!IBBBBQQIQHI", 44, PROTOCOL_VERSION, 2, 2, 1, 1, 2, 3, 4, 3, 3)
    assert encode(message) == header + b"keyval"


@pytest.mark.parametrize(
    ("value_bytes", "frame_bytes", "size"),
    [
        (0, 0, HEADER_BYTES),
        (0, CLASSIC_FRAME_BYTES, CLASSIC_FRAME_BYTES),
        (CLASSIC_FRAME_BYTES - HEADER_BYTES, CLASSIC_FRAME_BYTES, CLASSIC_FRAME_BYTES),
        (CLASSIC_FRAME_BYTES, CLASSIC_FRAME_BYTES, HEADER_BYTES + CLASSIC_FRAME_BYTES),
    ],
)
def test_a_short_frame_is_padded_and_a_longer_one_is_not_cut(
    value_bytes: int, frame_bytes: int, size: int
) -> None:
    frame = encode(Message(Status.DONE, value=b"v" * value_bytes), frame_bytes)
    assert len(frame) == size
    assert int.from_bytes(frame[:4]) == size - 4


@pytest.mark.parametrize(
    "message",
    [
        Message(Status.REQUEST, key=b"k" * (MAX_KEY_BYTES + 1)),
        Message(Status.REQUEST, value=b"v" * (MAX_VALUE_BYTES + 1)),
    ],
)
def test_what_is_over_its_limit_is_not_encoded(message: Message) -> None:
    with pytest.raises(LocalProtocolError, match=f"at most {MAX_KEY_BYTES} and {MAX_VALUE_BYTES}"):
        encode(message)


@pytest.mark.parametrize("version", [-1, 2**64])
def test_a_version_that_no_frame_can_carry_is_a_local_protocol_error(version: int) -> None:
    # `Client.cas` takes the version from its caller.
    with pytest.raises(LocalProtocolError):
        encode(Message(Status.REQUEST, operation=Operation.CAS, version=version))


def frame(**changed: int) -> bytes:
    fields = {
        "length": HEADER_BYTES - 4 + 2,
        "protocol": PROTOCOL_VERSION,
        "status": Status.REQUEST,
        "operation": Operation.GET,
        "reason": Reason.NONE,
        "key_bytes": 1,
        "value_bytes": 1,
    }
    length, protocol, status, operation, reason, key_bytes, value_bytes = {
        **fields,
        **changed,
    }.values()
    header = (length, protocol, status, operation, reason, 1, 1, 1, 0, key_bytes, value_bytes)
    return struct.pack("!IBBBBQQIQHI", *header) + b"kv"


def test_the_frame_that_the_malformed_ones_come_from_is_well_formed() -> None:
    (message,) = Decoder().feed(frame())
    assert (message.key, message.value) == (b"k", b"v")


MALFORMED = {
    "too short for a header": (frame(length=HEADER_BYTES - 5), "a frame of 37 bytes"),
    "no length at all": (frame(length=0), "a frame of 0 bytes"),
    "over the limit": (frame(length=MAX_FRAME_BYTES + 1), f"a frame of {MAX_FRAME_BYTES + 1}"),
    "other protocol": (frame(protocol=2), "protocol version 2, this side speaks 1"),
    "status 0": (frame(status=0), "no message has status 0,"),
    "status 8": (frame(status=8), "no message has status 8,"),
    "operation 6": (frame(operation=6), "operation 6"),
    "reason 3": (frame(reason=3), "reason 3"),
    "key beyond the frame": (frame(key_bytes=3), "a key of 3 and a value of 1 bytes in a frame"),
    "value beyond the frame": (frame(value_bytes=2), "a key of 1 and a value of 2 bytes"),
    "key over its limit": (
        frame(length=MAX_FRAME_BYTES, key_bytes=MAX_KEY_BYTES + 1) + b"\0" * MAX_FRAME_BYTES,
        f"a key of {MAX_KEY_BYTES + 1} ",
    ),
    "value over its limit": (
        frame(length=MAX_FRAME_BYTES, value_bytes=MAX_VALUE_BYTES + 1) + b"\0" * MAX_FRAME_BYTES,
        f"a value of {MAX_VALUE_BYTES + 1} ",
    ),
}


@pytest.mark.parametrize(("data", "why"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_frame_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        Decoder().feed(data)


@pytest.mark.parametrize("length", [HEADER_BYTES - 5, MAX_FRAME_BYTES + 1])
def test_a_wrong_length_is_refused_with_its_fourth_byte(length: int) -> None:
    decoder = Decoder()
    data = length.to_bytes(4)
    assert decoder.feed(data[:3]) == []
    with pytest.raises(RemoteProtocolError, match=f"a frame of {length} bytes"):
        decoder.feed(data[3:])


def test_a_wrong_length_behind_a_whole_frame_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="a frame of 1 bytes"):
        Decoder().feed(encode(Message(Status.STATS)) + b"\0\0\0\1")


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 4, [])
@example(b"\xff" * 64, [3])
@example(b"\0\0\0\x26" + b"\xff" * 38, [10])
def test_garbage_raises_nothing_but_a_remote_protocol_error(data: bytes, places: list[int]) -> None:
    try:
        messages = feed_all(cut(data, places))
    except RemoteProtocolError:
        return
    assert sum(len(encode(message)) for message in messages) <= len(data)


@given(MESSAGES, st.integers(0, HEADER_BYTES - 1), st.integers(1, 255))
def test_one_byte_of_the_header_changed_gives_a_frame_or_a_remote_protocol_error(
    message: Message, place: int, change: int
) -> None:
    data = bytearray(encode(message))
    data[place] ^= change
    try:
        received = Decoder().feed(bytes(data))
    except RemoteProtocolError:
        return
    assert message not in received


def trickle_s(value_bytes: int, limit_s: float = float("inf")) -> float:
    """Return the processor time that a frame fed byte by byte takes, at best; fail at the limit."""
    data = encode(Message(Status.DONE, value=b"v" * value_bytes))
    single = [data[at : at + 1] for at in range(len(data))]
    best_s = float("inf")
    for _ in range(3):
        decoder = Decoder()
        messages = []
        begin_s = time.process_time()
        for at in range(0, len(single), 4096):
            for byte in single[at : at + 4096]:
                messages += decoder.feed(byte)
            assert time.process_time() - begin_s < limit_s, f"too long, at byte {at}"
        best_s = min(best_s, time.process_time() - begin_s)
        assert len(messages) == 1
    return best_s


def test_a_trickle_of_single_bytes_costs_in_proportion_to_the_frame() -> None:
    # 16 times the bytes: linear work takes 16 times as long, quadratic work 256 times.
    limit_s = 64 * trickle_s(MAX_VALUE_BYTES // 16)
    assert trickle_s(MAX_VALUE_BYTES, limit_s) < limit_s
