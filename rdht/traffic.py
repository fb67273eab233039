"""What goes between one client thread and one server, by kind of message."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from rdht.messages import Status, Tally, new_tally


@dataclass
class Traffic:
    """Messages both ways, in how many pieces these went, and how long answers were waited for.

    `waited_s` is the integral over time of how many answers were owed, and so the sum of what each
    of them took (Little's law).
    """

    sent: Tally = field(default_factory=new_tally)
    received: Tally = field(default_factory=new_tally)
    segments_sent: int = 0  # of TCP, those with data, also what was sent again
    segments_received: int = 0
    waited_s: float = 0.0

    @property
    def messages_sent(self) -> int:
        """How many messages the client has sent."""
        return _sum(self.sent, 0)

    @property
    def messages_received(self) -> int:
        """How many messages the client has got."""
        return _sum(self.received, 0)

    @property
    def bytes_sent(self) -> int:
        """What the client has sent, in bytes."""
        return _sum(self.sent, 1)

    @property
    def bytes_received(self) -> int:
        """What the client has got, in bytes."""
        return _sum(self.received, 1)

    def add(self, other: "Traffic", sign: int = 1) -> None:
        """Add another's figures, or with `sign` -1 take them off."""
        for mine, theirs in ((self.sent, other.sent), (self.received, other.received)):
            for status, (messages, size) in theirs.items():
                mine[status][0] += sign * messages
                mine[status][1] += sign * size
        self.segments_sent += sign * other.segments_sent
        self.segments_received += sign * other.segments_received
        self.waited_s += sign * other.waited_s

    def to_json(self) -> dict[str, Any]:
        """Return the document that `from_json` reads."""
        return {
            **vars(self),
            "sent": {status.name: pair for status, pair in sorted(self.sent.items())},
            "received": {status.name: pair for status, pair in sorted(self.received.items())},
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Return recorded traffic; KeyError for a kind of message that there is not."""
        found = cls(**{**document, "sent": new_tally(), "received": new_tally()})
        for tally, name in ((found.sent, "sent"), (found.received, "received")):
            tally.update({Status[kind]: pair for kind, pair in document[name].items()})
        return found


def total(traffic: Iterable[Traffic]) -> Traffic:
    """Return the sum of all."""
    everything = Traffic()
    for one in traffic:
        everything.add(one)
    return everything


def _sum(tally: Tally, index: int) -> int:
    return sum(pair[index] for pair in tally.values())
