"""What a measure gives: named numbers, each with a sentence, and curves for the figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Measured:
    """The result of one measure, or of several that were joined.

    Attributes:
        values: name → number; a measure that was not possible leaves its names out.
        texts: name → what the number is.
        layers: name → the layer in which it was found, where it is that of one layer.
        charts: fields of ``Charts``.
        notes: what could not be measured, one sentence each.
    """

    values: dict[str, float] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    layers: dict[str, str] = field(default_factory=dict)
    charts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, value: float, text: str, layer: str = "") -> None:
        """Add a number."""
        self.values[name] = float(value)
        self.texts[name] = text
        if layer:
            self.layers[name] = layer

    def join(self, other: Measured) -> None:
        """Take over what another measure gave."""
        self.values |= other.values
        self.texts |= other.texts
        self.layers |= other.layers
        self.charts |= other.charts
        self.notes += other.notes

    def worst(self, name: str, by_layer: Mapping[str, float], text: str, *, largest: bool) -> None:
        """Add the largest or the smallest number of all layers."""
        finite = {layer: value for layer, value in by_layer.items() if value == value}
        if finite:
            layer = (max if largest else min)(finite, key=lambda key: finite[key])
            self.add(name, finite[layer], text, layer)
