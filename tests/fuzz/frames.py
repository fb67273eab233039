"""Coverage-guided fuzzing of whatever reads bytes from a socket; needs atheris, and some minutes.

    pip install atheris
    python tests/fuzz/frames.py -max_total_time=300 [CORPUS_FOLDER]

The first byte of an input chooses what reads the rest: the decoder (fed in pieces), the parts of a
command, its results, a copy's rows, or a server: its handshake, then its participant as a client
and as another server reach it. Only the errors that close a connection may come out.
"""

import sys
from contextlib import suppress
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["rdht"]):
    from rdht import parts, replica, table
    from rdht.authentication import NONCE_BYTES, Handshake, Seal
    from rdht.errors import AuthenticationError, ProtocolError
    from rdht.messages import NOBODY, Decoder, Message, Status, encode
    from rdht.participant import Participant
    from rdht.rejoin import Rejoin
    from rdht.ring import layout
    from rdht.roster import Roster, ServerAddress
    from rdht.transport import Hello, read_json

ROSTER = Roster(tuple(ServerAddress(f"s{n}", f"h{n}", "127.0.0.1", 7000 + n) for n in range(3)))
SECRET = bytes(32)
NONCE = bytes(NONCE_BYTES)
REJOINING = {Status.JOIN, Status.COPY, Status.JOINED, Status.KNOWN}


def decode(data: bytes, *, seal: Seal | None = None) -> list[Message]:
    """Feed a decoder in pieces whose size the first byte names."""
    decoder = Decoder()
    decoder.seal = seal
    step = data[0] + 1 if data else 1
    messages = []
    for at in range(1, len(data), step):
        messages += decoder.feed(data[at : at + step])
    return messages


def shake_hands(data: bytes) -> None:
    """Be a server to whom these bytes come instead of a HELLO and a PROOF."""
    for message in decode(data):
        if message.status is Status.PROOF:
            Handshake(SECRET, encode(message), NONCE, NONCE).open_server(message.value)
        Hello.from_message(message)
        Handshake(SECRET, encode(message), message.key, NONCE)


def serve(data: bytes) -> None:
    """Be a server whose clients and whose peers send these messages."""
    participant = Participant("s0", layout(ROSTER))
    rejoin = Rejoin(participant, ("s0", "s1", "s2"), 1)
    participant.replicas[0].mode = replica.Mode.SERVING
    for number, message in enumerate(decode(data)):
        with suppress(ProtocolError):
            if message.status in REJOINING:
                rejoin.handle("s1", message, 0.0)
            elif number % 2:
                participant.handle_peer("s1", message, 0.0)
            else:
                participant.handle(message, 0.0)
    rejoin.tick(1.0)
    participant.tick(100.0)


READERS = [
    decode,
    lambda data: decode(data, seal=Seal(SECRET)),
    lambda data: parts.unpack(data, NOBODY),
    parts.unpack_results,
    lambda data: table.unpack_rows(data[1:], data[0]),
    lambda data: read_json(Message(Status.HELLO, value=data)),
    shake_hands,
    serve,
]


def fuzz_one(data: bytes) -> None:
    """Let one reader read; anything but a refusal is a fault."""
    if len(data) > 1:
        with suppress(ProtocolError, AuthenticationError):
            READERS[data[0] % len(READERS)](data[1:])


if __name__ == "__main__":
    atheris.Setup(sys.argv, fuzz_one)
    atheris.Fuzz()
