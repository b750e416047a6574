"""The limit ``d -> infinity``: classes, laws, solver, solution, fixed points."""
