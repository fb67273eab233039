"""Which cells show which mistake: the protocol as it is keeps its promises in each of them."""

from faultbuild.hook import AFTER, BEFORE, CLIENT, SERVER
from matrix.campaign import DURABLE, MEMORY, Batch
from matrix.cells import (
    BACKUP,
    CLASSIC,
    FAST,
    PAUSE,
    PRIMARY,
    Cell,
    Place,
    cells,
)


def _between(status: str, *, many: bool | None = None) -> Place:
    """Return the place at which a client has sent a message to one of two."""
    return Place(CLIENT, status, AFTER, SERVER, "after it was sent to one", many=many)


def _listed(profile: str, mode: str, *texts: str) -> Batch:
    """Return cells of the matrix, by their texts."""
    found = {str(cell): cell for cell in cells(profile, durable=mode == DURABLE)}
    return Batch(profile, mode, tuple(found[text] for text in texts))


def _restarted(status: str, which: str, *, many: bool) -> Cell:
    """Return a cell in which one of two servers is killed and comes back while a client stands."""
    return Cell(status, _between(status, many=many), PAUSE, meanwhile=which)


_ANY = _listed(FAST, MEMORY, "REQUEST, before it is sent: pause client")
_HALF_PROCEEDED = "PROCEED, after it was sent to one, before it is to the other"
_HALF_REQUESTED = "REQUEST, after it was sent to one, before it is to the other"

SHOWN_BY: dict[str, Batch] = {
    "early no": Batch(
        FAST,
        MEMORY,
        tuple(
            Cell(
                f"ABORT while the {which} is away",
                Place(CLIENT, "ABORT", BEFORE, SERVER),
                PAUSE,
                comes_back=which,
            )
            for which in (PRIMARY, BACKUP)
        ),
    ),
    "no roll forward": Batch(
        FAST, MEMORY, tuple(_restarted("PROCEED", BACKUP, many=many) for many in (False, True))
    ),
    "forgetful veto": _listed(FAST, MEMORY, f"{_HALF_REQUESTED}: pause client"),
    "fickle vote": _listed(FAST, MEMORY, f"{_HALF_REQUESTED}: pause client"),
    "read through locks": _listed(FAST, MEMORY, f"{_HALF_PROCEEDED}: pause client"),
    "unlock first": _ANY,
    "any epoch": Batch(
        FAST, MEMORY, tuple(_restarted("REQUEST", PRIMARY, many=many) for many in (True, False))
    ),
    "no versions": _ANY,
    "begun anew": _listed(
        FAST, MEMORY, "JOIN of a primary that comes back, before it is handled: kill backup"
    ),
    "missing unlock": _listed(CLASSIC, MEMORY, "REQUEST, before it is sent: pause client"),
    "early acknowledgement": _listed(
        FAST, DURABLE, "PROCEED, after it was sent: kill all servers, with the client there"
    ),
}
