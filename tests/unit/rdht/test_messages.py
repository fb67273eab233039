import struct
import time
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rdht.authentication import TAG_BYTES, Seal
from rdht.errors import AuthenticationError, LocalProtocolError, RemoteProtocolError
from rdht.limits import MAX_BODY_BYTES, MAX_FRAME_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES
from rdht.messages import (
    HEADER_BYTES,
    PROTOCOL_VERSION,
    Decoder,
    Flag,
    Message,
    Name,
    Operation,
    Reason,
    Status,
    encode,
)

CLASSIC_FRAME_BYTES = 256
SEAL_KEY = bytes(range(32))
U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
NAMES = st.builds(Name, U64, U64, U32)
MESSAGES = st.builds(
    Message,
    status=st.sampled_from(Status),
    name=NAMES,
    operation=st.sampled_from(Operation),
    reason=st.sampled_from(Reason),
    flags=st.integers(0, 255),
    range=st.integers(0, 2**16 - 1),
    epoch=U32,
    version=U64,
    key=st.binary(max_size=MAX_KEY_BYTES),
    value=st.binary(max_size=4000),
)
FULL = Message(
    Status.REQUEST,
    Name(2**64 - 1, 2**63, 2**32 - 1),
    Operation.CAS,
    Reason.STOPPING,
    255,
    2**16 - 1,
    2**32 - 1,
    2**64 - 1,
    b"k" * MAX_KEY_BYTES,
    b"v" * MAX_BODY_BYTES,
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def feed_all(chunks: list[bytes], *, sealed: bool = False) -> list[Message]:
    decoder = Decoder()
    decoder.seal = Seal(SEAL_KEY) if sealed else None
    return [message for chunk in chunks for message in decoder.feed(chunk)]


def encode_all(messages: list[Message], frame_bytes: int = 0, *, sealed: bool = False) -> bytes:
    seal = Seal(SEAL_KEY)
    frames = [encode(message, frame_bytes) for message in messages]
    return b"".join(frame + seal.tag(frame) if sealed else frame for frame in frames)


@given(
    sent=st.lists(MESSAGES, max_size=6),
    frame_bytes=st.sampled_from([0, 1, CLASSIC_FRAME_BYTES, 1000]),
    places=st.lists(st.integers(0, 100_000), max_size=20),
    sealed=st.booleans(),
)
def test_messages_come_out_as_they_went_in_however_the_bytes_are_cut(
    *, sent: list[Message], frame_bytes: int, places: list[int], sealed: bool
) -> None:
    data = encode_all(sent, frame_bytes, sealed=sealed)
    assert feed_all(cut(data, places), sealed=sealed) == sent


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("frame_bytes", [0, CLASSIC_FRAME_BYTES])
def test_a_message_appears_with_its_last_byte_and_not_before(
    *, frame_bytes: int, sealed: bool
) -> None:
    first = Message(Status.YES, Name(1, 2, 3), Operation.PUT, version=4)
    second = Message(Status.DONE, Name(5, 6, 7), Operation.GET, value=b"v")
    decoder, seal = Decoder(), Seal(SEAL_KEY)
    decoder.seal = Seal(SEAL_KEY) if sealed else None
    for message in (first, second):
        frame = encode(message, frame_bytes)
        *head, last = frame + (seal.tag(frame) if sealed else b"")
        assert [decoder.feed(bytes([byte])) for byte in head] == [[]] * len(head)
        assert decoder.feed(bytes([last])) == [message]


def test_a_seal_may_come_into_force_while_a_frame_is_half_there() -> None:
    frame = encode(Message(Status.STATS))
    decoder = Decoder()
    assert decoder.feed(frame[:20]) == []
    decoder.seal = Seal(SEAL_KEY)
    assert decoder.feed(frame[20:]) == []
    assert decoder.feed(Seal(SEAL_KEY).tag(frame)) == [Message(Status.STATS)]


@pytest.mark.parametrize("place", [0, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + TAG_BYTES])
def test_a_sealed_frame_of_which_a_byte_was_changed_is_refused(place: int) -> None:
    data = bytearray(encode_all([Message(Status.STATS, value=b"v")], sealed=True))
    data[place] ^= 1
    with pytest.raises((AuthenticationError, RemoteProtocolError)):
        feed_all([bytes(data), bytes(300)], sealed=True)


def test_a_sealed_frame_that_is_repeated_is_refused() -> None:
    data = encode_all([Message(Status.STATS)], sealed=True)
    with pytest.raises(AuthenticationError, match="frame 1 has a wrong tag"):
        feed_all([data, data], sealed=True)


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
    message = Message(
        Status.REQUEST,
        Name(1, 2, 3),
        Operation.PUT,
        Reason.BUSY,
        flags=Flag.QUEUE | Flag.LATE,
        range=5,
        epoch=6,
        version=4,
        key=b"key",
        value=b"val",
    )
    numbers = (HEADER_BYTES + 2, PROTOCOL_VERSION, 2, 2, 1, 3, 5, 6, 1, 2, 3, 4, 3, 3)
    assert encode(message) == struct.pack("!IBBBBBHIQQIQHI", *numbers) + b"keyval"


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
        Message(Status.REQUEST, value=b"v" * (MAX_BODY_BYTES + 1)),
    ],
)
def test_what_is_over_its_limit_is_not_encoded(message: Message) -> None:
    with pytest.raises(LocalProtocolError, match=f"at most {MAX_KEY_BYTES} and {MAX_BODY_BYTES}"):
        encode(message)


