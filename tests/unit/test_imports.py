"""Who may import whom: read off the sources, and held."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"analysis", "cluster", "fabfile", "faultbuild", "lab", "matrix", "rdht", "tasks"}

# Each module imports only modules that stand before it.
LAYERS = [
    "rdht.errors",
    "rdht.limits",
    "rdht.authentication",
    "rdht.messages",
    "rdht.parts",
    "rdht.roster",
    "rdht.profiles",
    "rdht.ring",
    "rdht.table",
    "rdht.replica",
    "rdht.transitions",
    "rdht.transaction",
    "rdht.locks",
    "rdht.resolution",
    "rdht.memory",
    "rdht.write_ahead",
    "rdht.machine",
    "rdht.participant",
    "rdht.coordinator",
    "rdht.execution",
    "rdht.rejoin",
    "rdht.scan",
    "rdht.log",
    "rdht.traffic",
    "rdht.records",
    "rdht.store",
    "rdht.journal",
    "rdht.transport",
    "rdht.link",
    "rdht.worker",
    "rdht.session",
    "rdht.loop",
    "rdht.client",
    "rdht.server",
    "rdht.history",
    "rdht.ycsb",
    "rdht.mixed",
    "rdht.workloads",
    "rdht.workload",
    "rdht",
    "rdht.__main__",
]
SANS_IO = LAYERS[: LAYERS.index("rdht.log")]
OUTSIDE_WORLD = {
    *("asyncio", "multiprocessing", "random", "secrets", "select", "selectors", "socket"),
    *("subprocess", "threading", "time"),
}
FOR_ANALYSIS = {
    *("rdht.errors", "rdht.records", "rdht.traffic"),  # the result format
    *("rdht.history", "rdht.execution", "rdht.messages", "rdht.parts"),  # that of histories
    *("rdht.scan", "rdht.ycsb"),  # what stood at the keys before
}
FOR_CLUSTER = {
    *(
        "rdht.authentication",
        "rdht.errors",
        "rdht.limits",
        "rdht.node",
        "rdht.node.host",
        "rdht.profiles",
        "rdht.records",
        "rdht.ring",
        "rdht.roster",
        "rdht.workloads",
        "rdht.ycsb",
    ),
}


def sources(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, package
    return found


def name_of(path: Path) -> str:
    """Return the dotted name of a module of ours."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    name_of(path): path for package in sorted(OURS - {"fabfile"}) for path in sources(package)
} | {"fabfile": ROOT / "fabfile.py"}


def imports(module: str) -> set[str]:
    """Return what a module imports, anywhere in it; a package's member that is a module as such."""
    return {name for name, _ in imported_names(module)}


