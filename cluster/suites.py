"""Sweeps that belong together, by name: several questions in one."""

from collections.abc import Mapping

from cluster.errors import UsageError

# Of each suite its parts by name, and what each sweeps, as it is typed.
SUITES: dict[str, dict[str, dict[str, str]]] = {
    "original": {  # the questions that the original left open: docs/experiments.md
        "workers": {"workers": "1,2,4,8,16,40"},
        "key-range": {"key_range": "5,7,100,10000", "link_rate": "4mbit,100mbit"},
        "wires": {"link_rate": "4mbit,10mbit,100mbit", "profile": "classic,fast"},
        "key-size": {"key_size": "1,2,3,4", "profile": "classic,fast"},
        "one-slow-link": {"one_link_rate": "1mbit,10mbit,100mbit"},
        "one-bad-cable": {"one_loss": "0,1,5"},
    }
}


def parts_of(name: str, typed: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return what each part of a suite sweeps, with what was typed for all of them.

    UsageError for a suite that there is not, and for what a part sweeps itself.
    """
    if name not in SUITES:
        why = f"--suite {name} is none of {', '.join(SUITES)}"
        raise UsageError(why)
    for part, swept in SUITES[name].items():
        if both := swept.keys() & typed.keys():
            why = f"--{both.pop().replace('_', '-')}: part {part} of the suite sweeps it itself"
            raise UsageError(why)
    return {part: {**swept, **typed} for part, swept in SUITES[name].items()}
