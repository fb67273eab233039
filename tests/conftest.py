import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# Two slow cores that also do other work: how long one example takes says nothing.
settings.register_profile("rdht", deadline=None)
settings.load_profile("rdht")


class ByFileAndLab(LoadScopeScheduling):  # type: ignore[misc]
    """Keeps a file's tests in one process, for what they share; those on the netns lab apart."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0] + " on netns" * ("netns" in nodeid.partition("[")[2])


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFileAndLab:
    return ByFileAndLab(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="write what the scenarios print into their files, for a review by git diff",
    )
