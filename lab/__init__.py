"""Five Pis on this machine."""
