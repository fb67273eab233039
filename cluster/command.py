"""Turns a function into a task: options that all have, errors as lines, exit codes."""

import dataclasses
import functools
import inspect
import json as json_module
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task as invoke_task

from cluster import inventory, namespace
from cluster.console import Screen, print_json
from cluster.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    ClusterError,
    UsageError,
    VerdictError,
)
from cluster.inventory import Cluster
from cluster.operator import Operator
from rdht.errors import RdhtError

ROOT = Path(__file__).resolve().parent.parent
INVENTORY = ROOT / "inventory"
LOGS = ROOT / "logs"
STATE = ROOT / ".rdht"
DEFAULT_CLUSTER = "pis"
LAB = "lab"
NETNS = "netns"
_SELECTED = STATE / "cluster"
_SHARED_OPTIONS: dict[str, tuple[Any, str]] = {
    "limit": (None, "hosts or groups, comma-separated (default: all)"),
    "json": (False, "print one JSON document and nothing else"),
    "dry_run": (False, "connect to nothing; print what would run"),
}


def selected_cluster() -> str:
    """Return the name of the cluster to act on: RDHT_CLUSTER, else what `fab use` chose."""
    if name := os.environ.get("RDHT_CLUSTER"):
        return name
    return _SELECTED.read_text(encoding="utf-8").strip() if _SELECTED.exists() else DEFAULT_CLUSTER


def select_cluster(name: str) -> None:
    """Make later tasks act on that cluster."""
    STATE.mkdir(exist_ok=True)
    _SELECTED.write_text(name + "\n", encoding="utf-8")


def desk(cluster: Cluster) -> Path:
    """Return the folder in which the operator's desk keeps what only it may know of a cluster."""
    return _as_seen_from_here(STATE / cluster.name)


def load_cluster(name: str) -> Cluster:
    """Read the inventory of that name: one that a lab has made for its hosts, else ours."""
    if not inventory.NAME.fullmatch(name):
        why = f"{name!r} names no inventory: use the name of a file in inventory/, such as lab"
        raise UsageError(why)
    made = made_inventory(name)
    path = made if made.exists() else INVENTORY / made.name
    return inventory.load(_as_seen_from_here(path))


def made_inventory(name: str) -> Path:
    """Return where a lab that is not what the inventory of its name says leaves its own."""
    return STATE / name / f"{name}.yaml"


def _as_seen_from_here(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def task(**texts: str) -> Callable[[Callable[..., Any]], Any]:
    """Make a task of a function that takes a Screen; what it returns is what --json prints.

    `texts` has the help of its options. A ClusterError or RdhtError ends the task with its text
    and exit code, ^C with 130.
    """

    def decorate(body: Callable[..., Any]) -> Any:
        def run(json: bool, **named: Any) -> None:  # noqa: FBT001 - an option
            _finish(Screen(json=json), lambda screen: body(screen, **named))

        shared = _shared_parameters(["json"], texts)
        return _as_task(body, [*_own_parameters(body), *shared], texts, run)

    return decorate


def cluster_task(takes: type | None = None, **texts: str) -> Callable[[Callable[..., Any]], Any]:
    """Make a task of a function that takes an Operator; adds --limit, --json and --dry-run.

    Each field of the dataclass `takes` becomes an option, and the function gets `options`.
    """

    def decorate(body: Callable[..., Any]) -> Any:
        taken = dataclasses.fields(takes) if takes else ()

        def run(limit: str | None, json: bool, dry_run: bool, **named: Any) -> None:  # noqa: FBT001 - options
            def act(screen: Screen) -> Any:
                cluster = load_cluster(selected_cluster()).limited(limit)
                count = len(cluster.hosts)
                screen.title(
                    f"cluster {cluster.name} · {count} host{'s' * (count != 1)} · {cluster.path}"
                )
                if takes:
                    values = {field.name: named.pop(field.name) for field in taken}
                    named["options"] = takes(**values)
                operator = Operator(cluster, screen, dry_run=dry_run)
                if dry_run:  # connects to nothing
                    return body(operator, **named)
                # BEFORE the operator's first thread starts.
                with namespace.inside(cluster.network_namespace):
                    return body(operator, **named)

            _finish(Screen(json=json), act)

        for field in taken:
            texts[field.name] = field.metadata["help"]
        options = [_parameter(field.name, field.default) for field in taken]
        own = [parameter for parameter in _own_parameters(body) if parameter.name != "options"]
        shared = _shared_parameters(list(_SHARED_OPTIONS), texts)
        return _as_task(body, [*own, *options, *shared], texts, run)

    return decorate


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _finish(screen: Screen, act: Callable[[Screen], Any]) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal is as good as a ^C
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    try:
        _print_result(screen, act(screen))
    except VerdictError as error:
        if error.result is not None:
            _print_result(screen, error.result)
        raise Exit(str(error), error.exit_code) from None
    except ClusterError as error:
        raise Exit(str(error), error.exit_code) from None
    except RdhtError as error:
        raise Exit(str(error), EXIT_FAILED) from None
    except KeyboardInterrupt:
        raise Exit("interrupted", EXIT_INTERRUPTED) from None


def _print_result(screen: Screen, result: Any) -> None:
    if screen.json:
        print_json(json_module.dumps(result))


def _as_task(
    body: Callable[..., Any],
    parameters: list[inspect.Parameter],
    texts: dict[str, str],
    run: Callable[..., None],
) -> Any:
    """Make the invoke task: it reads its options off the signature."""

    @functools.wraps(body)
    def typed(context: Context, *words: Any, **named: Any) -> None:
        if hasattr(context, "host"):
            why = "a task acts on the whole cluster: choose hosts with --limit, not with -H"
            raise Exit(why, EXIT_USAGE)
        bound = signature.bind(context, *words, **named)
        bound.apply_defaults()
        run(**{name: _converted(name, bound.arguments[name], defaults[name]) for name in defaults})

    defaults = {parameter.name: parameter.default for parameter in parameters}
    for name, default in defaults.items():
        if default not in (None, "", 0, False, inspect.Parameter.empty):
            texts[name] += f" (default {default})"
    shown = [
        _parameter(name, str(default) if _is_number(default) else default)
        for name, default in defaults.items()
    ]
    signature = inspect.Signature([_parameter("context"), *shown])
    typed.__signature__ = signature  # type: ignore[attr-defined]
    return invoke_task(help=texts, auto_shortflags=False)(typed)


def _is_number(default: Any) -> bool:
    return type(default) in (int, float)


def _converted(name: str, value: Any, default: Any) -> Any:
    """Return what was typed as a number where the default is one.

    invoke would convert it too, but show a traceback for what is no number.
    """
    if not _is_number(default):
        return value
    try:
        return type(default)(value)
    except ValueError:
        expected = "a whole number" if type(default) is int else "a number"
        why = f"--{name.strip('_').replace('_', '-')} {value} is not {expected}"
        raise Exit(why, EXIT_USAGE) from None


def _parameter(name: str, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)


def _own_parameters(body: Callable[..., Any]) -> list[inspect.Parameter]:
    own = list(inspect.signature(body).parameters.values())[1:]
    return [_parameter(parameter.name, parameter.default) for parameter in own]


def _shared_parameters(names: list[str], texts: dict[str, str]) -> list[inspect.Parameter]:
    texts |= {name: _SHARED_OPTIONS[name][1] for name in names}
    return [_parameter(name, _SHARED_OPTIONS[name][0]) for name in names]
