"""What memory.py and scale.py do with many keys, in processes of the hosts' interpreter.

    python3 -m benchmarks.keys fill --roster FILE --keys N
    python3 -m benchmarks.keys snapshot --roster FILE --name NAME --folder DIR

Keys of 16 bytes, values of 64.
"""

import argparse
import json
import threading
import time
from pathlib import Path

from rdht import roster
from rdht.client import Client
from rdht.journal import Journal
from rdht.participant import Participant
from rdht.ring import layout

_COMMANDS = 10_000  # servers remember the last thousand of them, so a tenth of the keys
_WINDOW = 256


def key(number: int) -> bytes:
    """Return a key of 16 bytes."""
    return b"%016d" % number


def value(number: int) -> bytes:
    """Return a value of 64 bytes."""
    return b"%064d" % number


def _fill(options: argparse.Namespace) -> None:
    """Put all keys, each alone or, of many, some in one command."""
    numbers = range(options.keys)
    together = options.keys // _COMMANDS
    with Client(options.roster) as client:
        if together > 1:
            for at in numbers[::together]:
                client.put_many({key(one): value(one) for one in numbers[at : at + together]})
            return
        with client.pipeline(_WINDOW) as pipeline:
            for number in numbers:
                pipeline.put(key(number), value(number))


def _snapshot(options: argparse.Namespace) -> None:
    """Read a stopped server's files and leave a snapshot, as it does; print the seconds of both."""
    servers = roster.load(options.roster)
    journal: Journal[object] = Journal(options.folder, threading.Lock(), lambda _bound: None)
    begun_s = time.perf_counter()
    _, key_range = journal.recover(
        lambda: Participant(options.name, layout(servers), durable=True), time.monotonic()
    )
    read_s = time.perf_counter() - begun_s
    journal.start()
    begun_s = time.perf_counter()
    journal.stop(key_range)
    written_s = time.perf_counter() - begun_s
    size = sum(path.stat().st_size for path in options.folder.glob("snapshot-*"))
    print(json.dumps({"read_s": read_s, "written_s": written_s, "bytes": size}))  # noqa: T201 - a command prints


def main() -> None:
    """Do what was typed."""
    parser = argparse.ArgumentParser(description="Work with many keys.")
    commands = parser.add_subparsers(required=True)
    fill = commands.add_parser("fill")
    fill.set_defaults(run=_fill)
    fill.add_argument("--roster", required=True)
    fill.add_argument("--keys", required=True, type=int)
    snapshot = commands.add_parser("snapshot")
    snapshot.set_defaults(run=_snapshot)
    snapshot.add_argument("--roster", required=True)
    snapshot.add_argument("--name", required=True)
    snapshot.add_argument("--folder", required=True, type=Path)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
