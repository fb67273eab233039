"""Run steps on this host: python3 -m rdht.node, with each call as a line of JSON on stdin.

A call has `modules` (name and source of the code that it needs and that is not here yet),
`command`, `cluster`, `arguments`, `timeout_s` and `payload_bytes`, the number of bytes that follow
the line. One JSON document comes back, {"ok": …} or {"error": …}; a step that reports as it goes
prints a line of JSON each time before that.
"""

import importlib
import json
import os
import signal
import sys
import types
from typing import Any

from rdht.node.host import Folders, NodeError, explain

IDLE_S = 600  # so long it waits for a call; sshd may take hours to see that the operator is gone

COMMANDS = {
    "facts.check",
    "facts.clock",
    "facts.facts",
    "faults.active",
    "faults.begin",
    "faults.heal",
    "faults.kill",
    "faults.wait",
    "files.listing",
    "files.purge",
    "files.runs",
    "files.tail",
    "links.measure",
    "power.reboot",
    "processes.ask",
    "processes.go",
    "processes.start",
    "processes.status",
    "processes.stop",
    "releases.flip",
    "releases.probe",
    "releases.stage",
    "releases.unlock",
    "secret.put",
    "setup.prepare",
    "watch.watch",
}


def main() -> None:
    """Carry out call after call, each in a process of its own, until stdin ends."""
    signal.signal(signal.SIGALRM, lambda *_: sys.exit())
    while True:
        signal.alarm(IDLE_S)
        line = sys.stdin.buffer.readline()
        if not line:
            return
        signal.alarm(IDLE_S)
        call = json.loads(line)
        for name, source in call["modules"]:
            module = sys.modules[name] = types.ModuleType(name)
            exec(compile(source, name, "exec"), module.__dict__)  # noqa: S102 - ours, over ssh
        payload = sys.stdin.buffer.read(call["payload_bytes"])
        signal.alarm(0)
        child = os.fork()
        if not child:  # whatever a step does to its process, and starts, is not left here
            _carry_out(call, payload)
            os._exit(0)  # at once: the operator may have sent the next call
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            sys.exit(f"the step was ended: {signal.strsignal(-code)}" if code < 0 else code)


def _carry_out(call: dict[str, Any], payload: bytes) -> None:
    def give_up(_number: int, _frame: types.FrameType | None) -> None:
        why = "not done in time"
        raise NodeError(why)

    try:
        if call["timeout_s"]:  # nothing is left behind if the operator is gone
            signal.signal(signal.SIGALRM, give_up)
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
    finally:
        signal.alarm(0)  # or it ends the telling of the answer
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
