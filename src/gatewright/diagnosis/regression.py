"""Ridge regression judged on rows that it has not seen, and what chance alone would give."""

from __future__ import annotations

import numpy as np

_PENALTY = 1e-2
"""On standardised features, as a share of the number of rows."""


_SAMPLE = 4000
"""Rows by which principal components are found."""


def standardised(values: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and variance 1; constant ones become 0."""
    centred = values - values.mean(0)
    scale = centred.std(0)
    return centred / np.where(scale > 1e-12 * (1 + np.abs(values).max(initial=0.0)), scale, np.inf)


def halves(groups: np.ndarray) -> np.ndarray:
    """Which of two halves each row belongs to; rows of a group stay together."""
    _, index = np.unique(groups, return_inverse=True)
    return index % 2


def predicted(
    features: np.ndarray, targets: np.ndarray, half: np.ndarray, penalty: float = _PENALTY
) -> np.ndarray:
    """Predictions of each half by a ridge regression on the other.

    Args:
        features: ``[n, p]``, standardised.
        targets: ``[n, d]``, standardised.
        half: ``[n]`` of 0 and 1.
        penalty: on the squared weights, as a share of the number of rows.

    Returns:
        ``[n, d]``.
    """
    result = np.zeros_like(targets)
    for side in (0, 1):
        known, unknown = half != side, half == side
        x, y = features[known], targets[known]
        gram = x.T @ x + (penalty * len(x) + 1e-9) * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, x.T @ (y - y.mean(0)))
        result[unknown] = (features[unknown] - x.mean(0)) @ weights + y.mean(0)
    return result


def explained(targets: np.ndarray, predictions: np.ndarray) -> float:
    """R²: the share of the variance of the targets that predictions explain; below 0 becomes 0."""
    total = ((targets - targets.mean(0)) ** 2).sum()
    return max(0.0, 1 - ((targets - predictions) ** 2).sum() / total) if total > 0 else 0.0


def held_out_share(features: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> float:
    """R² on rows that were not fitted to, groups of rows kept together.

    Args:
        features: ``[n, p]``.
        targets: ``[n, d]``.
        groups: ``[n]``.

    Returns:
        0 to 1.
    """
    half = halves(groups)
    if min(np.bincount(half, minlength=2)) < 4:
        return 0.0
    y = standardised(targets)
    return explained(y, predicted(standardised(features), y, half))


def principal(values: np.ndarray, most: int, share: float = 0.99) -> np.ndarray:
    """The leading principal components, ``[n, ≤ most]``, until a share of the variance is in them."""
    centred = values - values.mean(0)
    if not np.isfinite(centred).all() or not centred.any():
        return np.zeros((len(values), 1))
    # drawn, since neighbouring rows are of one step
    chosen = np.random.default_rng(0).permutation(len(centred))[:_SAMPLE]
    _, sizes, directions = np.linalg.svd(centred[chosen], full_matrices=False)
    if not sizes.any():
        return np.zeros((len(values), 1))
    power = np.cumsum(sizes**2) / (sizes**2).sum()
    count = min(most, int(np.searchsorted(power, share)) + 1)
    return centred @ directions[:count].T


def with_products(columns: np.ndarray) -> np.ndarray:
    """Columns, their squares and their products: ``[..., p]`` → ``[..., p + p(p + 1)/2]``."""
    count = columns.shape[-1]
    pairs = [columns[..., i] * columns[..., j] for i in range(count) for j in range(i, count)]
    return np.concatenate([columns, np.stack(pairs, -1)], -1)
