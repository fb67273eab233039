"""Tasks as they are typed: shared options, errors as lines, exit codes."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from invoke.collection import Collection
from invoke.program import Program

from cluster import command
from cluster.command import cluster_task, load_cluster, select_cluster, selected_cluster, task
from cluster.console import Screen
from cluster.errors import ClusterError, HostError, HostsFailedError, UsageError, VerdictError
from cluster.operator import Operator
from rdht.errors import ConfigurationError

INVENTORY = "hosts:\n  pi1: {address: a}\n  pi2: {address: b}\ngroups: {both: [pi1, pi2]}\n"


class Typed(NamedTuple):
    """What came of a typed line."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the inventories pis and lab, in which nothing was chosen yet."""
    folder = tmp_path / "inventory"
    folder.mkdir()
    for name in ("pis", "lab"):
        (folder / f"{name}.yaml").write_text(INVENTORY, encoding="utf-8")
    monkeypatch.setattr(command, "INVENTORY", folder)
    monkeypatch.setattr(command, "STATE", tmp_path / ".rdht")
    monkeypatch.setattr(command, "_SELECTED", tmp_path / ".rdht" / "cluster")
    monkeypatch.delenv("RDHT_CLUSTER", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def type_line(capsys: pytest.CaptureFixture[str]) -> Callable[..., Typed]:
    """Return a function that runs a line of words as `fab` would, with one task, `work`."""

    def run(made: Any, *words: str) -> Typed:
        capsys.readouterr()
        program = Program(namespace=Collection(work=made))
        code = 0
        try:
            program.run(["fab", "work", *words])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        return Typed(code, *capsys.readouterr())

    return run


def test_pis_are_the_cluster_until_another_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert selected_cluster() == "pis"
    select_cluster("lab")
    assert selected_cluster() == "lab"
    monkeypatch.setenv("RDHT_CLUSTER", "pis")
    assert selected_cluster() == "pis"
    monkeypatch.setenv("RDHT_CLUSTER", "")
    assert selected_cluster() == "lab"


@pytest.mark.parametrize("name", ["../lab", "lab.yaml", "/etc/passwd", "", "Lab"])
def test_only_the_name_of_an_inventory_names_a_cluster(name: str) -> None:
    with pytest.raises(UsageError, match="names no inventory"):
        load_cluster(name)


def test_a_cluster_that_has_no_inventory_is_a_mistake_that_lists_the_others() -> None:
    with pytest.raises(UsageError, match="lab, pis"):
        load_cluster("lap")


def test_an_inventory_is_named_as_seen_from_where_one_stands(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_cluster("lab").path == Path("inventory/lab.yaml")
    monkeypatch.chdir("/")
    assert load_cluster("lab").path.read_text(encoding="utf-8") == INVENTORY


def test_what_a_lab_made_for_its_hosts_goes_before_the_inventory(checkout: Path) -> None:
    made = command.made_inventory("lab")
    made.parent.mkdir(parents=True)
    made.write_text("hosts: {pi9: {address: a}}\n", encoding="utf-8")
    cluster = load_cluster("lab")
    assert (cluster.name, cluster.path) == ("lab", Path(".rdht/lab/lab.yaml"))
    assert [host.name for host in cluster.hosts] == ["pi9"]


def test_a_clusters_network_namespace_is_entered_unless_on_a_dry_run(
    checkout: Path, type_line: Callable[..., Typed]
) -> None:
    @cluster_task()
    def work(operator: Operator) -> None:
        """Work."""
        operator.screen.note("was here")

    path = checkout / "inventory" / "pis.yaml"
    path.write_text("network_namespace: nowhere\n" + INVENTORY, encoding="utf-8")
    refused = type_line(work)
    assert refused.code == 1
    assert "was here" not in refused.out
    assert "there is no network namespace inventory/nowhere" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert "was here" in type_line(work, "--dry-run").out


def test_a_task_gets_a_screen_and_its_options(type_line: Callable[..., Typed]) -> None:
    @task(name="whom to greet")
    def work(screen: Screen, *, name: str = "nobody") -> None:
        """Greet."""
        screen.note(f"hello {name}")

    assert type_line(work) == (0, "hello nobody\n", "")
    assert type_line(work, "--name", "pi") == (0, "hello pi\n", "")


def test_the_cluster_is_the_first_line(type_line: Callable[..., Typed]) -> None:
    @cluster_task()
    def work(operator: Operator) -> None:
        """Work."""
        operator.screen.note("done")

    first, second = type_line(work).out.splitlines()
    assert first.startswith("cluster pis · 2 hosts · ")
    assert first.endswith("inventory/pis.yaml")
    assert second == "done"
    assert type_line(work, "--limit", "pi2").out.startswith("cluster pis · 1 host · ")


def test_limit_chooses_hosts_and_a_wrong_one_is_a_mistake_of_usage(
    type_line: Callable[..., Typed],
) -> None:
    @cluster_task()
    def work(operator: Operator) -> None:
        """Work."""
        operator.screen.note(",".join(host.name for host in operator.cluster.hosts))

    assert type_line(work, "--limit", "pi2").out.splitlines()[1:] == ["pi2"]
    assert type_line(work, "--limit", "both").out.splitlines()[1:] == ["pi1,pi2"]
    wrong = type_line(work, "--limit", "pi3")
    assert wrong.code == 2
    assert "--limit" in wrong.err
    assert "pi3" in wrong.err


@pytest.mark.parametrize("make", [task, cluster_task])
def test_json_prints_one_document_and_nothing_else_on_stdout(
    type_line: Callable[..., Typed], make: Any
) -> None:
    def body(given: Any) -> dict[str, Any]:
        """Work."""
        screen = given if isinstance(given, Screen) else given.screen
        screen.note("a note")
        return {"hosts": ["é"]}

    work = make()(body)
    done = type_line(work, "--json")
    assert json.loads(done.out) == {"hosts": ["é"]}
    assert "a note" in done.err
    plain = type_line(work)
    assert plain.err == ""
    assert "{" not in plain.out


def test_a_dry_run_says_so_to_the_operator(type_line: Callable[..., Typed]) -> None:
    seen = []

    @cluster_task()
    def work(operator: Operator) -> None:
        """Work."""
        seen.append(operator.dry_run)

    for words in ([], ["--dry-run"]):
        assert type_line(work, *words).code == 0
    assert seen == [False, True]


FAILURES = [
    (ClusterError("it failed"), 1, "it failed"),
    (HostsFailedError("look", {"pi1": HostError("is down")}), 1, "pi1: look failed: is down"),
    (UsageError("that cannot be"), 2, "that cannot be"),
    (VerdictError("keys differ"), 3, "keys differ"),
    (ConfigurationError("no results"), 1, "no results"),
    (KeyboardInterrupt(), 130, "interrupted"),
]


@pytest.mark.parametrize(("error", "code", "text"), FAILURES)
@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_failure_is_a_line_and_an_exit_code(
    type_line: Callable[..., Typed], error: BaseException, code: int, text: str, words: list[str]
) -> None:
    @task()
    def work(screen: Screen) -> None:
        """Work."""
        raise error

    assert type_line(work, *words) == (code, "", f"{text}\n")


def test_a_bad_verdict_has_its_document_all_the_same(type_line: Callable[..., Typed]) -> None:
    @task()
    def work(screen: Screen) -> None:
        """Work."""
        why = "B is slower"
        raise VerdictError(why, {"ratio": 0.5})

    assert type_line(work, "--json") == (3, '{"ratio": 0.5}\n', "B is slower\n")
    assert type_line(work) == (3, "", "B is slower\n")


def test_a_mistake_in_the_inventory_is_a_line_and_exit_code_2(
    type_line: Callable[..., Typed], checkout: Path
) -> None:
    (checkout / "inventory" / "pis.yaml").write_text("hosts:\n  pi1: {adress: a}\n")

    @cluster_task()
    def work(operator: Operator) -> None:
        """Work."""

    done = type_line(work)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("inventory/pis.yaml:2: hosts.pi1.adress: ")
    assert "address" in done.err
    assert len(done.err.splitlines()) == 1


@dataclass(frozen=True)
class _Options:
    threads: int = field(default=8, metadata={"help": "threads"})
    duration: float = field(default=1.5, metadata={"help": "seconds"})
    seed: int | None = field(default=None, metadata={"help": "seed"})
    trace: bool = field(default=False, metadata={"help": "log"})


@pytest.fixture
def with_options() -> tuple[Any, list[tuple[_Options, int]]]:
    """A task that takes options, and what it was given."""
    given: list[tuple[_Options, int]] = []

    @cluster_task(takes=_Options, workers="threads of each server")
    def work(operator: Operator, *, options: _Options, workers: int = 4) -> None:
        """Work."""
        given.append((options, workers))

    return work, given


def test_every_field_of_the_options_can_be_typed(
    type_line: Callable[..., Typed], with_options: tuple[Any, list[tuple[_Options, int]]]
) -> None:
    work, given = with_options
    assert type_line(work).code == 0
    words = ["--threads", "2", "--duration", "0.5", "--seed", "7", "--trace", "--workers=3"]
    assert type_line(work, *words).code == 0
    assert given == [
        (_Options(), 4),
        (_Options(threads=2, duration=0.5, seed="7", trace=True), 3),  # type: ignore[arg-type]
    ]
    assert [type(value) for value in (given[1][0].threads, given[1][0].duration)] == [int, float]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--threads", "many"], "--threads many is not a whole number"),
        (["--threads", "1.5"], "--threads 1.5 is not a whole number"),
        (["--duration", "long"], "--duration long is not a number"),
        (["--workers", ""], "--workers"),
    ],
)
def test_a_word_that_is_no_such_value_is_a_line_and_exit_code_2(
    type_line: Callable[..., Typed],
    with_options: tuple[Any, list[tuple[_Options, int]]],
    words: list[str],
    told: str,
) -> None:
    work, given = with_options
    done = type_line(work, *words)
    assert told in done.err
    assert "Traceback" not in done.err
    assert done.code == 2
    assert given == []


def test_help_explains_every_option_and_tells_its_default(
    capsys: pytest.CaptureFixture[str], with_options: tuple[Any, list[tuple[_Options, int]]]
) -> None:
    work, _ = with_options
    with pytest.raises(SystemExit):
        Program(namespace=Collection(work=work)).run(["fab", "--help", "work"])
    out = " ".join(capsys.readouterr().out.split())
    for text in ("threads (default 8)", "seconds (default 1.5)", "(default 4)"):
        assert text in out
    for option in ("--limit", "--json", "--dry-run", "--seed", "--trace"):
        assert option in out


def test_an_option_without_help_cannot_be_made() -> None:
    with pytest.raises(KeyError):

        @task()
        def work(screen: Screen, *, count: int = 3) -> None:
            """Work."""
