"""How the protocol can be spoken."""

from typing import NamedTuple

from rdht.messages import Flag


class Profile(NamedTuple):
    """A way to speak the protocol; both sides run the same code for all of them."""

    name: str
    frame_bytes: int  # every frame is padded to at least this
    request_flags: int
    locks_gets: bool  # a get takes part in two phases, instead of reading one replica
    queues: bool  # a refused lock is waited for in its queue, instead of tried again and again
    awaits_done: bool  # a put is over when both replicas have applied it, not with their votes


PROFILES = {
    profile.name: profile
    for profile in [
        Profile("classic", 256, int(Flag.LATE), locks_gets=True, queues=False, awaits_done=True),
        Profile("fast", 0, 0, locks_gets=False, queues=True, awaits_done=False),
    ]
}
DEFAULT_PROFILE = "fast"
