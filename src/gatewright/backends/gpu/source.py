"""Nodes of a schedule as Python source for Triton: one line a value, in the names of the cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from gatewright.compiler.graph import Node, expression

_CALLS = {
    "power": "power({}, {})",
    "where": "tl.where({}, {}, {})",
    "sigmoid": "sigmoid({})",
    "tanh": "tanh({})",
    "relu": "maximum({}, 0.0)",
    "exp": "tl.exp({})",
    "log": "tl.log({})",
    "log1p": "log1p({})",
    "softplus": "softplus({})",
    "sqrt": "tl.sqrt_rn({})",
    "abs": "tl.abs({})",
    "maximum": "maximum({}, {})",
    "minimum": "minimum({}, {})",
    "sin": "tl.sin({})",
    "cos": "tl.cos({})",
}
"""The operations that are written as calls; those with a sign between their operands are Python's own."""

SMALL_POWERS = (2, 3, 4)
"""Exponents that are multiplied out."""

HIGHEST = 100
"""The precedence of a name."""


class Source:
    """Python source that is being written.

    Attributes:
        lines: so far.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._depth = 0

    def write(self, line: str = "") -> None:
        """Add a line."""
        self.lines.append("    " * self._depth + line if line else "")

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """What is written inside stands indented under a line."""
        self.write(head)
        self._depth += 1
        yield
        self._depth -= 1

    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines) + "\n"


def identifier(prefix: str, names: Sequence[str], place: int) -> str:
    """A name for one of several maps, states or vector weights, the cell's own where Triton takes it."""
    name = names[place]
    return f"{prefix}_{name}" if name.isascii() and name.isidentifier() else f"{prefix}_{place}"


def shifted(number: int, what: str) -> str:
    """An offset behind so many blocks of ``H``."""
    return f"{'' if number == 1 else f'{number} * '}H + {what}" if number else what


class Values:
    """Nodes computed element by element, each once; what is used once stands where it is used.

    Args:
        source: they are written to.
        nodes: of the schedule.
        full: a name for zeros of the shape of a tile.
    """

    def __init__(self, source: Source, nodes: Sequence[Node], full: str) -> None:
        self._source, self._nodes, self._full = source, nodes, full
        self._known: dict[int, str] = {}
        self._numbered = 0
        self._uses: Counter[int] = Counter()
        self._leaf: Callable[[int], str | None] = lambda _: None

    def begin(self, wanted: Sequence[int], leaf: Callable[[int], str | None]) -> None:
        """Make ready for the nodes that are about to be asked for.

        Args:
            wanted: their indices.
            leaf: gives the name of a node that is not to be computed, or None; it may write lines.
        """
        self._leaf = leaf
        self._uses = Counter(wanted)
        waiting, seen = list(wanted), set(wanted)
        while waiting:
            index = waiting.pop()
            if index in self._known or not self._is_computed(index):
                continue
            for operand in self._nodes[index].inputs:
                self._uses[operand] += 1
                if operand not in seen:
                    seen.add(operand)
                    waiting.append(operand)

    def give(self, index: int, name: str) -> None:
        """Say under which name a node is already there."""
        self._known[index] = name

    def forget(self) -> None:
        """Nothing is known any more: another function begins."""
        self._known.clear()

    def name(self, index: int) -> str:
        """A node under a name, or as a number."""
        if self._nodes[index].operation == "constant":
            return self._text(index)[0]
        if index not in self._known:
            text, precedence = self._text(index)
            if precedence == HIGHEST and text.isidentifier():
                self._known[index] = text
            else:
                self._numbered += 1
                self._known[index] = f"t{self._numbered}"
                self._source.write(f"t{self._numbered} = {text}")
        return self._known[index]

    def tile(self, index: int) -> str:
        """A node as a whole tile, whatever its own shape."""
        return self.name(index) if self.is_full(index) else f"({self._full} + {self.name(index)})"

    def is_full(self, index: int) -> bool:
        """Whether a node has a value for each row and column, not one for all rows or all columns."""
        node = self._nodes[index]
        if node.operation in ("vector", "constant", "mean", "row_mask"):
            return False
        return (
            not node.inputs
            or node.operation in ("recurrent", "transposed")
            or any(map(self.is_full, node.inputs))
        )

    def _is_computed(self, index: int) -> bool:
        return self._nodes[index].operation != "constant" and self._leaf_of(index) is None

    def _leaf_of(self, index: int) -> str | None:
        if index in self._known:
            return self._known[index]
        found = self._leaf(index)
        if found is not None:
            self._known[index] = found
        return found

    def _text(self, index: int) -> tuple[str, int]:
        """A node where it is used, with its precedence."""
        node = self._nodes[index]
        if node.operation == "constant":
            assert node.value is not None
            number = repr(float(node.value)) if abs(node.value) < float("inf") else f'float("{node.value}")'
            return (f"({number})" if number.startswith("-") else number), HIGHEST
        known = self._leaf_of(index)
        if known is not None:
            return known, HIGHEST
        operands = [self._operand(operand) for operand in node.inputs]
        if node.operation == "power":
            return self._power(node, operands)
        if node.operation in _CALLS:
            return _CALLS[node.operation].format(*(text for text, _ in operands)), HIGHEST
        return expression(node, operands)

    def _operand(self, index: int) -> tuple[str, int]:
        if self._uses[index] > 1 or index in self._known:
            return self.name(index), HIGHEST
        return self._text(index)

    def _power(self, node: Node, operands: list[tuple[str, int]]) -> tuple[str, int]:
        base, exponent = node.inputs
        value = self._nodes[exponent].value
        if value in SMALL_POWERS and self._nodes[base].operation != "constant":
            name = self.name(base)
            return f"({' * '.join([name] * int(value))})", HIGHEST
        texts = (f"{self._full} + {text}" for text, _ in operands)
        return f"power({', '.join(texts)})", HIGHEST
