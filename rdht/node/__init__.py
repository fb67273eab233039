"""What runs on a host for one step of the operator: one call, one JSON document back.

These modules need no installed release: the operator sends them along with each call. So they
import nothing of the rest of the package.
"""
