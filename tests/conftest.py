import pytest
from hypothesis import settings

# Two slow cores that also do other work: how long one example takes says nothing.
settings.register_profile("rdht", deadline=None)
settings.load_profile("rdht")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="write what the scenarios print into their files, for a review by git diff",
    )
