"""What a test needs of the machine: without it a user's tests are skipped, and CI's fail."""

import os

import pytest

from lab import netns

_missing = netns.missing()

NETNS = pytest.mark.skipif(
    _missing is not None and os.environ.get("CI") != "true", reason=_missing or "all is here"
)
