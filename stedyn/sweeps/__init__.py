"""Tables of problems and their executors."""
