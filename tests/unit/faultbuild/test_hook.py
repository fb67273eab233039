"""The points of a fault build: a process stops there, and nowhere else."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from faultbuild.hook import AFTER, BEFORE, CLIENT, FILE, HANDLED, SERVER, Hook, Point
from rdht.messages import Message, Name, Operation, Reason, Status

ROOT = Path(__file__).parents[3]
FIRST, SECOND = Name(1, 1, 1), Name(1, 2, 1)
YES = Message(Status.YES, FIRST, Operation.PUT)
DEADLINE_S = 20.0


def plan(folder: Path, *points: Point) -> None:
    """Write a plan as a host's step does: the file is another one each time."""
    temporary = folder / "new"
    temporary.write_text(json.dumps({"points": [one._asdict() for one in points]}))
    temporary.replace(folder / FILE)


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The signals that the hook has sent to its thread, none of which arrives."""
    found: list[int] = []
    monkeypatch.setattr(signal, "pthread_kill", lambda _thread, number: found.append(number))
    return found


POINT = Point("c1.hit", SERVER, "pi1", "YES", BEFORE, CLIENT)


@pytest.mark.parametrize(
    ("point", "moment", "peer", "message", "stops_there"),
    [
        (POINT, BEFORE, CLIENT, YES, True),
        (POINT, AFTER, CLIENT, YES, False),
        (POINT, BEFORE, SERVER, YES, False),
        (POINT, BEFORE, CLIENT, YES._replace(status=Status.NO), False),
        (POINT._replace(status="DONE|YES"), BEFORE, CLIENT, YES, True),
        (POINT._replace(process="pi2"), BEFORE, CLIENT, YES, False),
        (POINT._replace(role=CLIENT), BEFORE, CLIENT, YES, False),
        (POINT._replace(many=True), BEFORE, CLIENT, YES, False),
        (POINT._replace(many=False), BEFORE, CLIENT, YES, True),
        (POINT._replace(many=True), BEFORE, CLIENT, YES._replace(operation=Operation.MANY), True),
        (POINT._replace(operation="CAS"), BEFORE, CLIENT, YES, False),
        (POINT._replace(reason="BUSY"), BEFORE, CLIENT, YES, False),
        (POINT._replace(reason="BUSY"), BEFORE, CLIENT, YES._replace(reason=Reason.BUSY), True),
        (POINT._replace(range=0), BEFORE, CLIENT, YES, True),
        (POINT._replace(range=0), BEFORE, CLIENT, YES._replace(range=1), False),
    ],
)
def test_only_the_message_that_is_meant_stops_the_process(  # noqa: PLR0913, PLR0917 - parameters
    stops: list[int],
    tmp_path: Path,
    point: Point,
    moment: str,
    peer: str,
    message: Message,
    *,
    stops_there: bool,
) -> None:
    plan(tmp_path, point)
    Hook(SERVER, "pi1", tmp_path).reach(moment, peer, [message])
    assert stops == [signal.SIGSTOP] * stops_there
    assert (tmp_path / "c1.hit.mark").exists() is stops_there


def test_the_nth_message_is_that_of_one_transaction(stops: list[int], tmp_path: Path) -> None:
    plan(tmp_path, POINT._replace(nth=2))
    made = Hook(SERVER, "pi1", tmp_path)
    for name, count in ((FIRST, 0), (SECOND, 0), (SECOND, 1)):
        made.reach(BEFORE, CLIENT, [YES._replace(name=name)])
        assert len(stops) == count


def test_a_point_stops_once_even_if_the_process_is_started_again(
    stops: list[int], tmp_path: Path
) -> None:
    plan(tmp_path, POINT)
    for _ in range(2):
        made = Hook(SERVER, "pi1", tmp_path)
        made.reach(BEFORE, CLIENT, [YES])
        made.reach(BEFORE, CLIENT, [YES])
    assert stops == [signal.SIGSTOP]


def test_a_plan_that_is_written_anew_holds_from_the_next_message_on(
    stops: list[int], tmp_path: Path
) -> None:
    made = Hook(SERVER, "pi1", tmp_path)
    made.reach(BEFORE, CLIENT, [YES])  # there is none yet
    plan(tmp_path, POINT)
    made.reach(BEFORE, CLIENT, [YES])
    plan(tmp_path, POINT._replace(name="c2.hit", moment=HANDLED))
    made.reach(BEFORE, CLIENT, [YES])
    made.reach(HANDLED, CLIENT, [YES])
    assert stops == [signal.SIGSTOP] * 2


WRITER = """
import socket, sys
from pathlib import Path
from faultbuild import hook
from rdht.messages import Message, Name, Operation, Status
from rdht.transport import ServerConnection

hook.install(hook.Hook("server", "pi1", Path()))
own = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection = ServerConnection(own, "", 0.0)
for sequence in (1, 2):
    connection.write([Message(Status.YES, Name(1, sequence, 1), Operation.PUT)])
"""


@pytest.mark.parametrize(("moment", "is_sent"), [(BEFORE, False), (AFTER, True)])
def test_a_process_stands_still_exactly_there_and_goes_on(
    tmp_path: Path, moment: str, *, is_sent: bool
) -> None:
    plan(tmp_path, POINT._replace(moment=moment))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(listener.getsockname()[1])],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        other, _ = listener.accept()
        with process, other:
            waited = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            assert waited is not None
            assert waited.si_code == os.CLD_STOPPED
            other.settimeout(DEADLINE_S if is_sent else 0.1)
            frame_bytes = len(other.recv(4096)) if is_sent else 0
            other.settimeout(0.1)
            with pytest.raises(TimeoutError):
                other.recv(4096)
            process.send_signal(signal.SIGCONT)
            other.settimeout(DEADLINE_S)
            rest = b""
            while data := other.recv(4096):
                rest += data
            assert process.wait(DEADLINE_S) == 0
    assert len(rest) == (frame_bytes or len(rest) // 2) * (1 if is_sent else 2)
