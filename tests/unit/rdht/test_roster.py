import json
from pathlib import Path
from typing import Any

import pytest

from rdht import roster
from rdht.errors import ConfigurationError
from rdht.roster import Roster, ServerAddress

S1 = {"name": "s1", "host": "h1", "address": "10.0.0.1", "port": 7000}
S2 = {"name": "s2", "host": "h2", "address": "10.0.0.2", "port": 7000}
PARSED = Roster(
    (ServerAddress("s1", "h1", "10.0.0.1", 7000), ServerAddress("s2", "h2", "10.0.0.2", 7000))
)


def test_a_roster_keeps_the_order_of_its_document() -> None:
    assert roster.parse({"servers": [S1, S2]}) == PARSED
    assert roster.parse({"servers": [S2, S1]}).servers == PARSED.servers[::-1]


def test_a_roster_survives_its_document() -> None:
    assert roster.parse(json.loads(json.dumps(PARSED.to_json()))) == PARSED


def test_a_roster_with_a_secret_survives_its_document() -> None:
    with_secret = Roster(PARSED.servers, Path("/etc/rdht/secret"))
    assert roster.parse(json.loads(json.dumps(with_secret.to_json()))) == with_secret


def test_the_secrets_path_starts_where_the_roster_lies(tmp_path: Path) -> None:
    document = {**PARSED.to_json(), "secret_file": "secret"}
    path = tmp_path / "roster.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert roster.load(path).secret_file == tmp_path / "secret"
    assert roster.parse(document).secret_file == Path("secret")


def test_the_secret_is_what_its_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("0f" * 32 + "\n", encoding="utf-8")
    path.chmod(0o600)
    assert Roster(PARSED.servers, path).secret() == b"\x0f" * 32


def test_a_roster_may_be_without_a_secret() -> None:
    assert PARSED.secret() is None
    assert roster.parse({"servers": [S1, S2], "secret_file": None}).secret_file is None
    assert "secret_file" not in PARSED.to_json()


def test_a_secret_that_cannot_be_read_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot use this as the cluster's secret"):
        Roster(PARSED.servers, tmp_path / "nowhere").secret()


def test_a_server_is_found_by_its_name() -> None:
    assert PARSED.server("s2").address == "10.0.0.2"


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="no server 's9'; it names s1, s2"):
        PARSED.server("s9")


@pytest.mark.parametrize(
    "document",
    [
        *(None, [], "servers", 1, {}, {"servers": []}, {"servers": {"s1": S1}}),
        {"servers": [S1], "secret_file": 1},
        {"servers": [S1], "secrets_file": "secret"},
    ],
)
def test_a_document_of_another_shape_is_refused_with_the_right_one(document: object) -> None:
    with pytest.raises(ConfigurationError, match=r'a roster is \{"servers"'):
        roster.parse(document)


MISTAKES: list[tuple[Any, str]] = [
    ("s2", r"servers\[1\] needs exactly the fields name, host, address, port"),
    ({"name": "s2"}, r"servers\[1\] needs exactly the fields"),
    ({**S2, "rack": 1}, r"servers\[1\] needs exactly the fields"),
    ({**S2, "name": ""}, r"servers\[1\]\.name is '', expected a non-empty text"),
    ({**S2, "host": 5}, r"servers\[1\]\.host is 5, expected a non-empty text"),
    ({**S2, "address": None}, r"servers\[1\]\.address is None, expected a non-empty text"),
    ({**S2, "port": "7000"}, r"servers\[1\]\.port is '7000', expected a port number"),
    ({**S2, "port": True}, r"servers\[1\]\.port is True, expected a port number"),
    ({**S2, "port": 0}, r"servers\[1\]\.port is 0, expected a port number"),
    ({**S2, "port": -1}, r"servers\[1\]\.port is -1, expected 1 to 65535"),
    ({**S2, "port": 65_536}, r"servers\[1\]\.port is 65536, expected 1 to 65535"),
    ({**S2, "name": "s1"}, "the name s1 stands for two servers"),
    ({**S2, "address": "10.0.0.1"}, "the address 10.0.0.1:7000 stands for two servers"),
]


@pytest.mark.parametrize(("row", "why"), MISTAKES)
def test_a_mistake_in_a_row_is_named_with_its_place(row: object, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        roster.parse({"servers": [S1, row]})


def test_two_servers_of_one_host_may_share_its_address_on_other_ports() -> None:
    second = {**S1, "name": "s2", "port": 7001}
    assert len(roster.parse({"servers": [S1, second]}).servers) == 2


def test_a_port_may_be_the_highest_there_is() -> None:
    assert roster.parse({"servers": [{**S1, "port": 65_535}]}).server("s1").port == 65_535


def test_a_roster_is_loaded_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "roster.json"
    path.write_text(json.dumps(PARSED.to_json()), encoding="utf-8")
    assert roster.load(path) == roster.load(str(path)) == PARSED


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"servers:\n", "the roster is not JSON"),
        (b"\xff\xfe\xfa", "the roster is not JSON"),
        (b"[]", "a roster is"),
    ],
)
def test_a_wrong_file_is_named_with_the_mistake(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "roster.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"roster\.json: {why}"):
        roster.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.json: cannot read the roster: No such"):
        roster.load(tmp_path / "nowhere.json")
