"""Baselines, scores, the quantile loss and calibrated bands against formulas written out."""

import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
from utilsforecast import losses

from gatewright.data.frequency import Frequency
from gatewright.data.tables import Panel, Series
from gatewright.tasks.forecast.baselines import Baseline, choose_baselines
from gatewright.tasks.forecast.calibration import band_factors, with_factors
from gatewright.tasks.forecast.dataset import Split
from gatewright.tasks.forecast.frames import band_columns, forecast_frame
from gatewright.tasks.forecast.network import ForecastNetwork, Shape, quantile_loss
from gatewright.tasks.forecast.scores import score

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def one_panel(values):
    times = np.datetime64("2024-01-01", "us") + np.arange(len(values)) * np.timedelta64(1, "h")
    return Panel((Series("a", times, values),), Frequency.from_text("1h"), "y", "t", None, ())


def test_naive_and_seasonal_naive():
    values = np.array([1.0, 2, 3, 4, 5, np.nan, 7])
    origins = np.array([4, 6])
    assert Baseline("naive", 1).forecast(values, origins, 3).tolist() == [[5, 5, 5], [7, 7, 7]]
    # the value at place 5 is missing: one season earlier serves
    assert Baseline("seasonal_naive", 3).forecast(values, origins, 4).tolist() == [[3, 4, 5, 3], [5, 3, 7, 5]]


def test_baseline_bands_cover_their_share_of_the_training_errors():
    values = np.random.default_rng(0).normal(size=3000).cumsum()
    split = Split(3000, 3000, 3000)
    origins = np.arange(100, 2900)
    bands = Baseline("naive", 1).quantiles(values, split, origins, 2, QUANTILES)
    truth = values[origins[:, None] + np.array([1, 2])]
    inside = (truth >= bands[..., 0]) & (truth <= bands[..., -1])
    np.testing.assert_allclose(inside.mean(0), 0.9, atol=0.02)
    assert (np.diff(bands, axis=-1) >= 0).all()


def test_the_better_season_is_chosen():
    values = np.tile(np.arange(5.0), 40)
    panel = one_panel(values)
    assert choose_baselines(panel, [Split(200, 200, 200)], (3, 5))[1].season == 5
    assert [b.name for b in choose_baselines(panel, [Split(200, 200, 200)], ())] == ["naive"]


def test_scores_equal_the_formulas():
    rng = np.random.default_rng(1)
    values = rng.normal(10, 3, 60)
    values[[7, 52]] = np.nan
    panel, split = one_panel(values), Split(40, 48, 60)
    last = np.array([47, 51, 55])
    forecast = np.sort(rng.normal(10, 2, (3, 4, 5)), axis=-1)
    frame = forecast_frame(panel, np.zeros(3, int), last, {"gru": forecast}, QUANTILES, truth=True)
    found = score(frame, ["gru"], panel, [split], QUANTILES, season=6)
    known = values[:40]
    scale = np.nanmean(np.abs(known[6:] - known[:-6]))
    mase, smape, loss, coverage = [], [], [], []
    for p, origin in enumerate(last):
        y = values[origin + 1 : origin + 5]
        seen = np.isfinite(y)
        y, f = y[seen], forecast[p][seen]
        median = f[:, 2]
        mase.append(np.mean(np.abs(y - median)) / scale)
        smape.append(200 * np.mean(np.abs(y - median) / (np.abs(y) + np.abs(median))))
        error = y[:, None] - f
        q = np.array(QUANTILES)
        loss.append(np.mean(np.maximum(q * error, (q - 1) * error)) / scale)
        coverage.append(np.mean((y >= f[:, 0]) & (y <= f[:, -1])))
    expected = {"mase": mase, "smape": smape, "scaled_quantile_loss": loss, "coverage": coverage}
    for name, parts in expected.items():
        assert found.models["gru"][name] == pytest.approx(np.mean(parts), rel=1e-9), name
    errors = np.abs(values[last[:, None] + np.arange(1, 5)] - forecast[..., 2])
    np.testing.assert_allclose(found.error_by_horizon["gru"], np.nanmean(errors, axis=0))


def scored(seed=0, series=6, horizon=24, windows=10, season=24):
    """Scores of random forecasts of some series with gaps, and what they were made from."""
    rng = np.random.default_rng(seed)
    length = 480 + horizon * windows
    times = np.datetime64("2024-01-01", "us") + np.arange(length) * np.timedelta64(1, "h")
    made = []
    for index in range(series):
        values = rng.normal(10 + index, 3, length)
        values[rng.random(length) < 0.1] = np.nan
        made.append(Series(f"s{series - index}", times, values))
    panel = Panel(tuple(made), Frequency.from_text("1h"), "y", "t", "id", ())
    splits = [Split(480, 480, length)] * series
    owner = np.repeat(np.arange(series), windows)
    last = np.tile(479 + horizon * np.arange(windows), series)
    forecasts = {
        name: np.sort(rng.normal(12, 4, (len(last), horizon, 5)), axis=-1) for name in ("gru", "naive")
    }
    frame = forecast_frame(panel, owner, last, forecasts, QUANTILES, truth=True)
    return score(frame, ["gru", "naive"], panel, splits, QUANTILES, season), frame, panel


