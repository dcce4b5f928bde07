"""Windows hold what plain loops over the series say, and nothing of the future."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewright.data.frequency import Frequency
from gatewright.data.tables import Panel, Series
from gatewright.errors import InputError
from gatewright.tasks.forecast.dataset import (
    Features,
    ForecastData,
    Split,
    check_lengths,
    choose_features,
    split_series,
)
from gatewright.tasks.forecast.objective import ForecastObjective
from gatewright.tasks.forecast.settings import make_settings

START = np.datetime64("2024-01-01T00:00:00", "us")
HOUR = np.timedelta64(1, "h")


def make_panel(lengths, seed=0, missing=0.2):
    rng = np.random.default_rng(seed)
    series = []
    for index, length in enumerate(lengths):
        values = 100 * index + rng.normal(size=length)
        values[rng.random(length) < missing] = np.nan
        values[[0, -1]] = index
        series.append(Series(str(index), START + HOUR * np.arange(length), values))
    return Panel(tuple(series), Frequency.from_text("1h"), "y", "t", "id", ())


def expected_anchors(values, origin, horizon, seasons):
    rows = []
    for step in range(1, horizon + 1):
        known = [v for v in values[: origin + 1] if np.isfinite(v)]
        anchors = [known[-1] if origin >= 0 and known else np.nan]

        def at(place):
            return values[place] if place >= 0 else np.nan

        for season in seasons:
            anchors.append(at(origin + step - season * -(-step // season)))
        past = [at(origin + step - seasons[-1] * (-(-step // seasons[-1]) + k)) for k in range(4)]
        finite = [v for v in past if np.isfinite(v)]
        anchors.append(np.mean(finite) if finite else np.nan)
        rows.append(anchors)
    return np.array(rows)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 60), min_size=1, max_size=4),
    context=st.integers(1, 20),
    horizon=st.integers(1, 9),
    seed=st.integers(0, 100),
)
def test_windows_equal_plain_loops(lengths, context, horizon, seed):
    panel = make_panel(lengths, seed)
    features = Features(("weekday-0", "sin-day-1"), (3, 7), context, horizon)
    splits = [Split(n, n, n) for n in lengths]
    data = ForecastData(panel, splits, features, "standard")
    rng = np.random.default_rng(seed)
    index = rng.integers(0, len(lengths), 6)
    last = np.array([rng.integers(0, lengths[i]) for i in index])
    limit = np.array([rng.integers(1, lengths[i] + 1) for i in index])
    back = (0, 2)
    windows = data.windows(torch.tensor(index), torch.tensor(last), torch.tensor(limit), back)
    assert windows.origins == (context - 1, context - 3)
    for b, (i, end, stop) in enumerate(zip(index, last, limit, strict=True)):
        scaler, raw = data.scalers[i], panel.series[i].values
        values = (raw - scaler.location) / scaler.scale
        for w in range(context):
            step = end - context + 1 + w
            value = values[step] if step >= 0 else np.nan
            observed = np.isfinite(value)
            assert windows.x[w, b, 1] == float(observed)
            assert windows.x[w, b, 0] == pytest.approx(value if observed else 0.0, rel=1e-5, abs=1e-6)
        for p, steps_back in enumerate(back):
            origin = end - steps_back
            anchors = expected_anchors(values, origin, horizon, (3, 7))
            np.testing.assert_allclose(windows.anchors[p, b], anchors, rtol=1e-4, atol=1e-5)
            for k in range(horizon):
                place = origin + 1 + k
                target = values[place] if origin >= 0 and place < stop else np.nan
                np.testing.assert_allclose(windows.target[p, b, k], target, rtol=1e-5, atol=1e-6)
                day = np.datetime64("2024-01-01") + place // 24  # a Monday
                if origin >= 0:
                    assert windows.known[p, b, k, 0] == float(
                        (day - np.datetime64("2024-01-01")).astype(int) % 7 == 0
                    )


def training_batches(panel, splits):
    run = make_settings(target="y", horizon=4, context=8, batch_size=16)
    features = choose_features(panel, splits, 4, 8)
    data = ForecastData(panel, splits, features, "standard")
    seen = []

    class Recorder(torch.nn.Module):
        def forward(self, x, origins, known, anchors):
            seen.extend([x, known, anchors.nan_to_num(-77)])
            return torch.zeros(*known.shape[:3], len(run.forecast.quantiles))

    objective = ForecastObjective(Recorder(), data, run)  # type: ignore[arg-type]  # records instead of learning
    losses = [objective.training_loss(epoch, step).item() for epoch in range(3) for step in range(3)]
    return seen, losses, data.scalers


def test_training_sees_nothing_of_what_is_held_out():
    panel = make_panel([120, 90])
    splits = [split_series(n, 4, 0.15, 0.15) for n in (120, 90)]
    before = training_batches(panel, splits)
    for series, split in zip(panel.series, splits, strict=True):
        assert split.training_end < split.validation_end < split.end == len(series.values)
        series.values[split.training_end :] = 1e6
    after = training_batches(panel, splits)
    assert before[1:] == after[1:]
    for one, other in zip(before[0], after[0], strict=True):
        assert torch.equal(one, other)


def test_a_forecast_sees_nothing_after_its_origin():
    panel = make_panel([100], missing=0)
    splits = [Split(100, 100, 100)]
    features = choose_features(panel, splits, 5, 12)
    arguments = (torch.tensor([0]), torch.tensor([60]), torch.tensor([100]))
    before = ForecastData(panel, splits, features, "none").windows(*arguments)
    panel.series[0].values[61:] = -5.0
    after = ForecastData(panel, splits, features, "none").windows(*arguments)
    assert torch.equal(before.x, after.x)
    assert torch.equal(before.anchors.nan_to_num(-1), after.anchors.nan_to_num(-1))
    assert not torch.equal(before.target, after.target)


@pytest.mark.parametrize(("part", "first", "final"), [("validation", 69, 80), ("test", 84, 95)])
def test_origins_stay_in_their_part(part, first, final):
    panel = make_panel([100])
    data = ForecastData(
        panel, [Split(70, 85, 100)], choose_features(panel, [Split(70, 85, 100)], 4, 8), "none"
    )
    _, last, limit = data.origins(part)
    assert (int(last.min()), int(last.max())) == (first, final)
    assert set(limit.tolist()) == {final + 5}
    assert data.origins(part, stride=4)[1].max() == final


def test_a_horizon_that_leaves_nothing_names_the_longest_that_does():
    panel = make_panel([50, 20])
    splits = [split_series(n, 17, 0.15, 0.15) for n in (50, 20)]
    with pytest.raises(InputError, match=r"--horizon 16 or less"):
        check_lengths(panel.series, splits, 17)
    check_lengths(panel.series, [split_series(n, 16, 0.15, 0.15) for n in (50, 20)], 16)
