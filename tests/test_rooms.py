"""No import of the package goes upward: its rooms stand in one order, from the lowest to the
highest.
"""

import ast
import pathlib
from collections.abc import Iterator

PACKAGE = pathlib.Path("sleep_jax")
ORDER = (
    *("setting", "renamed_fields", "similar_name", "settings", "errors", "services", "addresses"),
    "fields",
    *("data", "memory", "models", "rl", "interop", "sampling", "wake", "rewards"),
    *("evals", "seeding", "dreaming", "study", "config", "lengths", "run_schedule"),
    *("runtime", "programs", "days", "tasks", "experiment", "phases", "slot_plan", "baselines"),
    *("continuation", "lifecycle"),
    *("report", "forecast", "cli", "inspect", "export", "verbs", "__main__"),
)


def room_of(module: str) -> str:
    """`models` of `sleep_jax.models.decoder`; a module of the package itself is its own room."""
    return module.split(".")[1]


def imports(path: pathlib.Path) -> Iterator[str]:
    """The modules of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == PACKAGE.name:
            yield from (f"{PACKAGE.name}.{name.name}" for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def edges() -> set[tuple[str, str, str]]:
    """(file, its room, a room that it imports) of all imports between rooms."""
    imported_by = set()
    for path in PACKAGE.rglob("*.py"):
        room = room_of(".".join(path.with_suffix("").parts))
        for module in imports(path):
            if module.startswith(f"{PACKAGE.name}.") and room_of(module) != room:
                imported_by.add((str(path), room, room_of(module)))
    return imported_by


def test_rooms_import_only_rooms_below_them():
    upward = [
        f"{path} imports {imported}"
        for path, room, imported in sorted(edges())
        if room != "__init__" and ORDER.index(imported) > ORDER.index(room)
    ]
    assert not upward


def test_forecast_is_imported_by_the_entry_point_alone():
    assert {room for _, room, imported in edges() if imported == "forecast"} == {"cli"}