def imported_names(module: str) -> Iterator[tuple[str, str]]:
    """Yield each imported module with the name that is taken from it, or an empty one."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module is not None
            for alias in node.names:
                member = f"{node.module}.{alias.name}"
                yield (member, "") if member in MODULES else (node.module, alias.name)


def top(name: str) -> str:
    return name.partition(".")[0]


def within(package: str) -> list[str]:
    return [name for name in MODULES if top(name) == package]


def test_the_reader_sees_every_form_of_import() -> None:
    assert {"rdht.node", "cluster.connection", "json"} <= imports("cluster.remote")
    assert ("rdht.profiles", "PROFILES") in list(imported_names("cluster.options"))
    assert {"rdht.log", "rdht.scan"} <= imports("rdht.server")
    assert {"tasks.deploy", "invoke.collection"} <= imports("fabfile")


@pytest.mark.parametrize("module", within("rdht"))
def test_the_node_side_needs_only_the_standard_library(module: str) -> None:
    others = {
        name for name in imports(module) if top(name) not in {*sys.stdlib_module_names, "rdht"}
    }
    assert others == set()


@pytest.mark.parametrize("module", within("faultbuild"))
def test_a_fault_build_needs_only_the_standard_library_and_the_node_side(module: str) -> None:
    ours = {"faultbuild", "rdht"}
    others = {
        name for name in imports(module) if top(name) not in {*sys.stdlib_module_names, *ours}
    }
    assert others == set()


@pytest.mark.parametrize("module", within("matrix"))
def test_the_matrix_knows_no_task_and_no_lab(module: str) -> None:
    assert {top(name) for name in imports(module)} & {"lab", "tasks"} == set()


def test_every_module_of_the_node_side_has_its_layer() -> None:
    own = {name for name in within("rdht") if not name.startswith("rdht.node")}
    assert sorted(LAYERS) == sorted(own)


@pytest.mark.parametrize("module", LAYERS)
def test_a_module_imports_only_layers_before_it(module: str) -> None:
    ours = {name for name in imports(module) if top(name) == "rdht"}
    assert ours <= set(LAYERS[: LAYERS.index(module)])


def test_records_need_messages_and_errors_only() -> None:
    ours = {name for name in imports("rdht.records") if top(name) == "rdht"}
    assert ours <= {"rdht.errors", "rdht.messages", "rdht.traffic"}


def test_the_files_of_a_durable_server_know_nothing_of_the_protocol() -> None:
    ours = {name for name in imports("rdht.store") if top(name) == "rdht"}
    assert ours <= {"rdht.errors", "rdht.limits"}


@pytest.mark.parametrize("module", SANS_IO)
def test_the_core_knows_no_socket_thread_clock_or_chance(module: str) -> None:
    assert {top(name) for name in imports(module)} & OUTSIDE_WORLD == set()


@pytest.mark.parametrize("module", [name for name in within("rdht") if "rdht.node" in name])
def test_a_hosts_steps_need_nothing_of_the_release(module: str) -> None:
    ours = {name for name in imports(module) if top(name) == "rdht"}
    assert all(name.startswith("rdht.node.") for name in ours), ours


@pytest.mark.parametrize("module", [name for name in within("rdht") if "rdht.node." in name])
def test_a_hosts_step_needs_one_module_beside_its_own(module: str) -> None:
    # So the operator can send host, the step's module and __main__, in this order.
    ours = {name for name in imports(module) if top(name) == "rdht"}
    assert ours <= {"rdht.node.host"}


@pytest.mark.parametrize("module", within("cluster"))
def test_the_operators_library_takes_little_of_the_table(module: str) -> None:
    names = list(imported_names(module))
    assert {name for name, _ in names if top(name) in OURS - {"cluster"}} <= FOR_CLUSTER


@pytest.mark.parametrize("module", within("analysis"))
def test_the_analysis_takes_only_the_formats_of_results_and_histories(module: str) -> None:
    ours = {name for name in imports(module) if top(name) in OURS - {"analysis"}}
    assert ours <= FOR_ANALYSIS


@pytest.mark.parametrize("module", within("lab"))
def test_the_lab_stands_alone(module: str) -> None:
    assert {name for name in imports(module) if top(name) in OURS - {"lab"}} == set()


@pytest.mark.parametrize("module", [name for name in within("lab") if name != "lab.ssh_servers"])
def test_a_lab_of_real_ssh_servers_needs_only_the_standard_library(module: str) -> None:
    assert {top(name) for name in imports(module)} <= {*sys.stdlib_module_names, "lab"}


def test_what_runs_in_a_host_needs_nothing_of_ours() -> None:
    assert {top(name) for name in imports("lab.host_init")} <= sys.stdlib_module_names


@pytest.mark.parametrize("module", within("tasks"))
def test_no_task_file_imports_another(module: str) -> None:
    assert {name for name in imports(module) if name.startswith("tasks.")} == set()


def test_the_list_of_tasks_needs_only_invoke_and_the_tasks() -> None:
    assert {top(name) for name in imports("fabfile")} == {"invoke", "tasks"}


@pytest.mark.parametrize(
    ("library", "known_to"),
    [("fabric", ["cluster.connection"]), ("paramiko", ["cluster.connection", "cluster.hostkeys"])],
)
def test_ssh_is_known_to_few(library: str, known_to: list[str]) -> None:
    users = [module for module in MODULES if library in map(top, imports(module))]
    assert users == known_to
