"""One call = one ssh exec on a host: JSON in, JSON out.

The code of the step travels with the call, so a host needs no release, and operator and host
never speak different versions. Arguments travel on stdin and need no quoting.
"""

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
    header = {
        "command": call.command,
        "cluster": cluster,
        "arguments": {**call.arguments, **({"secret": call.secret} if call.secret else {})},
        "timeout_s": call.timeout_s,
        "payload_bytes": len(call.payload),
    }
    stdin = _modules(call.command) + json.dumps(header).encode() + b"\n" + call.payload
    command = f"{shlex.quote(host.python)} -I -c {shlex.quote(_LOADER)}"
    document: dict[str, Any] = {}
    try:
        for line in connection.lines(command, stdin, call.timeout_s or call.silence_s, sent):
            document = json.loads(line)
            if not isinstance(document, dict):
                raise ValueError  # noqa: TRY004 - as what is no JSON at all
            yield document
    except CommandFailedError as error:
        if error.exit_code_there == EXIT_NOT_FOUND:
            why = (
                f"{host.python} is not on the host: fab setup --apt installs it, or set `python` "
                "for the host in the inventory"
            )
            raise PythonMissingError(why) from error
        raise
    except ValueError as error:
        why = f"the host answered something that is no JSON object: {line[:200]!r}"
        raise HostError(why) from error
    if "error" in document:
        raise HostError(document["error"])
    if "ok" not in document:
        why = "the host did not finish the step"
        raise HostError(why)


@cache
def _modules(command: str) -> bytes:
    """Return the sources that a command needs, in the order of their imports, as a line."""
    names = ["host", command.partition(".")[0], "__main__"]
    sources = [
        [f"rdht.node.{name}", (_SOURCES / f"{name}.py").read_text(encoding="utf-8")]
        for name in names
    ]
    return json.dumps(sources).encode() + b"\n"
