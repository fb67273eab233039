"""What a process of a fault build does first."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from faultbuild.chosen import MUTANT

_ROLES = ("server", "client")
_for_good = ExitStack()


def arm(words: Sequence[str]) -> None:
    """Change this process, started by these words, as its release and the plan here want it."""
    if "-m" not in words or words[words.index("-m") + 1] != "rdht":
        return
    role, *options = words[words.index("-m") + 2 :]
    if MUTANT:
        from faultbuild.mutants import ALL  # noqa: PLC0415 - no other build pays for it

        _for_good.enter_context(ALL[MUTANT].apply())
    if role in _ROLES:
        from faultbuild import hook, load  # noqa: PLC0415 - nor those that only ask

        name = options[options.index("--name") + 1]
        hook.install(hook.Hook(role, name, Path.cwd()))
        if role == "client":
            load.install(Path.cwd())
