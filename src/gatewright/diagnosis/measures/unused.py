"""What the data hold and the model does not use: the rest error beside inputs of every lag.

The gradient of the loss by the uppermost state at one step points where the output is wrong (for a squared
error it is the rest error times the readout). If inputs k steps before predict it, on rows that were not
fitted to, the model could be better and needs lag k. Features are the leading components of the input,
their squares and products, at single lags and summed over bins of lags; they are chosen one after the
other, each for what the ones before leave open, so that an input that only echoes a later one is not
counted. Chance is what the same search finds for rows that were mixed up. If the state itself predicts the
rest error, what is missing is there and is not read out. Costs some hundred small regressions.
"""

from __future__ import annotations

import numpy as np
import torch

from gatewright.diagnosis.measures.measured import Measured
from gatewright.diagnosis.records import Records
from gatewright.diagnosis.regression import (
    explained,
    halves,
    held_out_share,
    predicted,
    principal,
    standardised,
    with_products,
)

_WHEN = {"": "", "_after": ", behind the observed steps"}
_COMPONENTS = 3
_DIRECTIONS = 2
_ROUNDS = 6
_MIXED = 4
_LEAST_ROWS = 64
_MOST_ROWS = 1500


def unused(records: Records, name: str = "") -> Measured:
    """The lags that explain the rest error, and what the state explains of it.

    Args:
        records: of some batches.
        name: put behind the names of the numbers: nothing, or ``_after`` for behind the observed steps.

    Returns:
        ``unused`` (share that inputs explain), ``unused_lag`` (the longest lag that adds to it), ``unread``
        (share that the state explains) and the chart.
    """
    result = Measured()
    own = torch.cat([batch.own for batch in records.batches]).double().cpu().numpy()
    if len(own) < _LEAST_ROWS or not np.isfinite(own).all() or not own.any():
        result.notes.append(
            f"nothing said on unused inputs: {len(own)} rows of rest error, it takes {_LEAST_ROWS}"
        )
        return result
    counts = [len(batch.rows) for batch in records.batches]
    offsets = np.cumsum([0] + [batch.inputs.shape[1] for batch in records.batches])[:-1]
    groups = torch.cat([b.rows for b in records.batches]).cpu().numpy() + np.repeat(offsets, counts)
    state = torch.cat([batch.state for batch in records.batches]).double().cpu().numpy()
    chosen = np.random.default_rng(0).permutation(len(own))[:_MOST_ROWS]
    rest = standardised(principal(own, _DIRECTIONS, 0.9))[chosen]
    share = held_out_share(state[chosen], rest, groups[chosen])
    result.add(f"unread{name}", share, f"share of the rest error that the state itself explains{_WHEN[name]}")
    features, lags = _features(records, chosen)
    if features is None:
        result.notes.append(
            "nothing said on unused inputs: the batches differ in length, or inputs do not vary"
        )
        return result
    picked, total, curve = _selected(features, rest, groups[chosen])
    text = f"share of the rest error that inputs explain{_WHEN[name]}"
    result.add(f"unused{name}", total, text)
    far = max((int(lags[place][0]) for place in picked), default=0)
    result.add(
        f"unused_lag{name}", far, f"longest lag whose inputs explain something of the rest error{_WHEN[name]}"
    )
    reach = max((int(lags[place][1]) for place in picked), default=0)
    result.add(f"unused_reach{name}", reach, "end of the bin of lags of which that is the beginning")
    single = [place for place, (first, last) in enumerate(lags) if first == last]
    result.charts |= {"unused_lags": np.array([lags[p][0] for p in single]), "unused": curve[single]}
    return result


def _features(records: Records, chosen: np.ndarray) -> tuple[np.ndarray | None, list[tuple[int, int]]]:
    """``[lags, n, p]`` for the chosen rows, and the first and last lag of each."""
    inputs = [batch.inputs for batch in records.batches]
    if len({x.shape[0] for x in inputs}) > 1:
        return None, []
    x = torch.cat(inputs, 1).double().cpu().numpy()
    steps, width = x.shape[:2]
    flat = principal(x.reshape(steps * width, -1), _COMPONENTS)
    if not flat.any():
        return None, []
    table = with_products(standardised(flat)).reshape(steps, width, -1)
    offsets = np.cumsum([0] + [batch.inputs.shape[1] for batch in records.batches])[:-1]
    column = np.concatenate(
        [b.rows.cpu().numpy() + o for b, o in zip(records.batches, offsets, strict=True)]
    )[chosen]
    place = np.concatenate([batch.steps.cpu().numpy() for batch in records.batches])[chosen]
    most = int(place.min())
    sums = np.concatenate([np.zeros((1, *table.shape[1:])), np.cumsum(table, 0)])
    single = [(lag, lag) for lag in range(most + 1)]
    bins = [(2**n, min(2 ** (n + 1) - 1, most)) for n in range(1, 20) if 2**n < most]
    rows = [sums[place - first + 1, column] - sums[place - last, column] for first, last in [*single, *bins]]
    return np.stack([standardised(row) for row in rows]), [*single, *bins]


def _selected(
    features: np.ndarray, rest: np.ndarray, groups: np.ndarray
) -> tuple[list[int], float, np.ndarray]:
    """Lags that are chosen one after the other, what they explain together, and each alone at first."""
    half, generator = halves(groups), np.random.default_rng(0)
    if min(np.bincount(half, minlength=2)) < 16:
        return [], 0.0, np.zeros(len(features))
    first = np.array([explained(rest, predicted(f, rest, half)) for f in features])
    mixed = []
    for _ in range(_MIXED):
        other = rest[generator.permutation(len(rest))]
        mixed.append(max(explained(other, predicted(f, other, half)) for f in features))
    chance = max(0.01, 1.5 * max(mixed))
    picked: list[int] = []
    total, gains = 0.0, first
    for _ in range(_ROUNDS):
        best = int(np.argmax(gains))
        if gains[best] - total < chance or best in picked:
            break
        picked.append(best)
        total = float(gains[best])
        known = np.concatenate([features[place] for place in picked], 1)
        gains = np.array(
            [explained(rest, predicted(np.concatenate([known, f], 1), rest, half)) for f in features]
        )
    return picked, total, first
