"""What is asked of the register at a key, what it answers, and what stands there after it.

A call that is done has an end and what it was told; one whose outcome is unknown has neither, and
may take effect at any time after its beginning, or never. One with an end that was told nothing has
taken effect for certain; one without an end that was told something either took effect like that,
or not at all. One that was aborted is in no history: nothing may show its effect.
"""

import math
from typing import NamedTuple

from rdht.messages import Operation
from rdht.parts import Result

NEVER = math.inf


class Register(NamedTuple):
    """What stands at a key."""

    value: bytes | None = None
    version: int = 0


class Call(NamedTuple):
    """One operation on one key, and what came back; None of that which is not known.

    A cas expects `version`, or a value where tables without versions are judged: `expected`.
    """

    key: bytes
    operation: Operation
    called_s: float
    ended_s: float = NEVER
    value: bytes = b""
    version: int = 0
    told: Result | None = None
    process: str = ""
    expected: bytes | None = None


class Transaction(NamedTuple):
    """Calls that were one command; they share their times, and have all been told or none."""

    calls: tuple[Call, ...]

    @property
    def called_s(self) -> float:
        """When all of it began."""
        return self.calls[0].called_s

    @property
    def ended_s(self) -> float:
        """When all of it had ended."""
        return self.calls[0].ended_s


def carry_out(call: Call, before: Register) -> tuple[Register, Result]:
    """Return what stands at the key after the call, and what the caller is to be told."""
    value, version = before
    operation = call.operation
    if operation is Operation.GET:
        return before, Result(value is not None, version, value or b"")
    if operation is Operation.PUT:
        found = True
    elif operation is Operation.ADD:
        found = value is None
    elif operation is Operation.DELETE:
        found = value is not None
    elif call.expected is not None:
        found = value == call.expected
    else:
        found = version == call.version
    if not found:
        return before, Result(found, version)
    written = None if operation is Operation.DELETE else call.value
    return Register(written, version + 1), Result(found, version)