@pytest.mark.parametrize(
    "changed",
    [
        {"version": -1},  # `Client.cas` takes the version from its caller
        {"version": 2**64},
        {"epoch": 2**32},
        {"range": 2**16},
        {"flags": 256},
        {"name": Name(0, 0, 2**32)},
    ],
)
def test_a_number_that_no_frame_can_carry_is_a_local_protocol_error(
    changed: dict[str, object],
) -> None:
    message = Message(Status.REQUEST, operation=Operation.CAS)._replace(**changed)  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match="a number is outside its field"):
        encode(message)


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
    numbers = (0, 1, 1, 1, 1, 1, 0)
    header = (length, protocol, status, operation, reason, *numbers, key_bytes, value_bytes)
    return struct.pack("!IBBBBBHIQQIQHI", *header) + b"kv"


def test_the_frame_that_the_malformed_ones_come_from_is_well_formed() -> None:
    (message,) = Decoder().feed(frame())
    assert (message.key, message.value) == (b"k", b"v")


MALFORMED = {
    "too short for a header": (frame(length=HEADER_BYTES - 5), f"a frame of {HEADER_BYTES - 5}"),
    "no length at all": (frame(length=0), "a frame of 0 bytes"),
    "over the limit": (frame(length=MAX_FRAME_BYTES + 1), f"a frame of {MAX_FRAME_BYTES + 1}"),
    "other protocol": (frame(protocol=1), "protocol version 1, this side speaks 2"),
    "status 0": (frame(status=0), r"no message has the status, operation and reason \[0, 1, 0\]"),
    "status 8": (frame(status=8), r"reason \[8, 1, 0\]"),
    "operation 7": (frame(operation=7), r"reason \[2, 7, 0\]"),
    "reason 255": (frame(reason=255), r"reason \[2, 1, 255\]"),
    "key beyond the frame": (frame(key_bytes=3), "a key of 3 and a value of 1 bytes in a frame"),
    "value beyond the frame": (frame(value_bytes=2), "a key of 1 and a value of 2 bytes"),
    "key over its limit": (
        frame(length=MAX_FRAME_BYTES, key_bytes=MAX_KEY_BYTES + 1) + b"\0" * MAX_FRAME_BYTES,
        f"a key of {MAX_KEY_BYTES + 1} ",
    ),
    "value over its limit": (
        frame(length=MAX_FRAME_BYTES, value_bytes=MAX_BODY_BYTES + 1) + b"\0" * MAX_FRAME_BYTES,
        f"a value of {MAX_BODY_BYTES + 1} ",
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


def test_a_decoder_takes_no_longer_frames_than_it_is_told() -> None:
    message = Message(Status.HELLO, value=b"v" * 100)
    assert Decoder(HEADER_BYTES + 96).feed(encode(message)) == [message]
    with pytest.raises(RemoteProtocolError, match=f"allowed are .* to {HEADER_BYTES + 95}"):
        Decoder(HEADER_BYTES + 95).feed(encode(message))


def test_a_wrong_length_behind_a_whole_frame_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="a frame of 1 bytes"):
        Decoder().feed(encode(Message(Status.STATS)) + b"\0\0\0\1")


GARBAGE = st.binary(max_size=300) | st.builds(
    lambda length, rest: length.to_bytes(4) + rest,
    st.integers(HEADER_BYTES - 4, 2 * HEADER_BYTES),
    st.binary(max_size=300),
)


@given(data=GARBAGE, places=st.lists(st.integers(0, 300), max_size=5), sealed=st.booleans())
@example(data=b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 4, places=[], sealed=False)
@example(data=b"\xff" * 64, places=[3], sealed=False)
@example(data=b"\0\0\0\x2f" + b"\xff" * 63, places=[10], sealed=True)
def test_garbage_raises_nothing_but_a_remote_protocol_or_authentication_error(
    *, data: bytes, places: list[int], sealed: bool
) -> None:
    try:
        messages = feed_all(cut(data, places), sealed=sealed)
    except (RemoteProtocolError, AuthenticationError):
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
