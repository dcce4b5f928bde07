"""The bundled data: what it holds, and that it reads as a panel."""

from __future__ import annotations

import numpy as np
import pytest

from gatewright.data.bundled import BUNDLED, bundled_path
from gatewright.data.tables import make_panel, read_table
from gatewright.errors import InputError


def test_bike_rentals_are_the_known_year():
    frame = read_table(bundled_path())
    assert frame.columns == ["time", "rentals"]
    assert frame.height == 8_645
    panel = make_panel(frame, target="rentals", time="time")
    (series,) = panel.series
    assert panel.frequency.to_text() == "1h"
    assert len(series.values) == 365 * 24
    assert np.isnan(series.values).sum() == 115
    assert np.nansum(series.values) == 1_243_103
    assert series.times[0] == np.datetime64("2011-01-01T00")
    assert series.times[-1] == np.datetime64("2011-12-31T23")
    assert any("115 time steps of 8,760 without a row" in note for note in panel.notes)


@pytest.mark.parametrize("name", BUNDLED)
def test_every_data_set_is_small_and_says_whose_it_is(name: str):
    path = bundled_path(name)
    assert path.stat().st_size < 250_000
    about = path.with_suffix(".md").read_text(encoding="utf-8")
    for part in ("CC BY 4.0", "10.24432/C5W894", "**Changes.**", "Fanaee-T"):
        assert part in about


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match="no bundled data set 'bikes'") as caught:
        bundled_path("bikes")
    assert "bike_rentals" in caught.value.hint
