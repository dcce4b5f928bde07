"""The Python API: pandas and polars, saving, new tables, and that it learns what there is to learn."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

import gatewright as gw

OPTIONS = {"hidden_sizes": (8,), "max_epochs": 2, "steps_per_epoch": 5, "batch_size": 8}


def frame(rows=120, ids=("a", "b")):
    rng = np.random.default_rng(0)
    parts = [
        pl.DataFrame(
            {
                "shop": [name] * rows,
                "day": pl.datetime_range(
                    pl.datetime(2024, 1, 1),
                    pl.datetime(2024, 1, 1) + pl.duration(days=rows - 1),
                    "1d",
                    eager=True,
                ),
                "sales": 50 * place + 5 * np.sin(2 * np.pi * np.arange(rows) / 7) + rng.normal(0, 0.5, rows),
            }
        )
        for place, name in enumerate(ids)
    ]
    return pl.concat(parts)


def fitted(table, **options):
    return gw.Forecaster(7, **(OPTIONS | options)).fit(table, target="sales", time="day", id="shop")


def test_pandas_and_polars_give_the_same_in_their_own_kind():
    table = frame()
    theirs = fitted(pd.DataFrame(table.to_dict(as_series=False))).predict()
    ours = fitted(table).predict()
    assert isinstance(theirs, pd.DataFrame)
    assert isinstance(ours, pl.DataFrame)
    assert ours["unique_id"].to_list() == ["a"] * 7 + ["b"] * 7
    assert str(ours["ds"][0]) == "2024-04-30 00:00:00"
    for column in ours.columns[3:]:
        np.testing.assert_array_equal(theirs[column].to_numpy(), ours[column].to_numpy())
    assert (ours["gru-lo-90"] <= ours["gru"]).all()
    assert (ours["gru"] <= ours["gru-hi-90"]).all()


def test_a_seed_repeats_bit_for_bit_and_another_does_not():
    table = frame()
    first, again, other = (fitted(table, seed=seed).predict() for seed in (3, 3, 4))
    assert first.equals(again)
    assert not first.equals(other)


def test_saved_model_forecasts_the_same_and_takes_newer_and_unknown_series(tmp_path):
    table = frame()
    forecaster = fitted(table)
    forecaster.save(tmp_path / "run")
    loaded = gw.Forecaster.load(tmp_path / "run")
    assert loaded.predict(table).equals(forecaster.predict())
    more = frame(130, ("a", "b", "new"))
    forecast = loaded.predict(more)
    assert forecast["unique_id"].unique(maintain_order=True).to_list() == ["a", "b", "new"]
    assert forecast.select(pl.exclude("unique_id", "ds", "cutoff")).to_numpy().size == 21 * 7
    assert np.isfinite(forecast.select(pl.exclude("unique_id", "ds", "cutoff")).to_numpy()).all()
    theirs = forecaster.predict(pd.DataFrame(more.to_dict(as_series=False)))
    assert isinstance(theirs, pd.DataFrame)
    assert isinstance(forecaster.predict(), pl.DataFrame)
    with pytest.raises(gw.InputError, match="give predict a table"):
        loaded.predict()


def test_a_series_shorter_than_the_window_is_forecast_too():
    table = pl.concat([frame(120, ("a",)), frame(5, ("short",))])
    forecast = fitted(table, context=30).predict()
    short = forecast.filter(pl.col("unique_id") == "short")
    assert np.isfinite(short["gru"].to_numpy()).all()


@pytest.mark.parametrize("cell", sorted(gw.CATALOGUE))
def test_every_catalogued_cell_can_be_fitted(cell):
    forecaster = fitted(frame(60), cell=cell)
    assert np.isfinite(forecaster.predict()[cell].to_numpy()).all()


def test_it_learns_a_rhythm_that_no_calendar_knows():
    """A wave of 11 steps on plain counted rows: neither anchors nor calendar hold it, only the states do."""
    rng = np.random.default_rng(0)
    wave = pl.DataFrame({"y": 10 + np.sin(2 * np.pi * np.arange(600) / 11) + rng.normal(0, 0.05, 600)})
    forecaster = gw.Forecaster(6, hidden_sizes=(16,), max_epochs=12, steps_per_epoch=40, dropout=0).fit(
        wave, target="y"
    )
    scores = {row["model"]: row["mase"] for row in forecaster.scores.to_dicts()}
    assert scores["gru"] < 0.25 * scores["naive"]


def test_bad_options_are_refused_at_once():
    with pytest.raises(gw.InputError, match="did you mean 'learning_rate'"):
        gw.Forecaster(3, lerning_rate=1)
    with pytest.raises(gw.InputError, match="horizon"):
        gw.Forecaster(0)
    with pytest.raises(gw.InputError, match="call fit"):
        gw.Forecaster(3).predict()
