"""The roster: the JSON file that names every server, in the order of the ring."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rdht.authentication import read_secret
from rdht.errors import ConfigurationError

DEFAULT_KEY_RANGE = 10_000
_MAX_PORT = 65_535


@dataclass(frozen=True)
class ServerAddress:
    """A server process: its name, the host that it runs on, and where it listens."""

    name: str
    host: str
    address: str
    port: int


@dataclass(frozen=True)
class Roster:
    """All servers, in the order of the ring."""

    servers: tuple[ServerAddress, ...]
    secret_file: Path | None = None  # whoever does not know what it holds may not connect

    def secret(self) -> bytes | None:
        """Return the cluster's secret, if it has one; ConfigurationError if it cannot be read."""
        return None if self.secret_file is None else read_secret(self.secret_file)

    def server(self, name: str) -> ServerAddress:
        """Return the server of that name; ConfigurationError if there is none."""
        for server in self.servers:
            if server.name == name:
                return server
        known = ", ".join(server.name for server in self.servers)
        why = f"the roster names no server {name!r}; it names {known}"
        raise ConfigurationError(why)

    def to_json(self) -> dict[str, Any]:
        """Return the document that `parse` reads."""
        document: dict[str, Any] = {"servers": [asdict(server) for server in self.servers]}
        if self.secret_file is not None:
            document["secret_file"] = str(self.secret_file)
        return document


def load(path: str | Path) -> Roster:
    """Read a roster file; ConfigurationError names the file and the mistake."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        return parse(document, Path(path).parent)
    except OSError as error:
        why = f"{path}: cannot read the roster: {error.strerror}"
        raise ConfigurationError(why) from error
    except ValueError as error:
        why = f"{path}: the roster is not JSON: {error}"
        raise ConfigurationError(why) from error
    except ConfigurationError as error:
        why = f"{path}: {error}"
        raise ConfigurationError(why) from error


def parse(document: object, folder: Path | None = None) -> Roster:
    """Check a roster document and return it as a value; the secret's path starts in `folder`."""
    fields = document if isinstance(document, dict) else {}
    rows, secret_file = fields.get("servers"), fields.get("secret_file")
    if (
        not isinstance(rows, list)
        or not rows
        or not isinstance(secret_file, str | None)
        or not fields.keys() <= {"servers", "secret_file"}
    ):
        why = (
            'a roster is {"servers": [{"name", "host", "address", "port"}, …], '
            '"secret_file": "…"}, the latter if the cluster has a secret'
        )
        raise ConfigurationError(why)
    servers = tuple(_parse_server(number, row) for number, row in enumerate(rows))
    seen: set[object] = set()
    for server in servers:
        for mark, what in (
            (server.name, f"the name {server.name}"),
            ((server.address, server.port), f"the address {server.address}:{server.port}"),
        ):
            if mark in seen:
                why = f"{what} stands for two servers"
                raise ConfigurationError(why)
            seen.add(mark)
    return Roster(servers, (folder or Path()) / secret_file if secret_file else None)


def _parse_server(number: int, row: object) -> ServerAddress:
    fields = {"name": str, "host": str, "address": str, "port": int}
    if not isinstance(row, dict) or set(row) != set(fields):
        why = f"servers[{number}] needs exactly the fields name, host, address, port"
        raise ConfigurationError(why)
    for field, kind in fields.items():
        if type(row[field]) is not kind or not row[field]:
            expected = "a port number" if kind is int else "a non-empty text"
            why = f"servers[{number}].{field} is {row[field]!r}, expected {expected}"
            raise ConfigurationError(why)
    if not 0 < row["port"] <= _MAX_PORT:
        why = f"servers[{number}].port is {row['port']}, expected 1 to {_MAX_PORT}"
        raise ConfigurationError(why)
    return ServerAddress(**row)
