"""What can be swept, and what one point of a sweep is."""

from collections.abc import Mapping
from dataclasses import Field, dataclass, fields, make_dataclass
from typing import Any

from cluster.errors import UsageError
from cluster.inventory import Cluster
from cluster.options import ClientOptions, ServerOptions, option
from cluster.roster import roster

_SIZES = {
    "servers": "only so many of the inventory's servers (default: all)",
    "clients": "only so many of the inventory's clients (default: all)",
    "link_rate": "how fast each host's link is, such as 10mbit; netns lab only",
    "one_link_rate": "how fast the last host's link is; netns lab only",
    "one_loss": "packets of a hundred that the last host's link loses; netns lab only",
}
_NOT_SWEPT = ("seed", "trace")  # each repeat has a seed of its own
_SWEPT = {
    one.name: one
    for one in (*fields(ClientOptions), *fields(ServerOptions))
    if one.name not in _NOT_SWEPT
}
KINDS: dict[str, Any] = {
    **{name: one.type for name, one in _SWEPT.items()},
    "servers": int,
    "clients": int,
    "link_rate": str,
    "one_link_rate": str,
    "one_loss": int,
}


def _text(one: Field[Any]) -> str:
    text = str(one.metadata["help"])
    if one.type is bool:
        return f"yes or no: {text}"
    return f"{text} (default {one.default})" if one.default else text


_TEXTS = {name: _text(one) for name, one in _SWEPT.items()} | _SIZES

# Each field is an option of `sweep`: values, comma-separated.
SweepOptions = make_dataclass(
    "SweepOptions", [(name, str | None, option(None, text)) for name, text in _TEXTS.items()]
)


@dataclass(frozen=True)
class Trial:
    """One point of a sweep, ready to run."""

    clients: ClientOptions
    servers: ServerOptions
    cluster: Cluster

    @classmethod
    def of(cls, values: Mapping[str, Any], cluster: Cluster) -> "Trial":
        """Return the trial with these values, others as in `run`; UsageError for what cannot be."""
        if values.get("commands") and "duration" in values:
            why = "--duration ends no clients that --commands ends: leave one of both out"
            raise UsageError(why)
        part = cluster.sized(values.get("servers", 0), values.get("clients", 0))
        of_client = {name: values[name] for name in _names(ClientOptions) if name in values}
        of_server = {name: values[name] for name in _names(ServerOptions) if name in values}
        clients = ClientOptions(**of_client).checked(roster(part))
        return cls(clients, ServerOptions(**of_server).checked(), part)


def _names(options: type) -> list[str]:
    return [one.name for one in fields(options)]
