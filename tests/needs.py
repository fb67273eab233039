"""What a test needs of the machine: without it a user's tests are skipped, and CI's fail."""

import os
import shutil

import pytest

from lab import holder, links, netns, wire

_no_root = None if os.geteuid() == 0 else "only root may do it all and leave nothing"
_missing = netns.missing() or _no_root
_no_nft = None if shutil.which("nft", path=links.SEARCH_PATH) else "nft missing: nftables has it"
_no_compiler = None if shutil.which("g++") else "g++ missing: Debian's g++ has it"
_no_browser = next(
    (
        f"{program} missing: Debian's {package} has it"
        for program, package in (("chromium", "chromium"), ("chromedriver", "chromium-driver"))
        if not shutil.which(program)
    ),
    None,
)


def _needed(why: str | None) -> pytest.MarkDecorator:
    missing = why is not None and os.environ.get("CI") != "true"
    return pytest.mark.skipif(missing, reason=why or "all is here")


# The kind of lab that is most like real hosts, of those that can be here.
BEST_LAB = "netns" if _missing is None or os.environ.get("CI") == "true" else "lab"
NETNS = _needed(_missing)
TAPS = _needed(_missing or wire.missing())
USER_NAMESPACES = _needed(holder.missing())
FAULTS = _needed(_missing or _no_nft)
COMPILER = _needed(_no_compiler)
CHROMIUM = _needed(_no_browser)
