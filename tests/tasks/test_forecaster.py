"""The Python API: pandas and polars, saving, new tables, and that it learns what there is to learn."""

import json
import os

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
    with pytest.raises(gw.InputError, match="expected a run folder, received the file"):
        gw.Forecaster.load(tmp_path / "run" / "model.safetensors")
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
    with pytest.raises(gw.InputError, match=r"scores needs(.|\n)*read metrics.json"):
        _ = loaded.scores
    with pytest.raises(gw.InputError, match=r"save needs(.|\n)*copy the run folder"):
        loaded.save(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_saved_run_says_how_to_make_it_again_and_how_it_was_trained(tmp_path):
    fitted(frame(60), threads=2).save(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "versions.json").read_text())["threads"] == "2"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "gatewright fit TABLE --config config.toml --out NEW_FOLDER" in page


def test_a_network_beyond_the_memory_is_refused_before_any_work(monkeypatch):
    with pytest.raises(gw.InputError, match=r"at least .* of memory, this machine has .*\n.*--hidden-sizes"):
        fitted(frame(60), hidden_sizes=(90_000, 90_000, 90_000))
    # a system that does not say how much there is
    monkeypatch.setattr(os, "sysconf", lambda _: (_ for _ in ()).throw(ValueError))
    assert fitted(frame(60)).model is not None


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


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (np.arange(100, 340, 2), ["340", "342"]),
        (np.arange("2000-01", "2010-01", dtype="datetime64[M]"), ["2010-01-01", "2010-02-01"]),
    ],
    ids=["integers", "months"],
)
def test_other_kinds_of_times_go_on_as_they_were(times, expected):
    values = np.sin(2 * np.pi * np.arange(len(times)) / 12)
    table = pd.DataFrame(
        {"t": times.astype("datetime64[ns]") if times.dtype.kind == "M" else times, "y": values}
    )
    forecast = gw.Forecaster(2, **OPTIONS).fit(table, target="y", time="t").predict()
    assert [str(time).split(" ")[0] for time in forecast["ds"]] == expected
    assert np.isfinite(forecast["gru"]).all()


def test_every_series_is_forecast_in_its_own_units():
    """Scaling is undone: a series a million times as large gets a forecast a million times as large."""
    small = frame(120, ("a",))
    large = small.with_columns(pl.col("sales") * 2.0**20, shop=pl.lit("b"))
    forecast = fitted(pl.concat([small, large])).predict()
    one, other = (forecast.filter(pl.col("unique_id") == name)["gru"].to_numpy() for name in "ab")
    np.testing.assert_allclose(other, one * 2.0**20, rtol=1e-4)


def test_the_shortest_table_that_is_allowed_and_a_horizon_of_one():
    table = pl.DataFrame({"y": [1.0, 5.0, 2.0, 6.0]})
    forecaster = gw.Forecaster(1, **OPTIONS).fit(table, target="y")
    assert np.isfinite(forecaster.predict()["gru"].to_numpy()).all()
    assert forecaster.fitted is not None
    assert forecaster.fitted.scores.windows == 1
    with pytest.raises(gw.InputError, match="at least 4 steps"):
        gw.Forecaster(1, **OPTIONS).fit(table[:3], target="y")


def test_a_forecast_does_not_depend_on_the_other_series_of_a_table(tmp_path):
    table = frame(120, ("a", "b", "c"))
    fitted(table).save(tmp_path / "run")
    model = gw.Forecaster.load(tmp_path / "run")
    together = model.predict(table).filter(pl.col("unique_id") == "b")
    alone = model.predict(table.filter(pl.col("shop") == "b"))
    for column in together.columns[3:]:
        np.testing.assert_allclose(alone[column].to_numpy(), together[column].to_numpy(), rtol=1e-5)


def test_gaps_are_not_invented():
    table = frame(120, ("a",))
    holes = table.with_columns(
        pl.when(pl.col("day").dt.day().is_in([3, 4, 17])).then(None).otherwise("sales").alias("sales")
    )
    without_rows = table.filter(~pl.col("day").dt.day().is_in([3, 4, 17]))
    one, other = fitted(holes), fitted(without_rows)
    assert one.predict()["gru"].to_list() == other.predict()["gru"].to_list()
    assert one.fitted is not None
    assert any("masked" in note for note in one.fitted.panel.notes)
    assert np.isnan(one.fitted.panel.series[0].values[2])


@pytest.mark.parametrize("frequency", [None, "1h"], ids=["most values empty", "rows a day apart"])
def test_a_model_forecasts_the_table_it_was_fitted_to(frequency, tmp_path):
    """However few of its steps have a value: what counts is how far apart the rows are."""
    table = frame(120, ("a",))
    if frequency is None:
        table = table.with_columns(sales=pl.when(pl.int_range(120) % 3 == 0).then("sales"))
    forecaster = fitted(table, frequency=frequency, context=8)
    forecaster.save(tmp_path / "run")
    assert gw.Forecaster.load(tmp_path / "run").predict(table).equals(forecaster.predict())
    if frequency is None:
        with pytest.raises(gw.InputError, match="most rows here are 3 such steps apart"):
            forecaster.predict(table.drop_nulls())
