"""Run one step on this host: python3 -m rdht.node, with the call as a line of JSON on stdin.

The call has `command`, `cluster`, `arguments`, `timeout_s` and `payload_bytes`, the number of
bytes that follow the line. One JSON document comes back, {"ok": …} or {"error": …}; a step that
reports as it goes prints a line of JSON each time before that.
"""

import importlib
import json
import signal
import sys
from types import FrameType

from rdht.node.host import Folders, NodeError, explain

COMMANDS = {
    "facts.check",
    "facts.facts",
    "faults.active",
    "faults.begin",
    "faults.heal",
    "faults.kill",
    "files.listing",
    "files.purge",
    "files.runs",
    "files.tail",
    "power.reboot",
    "processes.ask",
    "processes.go",
    "processes.start",
    "processes.status",
    "processes.stop",
    "processes.watch",
    "releases.flip",
    "releases.probe",
    "releases.stage",
    "releases.unlock",
    "secret.put",
    "setup.prepare",
}


def _give_up(_number: int, _frame: FrameType | None) -> None:
    why = "not done in time"
    raise NodeError(why)


def main() -> None:
    """Read the call, carry it out, print the answer."""
    call = json.loads(sys.stdin.buffer.readline())
    payload = sys.stdin.buffer.read(call["payload_bytes"])
    try:
        if call["timeout_s"]:  # nothing is left behind if the operator is gone
            signal.signal(signal.SIGALRM, _give_up)
            signal.alarm(max(1, int(call["timeout_s"])))
        if call["command"] not in COMMANDS:
            why = f"there is no step {call['command']}"
            raise NodeError(why)
        module, _, function = call["command"].partition(".")
        step = getattr(importlib.import_module(f"rdht.node.{module}"), function)
        answer = {"ok": step(Folders(call["cluster"]), call["arguments"], payload)}
    except NodeError as error:
        answer = {"error": str(error)}
    except OSError as error:
        answer = {"error": explain(error)}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
