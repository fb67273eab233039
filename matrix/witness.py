"""The desk's own look at a table that was troubled: is it whole, equal and usable again?"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rdht import scan
from rdht.client import observe
from rdht.coordinator import Command
from rdht.errors import RdhtError
from rdht.execution import Execution, Outcome
from rdht.history import Recorder
from rdht.messages import Message, Operation, Status
from rdht.profiles import PROFILES
from rdht.ring import Ring
from rdht.roster import DEFAULT_KEY_RANGE, Roster
from rdht.scan import Digest
from rdht.session import Session
from rdht.transport import read_json

SETTLE_S = 20.0
_AGAIN_S = 0.05
_LOST, _SERVING = "lost", "serving"


class Witness:
    """Asks the servers, and reads and writes keys, with a history of its own."""

    def __init__(self, roster: Roster, profile: str, history: Path) -> None:
        """Speak with these servers, and keep the history of that in a file."""
        self.ring = Ring(roster, DEFAULT_KEY_RANGE)
        self._roster = roster
        self._recorder = Recorder(history, history.stem, samples=False)
        self._profile = PROFILES[profile]
        self._session = self._connected()

    def _connected(self) -> Session:
        secret = self._roster.secret()
        session = Session(self._roster, self.ring, self._profile, "desk", 0, secret=secret)
        session.on_begin = lambda one: self._recorder.begin(0, one)
        session.on_end = self._end
        return session

    def _end(self, execution: Execution) -> None:
        is_done = execution.outcome is Outcome.DONE
        self._recorder.end(0, execution, execution.results() if is_done else [])

    def begin_anew(self) -> None:
        """Go on with a table that is another one."""
        self._session.close()
        self._session = self._connected()

    def close(self) -> None:
        """End the history."""
        self._session.close()
        self._recorder.close()

    def settled(self, lost: int | None = None) -> str:
        """Return once nothing is locked, in doubt or not served; or what is, after SETTLE_S.

        Of the range `lost` it is wanted that its servers call it lost.
        """
        deadline_s = time.monotonic() + SETTLE_S
        while True:
            why = self._unsettled(lost)
            if not why or time.monotonic() > deadline_s:
                return why
            time.sleep(_AGAIN_S)

    def _unsettled(self, lost: int | None) -> str:
        said = []
        for server in self._roster.servers:
            try:
                with observe(self._roster, server.name) as connection:
                    figures = read_json(connection.ask(Message(Status.STATS)))
            except RdhtError as error:
                said.append(str(error))
                continue
            said += [
                f"{server.name}: range {number} is {one['mode']}"
                for number, one in figures["ranges"].items()
                if one["mode"] != (_LOST if int(number) == lost else _SERVING)
            ]
            if figures["locks"] or figures["in_doubt"]:
                said.append(
                    f"{server.name}: {figures['locks']} keys locked, "
                    f"{figures['in_doubt']} transactions in doubt"
                )
        return "; ".join(said)

    def unequal(self) -> str:
        """Return which keys differ between their replicas and stay so; nothing if none does."""
        deadline_s = time.monotonic() + SETTLE_S
        while True:
            held = {server.name: self._scan(server.name) for server in self._roster.servers}
            differing = [key.decode() for key, _ in scan.differing_keys(held, self.ring)]
            if not differing or time.monotonic() > deadline_s:
                return f"replicas differ: {', '.join(differing)}" if differing else ""
            time.sleep(_AGAIN_S)

    def _scan(self, server: str) -> dict[bytes, Digest]:
        held: dict[bytes, Digest] = {}
        with observe(self._roster, server) as connection:
            while page := connection.ask(Message(Status.SCAN)).value:
                held.update(scan.unpack_page(page))
        return held

    def unusable(self, keys: Iterable[str], load: str) -> str:
        """Read, write and read each key; return what did not work."""
        for key in keys:
            name = key.encode()
            for operation in (Operation.GET, Operation.PUT, Operation.GET):
                value = f"{load}/desk/{key}".encode() if operation is Operation.PUT else b""
                execution = self._session.execute((Command(operation, name, value),))
                if execution.outcome is not Outcome.DONE:
                    return f"{operation.name} of {key}: {execution.outcome}: {execution.why}"
        return ""

    def refused(self, keys: Iterable[str]) -> str:
        """Return which of the keys of a range that is lost is not refused."""
        for key in keys:
            execution = self._session.execute((Command(Operation.GET, key.encode()),))
            if execution.outcome is not Outcome.ABORTED or "lost" not in execution.why:
                told: Any = execution.outcome
                return f"{key} of the lost range is not refused: {told}: {execution.why}"
        return ""
