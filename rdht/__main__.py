"""The command line: python -m rdht server|client|get|put|delete|load|ping|status|verify."""

import argparse
import json
import logging
import math
import os
import platform
import secrets
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from rdht import log, roster, scan
from rdht.client import Client, Pending, observe
from rdht.errors import ConfigurationError, DeadlineError, RdhtError
from rdht.history import SAMPLE_SHARE, THE_SERVERS, Recorder
from rdht.limits import MAX_RATE_PER_S, MAX_WARMUP_S, MAX_WINDOW, RECEIVE_BYTES
from rdht.messages import Message, Status
from rdht.parts import Result
from rdht.profiles import PROFILES
from rdht.records import write_json
from rdht.replica import Mode
from rdht.ring import Ring
from rdht.roster import DEFAULT_KEY_RANGE
from rdht.scan import Digest
from rdht.server import Server
from rdht.transport import ClientConnection, read_json
from rdht.workload import ClientProcess
from rdht.workloads import CLASSIC, WORKLOADS, Parameters
from rdht.ycsb import DEFAULT_RECORDS, DEFAULT_VALUE_BYTES, load_commands

EXIT_FAILED = 1
EXIT_NOT_FOUND = 1
_START_DELAY_S = 0.1
_SERVED_TIMEOUT_S = 5.0  # for servers that have just started to find each other
_POLL_S = 0.02


def main() -> int:
    """Run the subcommand that was typed; an expected failure is one line and exit code 1."""
    arguments = _parser().parse_args()
    try:
        code: int = arguments.run(arguments)
    except (RdhtError, OSError) as error:
        print(f"rdht {arguments.command}: {error}", file=sys.stderr)
        return EXIT_FAILED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rdht", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        command.add_argument("--roster", required=True, metavar="FILE", help="the servers, JSON")
        return command

    def add_key_range(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--key-range",
            type=_count,
            default=DEFAULT_KEY_RANGE,
            metavar="N",
            help="buckets shared out over the servers (default %(default)s)",
        )

    def add_process(command: argparse.ArgumentParser, name_help: str, name: str | None) -> None:
        command.add_argument("--name", required=name is None, default=name, help=name_help)
        command.add_argument("--trace", action="store_true", help="log every message")
        command.add_argument(
            "--ready-fd", type=int, metavar="FD", help="write a line here once ready"
        )

    server = add("server", _serve, "Run one server until TERM.")
    add_process(server, "the server's name in the roster", None)
    server.add_argument(
        "--durable", type=Path, metavar="DIR", help="keep on disk here whatever is promised"
    )
    server.add_argument("--workers", type=_count, default=1, metavar="N", help="(default 1)")

    client = add("client", _run_client, "Run one client's share of an experiment.")
    add_process(client, "the client's name (default: this host's)", platform.node())
    add_key_range(client)
    _add_workload(client)

    for name, text in (
        ("get", "Print a key's value; exit code 1 if it has none."),
        ("put", "Set a key's value."),
        ("delete", "Remove a key's value; exit code 1 if it had none."),
    ):
        command = add(name, _run_command, text)
        command.add_argument("key")
        if name == "put":
            command.add_argument("value")
        add_key_range(command)

    load = add("load", _load, "Write the records of a YCSB workload; print their number as JSON.")
    add_key_range(load)
    _add_records(load)
    load.add_argument("--seed", type=int, required=True, metavar="N")

    add("ping", _ping, "Connect to every server; print each round trip as JSON.")
    status = add("status", _status, "Print one server's figures as JSON.")
    status.add_argument("--name", required=True, help="the server's name in the roster")
    verify = add("verify", _verify, "Compare all replicas; print what differs as JSON.")
    _add_history(verify)
    return parser


def _add_workload(client: argparse.ArgumentParser) -> None:
    client.add_argument("--threads", type=_count, default=8, metavar="N", help="(default 8)")
    client.add_argument(
        "--key-size", type=_count, default=4, metavar="N", help="letters in a key (default 4)"
    )
    client.add_argument(
        "--get-ratio", type=_ratio, default=0.6, metavar="R", help="share of gets (default 0.6)"
    )
    length = client.add_mutually_exclusive_group()
    length.add_argument("--commands", type=_count, metavar="N", help="end after N a thread")
    length.add_argument(
        "--duration", type=_seconds, default=10.0, metavar="S", help="end after S s (default 10)"
    )
    client.add_argument("--workload", choices=WORKLOADS, default=CLASSIC)
    _add_records(client)
    client.add_argument(
        "--rate", type=_rate, metavar="R", help="commands a second (default: a closed loop)"
    )
    client.add_argument(
        "--warmup", type=_warmup, default=0.0, metavar="S", help="run S s before the figures begin"
    )
    client.add_argument("--seed", type=int, metavar="N", help="same seed, same commands")
    client.add_argument("--profile", choices=sorted(PROFILES), default="classic")
    client.add_argument(
        "--window", type=_window, default=1, metavar="N", help="commands in flight a thread"
    )
    client.add_argument(
        "--frame-bytes",
        type=_frame,
        metavar="N",
        help="pad frames to this (default: the profile's)",
    )
    client.add_argument("--results", required=True, type=Path, metavar="FILE")
    _add_history(client)
    client.add_argument(
        "--start-file", type=Path, metavar="FILE", help="wait for this file and the time in it"
    )
    client.add_argument(
        "--join",
        action="store_true",
        help="the start is over: begin at once, and end with those that began then",
    )
    client.add_argument(
        "--progress", type=Path, metavar="FILE", help="write the figures so far here"
    )


