"""What came of a remedy: paired seeds, Student's t, and training that diverged."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gatewright.reports.diagnosis_contents import Judgement

MATTERS = 0.02
"""Share of the baseline's loss that a change must surely exceed to be called help, or harm."""

FEWEST_PAIRS = 2
_UNANIMOUS = 3
"""Pairs that must agree on harm where their interval is too wide; two agree by chance too often."""

_QUANTILES = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
_NORMAL = 1.959964


@dataclass(frozen=True)
class Comparison:
    """A remedy beside the baseline; the attributes are those of a ``Trial``."""

    judgement: Judgement
    loss: float
    baseline: float
    change: float = math.nan
    low: float = math.nan
    high: float = math.nan
    note: str = ""


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t: a table, then the expansion of Abramowitz and Stegun 26.7.5."""
    if freedom <= len(_QUANTILES):
        return _QUANTILES[freedom - 1]
    z = _NORMAL
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def final_losses(curves: np.ndarray) -> np.ndarray:
    """Of each seed, the mean of the last two points: one alone hangs on where training stopped.

    Args:
        curves: ``[seeds, points]``.

    Returns:
        ``[seeds]``; NaN where training diverged.
    """
    return curves[:, -2:].mean(axis=1)


def loss_scale(baseline: np.ndarray, others: list[np.ndarray]) -> float | None:
    """What differences of losses are divided by.

    Args:
        baseline: curves ``[seeds, points]``.
        others: curves of the remedies.

    Returns:
        None where all losses are above zero: ratios are then compared. Else, as for log-likelihoods, whose
        zero means nothing, the size of the baseline's loss and how far its curve moves, together.
    """
    finite = np.concatenate([curves[np.isfinite(curves)] for curves in (baseline, *others)])
    if finite.size and (finite > 0).all():
        return None
    final = final_losses(baseline)
    known = np.isfinite(final)
    if not known.any():
        return 1.0
    moves = np.abs(baseline[known] - final[known, None])
    # the median, since a first loss may be enormous
    spread = np.median(moves) or moves.max()
    return float(np.abs(final[known]).mean() + spread) or 1.0


def compare(remedy: np.ndarray, baseline: np.ndarray, scale: float | None) -> Comparison:
    """Judge a remedy by final losses of the same seeds.

    The interval is Student's over the pairs. Ratios are compared as logarithms: they are nearer to a normal
    distribution, a doubled loss weighs as much as a halved one, and no interval reaches below −100 %. Three
    pairs give wide intervals, as they should; pairing keeps them useful, since both arms of a pair see the
    same batches in the same order. Help is called so only when the whole interval is beyond 2 %. Harm is
    called so sooner, when each of three pairs or more is beyond 2 % the other way: no advice may have made
    every seed worse.

    Args:
        remedy: ``[pairs]``, NaN where it diverged.
        baseline: ``[pairs]``, NaN where it diverged.
        scale: as from ``loss_scale``.

    Returns:
        The judgement and its numbers.
    """
    both = np.isfinite(remedy) & np.isfinite(baseline)
    changes = _changes(remedy[both], baseline[both], scale)
    change, low, high = _interval(changes, scale)
    judgement: Judgement = "harmless"
    if high < -MATTERS:
        judgement = "helped"
    elif low > MATTERS or (len(changes) >= _UNANIMOUS and _shares(changes, scale).min() > MATTERS):
        judgement = "worse"
    note = ""
    if not both.all():
        judgement, note = _diverged(judgement, ~np.isfinite(remedy), ~np.isfinite(baseline))
    elif judgement == "harmless" and low < -MATTERS and high > MATTERS:
        note = "The seeds differ too much to tell help from harm."
    elif np.ptp(remedy) == 0 and np.ptp(baseline) == 0:
        note = "All seeds gave the same losses: the interval does not show what chance does."
    return Comparison(judgement, _mean(remedy), _mean(baseline), change, low, high, note)


def _mean(losses: np.ndarray) -> float:
    return float(losses.mean()) if np.isfinite(losses).all() else math.nan


def _changes(remedy: np.ndarray, baseline: np.ndarray, scale: float | None) -> np.ndarray:
    """Change of each pair, on the scale on which they are averaged."""
    return np.log(remedy / baseline) if scale is None else (remedy - baseline) / scale


def _shares(changes: np.ndarray, scale: float | None) -> np.ndarray:
    """Changes as shares of the baseline; a wide interval of logarithms may end beyond all numbers."""
    return np.expm1(np.minimum(changes, 700.0)) if scale is None else changes


def _interval(changes: np.ndarray, scale: float | None) -> tuple[float, float, float]:
    """Mean change and its 95 % interval; NaN where there are too few pairs."""
    count = len(changes)
    if not count:
        return math.nan, math.nan, math.nan
    mean, half = float(changes.mean()), math.nan
    if count >= FEWEST_PAIRS:
        half = t_quantile(count - 1) * float(changes.std(ddof=1)) / math.sqrt(count)
    shares = _shares(np.array([mean, mean - half, mean + half]), scale)
    return float(shares[0]), float(shares[1]), float(shares[2])


def _diverged(judgement: Judgement, remedy: np.ndarray, baseline: np.ndarray) -> tuple[Judgement, str]:
    """The judgement where some training diverged; to diverge more often is worse, by however little.

    Args:
        judgement: by the pairs in which both are finite.
        remedy: whether it diverged, by pair.
        baseline: the same.

    Returns:
        The judgement, and what happened.
    """
    pairs, with_it, without = len(remedy), int(remedy.sum()), int(baseline.sum())
    note = f"Training diverged in {with_it} of {pairs} seeds with it, in {without} without it."
    if with_it > without:
        return "worse", note
    # one divergence alone may be chance
    if with_it == 0 and without >= FEWEST_PAIRS and judgement != "worse":
        return "helped", note
    return judgement, note