def test_scores_equal_utilsforecast():
    found, frame, panel = scored()
    observed = frame.filter(pl.col("y").is_finite())
    models = ["gru", "naive"]
    training = pl.concat(
        pl.DataFrame({"unique_id": s.id, "ds": s.times[:480], "y": s.values[:480]}).fill_nan(None)
        for s in panel.series
    )
    quantiles = np.array(QUANTILES)
    columns = {model: band_columns(model, QUANTILES) for model in models}
    tables = {
        "mase": losses.mase(observed, models, 24, training),
        "smape": losses.smape(observed, models).with_columns(pl.col(models) * 200),
        "scaled_quantile_loss": losses.scaled_mqloss(observed, columns, quantiles, 24, training),
        "coverage": losses.coverage(observed, models, 90),
    }
    for name, table in tables.items():
        for model in models:
            expected = table.group_by("unique_id").agg(pl.col(model).mean())[model].to_numpy().mean()
            assert found.models[model][name] == pytest.approx(expected, rel=1e-9), name
    steps = observed.with_columns(
        (pl.col("y") - pl.col("gru")).abs().alias("error"),
        ((pl.col("ds") - pl.col("cutoff")).dt.total_hours() - 1).alias("step"),
    )
    by_step = steps.group_by("step").agg(pl.col("error").mean()).sort("step")["error"]
    np.testing.assert_allclose(found.error_by_horizon["gru"], by_step.to_numpy(), rtol=1e-9)


def test_scores_are_the_same_bits_whatever_the_threads():
    """A resumed run has the metrics of an unbroken one only if sums do not depend on who adds first."""
    program = (
        "from tests.tasks.test_forecast_scores import scored\n"
        "print(len({str(scored()[0]) for _ in range(8)}), scored()[0].models)"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"POLARS_MAX_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "16")
    }
    assert len(printed) == 1
    assert next(iter(printed)).startswith("1 ")


def test_scores_of_values_at_the_end_of_the_range():
    values = np.tile([1e308, -1e308, 5.0], 20)
    panel, split = one_panel(values), Split(40, 48, 60)
    forecast = np.full((2, 4, 5), -1e308)
    frame = forecast_frame(
        panel, np.zeros(2, int), np.array([47, 51]), {"gru": forecast}, QUANTILES, truth=True
    )
    found = score(frame, ["gru"], panel, [split], QUANTILES, season=1)
    assert found.models["gru"]["coverage"] == pytest.approx(0.375)
    assert found.windows == 2


def test_quantile_loss_leaves_out_what_is_missing():
    target = torch.tensor([[1.0, torch.nan], [3.0, 4.0]])
    forecast = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = quantile_loss(forecast, target, QUANTILES)
    parts = []
    for i, j in ((0, 0), (1, 0), (1, 1)):
        for place, q in enumerate(QUANTILES):
            error = target[i, j].item() - forecast[i, j, place].item()
            parts.append(2 * max(q * error, (q - 1) * error))
    assert loss.item() == pytest.approx(np.mean(parts), rel=1e-5)
    loss.backward()
    assert forecast.grad is not None
    assert forecast.grad.isfinite().all()
    assert (forecast.grad[0, 1] == 0).all()
    assert quantile_loss(forecast, torch.full((2, 2), torch.nan), QUANTILES).item() == 0


def test_forecast_follows_its_anchors_and_no_neighbour():
    torch.manual_seed(0)
    network = ForecastNetwork(Shape("gru", (6, 5), 0.0, 3, 2, 2, 4, QUANTILES)).double()
    x, known, anchors = torch.randn(7, 3, 3), torch.randn(1, 3, 4, 2), torch.randn(1, 3, 4, 2)
    x, known, anchors = x.double(), known.double(), anchors.double()
    anchors[0, 1, 2, 0] = torch.nan
    forecast = network(x, (6,), known, anchors)
    assert forecast.isfinite().all()
    torch.testing.assert_close(network(x, (6,), known, anchors + 100), forecast + 100)
    torch.testing.assert_close(network(x[:, :1], (6,), known[:, :1], anchors[:, :1]), forecast[:, :1])


def test_factors_make_the_bands_hold_their_share():
    rng = np.random.default_rng(0)
    width = rng.uniform(0.5, 3, (4000, 1, 1))
    too_narrow = 0.4 * width * np.array([-1.645, -0.674, 0, 0.674, 1.645])
    truth = width[:, 0] * rng.normal(size=(4000, 1))
    factors = band_factors(too_narrow, truth, QUANTILES)
    np.testing.assert_allclose(factors, [2.5, 2.5, 1, 2.5, 2.5], rtol=0.08)
    bands = with_factors(too_narrow, QUANTILES, factors)
    assert np.mean((truth >= bands[..., 0]) & (truth <= bands[..., -1])) == pytest.approx(0.9, abs=0.01)
    assert band_factors(too_narrow, np.full_like(truth, np.nan), QUANTILES) == (1.0,) * 5


def test_columns_have_the_names_of_the_field():
    assert band_columns("gru", (0.1, 0.5, 0.9)) == ["gru-lo-80", "gru", "gru-hi-80"]
    assert band_columns("gru", (0.025, 0.5, 0.975)) == ["gru-lo-95", "gru", "gru-hi-95"]
