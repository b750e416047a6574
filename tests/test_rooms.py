"""The house: rooms in order, no circle, nothing imported upward, no module named like a public function."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import stedyn

HOUSE = Path(stedyn.__file__).parent
#: The rooms from the ground up. A room imports from those below it only, on types, too.
FLOORS = (
    ("checks", "machine"),
    ("quantizers", "curves", "statements", "code"),
    ("inputs", "drawing"),
    ("rules",),
    ("problem",),
    ("files",),
    ("limit", "simulation"),
    ("comparison",),
    ("design",),
    ("plots", "sweeps", "explore"),
    ("cli",),
    ("__main__",),
)


def _name(path: Path) -> str:
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in HOUSE.rglob("*.py")}


def _imports(name: str) -> set[str]:
    """Modules of the package that a module names in any import, also inside functions and for types."""
    path, found = MODULES[name], set()
    here = name.split(".") if name else []
    here = here if path.name == "__init__.py" else here[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                inner = ".".join([*base, alias.name])
                found.add(inner if inner in MODULES else ".".join(base))
    return found - {name, ""}  # the package itself holds the version and lazy names


IMPORTS = {name: _imports(name) for name in MODULES}
ROOM_FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def test_every_module_has_its_room():
    assert {name.split(".")[0] for name in MODULES if name} == set(ROOM_FLOOR)


def test_no_circle():
    tuple(TopologicalSorter({name: IMPORTS[name] for name in MODULES if name}).static_order())


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name))
def test_nothing_imports_upward(name):
    room = name.split(".")[0]
    above = {other for other in IMPORTS[name] if other.split(".")[0] != room}
    wrong = {other for other in above if ROOM_FLOOR[other.split(".")[0]] >= ROOM_FLOOR[room]}
    # limit and simulation, or two other rooms of one floor, know nothing of each other
    assert not wrong, f"{name} imports {sorted(wrong)}"


def test_the_simulation_knows_nothing_of_the_limit():
    reached, todo = set(), [name for name in MODULES if name.split(".")[0] == "simulation"]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += IMPORTS[name]
    assert not {name for name in reached if name.split(".")[0] in ("limit", "comparison", "design")}


def test_names():
    last = {name.split(".")[-1] for name in MODULES if name}
    assert not last & {name for name in stedyn.__all__ if name.islower()}
    assert not {name for name in last if name.startswith("_") and name != "__main__"}
