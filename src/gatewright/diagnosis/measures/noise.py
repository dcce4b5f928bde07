"""Whether batches agree on where to go: signal to noise of the gradient, as a whole and by lag.

Over n batches with gradients g: signal ‖E g‖² − v/n, noise v = E‖g − E g‖²; the ratio is that of one batch.
By lag: the gradient by the input weights that steps k back contribute (bins of lags). A ratio far below 1
means that steps go mostly at random: learning at that lag needs many more samples (in the spirit of the
learnability of lags, arXiv:2512.05790). No cost beyond the backward passes.
"""

from __future__ import annotations

import numpy as np

from gatewright.diagnosis.measures.measured import Measured
from gatewright.diagnosis.records import Records, recurrent_parameters
from gatewright.diagnosis.twin import Twin


def noise(records: Records, twin: Twin) -> Measured:
    """Signal to noise of the recurrent gradient.

    Args:
        records: of some batches, two at least.
        twin: that was recorded.

    Returns:
        ``snr`` and ``snr_lags``, the largest ratio of a bin of lags beyond the first four.
    """
    result = Measured()
    if len(records.batches) < 3:
        result.notes.append("no signal to noise: it takes three batches")
        return result
    names = [n for n in recurrent_parameters(twin.model) if n in records.batches[0].parameters]
    if not names:
        result.notes.append("no signal to noise: the recurrent layers are frozen")
        return result
    rows = [
        np.concatenate([batch.parameters[n].double().cpu().numpy().ravel() for n in names])
        for batch in records.batches
    ]
    result.add(
        "snr", ratio(np.stack(rows)), "signal to noise of one batch's gradient by the recurrent weights"
    )
    by_lag = _by_lag(records)
    if len(by_lag) > 3:
        text = "largest signal to noise of the gradient from lags of 4 and more"
        result.add("snr_lags", float(np.nanmax(by_lag[3:])), text)
    return result


def ratio(gradients: np.ndarray) -> float:
    """Signal to noise of one batch: ``[n, P]`` of n batches; 0 where nothing is left of the mean."""
    if not np.isfinite(gradients).all():
        return float("nan")
    count, mean = len(gradients), gradients.mean(0)
    spread = ((gradients - mean) ** 2).sum() / (count - 1)
    signal = (mean**2).sum() - spread / count
    return float(max(signal, 0.0) / spread) if spread > 0 else (float("inf") if signal > 0 else 0.0)


def _by_lag(records: Records) -> np.ndarray:
    """The ratio of each bin of lags in the lowest layer: 0, 1, 2 to 3, 4 to 7 and so on."""
    tables = [batch.maps_by_lag[records.low] for batch in records.batches if batch.maps_by_lag[records.low]]
    count = min((len(table) for table in tables), default=0)
    if len(tables) < 3:
        return np.empty(0)
    return np.array([ratio(np.stack([table[k].ravel() for table in tables])) for k in range(count)])
