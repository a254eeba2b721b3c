"""What installed packages offer under our entry points, by name."""

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from isentropic.checks import nearest

GROUPS = {"task": "isentropic.tasks", "objective": "isentropic.objectives"}


def offered(slot: str) -> dict[str, EntryPoint]:
    """Returns the names that packages offer for a slot: 'task' or 'objective'."""
    return {point.name: point for point in entry_points(group=GROUPS[slot])}


def load_offered(key: str, slot: str, name: str) -> Any:
    """Imports what a package offers as `name`; `key` is where the config asks for it.

    Raises:
        ValueError: no installed package offers it, or its import fails.
    """
    points = offered(slot)
    if name not in points:
        raise ValueError(
            f"{key}={name}: no installed package offers it under the entry points "
            f"{GROUPS[slot]!r}.{nearest(name, points)} They offer: {', '.join(points) or 'nothing'}."
        )
    try:
        return points[name].load()
    except Exception as error:  # of the package's own code
        raise ValueError(
            f"{key}={name} ({points[name].value}) cannot be imported: "
            f"{type(error).__name__}: {error}."
        ) from error


def version(slot: str, name: str) -> str:
    """Returns the name and version of the package that offers `name`."""
    package = offered(slot)[name].dist
    return "?" if package is None else f"{package.name} {package.version}"
