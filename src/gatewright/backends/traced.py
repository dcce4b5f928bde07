"""Calls that torch traces instead of running them."""

from __future__ import annotations

from typing import Any


def operator() -> Any:
    """The operators, loaded when torch traces: they need its compiler, which takes a second to load."""
    from gatewright.backends import operator

    return operator
