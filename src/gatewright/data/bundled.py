"""The data sets that come with the package, so that a first forecast needs no download."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from gatewright.errors import InputError

BUNDLED = ("bike_rentals",)
"""The names `bundled_path` knows; each has a `.csv` and a `.md` that says what it is and whose."""


def bundled_path(name: str = "bike_rentals") -> Path:
    """Return the path of a bundled CSV file.

    Args:
        name: one of `BUNDLED`.

    Returns:
        The path of the CSV; a `.md` of the same name lies beside it.

    Raises:
        InputError: no bundled data set has this name.
    """
    if name not in BUNDLED:
        raise InputError(f"there is no bundled data set {name!r}", f"choose from: {', '.join(BUNDLED)}")
    return Path(str(resources.files("gatewright.data"))) / "bundled" / f"{name}.csv"
