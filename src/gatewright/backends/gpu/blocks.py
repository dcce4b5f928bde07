"""How a call is laid over a GPU: the regime, and what one program computes."""

from __future__ import annotations

from dataclasses import dataclass

from gatewright.compiler.affine import scans
from gatewright.compiler.schedule import Schedule

SMALLEST = 16
"""Rows, columns and inner length of the smallest product that tensor cores take."""

LARGEST_ROWS = 64
"""Rows of a program at most."""

SCANNED_STEPS, SCANNED_COLUMNS = 64, 32
"""Steps and columns of a tile that is scanned."""

ELEMENT_COLUMNS = 64
"""Columns of a program without products."""

STREAMED_COLUMNS, STREAMED_INNER = 64, 64
"""Columns of a program whose weights are read anew in every step, and how many rows of them at a time."""

RESIDENT_SHARE = 0.7
"""Of a multiprocessor's shared memory, what weights may fill; operands and the exchange need the rest."""


@dataclass(frozen=True)
class Device:
    """What counts of a GPU.

    Attributes:
        name: as the driver calls it.
        multiprocessors: how many; as many programs run at once for certain.
        shared_bytes: shared memory of a program at most.
    """

    name: str
    multiprocessors: int
    shared_bytes: int


@dataclass(frozen=True)
class Blocks:
    """What one program computes, and where its weights are.

    Attributes:
        regime: ``"scan"`` (many steps at once), ``"elements"`` (no products), ``"resident"`` (one program
            has all columns of some rows and keeps the weights), ``"columns"`` (programs share out the
            columns, keep their weights and wait for each other) or ``"launches"`` (a launch for each stage of
            each step).
        rows: of the batch; of a scan, steps.
        columns: of each map.
        inner: the rows of the weights as blocks, each a start and a length that is a power of two.
        warps: of a program.
        heads: of the layer; each has programs of its own, and ``columns`` are those of a head.
    """

    regime: str
    rows: int
    columns: int
    inner: tuple[tuple[int, int], ...]
    warps: int
    heads: int = 1

    @property
    def whole(self) -> bool:
        """Whether a program never needs what another one computes."""
        return self.regime in ("elements", "resident")

    def programs(self, batch: int, hidden: int) -> tuple[int, int]:
        """Programs over the rows and over the columns."""
        if self.regime == "scan":
            return batch, -(-hidden // self.columns)
        if self.heads > 1:
            return -(-batch // self.rows), self.heads
        return -(-batch // self.rows), -(-hidden // self.columns)


def choose_blocks(
    plan: Schedule,
    steps: int,
    batch: int,
    hidden: int,
    element_bytes: int,
    device: Device,
    share: float = RESIDENT_SHARE,
) -> Blocks:
    """The first regime that fits.

    Args:
        plan: of the cell.
        steps: ``T``.
        batch: ``B``.
        hidden: ``H``.
        element_bytes: of a weight.
        device: that it runs on.
        share: of a multiprocessor's shared memory that weights may fill.

    Returns:
        The blocks of a pass.
    """
    rows = min(LARGEST_ROWS, max(SMALLEST, power_of_two(batch)))
    padded = max(SMALLEST, power_of_two(hidden))
    maps, limit = len(plan.graph.recurrent_maps), int(share * device.shared_bytes)
    if scans(plan):
        return Blocks("scan", min(SCANNED_STEPS, max(2, power_of_two(steps))), SCANNED_COLUMNS, (), 4)
    if not plan.groups:
        means = any(stage.means for stage in (*plan.forward, *plan.backward))
        columns = padded if means else min(padded, ELEMENT_COLUMNS)
        return Blocks("elements", SMALLEST if means else 1, columns, (), 4 if columns <= 1024 else 8)
    if maps * padded * padded * element_bytes <= limit:
        # fewer rows a program are more programs, and a step takes no longer for it
        return Blocks("resident", SMALLEST, padded, ((0, padded),), 4 if padded <= 64 else 8)
    inner = inner_blocks(hidden)
    depth = sum(length for _, length in inner)
    columns = SMALLEST
    while columns <= padded and maps * depth * columns * element_bytes <= limit:
        tiles = -(-batch // rows) * -(-hidden // columns)
        if tiles <= device.multiprocessors:
            return Blocks("columns", rows, columns, inner, 4)
        columns *= 2
    return Blocks("launches", rows, STREAMED_COLUMNS, ((0, STREAMED_INNER),), 4)


def power_of_two(number: int) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << max(0, number - 1).bit_length()


def inner_blocks(length: int) -> tuple[tuple[int, int], ...]:
    """A length as blocks of falling powers of two, so that little of it is padding."""
    left, start, blocks = -(-length // SMALLEST) * SMALLEST, 0, []
    while left:
        block = 1 << (left.bit_length() - 1)
        blocks.append((start, block))
        start, left = start + block, left - block
    return tuple(blocks)
