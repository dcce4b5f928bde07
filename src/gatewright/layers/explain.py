"""Which path a call takes, and why."""

from __future__ import annotations

import torch

from gatewright.layers.inputs import SequenceInput
from gatewright.layers.recurrent import Recurrent


def explain(layer: Recurrent, x: SequenceInput) -> str:
    """Say which backend runs this input, and why no faster one does.

    Args:
        layer: a recurrent layer.
        x: what it would be called with.

    Returns:
        Text whose first line begins with the backend's name; then a line for each layer and direction, and
        one for each backend that was passed over with its reason.
    """
    routes = layer.routes(x)
    names = list(dict.fromkeys(route.backend.name for _, route in routes))
    lines = [f"{' + '.join(names)}: cell {layer.cell.name}, {torch.get_num_threads()} threads"]
    for suffix, route in routes:
        lines.append(f"  {suffix}: {route.backend.name}")
        lines += [f"    not {name}: {reason}" for name, reason in route.refusals.items()]
    return "\n".join(lines)
