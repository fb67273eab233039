"""The mistake that this build makes; `cluster.release` writes another one over it."""

MUTANT = ""
