"""How long a link may take."""

import pytest

from lab import links, wire
from lab.errors import ChoiceError


@pytest.mark.parametrize(
    ("delay", "seconds"), [("0ms", 0.0), ("0.5ms", 0.0005), ("250us", 0.00025), ("1s", 1.0)]
)
def test_delays_that_can_be(delay: str, seconds: float) -> None:
    assert wire.seconds(delay) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "delay", ["", "5", "ms", "-1ms", "2s", "1001ms", "nanms", "infms", "5 m", "5sm"]
)
def test_delays_that_cannot_be(delay: str) -> None:
    with pytest.raises(ChoiceError, match=r"no delay up to 1s: write it like 0\.5ms"):
        wire.seconds(delay)


def test_a_far_end_has_a_name_of_its_own_that_an_interface_can_have() -> None:
    ports = ["operator", *map(links.port, ["operator", "far", "x" * links.LONGEST_NAME])]
    ends = [*ports, *map(links.far_end, ports)]
    assert len(set(ends)) == len(ends)
    assert max(map(len, ends)) <= 15
