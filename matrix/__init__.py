"""The crash-point matrix: who fails, how, and at which message, and what became of the table."""
