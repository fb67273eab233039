"""Faults of the netns lab's network as values."""

from lab import faults
from lab.links import Names

NAMES = Names("abc123")
WORDS = ["nsenter", "--net=/run/netns/rdht-abc123.switch", "nft", "-f", "-"]
TABLE = [
    "add table bridge rdht-cut-pi1",
    "add chain bridge rdht-cut-pi1 forward { type filter hook forward priority 0; }",
]
RULE = "add rule bridge rdht-cut-pi1 forward"


def test_a_cut_drops_both_ways_between_the_host_and_its_peers_alone() -> None:
    fault = {"kind": "cut", "ways": ["in", "out"], "peers": ["pi2", "pi3"], "percent": 100}
    batch = faults.dropping(NAMES, "pi1", fault)
    assert batch.words == WORDS
    assert batch.lines == [
        *TABLE,
        f'{RULE} iifname {{ "to-pi2", "to-pi3" }} oifname "to-pi1" drop',
        f'{RULE} iifname "to-pi1" oifname {{ "to-pi2", "to-pi3" }} drop',
    ]


def test_a_loss_drops_by_chance_in_a_table_of_its_own() -> None:
    fault = {"kind": "loss", "ways": ["out"], "peers": {"pi2": "10.77.0.12"}, "percent": 20}
    *_, rule = faults.dropping(NAMES, "pi1", fault).lines
    chance = "numgen random mod 100 < 20 drop"
    assert rule == (
        f'add rule bridge rdht-loss-pi1 forward iifname "to-pi1" oifname {{ "to-pi2" }} {chance}'
    )


def test_removing_works_whether_the_rules_are_there_or_not() -> None:
    batch = faults.removing(NAMES, "pi1", "cut")
    assert batch.words == WORDS
    assert batch.lines == [TABLE[0], "delete table bridge rdht-cut-pi1"]
