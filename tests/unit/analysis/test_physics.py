"""How the hosts were during a run: figures from samples, and what makes a run doubtful."""

import json
from pathlib import Path
from typing import Any

from analysis import physics
from analysis.physics import busiest, host_figures, marks, read_samples, within


def card(second: int, rx_dropped: int, tx_dropped: int) -> dict[str, int]:
    """Return the counters of a card that takes and sends 100 packets a second."""
    packets = dict.fromkeys(("rx_packets", "tx_packets"), 100 * second)
    return {**packets, "rx_dropped": rx_dropped, "tx_dropped": tx_dropped}


def sample(second: int, **changed: Any) -> dict[str, Any]:
    """Return a healthy host's sample: 2 cores, half of them busy, one process on half a core."""
    return {
        "time_unix_s": 1000.0 + second,
        "cpu_s": {"busy": 50.0 + second, "idle": 70.0 + second, "stolen": 3.0},
        "processes_cpu_s": {"server pi1": 5 + second / 2},
        "clock_khz": None,
        "temperature_c": None,
        "throttled": None,
        "network": {"eth0": card(second, 7, 1)},
        "segments_sent": 100 + 1000 * second,
        "segments_sent_again": 90,
        "clock_offset_s": -0.02,
        **changed,
    }


def figures(*changes: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a host whose last seconds are changed like this."""
    healthy = [sample(second) for second in range(10)]
    return host_figures([*healthy, *(sample(10 + n, **one) for n, one in enumerate(changes))])


def test_a_healthy_host_has_shares_and_no_mark() -> None:
    found = figures()
    assert found == {
        "watched_s": 9.0,
        "cpu_busy": 0.5,
        "cpu_stolen": 0.0,
        "processes_cores": {"server pi1": 0.5},
        "clock_offset_s": -0.02,
        "clock_khz_min": None,
        "temperature_c_max": None,
        "throttled": [],
        "packets": 1800,
        "dropped": 0,
        "sent_again": 0.0,
    }
    assert marks({"pi1": found, "pi2": found}) == []
    assert busiest({"pi1": found}) == {
        "host": "pi1",
        "cpu_busy": 0.5,
        "process": "server pi1 on pi1",
    }


def test_readings_are_summed_up_to_what_matters() -> None:
    found = figures(
        {"clock_khz": 600_000, "temperature_c": 61.5},
        {"clock_khz": 1_500_000, "temperature_c": 59.0},
    )
    assert (found["clock_khz_min"], found["temperature_c_max"]) == (600_000, 61.5)


def test_one_sample_tells_no_share() -> None:
    found = host_figures([sample(0)])
    assert (found["watched_s"], found["cpu_busy"], found["sent_again"]) == (0, None, None)
    assert marks({"pi1": found}) == []
    assert busiest({"pi1": found}) is None


def test_each_thing_that_spoils_figures_is_named_with_its_hosts() -> None:
    spoiled = {
        "pi1": figures({"throttled": "0x50005"}),
        "pi2": figures({"cpu_s": {"busy": 60.0, "idle": 80.0, "stolen": 7.0}}),
        "pi3": figures({"network": {"eth0": card(10, 9, 4)}}),
        "pi4": figures({"segments_sent_again": 90 + 500}),
        "pi5": figures({"throttled": "0x50000"}),  # some time since it was booted
        "pi6": figures({"throttled": "0x50005"}),
        "pi7": host_figures([sample(n, clock_offset_s=-3.4 - n % 2) for n in range(9)]),
    }
    assert marks(spoiled) == [
        "pi1, pi6: throttled (0x50005): look at power supply and cooling",
        "pi2: 17% of the processor went to other guests of the same machine",
        "pi3: network cards dropped 5 packets",
        "pi4: 5% of the TCP segments had to be sent again: look at the cables",
        "pi7: its clock is -3.4 s off the desk's: enable NTP",  # the least was on its way least
    ]


def test_what_faults_on_purpose_do_sends_nobody_to_the_cables() -> None:
    (mark,) = marks({"pi4": figures({"segments_sent_again": 90 + 500})}, with_faults=True)
    assert mark == (
        "pi4: 5% of the TCP segments had to be sent again: faults on purpose may be why"
    )


def test_the_busiest_host_and_process_need_not_belong_together() -> None:
    full = figures({"cpu_s": {"busy": 500.0, "idle": 71.0, "stolen": 3.0}})
    alone = figures({"processes_cpu_s": {"client pi1": 9.9}}, {"processes_cpu_s": {}})
    found = busiest({"pi1": alone, "pi2": full})
    assert found is not None
    assert (found["host"], found["process"]) == ("pi2", "server pi1 on pi2")


def test_a_packet_that_nobody_had_a_use_for_is_no_mark() -> None:
    found = figures({"network": {"eth0": card(10, 8, 1)}})
    assert (found["packets"], found["dropped"]) == (2000, 1)
    assert marks({"pi1": found}) == []


def test_throttling_between_two_samples_is_seen_and_an_old_one_is_not() -> None:
    assert figures({"throttled": "0x0"}, {"throttled": "0x50000"})["throttled"] == ["0x50000"]
    assert figures({"throttled": "0x50000"}, {"throttled": "0x50000"})["throttled"] == []


def test_what_was_before_and_after_the_run_does_not_count() -> None:
    samples = [sample(second) for second in range(6)]
    assert within(samples, 1001.0, 1003.5) == samples[1:4]
    assert within(samples, 1001.5, 1002.5) == samples  # one alone tells nothing
    assert within(samples, 2000.0, 2001.0) == samples


def test_samples_are_read_by_host_in_their_order(tmp_path: Path) -> None:
    assert read_samples(tmp_path) == {}
    rows = [{"host": host, **sample(second)} for second in (0, 1) for host in ("pi2", "pi1")]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / physics.SAMPLES).write_text(text, encoding="utf-8")
    expected = [sample(0), sample(1)]
    assert read_samples(tmp_path) == {"pi2": expected, "pi1": expected}