def _add_history(command: argparse.ArgumentParser) -> None:
    command.add_argument("--history", type=Path, metavar="FILE", help="keep the history here")
    command.add_argument("--sample", action="store_true", help=f"of one key in {SAMPLE_SHARE} only")


def _recorder(arguments: argparse.Namespace, name: str) -> Recorder | None:
    if arguments.history is None:
        return None
    workload = getattr(arguments, "workload", "")
    return Recorder(arguments.history, name, samples=arguments.sample, workload=workload)


def _add_records(command: argparse.ArgumentParser) -> None:
    for name, default, text in (
        ("--records", DEFAULT_RECORDS, "how many records a YCSB workload has"),
        ("--value-bytes", DEFAULT_VALUE_BYTES, "size of each of them"),
    ):
        shown = f"{text} (default %(default)s)"
        command.add_argument(name, type=_count, default=default, metavar="N", help=shown)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        why = f"{text!r} is not a number from 1 on"
        raise argparse.ArgumentTypeError(why)
    return int(text)


def _window(text: str) -> int:
    return _count_up_to(MAX_WINDOW - 1, text)


def _frame(text: str) -> int:
    return _count_up_to(RECEIVE_BYTES, text)


def _count_up_to(most: int, text: str) -> int:
    number = _count(text)
    if number > most:
        why = f"{text!r} is not a number from 1 to {most}"
        raise argparse.ArgumentTypeError(why)
    return number


