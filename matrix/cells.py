"""The cells of the matrix: a message and a moment, who is hit exactly there, and how."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from faultbuild.hook import AFTER, BEFORE, CLIENT, HANDLED, SERVER

PRIMARY, BACKUP = "primary", "backup"  # and CLIENT: the parties
KILL, PAUSE, CUT, KILL_ALL = FAULTS = ("kill", "pause", "cut", "kill all")
CLASSIC, FAST = PROFILES = ("classic", "fast")
_MOMENTS = {
    BEFORE: "before it is sent",
    AFTER: "after it was sent",
    HANDLED: "before it is handled",
}
_BETWEEN = "after it was sent to one, before it is to the other"


@dataclass(frozen=True)
class Place:
    """Where a party stops: a message and a moment, as `faultbuild.hook.Point` has it."""

    party: str
    status: str
    moment: str
    peer: str
    text: str = ""  # of the moment, if that is no plain one
    nth: int = 1
    many: bool | None = None
    operation: str | None = None
    reason: str | None = None

    @property
    def when(self) -> str:
        """The moment in words."""
        return self.text or _MOMENTS[self.moment]


@dataclass(frozen=True)
class Cell:
    """One failure."""

    message: str  # in words
    place: Place
    fault: str
    client_dies: Place | None = None  # BEFORE, so that the servers have to ask each other
    comes_back: str | None = None  # the party that was killed before, and is started again then
    meanwhile: str | None = None  # the server that is killed and started again during a pause

    @property
    def row(self) -> tuple[str, str, str]:
        """Return what is hit: message, moment and party."""
        return self.message, self.place.when, self.place.party

    def __str__(self) -> str:
        """Return the cell in words."""
        message, when, party = self.row
        whom = f"servers, with the {party} there" if self.fault == KILL_ALL else party
        more = f", and restart the {self.meanwhile} meanwhile" * bool(self.meanwhile)
        return f"{message}, {when}: {self.fault} {whom}{more}"


def cells(profile: str, *, durable: bool) -> list[Cell]:
    """Return all cells for clients of a profile; only disks outlive that all servers are killed."""
    rows = [*_two_phases(profile), *_questions(), *_returns()]
    faults = FAULTS if durable else (KILL, PAUSE, CUT)
    return [
        Cell(message, place, fault, **more) for message, place, more in rows for fault in faults
    ]


_Row = tuple[str, Place, dict[str, Any]]


def _two_phases(profile: str) -> Iterator[_Row]:
    # Only a command on many keys waits for its end in `fast`.
    many = None if profile == CLASSIC else True
    yield from _from_client("REQUEST", many=False)
    yield from _to_client("YES")
    yield from _to_client("NO", reason="BUSY")
    yield from _from_client("PROCEED", many=False)
    yield from _to_client("DONE", many=many)
    yield from _from_client("ABORT", many=None)
    yield from _to_client("ABORTED")


def _from_client(status: str, *, many: bool | None) -> Iterator[_Row]:
    """Yield the places of what a client sends; to both replicas of one key, if not `many`."""
    yield status, Place(CLIENT, status, BEFORE, SERVER, many=many), {}
    if many is None:
        yield status, Place(CLIENT, status, AFTER, SERVER), {}
    else:
        yield status, Place(CLIENT, status, AFTER, SERVER, _BETWEEN, many=many), {}
        yield status, Place(CLIENT, status, AFTER, SERVER, nth=2, many=many), {}
    for party in (PRIMARY, BACKUP):
        yield status, Place(party, status, HANDLED, CLIENT), {}


def _to_client(status: str, **more: Any) -> Iterator[_Row]:
    for party in (PRIMARY, BACKUP):
        for moment in (BEFORE, AFTER):
            yield status, Place(party, status, moment, CLIENT, **more), {}
    yield status, Place(CLIENT, status, HANDLED, SERVER, **more), {}


def _questions() -> Iterator[_Row]:
    """Yield the places of what servers ask each other once the client is gone.

    It sends to the backup first. If it dies between its two requests, the primary has nothing to
    vote on and says no; if between its two proceeds, the backup has nothing but the result.
    """
    voted = Place(CLIENT, "PROCEED", BEFORE, SERVER, operation="PUT")
    requested = Place(CLIENT, "REQUEST", AFTER, SERVER, operation="PUT")
    proceeded = Place(CLIENT, "PROCEED", AFTER, SERVER, operation="PUT")
    for party, other in ((PRIMARY, BACKUP), (BACKUP, PRIMARY)):
        yield from _between("RESOLVE", "RESOLVE", party, other, {"client_dies": voted})
        # Who has decided by then says DONE.
        told = {"client_dies": voted}
        yield from _between("YES or DONE to RESOLVE", "YES|DONE", party, other, told)
    yield from _between("NO to RESOLVE", "NO", PRIMARY, BACKUP, {"client_dies": requested})
    yield from _between("DONE to RESOLVE", "DONE", BACKUP, PRIMARY, {"client_dies": proceeded})


def _returns() -> Iterator[_Row]:
    """Yield the places of what servers say to each other when one of them comes back."""
    for back, other in ((PRIMARY, BACKUP), (BACKUP, PRIMARY)):
        more = {"comes_back": back}
        it = f"a {back} that comes back"
        yield from _between(f"JOIN of {it}", "JOIN", back, other, more)
        yield from _between(f"COPY to {it}", "COPY", other, back, more)
        yield from _between(f"JOINED of {it}", "JOINED", back, other, more)
        yield from _between(f"JOINED in answer to {it}", "JOINED", other, back, more)


def _between(
    message: str, status: str, sender: str, receiver: str, more: dict[str, Any]
) -> Iterator[_Row]:
    for moment in (BEFORE, AFTER):
        yield message, Place(sender, status, moment, SERVER), more
    yield message, Place(receiver, status, HANDLED, SERVER), more
