"""A call on a host: JSON in, JSON out, over ssh.

One interpreter on the host carries out the calls of a whole chain of tasks. The code of a step
travels with its first call, so a host needs no release, and operator and host never speak
different versions. Arguments travel on stdin and need no quoting.
"""

import contextlib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import rdht.node
from cluster.connection import Connection
from cluster.errors import CommandFailedError, HostError, PythonMissingError
from cluster.inventory import Host

STEP_TIMEOUT_S = 30.0
MIN_PYTHON = (3, 11)
EXIT_NOT_FOUND = 127  # what a shell says of a program that is not there
_SOURCES = Path(rdht.node.__file__).parent
_LOADER = f"""
import sys, types, json
if sys.version_info < {MIN_PYTHON}:
    sys.exit("Python 3.11 or newer is needed, %s is %s" % (sys.executable, sys.version.split()[0]))
for name, source in json.loads(sys.stdin.buffer.readline()):
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
module.main()
"""


@dataclass(frozen=True)
class Call:
    """A step on a host: a command of `rdht.node`, and what it is given."""

    command: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes = b""
    timeout_s: float | None = STEP_TIMEOUT_S  # None: as long as it reports
    silence_s: float = STEP_TIMEOUT_S  # for how long it may not report
    secret: str = field(default="", repr=False)  # one more argument; shown and logged nowhere


def lines(
    connection: Connection, host: Host, cluster: str, call: Call, sent: Callable[[int], None]
) -> Iterator[dict[str, Any]]:
    """Carry out a call; yield each document that the host prints, the answer as {"ok": …} last.

    Raises HostError with the host's reason if the step failed there.
    """
    command = f"{shlex.quote(host.python)} -I -c {shlex.quote(_LOADER)}"
    document: dict[str, Any] = {}
    try:
        with connection.program(command, call.timeout_s or call.silence_s) as program:
            program.send(_header(cluster, call, program.loaded) + call.payload, sent)
            program.loaded.add(_step_module(call))
            for line in program:
                document = _document(line)
                yield document
                if "ok" in document or "error" in document:
                    break
    except CommandFailedError as error:
        if error.exit_code_there == EXIT_NOT_FOUND:
            why = (
                f"{host.python} is not on the host: fab setup --apt installs it, or set `python` "
                "for the host in the inventory"
            )
            raise PythonMissingError(why) from error
        raise
    if "error" in document:
        raise HostError(document["error"])
    if "ok" not in document:
        why = "the host did not finish the step"
        raise HostError(why)


def _document(line: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        document = json.loads(line)
        if isinstance(document, dict):
            return document
    why = f"the host answered something that is no JSON object: {line[:200]!r}"
    raise HostError(why)


def _header(cluster: str, call: Call, loaded: set[str]) -> bytes:
    """Return what goes before the payload, with the source of what is not `loaded` there yet."""
    step = _step_module(call)
    header = {
        "modules": [] if step in loaded else [_source(step)],
        "command": call.command,
        "cluster": cluster,
        "arguments": {**call.arguments, **({"secret": call.secret} if call.secret else {})},
        "timeout_s": call.timeout_s,
        "payload_bytes": len(call.payload),
    }
    first = [] if loaded else [[_source("host"), _source("__main__")]]
    return b"".join(json.dumps(line).encode() + b"\n" for line in (*first, header))


def _step_module(call: Call) -> str:
    return call.command.partition(".")[0]


@cache
def _source(name: str) -> tuple[str, str]:
    """Return a module of `rdht.node`: its full name and its source."""
    return f"rdht.node.{name}", (_SOURCES / f"{name}.py").read_text(encoding="utf-8")
