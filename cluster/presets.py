"""The set-ups in which the original was debugged, by name: from one thread each to the whole."""

from dataclasses import replace
from typing import Any

from cluster.errors import UsageError
from cluster.options import ClientOptions, ServerOptions

_TRACED = {"commands": 20, "warmup": 0.0, "trace": True}  # a line a message is what they are for
# What each chooses. A server of the original's stood alone in three of them; here the copy of each
# key needs another one, so two are the fewest.
PRESETS: dict[str, dict[str, Any]] = {
    "local": {"servers": 2, "clients": 1, "workers": 1, "threads": 1, **_TRACED},
    "one-thread": {"servers": 2, "clients": 2, "workers": 1, "threads": 1, **_TRACED},
    "threads": {"servers": 2, "clients": 2, "workers": 8, "threads": 8, **_TRACED},
    "full": {"servers": 0, "clients": 0, "workers": 8, "threads": 8},
}
NAMES = ", ".join(PRESETS)


def applied(
    name: str, options: ClientOptions, counts: dict[str, int]
) -> tuple[ClientOptions, dict[str, int]]:
    """Return a run's options in the set-up of that name, and its counts of processes and workers.

    `counts` has them by option. UsageError for a name that is none, and for an option that was
    typed though the set-up chooses it.
    """
    if name not in PRESETS:
        why = f"--preset {name} is none of {NAMES}"
        raise UsageError(why)
    chosen = PRESETS[name]
    usual = {
        **vars(ClientOptions()),
        "servers": 0,
        "clients": 0,
        "workers": ServerOptions().workers,
    }
    for option, value in {**vars(options), **counts}.items():
        if option in chosen and value != usual[option]:
            why = f"--preset {name} chooses --{option} itself: leave one of them out"
            raise UsageError(why)
    if chosen.get("commands") and options.duration != usual["duration"]:
        why = f"--preset {name} ends after a number of commands: leave --duration out"
        raise UsageError(why)
    of_clients = {option: value for option, value in chosen.items() if option not in counts}
    return replace(options, **of_clients), {option: chosen[option] for option in counts}
