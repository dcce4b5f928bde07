"""Forecasts as tables, with the field's column names: unique_id, ds, cutoff, gru, gru-lo-90, gru-hi-90."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from gatewright.data.tables import Panel


def band_columns(model: str, quantiles: Sequence[float]) -> list[str]:
    """The column of each quantile: the model's name for the median, else its band's edge."""
    names = []
    for quantile in quantiles:
        level = round(abs(2 * quantile - 1) * 100)
        names.append(model if level == 0 else f"{model}-{'lo' if quantile < 0.5 else 'hi'}-{level}")
    return names


def forecast_frame(
    panel: Panel,
    series: np.ndarray,
    last: np.ndarray,
    forecasts: dict[str, np.ndarray],
    quantiles: Sequence[float],
    *,
    truth: bool = False,
) -> pl.DataFrame:
    """Forecasts in long format, a row a series, origin and step ahead.

    Args:
        panel: the series that were forecast.
        series: ``[P]`` index of the series of each origin.
        last: ``[P]`` last known step of each origin.
        forecasts: model name -> ``[P, N, Q]``.
        quantiles: ``Q``, ascending.
        truth: whether to add a column ``y`` with what was observed.

    Returns:
        The table, in the order of the origins.
    """
    horizon = next(iter(forecasts.values())).shape[1]
    ids, times, cutoffs, observed = [], [], [], []
    ahead = np.arange(1, horizon + 1)
    for index, origin in zip(series, last, strict=True):
        one = panel.series[index]
        ids += [one.id] * horizon
        known = one.times[origin + 1 : origin + 1 + horizon]
        beyond = panel.frequency.after(one.times[-1], horizon - len(known))
        times.append(np.concatenate([known, beyond]) if len(known) else beyond)
        cutoffs.append(np.repeat(one.times[origin], horizon))
        if truth:
            observed.append(one.values[origin + ahead])
    columns: dict[str, object] = {
        "unique_id": pl.Series(ids, dtype=pl.String),
        "ds": np.concatenate(times),
        "cutoff": np.concatenate(cutoffs),
    }
    if truth:
        columns["y"] = np.concatenate(observed)
    for model, values in forecasts.items():
        for place, name in enumerate(band_columns(model, quantiles)):
            columns[name] = values[:, :, place].reshape(-1)
    return pl.DataFrame(columns)


def csv_text(frame: pl.DataFrame) -> str:
    """A table as CSV with ISO times."""
    return frame.write_csv(datetime_format="%Y-%m-%d %H:%M:%S%.f")
