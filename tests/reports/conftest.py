from __future__ import annotations

import numpy as np
import pytest

from gatewright.reports.contents import Kind, Report, ScoreRow, SeriesForecast, join_windows

HOUR = np.timedelta64(1, "h")
START = np.datetime64("2024-03-04T00", "us")


def daily(steps: np.ndarray) -> np.ndarray:
    return 400 + 150 * np.sin(2 * np.pi * steps / 24)


def make_series(
    name: str, kind: Kind, *, length: int = 120, horizon: int = 24, windows: int = 1
) -> SeriesForecast:
    steps = np.arange(length)
    first = length - horizon * windows if kind == "held out" else length
    ahead = [np.arange(horizon) + first + horizon * window for window in range(windows)]
    median = join_windows([daily(one) for one in ahead])
    times = join_windows([START + one * HOUR for one in ahead])
    bands = {level: (median - level / 2, median + level / 2) for level in (50, 80, 90)}
    return SeriesForecast(name, START + steps * HOUR, daily(steps), times, median, bands, kind)


@pytest.fixture
def report() -> Report:
    epochs = np.arange(1, 13)
    ahead = np.arange(24.0)
    return Report(
        title="Forecast of load",
        verdict="The GRU beats the best baseline.",
        good=True,
        scores=[ScoreRow("GRU", 0.7, 6.4, 0.5, 0.884), ScoreRow("seasonal naive", 1.0, 9.3, np.nan, 0.92)],
        coverage_level=90,
        target="load",
        score_note="Mean over two series.",
        held_out=[make_series(name, "held out", windows=3) for name in ("north", "south")],
        future=[make_series(name, "beyond the end of the data") for name in ("north", "south")],
        error_by_horizon={"GRU": 10 + ahead, "seasonal naive": 30 + 0 * ahead},
        history={"epoch": epochs, "train_loss": 1.0 / epochs, "validation_loss": 1.2 / epochs},
        best_epoch=9,
        gradient_norms={"layer 1": np.exp(-np.arange(48) / 8), "layer 2": np.exp(-np.arange(48) / 4)},
        season_lengths=(24, 168),
        facts={"data": "load.csv", "seed": "0"},
        notes=["Three values were missing."],
        files={"model.safetensors": "the weights"},
        command="gatewright fit load.csv --target load --horizon 24",
    )
