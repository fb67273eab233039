"""A table that lies is found out: by the run's exit code, in its summary and in its report."""

import pytest

from tests.e2e.checkout import Checkout

pytestmark = pytest.mark.parametrize("checkout", ["lab"], indirect=True, scope="session")
RUN = ("run", "--threads", "2", "--warmup", "0", "--duration", "1", "--workload", "mixed")


def test_a_run_says_ok_and_a_table_that_lies_ends_it_with_exit_code_3(idle: Checkout) -> None:
    outcome = idle.fab(*RUN)
    assert "verdict: ok" in outcome.stdout
    assert idle.summary()["verdict"]["reasons"] == []
    source = idle.folder / "rdht" / "execution.py"
    text = source.read_text(encoding="utf-8")
    honest = "return self._running.results()"
    assert text.count(honest) == 1
    lie = "return [one._replace(version=one.version // 2) for one in self._running.results()]"
    source.write_text(text.replace(honest, lie), encoding="utf-8")
    try:
        outcome = idle.fab(*RUN, code=3)
    finally:
        source.write_text(text, encoding="utf-8")
    assert "violated: the table did not keep its promises in run " in outcome.stderr
    assert "is not linearizable" in " ".join((outcome.stdout + outcome.stderr).split())
    found = idle.summary()["verdict"]
    assert found["verdict"] == "violated"
    assert found["failing"]
    idle.fab("report")
    page = (idle.folder / "logs/latest/report.html").read_text(encoding="utf-8")
    assert page.index("Violated: the table did not keep its promises.") < page.index("What ran")
    assert (idle.folder / "logs/latest/plots/violation.png").exists()
    idle.fab("assemble", code=3)
