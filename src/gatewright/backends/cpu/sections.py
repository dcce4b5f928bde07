"""Rows that end at different steps: dealt out to groups of threads, and how many run at each step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from gatewright.backends.sequence import Ends


@lru_cache(maxsize=64)
def running_rows(ends: Ends, steps: int, reverse: bool) -> np.ndarray:
    """How many rows of each section are run at each step, from its first row: ``[sections, T]`` of int64.

    Steps are counted as they are run.
    """
    left = np.array(ends.lengths)[:, None] > np.arange(steps)
    if reverse:
        # the step behind the end is run too: there the gradient by the first state that is handed on is found
        left[:, 1:] |= left[:, :-1].copy()
        left = left[:, ::-1]
    batch, counts = len(ends.lengths), np.zeros((ends.sections, steps), np.int64)
    for section in range(ends.sections):
        stop = batch * (section + 1) // ends.sections
        counts[section] = left[batch * section // ends.sections : stop].sum(0)
    return counts


def row_order(lengths: Sequence[int], sections: int) -> list[int]:
    """The rows dealt out to sections, one a group of threads: lengths fall within each, all do as much."""
    batch = len(lengths)
    sizes = [batch * (section + 1) // sections - batch * section // sections for section in range(sections)]
    dealt: list[list[int]] = [[] for _ in range(sections)]
    for row in sorted(range(batch), key=lambda row: -lengths[row]):
        rest = (section for section in range(sections) if len(dealt[section]) < sizes[section])
        dealt[min(rest, key=lambda section: len(dealt[section]))].append(row)
    return [row for rows in dealt for row in rows]
