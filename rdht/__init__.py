"""A replicated hash table over plain sockets with two-phase commit; standard library only."""

from rdht.client import Client, Versioned
from rdht.errors import (
    AbortedError,
    ConfigurationError,
    ConnectError,
    OutcomeError,
    RdhtError,
    UnknownOutcomeError,
)
from rdht.roster import Roster, ServerAddress

__all__ = [
    "AbortedError",
    "Client",
    "ConfigurationError",
    "ConnectError",
    "OutcomeError",
    "RdhtError",
    "Roster",
    "ServerAddress",
    "UnknownOutcomeError",
    "Versioned",
]
