"""Which host stands out in a run, and by what: found without being told."""

from collections.abc import Iterable, Iterator, Mapping
from statistics import median
from typing import Any, NamedTuple

from rdht.records import ClientRecord
from rdht.traffic import Traffic

# Times as slow as the others' median. In a closed loop whoever is a little slower gathers the
# commands of all, so among equal servers it is up to 3 by chance.
SLOW_SERVER = 3.5
SLOW_CLIENTS = 2.0
LOSSIER = 2.0  # times as many segments sent again
_LOSSY_SHARE = 0.01
_NEARLY_NOTHING = 1e-3  # commands/s
_Matrix = dict[str, dict[str, float]]


def response_us(found: list[tuple[str, ClientRecord]]) -> _Matrix:
    """Return how long answers of each server took in the mean, as the clients on each host saw it.

    Microseconds by the clients' host and the server's name; without servers that did not answer.
    """
    seen: dict[str, dict[str, Traffic]] = {}
    for host, record in found:
        for thread in record.threads:
            for server, traffic in thread.traffic.items():
                seen.setdefault(host, {}).setdefault(server, Traffic()).add(traffic)
    return {
        host: {
            server: round(1e6 * traffic.waited_s / traffic.messages_received, 1)
            for server, traffic in row.items()
            if traffic.messages_received
        }
        for host, row in seen.items()
    }


class _Finding(NamedTuple):
    of: str  # "server", "clients" or "link"
    times: float  # as bad as the others
    text: str


def outliers(
    response_us: _Matrix,
    host_of: Mapping[str, str],
    rows: Iterable[Mapping[str, Any]],
    hosts: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Return a line for each host that is unlike the others, the worst first.

    `host_of` has each server's host, `rows` the throughput of each host's clients, and `hosts` what
    its samples tell. Each host is compared with the median of all others; the medians of rows and
    columns of `response_us` tell a slow client from a slow server.
    """
    over_links = [  # what a host tells itself is faster
        (host, server, time_us)
        for host, row in response_us.items()
        for server, time_us in row.items()
        if host_of[server] != host
    ]
    servers = _medians((server, time_us) for _, server, time_us in over_links)
    clients = _medians((host, time_us) for host, _, time_us in over_links)
    command_us = {
        row["host"]: 1e6 * row["threads"] / (row["throughput_per_s"] or _NEARLY_NOTHING)
        for row in rows
    }
    again = {host: row["sent_again"] or 0.0 for host, row in hosts.items()}
    found: dict[str, list[_Finding]] = {}
    for server, times, usual_us in _beyond(servers, SLOW_SERVER):
        text = f"server {server} answers within {_ms(servers[server])}, the others {_ms(usual_us)}"
        found.setdefault(host_of[server], []).append(_Finding("server", times, text))
    for host, times, usual_us in _beyond(clients, SLOW_CLIENTS):
        text = f"its clients get answers within {_ms(clients[host])}, the others {_ms(usual_us)}"
        found.setdefault(host, []).append(_Finding("clients", times, text))
    for host, times, _ in _beyond(command_us, SLOW_CLIENTS):
        text = f"its clients complete {1 / times:.0%} of what the others' do"
        found.setdefault(host, []).append(_Finding("clients", times, text))
    for host, times, usual in _beyond(again, LOSSIER):
        if again[host] >= _LOSSY_SHARE:
            text = f"it sends {again[host]:.1%} of its TCP segments again, the others {usual:.1%}"
            found.setdefault(host, []).append(_Finding("link", times, text))
    worst = sorted(found, key=lambda host: -max(finding.times for finding in found[host]))
    return [_line(host, found[host]) for host in worst]


def _medians(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return the median of each name's values."""
    values: dict[str, list[float]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return {name: median(found) for name, found in values.items()}


def _beyond(values: Mapping[str, float], factor: float) -> Iterator[tuple[str, float, float]]:
    """Yield each name whose value is so many times the others' median, with both."""
    for name, value in values.items():
        others = [values[other] for other in values if other != name]
        usual = median(others) if others else 0.0
        if value >= factor * usual and value > 0 and others:
            yield name, value / usual if usual else float("inf"), usual


def _line(host: str, findings: list[_Finding]) -> str:
    """Say what is slow: the host as a whole if both its server and its clients are."""
    of = {finding.of for finding in findings}
    what = "its link" if "link" in of else "the whole host" if len(of) > 1 else f"its {of.pop()}"
    return f"{host} stands out, {what}: {'; '.join(finding.text for finding in findings)}"


def _ms(microseconds: float) -> str:
    return f"{microseconds / 1000:.2f} ms"
