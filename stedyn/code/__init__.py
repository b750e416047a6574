"""Python code: what it is, and the programs that are compiled of it."""
