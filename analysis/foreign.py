"""Histories of registers in the forms of others: Jepsen's EDN and its log, Porcupine's logs.

Each command is a line (or a map) when it is invoked and one when it ends: :ok was done, :fail was
not, :info may have been, as one may that never ends. The order of the lines is that in time. Where
every read is invoked with a vector, as Jepsen's independent keys are, its first element is the key.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from analysis.register import NEVER, Call
from rdht.errors import ConfigurationError
from rdht.messages import Operation
from rdht.parts import Result

_TOKEN = re.compile(
    r"""[\s,]*+(?:;[^\n]*+[\s,]*+)*+(?:(?P<string>"(?:\\.|[^"\\])*")|(?P<open>\#?[({\[])|(?P<close>[)}\]])"""
    r"""|\#(?P<tag>[A-Za-z][^\s,(){}\[\]"]*)|(?P<atom>[^\s,(){}\[\]";]+))"""
)
_NOTHING = re.compile(r"(?:[\s,]|;[^\n]*+)*+")
_LOG_LINE = re.compile(
    r"^INFO\s+jepsen\S*\s+-\s+(?P<process>\S+)\s+(?P<type>:\w+)\s+(?P<f>:\w+)\s+(?P<value>.+)$"
)
_OPERATIONS = {
    ":read": Operation.GET,
    ":get": Operation.GET,
    ":write": Operation.PUT,
    ":put": Operation.PUT,
    ":cas": Operation.CAS,
}
_CLOSING = {"(": ")", "[": "]", "{": "}", "#{": "}"}
_ESCAPED = {"n": "\n", "t": "\t"}
_NUMBER = re.compile(r"[+-]?\d+[NM]?$")


class _Event(NamedTuple):
    """A line: of whom, what became of it, what it was to do, on which key, with which value."""

    process: str
    type: str
    f: str
    key: Any
    value: Any


def read(path: Path) -> list[Call]:
    """Return the calls of a history; ConfigurationError says what in it is not understood."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = f"{path}: cannot read the history: {getattr(error, 'strerror', None) or error}"
        raise ConfigurationError(why) from error
    try:
        events = list(_log_events(text) if _is_log(text) else _edn_events(text))
        if not events:
            why = "it holds no command"
            raise ValueError(why)
        return list(_calls(_with_keys(events)))
    except (ValueError, TypeError, KeyError) as error:
        why = f"{path}: not a history of registers: {error}"
        raise ConfigurationError(why) from error


def _calls(events: list[_Event]) -> Iterator[Call]:
    running: dict[str, tuple[int, _Event]] = {}
    for at, event in enumerate(events):
        if event.type == ":invoke":
            if event.process in running:
                why = f"process {event.process} begins a command within another (command {at + 1})"
                raise ValueError(why)
            running[event.process] = at, event
            continue
        if event.process not in running:
            why = f"process {event.process} ends what it has not begun (command {at + 1})"
            raise ValueError(why)
        begun, invoked = running.pop(event.process)
        if event.type == ":ok":
            yield _call(invoked, begun, at, event.value)
        elif event.type == ":info":
            yield _call(invoked, begun, NEVER, None)
        elif event.type != ":fail":
            why = f"{event.type} is none of :invoke, :ok, :fail and :info"
            raise ValueError(why)
    for begun, invoked in running.values():
        yield _call(invoked, begun, NEVER, None)


def _call(invoked: _Event, begun: float, ended: float, value: Any) -> Call:
    operation = _OPERATIONS.get(invoked.f)
    if operation is None:
        why = f"{invoked.f} is none of {', '.join(_OPERATIONS)}"
        raise ValueError(why)
    told, written, expected = None, b"", None
    if operation is Operation.CAS:
        old, new = invoked.value
        written, expected = _written(new), _written(old)
    elif operation is Operation.PUT:
        written = _written(invoked.value)
    if ended < NEVER:
        is_read = operation is Operation.GET
        found = not is_read or value not in (None, "")  # Porcupine's logs have "" for nothing
        told = Result(found, 0, _bytes(value) if is_read and found else b"")
    key = _bytes(invoked.key)
    process = invoked.process
    return Call(key, operation, begun, ended, written, 0, told, process, expected)


def _bytes(value: Any) -> bytes:
    return str(value).encode()


def _written(value: Any) -> bytes:
    if value is None or value == "":
        why = "a write of nothing cannot be told from no write"
        raise ValueError(why)
    return _bytes(value)


def _with_keys(events: list[_Event]) -> list[_Event]:
    """Take the key out of the values, where each has one."""
    reads = [one for one in events if one.type == ":invoke" and one.f in (":read", ":get")]
    if not reads or not all(isinstance(one.value, list) for one in reads):
        return events
    return [
        one._replace(key=one.value[0], value=one.value[1]) if isinstance(one.value, list) else one
        for one in events
    ]


def _is_log(text: str) -> bool:
    return any(_LOG_LINE.match(line) for line in text.splitlines())


def _log_events(text: str) -> Iterator[_Event]:
    for line in text.splitlines():
        found = _LOG_LINE.match(line)
        if found and found["process"] != ":nemesis":
            (value,) = _forms(found["value"].strip())
            yield _Event(found["process"], found["type"], found["f"], "register", value)


def _edn_events(text: str) -> Iterator[_Event]:
    forms = list(_forms(text))
    if len(forms) == 1 and isinstance(forms[0], list):
        forms = forms[0]
    for form in forms:
        if not isinstance(form, dict) or not form.keys() >= {":type", ":f", ":process"}:
            why = f"{str(form)[:60]} is no map with :type, :f and :process"
            raise ValueError(why)
        if form[":process"] != ":nemesis":
            key, value = form.get(":key", "register"), form.get(":value")
            yield _Event(str(form[":process"]), form[":type"], form[":f"], key, value)


def _forms(text: str) -> Iterator[Any]:
    """Yield each form of an EDN text: maps as dicts, all other collections as lists."""
    stack: list[tuple[str, list[Any]]] = [("", [])]
    at = 0
    while found := _TOKEN.match(text, at):
        at = found.end()
        if opening := found["open"]:
            stack.append((opening, []))
        elif closing := found["close"]:
            opening, items = stack.pop()
            if _CLOSING.get(opening) != closing:
                why = f"unexpected {closing} at character {at}"
                raise ValueError(why)
            stack[-1][1].append(_collection(opening, items))
        elif not found["tag"]:
            stack[-1][1].append(_atom(found["string"], found["atom"]))
        if len(stack) == 1:
            yield from stack[0][1]
            stack[0][1].clear()
    if len(stack) > 1 or not _NOTHING.fullmatch(text, at):
        why = f"it ends within a form, or is no EDN from character {at} on"
        raise ValueError(why)


def _collection(opening: str, items: list[Any]) -> Any:
    if opening != "{":
        return items
    if len(items) % 2:
        why = "a map lacks a value"
        raise ValueError(why)
    return dict(zip(items[::2], items[1::2], strict=True))


def _atom(string: str | None, atom: str) -> Any:
    if string is not None:
        return re.sub(r"\\(.)", lambda one: _ESCAPED.get(one[1], one[1]), string[1:-1])
    if atom in ("nil", "true", "false"):
        return {"nil": None, "true": True, "false": False}[atom]
    return int(atom.rstrip("NM")) if _NUMBER.match(atom) else atom
