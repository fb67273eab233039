from rdht.messages import Flag
from rdht.profiles import DEFAULT_PROFILE, PROFILES


def test_every_profile_goes_by_its_name_and_the_default_is_one_of_them() -> None:
    assert {name: profile.name for name, profile in PROFILES.items()} == {
        "classic": "classic",
        "fast": "fast",
    }
    assert DEFAULT_PROFILE == "fast"


def test_classic_speaks_as_the_original_did() -> None:
    classic = PROFILES["classic"]
    assert classic.frame_bytes == 256
    assert classic.request_flags == Flag.LATE  # the condition is told with the result
    assert (classic.locks_gets, classic.queues, classic.awaits_done) == (True, False, True)
