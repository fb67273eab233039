"""The network of the netns lab as values: names, batches, rates."""

from pathlib import Path

import pytest

from lab import links
from lab.errors import ChoiceError
from lab.links import Batch, Names

NAMES = Names("abc123")
HOSTS = {"pi1": "10.77.0.11", "pi2": "10.77.0.12"}


def test_names_follow_from_the_folder_and_differ_between_folders(tmp_path: Path) -> None:
    one, other = Names.of(tmp_path / "one"), Names.of(tmp_path / "other")
    assert one == Names.of(tmp_path / "other" / ".." / "one")
    assert set(one.all(HOSTS)).isdisjoint(other.all(HOSTS))
    assert len(set(one.all(["switch", "operator"]))) == 4  # whatever a host is called


def test_links_are_there_before_rates() -> None:
    assert links.spaces(NAMES, HOSTS) == Batch(
        ["ip", "-batch", "-"],
        [
            "netns add rdht-abc123.switch",
            "netns add rdht-abc123.operator",
            "netns add rdht-abc123-pi1",
            "netns add rdht-abc123-pi2",
        ],
    )
    batches = links.making(NAMES, HOSTS, "100mbit")
    assert batches[0].words == ["ip", "-n", "rdht-abc123.switch", "-batch", "-"]
    assert "link add to-pi2 type veth peer name eth0 netns rdht-abc123-pi2" in batches[0].lines
    assert [batch.words[0] for batch in batches] == ["ip"] * 7 + ["tc"] * 4
    assert "addr add 10.77.0.12/24 dev eth0" in batches[3].lines
    assert len(batches[7].lines) == 3


@pytest.mark.parametrize("wired", [False, True])
def test_links_are_made_inside_the_labs_own_namespaces(*, wired: bool) -> None:
    for batch in links.making(NAMES, HOSTS, "100mbit", wired=wired):
        assert batch.words[1] == "-n"
        assert batch.words[2].startswith("rdht-abc123")


@pytest.mark.parametrize(
    ("rate", "burst", "queue"),
    [("10mbit", 16_384, 131_072), ("100mbit", 16_384, 131_072), ("1gbit", 125_000, 1_250_000)],
)
def test_a_fast_link_has_a_larger_bucket_and_queue(rate: str, burst: int, queue: int) -> None:
    for batch in links.shaping(NAMES, "pi1", rate):
        assert batch.lines[0].endswith(f"root tbf rate {rate} burst {burst}b limit {queue}b")


@pytest.mark.parametrize(
    ("rate", "bits"), [("8kbit", 8_000), ("100mbit", 10**8), ("10gbit", 10**10)]
)
def test_rates_that_can_be(rate: str, bits: int) -> None:
    assert links.bits_per_second(rate) == bits


@pytest.mark.parametrize(
    "rate", ["", "100", "100 mbit", "100Mbit", "-1mbit", "0mbit", "7kbit", "11gbit", "1mbit\n"]
)
def test_rates_that_cannot_be(rate: str) -> None:
    with pytest.raises(ChoiceError, match="write it like 100mbit"):
        links.bits_per_second(rate)


def test_a_cable_is_the_switchs_end_and_power_the_hosts() -> None:
    assert links.plugging(NAMES, "pi1", plugged=False) == [
        Batch(["ip", "-n", "rdht-abc123.switch", "-batch", "-"], ["link set to-pi1 down"])
    ]
    assert links.powering(NAMES, "pi1", powered=True) == [
        Batch(["ip", "-n", "rdht-abc123-pi1", "-batch", "-"], ["link set eth0 up"])
    ]
