"""Links that take time, on any kernel: two taps in a switch's namespace, a program between them.

What comes in at either tap goes out at the other one a delay later, in order. netem would do it in
the kernel, but not every kernel has it. As a program this is one such wire; it costs a processor
about 20 µs a packet, and lasts as long as its process.
"""

import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from lab.errors import ChoiceError
from lab.links import RUN_NETNS, Names, far_end
from lab.processes import say_begun, start_daemon

LONGEST_S = 1.0
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_TUN = Path("/dev/net/tun")
_SET_INTERFACE = 0x400454CA  # TUNSETIFF of linux/if_tun.h
_TAP_WITHOUT_HEADERS = 0x0002 | 0x1000  # IFF_TAP, IFF_NO_PI
_REQUEST = struct.Struct("16sH22x")  # ifreq: name, flags
_LARGEST_FRAME_BYTES = 65_536
_AT_ONCE = 64  # frames of one tap before the others' turn
_MOST_ON_THE_WAY = 10_000  # frames; more are lost, as at any full queue
_START_TIMEOUT_S = 10.0
_Frames = deque[tuple[float, bytes]]  # when each is to come out


def seconds(delay: str) -> float:
    """Read a delay such as 0.5ms; ChoiceError if it is none."""
    number = delay.rstrip("mus")
    try:
        delay_s = float(number) * _UNITS[delay[len(number) :]]
    except (KeyError, ValueError):
        delay_s = -1.0
    if not 0 <= delay_s <= LONGEST_S:
        why = f"{delay!r} is no delay up to {LONGEST_S:g}s: write it like 0.5ms"
        raise ChoiceError(why)
    return delay_s


def missing() -> str | None:
    """Say why links cannot take time here, if so."""
    if os.access(_TUN, os.R_OK | os.W_OK):
        return None
    return f"--delay needs {_TUN}, which is not here or not for this user: leave it out"


def lay(names: Names, ports: Mapping[str, str], delay_s: float) -> None:
    """Start a wire for each port of the switch, with its far end beside it."""
    for port in ports:
        start_daemon(
            [
                *("nsenter", f"--net={RUN_NETNS / names.switch}"),
                *(sys.executable, "-m", "lab.wire", port, far_end(port), str(delay_s)),
            ],
            _START_TIMEOUT_S,
        )


def _tap(name: str) -> int:
    """Make an interface whose packets are read and written here; it goes with the descriptor."""
    descriptor = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(
        descriptor, _SET_INTERFACE, _REQUEST.pack(name.encode("ascii"), _TAP_WITHOUT_HEADERS)
    )
    return descriptor


def _carry(one: int, other: int, delay_s: float) -> None:
    """Carry frames both ways until a tap is gone."""
    out: dict[int, _Frames] = {one: deque(), other: deque()}
    into = {one: out[other], other: out[one]}
    while True:
        due = [frames[0][0] for frames in out.values() if frames]
        wait_s = max(0.0, min(due) - time.monotonic()) if due else None
        for tap in select.select([one, other], [], [], wait_s)[0]:
            _take(tap, into[tap], delay_s)
        for tap, frames in out.items():
            _give(tap, frames)


def _take(tap: int, frames: _Frames, delay_s: float) -> None:
    for _ in range(_AT_ONCE):
        try:
            frame = os.read(tap, _LARGEST_FRAME_BYTES)
        except BlockingIOError:
            return
        if len(frames) < _MOST_ON_THE_WAY:
            frames.append((time.monotonic() + delay_s, frame))


def _give(tap: int, frames: _Frames) -> None:
    now_s = time.monotonic()
    while frames and frames[0][0] <= now_s:
        _, frame = frames.popleft()
        try:
            os.write(tap, frame)
        except OSError:  # its end is down, or has no room: the frame is lost
            continue


if __name__ == "__main__":
    try:
        _one, _other = (_tap(name) for name in sys.argv[1:3])
    except OSError as why:
        sys.exit(f"no wire to {sys.argv[1]}: {why.strerror}")
    say_begun()
    _carry(_one, _other, float(sys.argv[3]))
