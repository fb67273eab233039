"""Schedules from a file of deeds, YAML or JSON; what cannot be is named."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import UsageError
from cluster.fault_presets import NAMES
from cluster.faults import LONGEST_S
from cluster.schedule import (
    CLOCK,
    CUT,
    FEWEST_OF_A_RING,
    KILL,
    KINDS,
    LISTS,
    LOSS,
    NEEDED,
    ONE_WAYS,
    PAUSE,
    POWER,
    SLOW,
    Deed,
    Scene,
    Schedule,
    quiet_s,
)

_FIELDS: dict[str, str | None] = {  # as typed → of a deed, where that is another
    **dict.fromkeys(("kind", "servers", "clients", "hosts", "one_way", "ring", "rate", "percent")),
    "at": "at_s",
    "for": "for_s",
    "from": "peers",
    "jump": "jump_s",
}
_OF_KIND = {
    KILL: {"servers", "clients"},
    PAUSE: {"servers", "clients"},
    CUT: {"hosts", "peers", "one_way", "ring"},
    SLOW: {"hosts", "rate"},
    LOSS: {"hosts", "percent"},
    POWER: {"hosts"},
    CLOCK: {"hosts", "jump_s"},
}
_DEFAULTS: dict[str, dict[str, Any]] = {SLOW: {"rate": "10mbit"}, LOSS: {"percent": 20}}


def read(path: Path, duration_s: float, scene: Scene) -> Schedule:
    """Read a file of deeds, YAML or JSON; UsageError names the first that cannot be."""
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = (
            f"--faults {path}: neither {NAMES.replace(', ', ' nor ')}, nor a file: {error.strerror}"
        )
        raise UsageError(why) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why = f"--faults {path}: no YAML: {' '.join(str(error).split())}"
        raise UsageError(why) from error
    if not isinstance(rows, list) or not rows:
        why = f"--faults {path}: expected a list of deeds, such as {_EXAMPLE}"
        raise UsageError(why)
    end_s = round(duration_s - quiet_s(duration_s), 3)
    deeds = []
    for number, row in enumerate(rows, start=1):
        try:
            deed = _deed(row)
            _check(deed, end_s, scene)
        except ValueError as error:
            why = f"--faults {path}: deed {number}: {error}"
            raise UsageError(why) from error
        deeds.append(deed)
    return Schedule(str(path), tuple(sorted(deeds, key=lambda deed: deed.at_s)), end_s)


_EXAMPLE = "- {at: 5, kind: kill, servers: [pi1], for: 2}"


def _deed(row: Any) -> Deed:
    """Return the deed of one entry; ValueError for what is none."""
    if not isinstance(row, dict):
        why = f"{row!r} is no deed, such as {_EXAMPLE[2:]}"
        raise ValueError(why)  # noqa: TRY004 - one kind of mistake
    if strange := [key for key in row if key not in _FIELDS]:
        why = f"no such field {strange[0]!r}; there are {', '.join(_FIELDS)}"
        raise ValueError(why)
    named = {_FIELDS[key] or key: value for key, value in row.items()}
    if missing := [key for key in ("at", "kind", "for") if key not in row]:
        why = f"does not say {missing[0]!r}"
        raise ValueError(why)
    kind = named["kind"]
    if kind not in KINDS:
        why = f"kind {kind!r} is none of {', '.join(KINDS)}"
        raise ValueError(why)
    if foreign := named.keys() - _OF_KIND[kind] - set(NEEDED):
        why = f"a {kind} has no {', '.join(sorted(foreign))}"
        raise ValueError(why)
    values = {**_DEFAULTS.get(kind, {}), **named}
    for field in fields(Deed):
        if field.name in values:
            values[field.name] = _value(field.name, values[field.name])
    made = Deed(**values)
    for right, why in (
        (made.one_way in ONE_WAYS, f"one_way {made.one_way} is neither in nor out"),
        (kind != LOSS or 0 < made.percent < 100, f"percent {made.percent} is not 1 to 99"),  # noqa: PLR2004
        (kind != SLOW or made.rate_bits, f"rate {made.rate!r} is not written like 10mbit"),
        (kind != CLOCK or made.jump_s, "says no 'jump': seconds, forward or back"),
    ):
        if not right:
            raise ValueError(why)
    return made


def _value(field: str, value: Any) -> Any:
    if field in LISTS:
        names = [value] if isinstance(value, str) else value
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
        why = f"{field}: {value!r} is no list of names"
        raise ValueError(why)
    expected = {"ring": bool, "percent": int, "kind": str, "one_way": str, "rate": str}
    wanted = expected.get(field)
    if wanted is None and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if wanted is not None and type(value) is wanted:
        return value
    why = f"{field}: {value!r} is no {wanted.__name__ if wanted else 'number'}"
    raise ValueError(why)


def _check(deed: Deed, end_s: float, scene: Scene) -> None:
    """Raise ValueError for a deed that cannot be in this run, on this cluster."""
    if deed.kind not in scene.kinds:
        why = f"this cluster can do no {deed.kind}; it can {', '.join(sorted(scene.kinds))}"
        raise ValueError(why)
    if deed.at_s < 0 or not 0 <= deed.for_s <= LONGEST_S or deed.until_s > end_s:
        why = (
            f"from {deed.at_s:g} s for {deed.for_s:g} s: all is to end by {end_s:g} s, so that the "
            "run ends healed"
        )
        raise ValueError(why)
    for names, known, what in (
        (deed.servers, scene.servers, "server"),
        (deed.clients, scene.clients, "client"),
        (deed.hosts, scene.hosts, "host"),
        (deed.peers, scene.hosts, "host"),
    ):
        if unknown := [name for name in names if name not in known]:
            why = f"there is no {what} {unknown[0]}; there are {', '.join(known)}"
            raise ValueError(why)
    if not (deed.servers or deed.clients or deed.hosts):
        why = f"a {deed.kind} needs {' or '.join(sorted(_OF_KIND[deed.kind] & LISTS - {'peers'}))}"
        raise ValueError(why)
    if deed.ring and (deed.peers or len(deed.hosts) < FEWEST_OF_A_RING):
        why = f"a ring is of {FEWEST_OF_A_RING} hosts or more, and from no others"
        raise ValueError(why)
    if both := sorted(set(deed.hosts) & set(deed.peers)):
        why = f"{both[0]} cannot be cut from itself"
        raise ValueError(why)
    if lost := scene.loses(scene.downed(deed)):
        why = f"{' and '.join(sorted(lost))} hold a range together, and nothing on disk: --durable"
        raise ValueError(why)
