"""The operator's library: inventory, connections, fan-out, releases, runs."""