def _number(text: str, low: float, high: float, expected: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        why = f"{text!r} is not {expected}"
        raise argparse.ArgumentTypeError(why)
    return number


def _ratio(text: str) -> float:
    return _number(text, 0, 1, "a number from 0 to 1")


def _rate(text: str) -> float:
    expected = f"a positive number up to {MAX_RATE_PER_S:g}"
    return _number(text, math.ulp(0.0), MAX_RATE_PER_S, expected)


def _warmup(text: str) -> float:
    return _number(text, 0, MAX_WARMUP_S, f"a number of seconds up to {MAX_WARMUP_S:g}")


def _seconds(text: str) -> float:
    return _number(text, math.ulp(0.0), sys.float_info.max, "a positive number of seconds")


def _on_term(act: Callable[[], None]) -> None:
    def handle(_number: int, _frame: FrameType | None) -> None:
        act()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def _say_ready(descriptor: int | None) -> None:
    if descriptor is not None:
        with os.fdopen(descriptor, "w", encoding="utf-8") as pipe:
            pipe.write("ready\n")


def _end_on_thread_failure(logger: logging.Logger) -> None:
    """Let no thread die alone: a process that lost one serves nobody well."""

    def end(failure: threading.ExceptHookArgs) -> None:
        logger.critical("thread failed", exc_info=failure.exc_value)
        os._exit(EXIT_FAILED)

    threading.excepthook = end


def _serve(arguments: argparse.Namespace) -> int:
    _end_on_thread_failure(log.set_up(f"server {arguments.name}"))
    stop = threading.Event()
    servers = roster.load(arguments.roster)
    server = Server(
        servers,
        arguments.name,
        arguments.workers,
        durable=arguments.durable,
        trace=arguments.trace,
    )
    _on_term(stop.set)
    _say_ready(arguments.ready_fd)
    server.serve(stop)
    return 0


def _run_client(arguments: argparse.Namespace) -> int:
    _end_on_thread_failure(log.set_up(f"client {arguments.name}"))
    parameters = Parameters(
        threads=arguments.threads,
        key_size=arguments.key_size,
        key_range=arguments.key_range,
        get_ratio=arguments.get_ratio,
        commands=arguments.commands,
        duration_s=None if arguments.commands else arguments.duration,
        seed=secrets.randbits(32) if arguments.seed is None else arguments.seed,
        profile=arguments.profile,
        window=arguments.window,
        rate_per_s=arguments.rate,
        warmup_s=arguments.warmup,
        workload=arguments.workload,
        records=arguments.records,
        value_bytes=arguments.value_bytes,
        frame_bytes=arguments.frame_bytes,
    )
    if not arguments.results.parent.is_dir():
        why = f"--results {arguments.results}: there is no folder {arguments.results.parent}"
        raise ConfigurationError(why)
    servers = roster.load(arguments.roster)
    client = ClientProcess(
        servers,
        arguments.name,
        parameters,
        trace=arguments.trace,
        recorder=_recorder(arguments, arguments.name),
    )
    if not arguments.join:  # else some server may be down
        client.connect()
    _on_term(client.stop)
    _say_ready(arguments.ready_fd)
    start_unix_s = time.time() + _START_DELAY_S
    if arguments.start_file:
        start_unix_s = client.wait_for_start(arguments.start_file)

    def report(progress: dict[str, object]) -> None:
        if arguments.progress:
            with suppress(OSError):  # what is shown meanwhile is no reason to end
                write_json(arguments.progress, progress)

    record = client.run(start_unix_s, report, joins=arguments.join)
    record.write(arguments.results)
    return EXIT_FAILED if record.lost or record.errors else 0


def _run_command(arguments: argparse.Namespace) -> int:
    key = os.fsencode(arguments.key)
    with Client(arguments.roster, key_range=arguments.key_range) as client:
        match arguments.command:
            case "get":
                value = client.get(key)
                if value is not None:
                    sys.stdout.buffer.write(value + b"\n")
                    return 0
            case "delete":
                if client.delete(key):
                    return 0
            case "put":
                client.put(key, os.fsencode(arguments.value))
                return 0
    print(f"key {arguments.key!r} has no value", file=sys.stderr)
    return EXIT_NOT_FOUND


def _load(arguments: argparse.Namespace) -> int:
    """Write records by many commands at a time."""
    records, value_bytes = arguments.records, arguments.value_bytes
    with (
        Client(arguments.roster, key_range=arguments.key_range, profile="fast") as client,
        client.pipeline() as pipeline,
    ):
        begun: deque[Pending[int]] = deque()
        for command in load_commands(records, value_bytes, arguments.seed):
            begun.append(pipeline.put(command.key, command.value))
            if len(begun) > MAX_WINDOW:
                begun.popleft().result()  # the first that fails ends it
    print(json.dumps({"records": records}))
    return 0


def _ping(arguments: argparse.Namespace) -> int:
    """Shake hands with every server, and wait until each serves all its ranges.

    One that does not answer, or does not serve in time, has `error` instead of a time.
    """
    servers = roster.load(arguments.roster)
    answers: dict[str, dict[str, object]] = {}
    for server in servers.servers:
        begin_s = time.perf_counter()
        try:
            with observe(servers, server.name) as connection:
                elapsed_s = time.perf_counter() - begin_s
                _wait_until_served(connection)
                answers[server.name] = {"handshake_ms": round(elapsed_s * 1e3, 3)}
        except RdhtError as error:
            answers[server.name] = {"error": str(error)}
    print(json.dumps(answers))
    return EXIT_FAILED if any("error" in answer for answer in answers.values()) else 0


def _wait_until_served(connection: ClientConnection) -> None:
    deadline_s = time.monotonic() + _SERVED_TIMEOUT_S
    while True:
        ranges = read_json(connection.ask(Message(Status.STATS)))["ranges"]
        not_served = {number: one["mode"] for number, one in ranges.items()}
        not_served = {number: mode for number, mode in not_served.items() if mode != Mode.SERVING}
        if not not_served:
            return
        if time.monotonic() > deadline_s or Mode.LOST in not_served.values():
            rows = ", ".join(f"range {number} is {mode}" for number, mode in not_served.items())
            why = f"server {connection.server}: {rows}"
            raise DeadlineError(why)
        time.sleep(_POLL_S)


def _status(arguments: argparse.Namespace) -> int:
    with observe(roster.load(arguments.roster), arguments.name) as connection:
        print(json.dumps(read_json(connection.ask(Message(Status.STATS)))))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    """Read every server's keys, versions and value hashes, and compare each key's replicas.

    What stands at each key now is the last of a history.
    """
    began_ns = time.monotonic_ns()
    servers = roster.load(arguments.roster)
    held: dict[str, dict[bytes, Digest]] = {}
    key_range = 0
    for server in servers.servers:
        held[server.name] = {}
        with observe(servers, server.name) as connection:
            key_range = key_range or connection.welcome["key_range"]
            while True:
                page = connection.ask(Message(Status.SCAN)).value
                if not page:
                    break
                held[server.name].update(scan.unpack_page(page))
    ring = Ring(servers, key_range or DEFAULT_KEY_RANGE)
    differing = [
        {"key": key.decode(errors="backslashreplace"), "servers": concerned}
        for key, concerned in scan.differing_keys(held, ring)
    ]
    together = {key: digest for digests in held.values() for key, digest in digests.items()}
    if recorder := _recorder(arguments, THE_SERVERS):
        for number, (key, (version, value_hash)) in enumerate(together.items()):
            told = Result(value_hash != scan.ABSENT, version, value_hash)
            recorder.tell(number, key, told, began_ns)
        recorder.close()
    print(json.dumps({"keys": len(together), "key_range": key_range, "differing": differing}))
    return EXIT_FAILED if differing else 0


if __name__ == "__main__":
    sys.exit(main())
