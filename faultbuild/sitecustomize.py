"""Imported by Python itself as a process of a fault build starts."""

import os
import sys
import traceback

try:
    import faultbuild.arm

    faultbuild.arm.arm(sys.orig_argv)
except BaseException:  # noqa: BLE001 - Python would go on without it, as a release that has no faults
    traceback.print_exc()
    os._exit(70)
