"""How the protocol can be spoken."""

from typing import NamedTuple


class Profile(NamedTuple):
    """A way to speak the protocol."""

    name: str
    frame_bytes: int  # every frame is padded to at least this


PROFILES = {profile.name: profile for profile in [Profile("classic", frame_bytes=256)]}
