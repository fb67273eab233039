"""The explorer's objects as plain values, and back: equal ones stand for the same state."""

import enum
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple


class _Reference(NamedTuple):
    """An object that was met before, by the order of meeting."""

    number: int


class _Frozen(NamedTuple):
    """A container or object as a value."""

    kind: type
    content: tuple[Any, ...]


_ATOMS = (int, str, bytes, float, type(None), enum.Enum)
_STEADY: dict[str, float | str] = {  # attributes that are no part of the state
    "next_s": 0.0,
    "pause_s": 0.1,
    "due_s": 0.0,
    "_backoff_s": 0.0,
    "conflicts": 0,
    "why": "",
}


class Codec:
    """Turns objects into values and back; an object that is shared stays shared."""

    def __init__(self, constants: Iterable[object]) -> None:
        """Take `constants` as they are."""
        self._constants = {id(one): one for one in constants}

    def freeze(self, root: object) -> object:
        """Return a value; equal ones stand for the same state."""
        return self._freeze(root, {})

    def _freeze(self, one: Any, met: dict[int, int]) -> object:
        kind = type(one)
        if (
            isinstance(one, _ATOMS)
            or id(one) in self._constants
            or (isinstance(one, tuple) and kind is not tuple)
        ):
            return one
        if kind is tuple:
            return _Frozen(kind, tuple(self._freeze(item, met) for item in one))
        if id(one) in met:
            return _Reference(met[id(one)])
        met[id(one)] = len(met)
        if kind is set:
            return _Frozen(kind, tuple(sorted(one)))
        if kind in {list, deque}:
            return _Frozen(kind, tuple(self._freeze(item, met) for item in one))
        pairs = one.items() if kind is dict else _attributes(one)
        return _Frozen(kind, tuple((key, self._freeze(value, met)) for key, value in pairs))

    def thaw(self, frozen: object) -> Any:
        """Return new objects that stand for the value."""
        return self._thaw(frozen, [])

    def _thaw(self, one: Any, met: list[Any]) -> Any:
        if type(one) is _Reference:
            return met[one.number]
        if type(one) is not _Frozen:
            return one
        kind, content = one
        if kind is tuple:
            return tuple(self._thaw(item, met) for item in content)
        result: Any = object.__new__(kind) if _is_ours(kind) else kind()
        met.append(result)
        if kind is set:
            result.update(content)
        elif kind is dict:
            for key, value in content:
                result[key] = self._thaw(value, met)
        elif kind in {list, deque}:
            result.extend(self._thaw(item, met) for item in content)
        else:
            for key, value in content:
                setattr(result, key, self._thaw(value, met))
        return result


def _is_ours(kind: type) -> bool:
    return kind.__module__ != "builtins" and kind is not deque


def _attributes(one: object) -> Iterator[tuple[str, object]]:
    names = getattr(type(one), "__slots__", None) or vars(one)
    for name in names:
        value = getattr(one, name)
        is_steady = name in _STEADY and value is not None
        yield name, _STEADY[name] if is_steady else value
