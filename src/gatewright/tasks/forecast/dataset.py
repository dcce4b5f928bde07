"""The series of a panel as tensors: split in time, scaled, masked, and cut into windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gatewright.data.calendar import calendar_features, calendar_names
from gatewright.data.scaling import Method, Scaler, fit_scaler
from gatewright.data.tables import Panel, Series
from gatewright.errors import InputError

Part = Literal["validation", "test", "future"]

_SEASONS_AVERAGED = 4


@dataclass(frozen=True)
class Split:
    """Where training ends and the held-out part begins, as indices into the series.

    Attributes:
        training_end: first step that training may not see.
        validation_end: first step of the test part.
        end: length of the series.
    """

    training_end: int
    validation_end: int
    end: int

    @property
    def scored(self) -> bool:
        """Whether anything was held out."""
        return self.training_end < self.end


def split_series(length: int, horizon: int, validation_share: float, test_share: float) -> Split:
    """Split one series in time order; a series too short to hold anything out is only trained on.

    Args:
        length: ``T``.
        horizon: each held-out part holds at least this many steps.
        validation_share: of the length.
        test_share: of the length.

    Returns:
        The split; validation and test are empty when the series is shorter than three horizons and a step.
    """
    test = max(horizon, round(length * test_share))
    validation = max(horizon, round(length * validation_share))
    if length - test - validation < horizon + 1:
        test = validation = horizon
    if length < 3 * horizon + 1:
        return Split(length, length, length)
    return Split(length - test - validation, length - test, length)


@dataclass(frozen=True)
class Features:
    """What the network reads, beside the target and whether it was observed.

    Attributes:
        calendar: names of the calendar features.
        seasons: season lengths in steps; the anchors come from them.
        context: ``W``, steps of a window.
        horizon: ``N``.
    """

    calendar: tuple[str, ...]
    seasons: tuple[int, ...]
    context: int
    horizon: int

    @property
    def inputs(self) -> int:
        """Features of a time step, ``I``: target, observed or not, calendar."""
        return 2 + len(self.calendar)

    @property
    def anchors(self) -> int:
        """Number of anchors: the last value, one a season, and a mean over past long seasons."""
        return 1 + len(self.seasons) + bool(self.seasons)


def choose_features(panel: Panel, splits: Sequence[Split], horizon: int, context: int | None) -> Features:
    """Features that fit the panel's frequency and length.

    Args:
        panel: the series.
        splits: of each series.
        horizon: ``N``.
        context: ``W``, or None to take two horizons or two short seasons, within what there is.

    Returns:
        The features.
    """
    trained = max(split.training_end for split in splits)
    seasons = tuple(season for season in panel.frequency.seasons if season < trained)
    if context is None:
        wanted = max(2 * horizon, 2 * min(seasons, default=0), 16)
        context = max(1, min(wanted, 512, trained - 1))
    years = 0.0
    if panel.frequency.unit != "count":
        spans = [
            s.times[split.training_end - 1] - s.times[0]
            for s, split in zip(panel.series, splits, strict=True)
        ]
        years = max(span / np.timedelta64(1, "D") for span in spans) / 365.25
    return Features(calendar_names(panel.frequency, years), seasons, context, horizon)


@dataclass(frozen=True)
class Windows:
    """A batch of windows and what is forecast from their origins.

    Attributes:
        x: ``[W, B, I]``.
        known: ``[P, B, N, K]``.
        anchors: ``[P, B, N, A]``, NaN where missing.
        target: ``[P, B, N]`` scaled, NaN where missing or beyond the limit.
        origins: places of the ``P`` origins in the window.
    """

    x: Tensor
    known: Tensor
    anchors: Tensor
    target: Tensor
    origins: tuple[int, ...]


class ForecastData:
    """All series in one block of rows, each with room for a window before and a horizon behind it."""

    def __init__(
        self,
        panel: Panel,
        splits: Sequence[Split],
        features: Features,
        scaling: Method,
        scalers: Sequence[Scaler] | None = None,
    ) -> None:
        self.panel, self.splits, self.features = panel, tuple(splits), features
        self.scalers = tuple(
            scalers
            or (
                fit_scaler(series.values[: split.training_end], scaling)
                for series, split in zip(panel.series, splits, strict=True)
            )
        )
        values, carried, calendar, first, row = [], [], [], [], 0
        for series, scaler in zip(panel.series, self.scalers, strict=True):
            before, behind = features.context, features.horizon
            scaled = _as_float32(scaler.apply(series.values))
            values.append(np.pad(scaled, (before, behind), constant_values=np.nan))
            carried.append(last_observed(values[-1]))
            times = np.concatenate([series.times, panel.frequency.after(series.times[-1], behind)])
            calendar.append(np.pad(calendar_features(times, features.calendar), ((before, 0), (0, 0))))
            first.append(row + before)
            row += before + len(times)
        self.values = torch.from_numpy(np.concatenate(values))
        self._last = torch.from_numpy(np.concatenate(carried))
        self.calendar = torch.from_numpy(np.concatenate(calendar))
        self.first_row = torch.tensor(first)
        observed = self.values.isfinite()
        self.inputs = torch.cat(
            [self.values.nan_to_num(0.0).unsqueeze(1), observed.unsqueeze(1).float(), self.calendar], dim=1
        )

    def in_units(self, scaled: np.ndarray, series: Tensor) -> np.ndarray:
        """Scaled values ``[B, ...]`` of the series ``[B]`` in units of the target."""
        values = np.empty(scaled.shape)
        for row, index in enumerate(series.tolist()):
            values[row] = self.scalers[index].undo(scaled[row])
        return values

    def windows(self, series: Tensor, last: Tensor, limit: Tensor, back: Sequence[int] = (0,)) -> Windows:
        """Windows that end with the steps ``last``, and their targets.

        Args:
            series: ``[B]`` index of each window's series.
            last: ``[B]`` index of each window's last step in its series.
            limit: ``[B]`` targets at this step and later are left out.
            back: how many steps before the last each origin lies.

        Returns:
            The batch.
        """
        window, horizon = self.features.context, self.features.horizon
        first = self.first_row[series]
        steps = torch.arange(window) - (window - 1)
        x = self.inputs[(first + last) + steps.unsqueeze(1)]
        origin = last - torch.tensor(back).unsqueeze(1)
        ahead = origin.unsqueeze(-1) + 1 + torch.arange(horizon)
        # origins before the series has begun have nothing to forecast from
        valid = (ahead < limit.unsqueeze(-1)) & (origin >= 0).unsqueeze(-1)
        rows = first.unsqueeze(-1) + ahead.clamp(min=0)
        target = torch.where(valid, self.values[rows], torch.nan)
        origins = tuple(window - 1 - steps_back for steps_back in back)
        return Windows(x, self.calendar[rows], self._anchors(series, origin), target, origins)

    def _anchors(self, series: Tensor, origin: Tensor) -> Tensor:
        """``[P, B, N, A]`` scaled values that a forecast may lean on, NaN where there are none."""
        horizon = self.features.horizon
        step = torch.arange(1, horizon + 1)
        last = origin.unsqueeze(-1).expand(*origin.shape, horizon)
        anchors = [self._last_observed(series, last)]
        for season in self.features.seasons:
            cycles = (step + season - 1) // season
            anchors.append(self._value(series, origin.unsqueeze(-1) + step - season * cycles))
        if self.features.seasons:
            season = self.features.seasons[-1]
            cycles = (step + season - 1) // season
            past = [
                self._value(series, origin.unsqueeze(-1) + step - season * (cycles + more))
                for more in range(_SEASONS_AVERAGED)
            ]
            anchors.append(torch.stack(past).nanmean(0))
        return torch.stack(anchors, dim=-1)

    def _value(self, series: Tensor, step: Tensor) -> Tensor:
        rows = self.first_row[series].unsqueeze(-1) + step.clamp(min=0)
        return torch.where(step >= 0, self.values[rows], torch.nan)

    def _last_observed(self, series: Tensor, step: Tensor) -> Tensor:
        """The value at a step, or the latest observed one before it."""
        rows = self.first_row[series].unsqueeze(-1) + step.clamp(min=0)
        return torch.where(step >= 0, self._last[rows], torch.nan)

    def origins(
        self, part: Part, stride: int = 1, at_most: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Series, last known step and limit of every forecast of a part.

        Args:
            part: ``"validation"`` or ``"test"``: full horizons inside that part; ``"future"``: from the end.
            stride: steps between two origins.
            at_most: keep so many, evenly spread over all.

        Returns:
            Three ``[B]`` tensors for ``windows``.
        """
        found: list[tuple[int, int, int]] = []
        for index, (series, split) in enumerate(zip(self.panel.series, self.splits, strict=True)):
            if part == "future":
                found.append((index, len(series.values) - 1, len(series.values)))
                continue
            begin, end = (split.validation_end, split.end)
            if part == "validation":
                begin, end = split.training_end, split.validation_end
            # from the end, so that the newest data are always among them
            origins = range(end - 1 - self.features.horizon, begin - 2, -stride)
            found += [(index, origin, end) for origin in reversed(origins)]
        every = 1 if at_most is None else max(1, -(-len(found) // at_most))
        series, last, limit = torch.tensor(found[::every], dtype=torch.int64).reshape(-1, 3).unbind(1)
        return series, last, limit


def last_observed(values: np.ndarray, season: int = 1) -> np.ndarray:
    """Each value, or the last observed one a whole number of seasons before it; NaN where there is none.

    Args:
        values: ``[T]``, NaN where missing.
        season: in steps.

    Returns:
        ``[T]``.
    """
    rows = -(-len(values) // season)
    table = np.full(rows * season, np.nan, dtype=values.dtype)
    table[: len(values)] = values
    table = table.reshape(rows, season)
    place = np.where(np.isfinite(table), np.arange(rows)[:, None], 0)
    carried = np.take_along_axis(table, np.maximum.accumulate(place, axis=0), axis=0)
    return carried.reshape(-1)[: len(values)]


def _as_float32(values: np.ndarray) -> np.ndarray:
    """Numbers as the network reads them; what is too large for it counts as missing."""
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    numbers[np.isinf(numbers)] = np.nan
    return numbers


def check_lengths(series: Sequence[Series], splits: Sequence[Split], horizon: int) -> None:
    """Refuse a horizon that leaves nothing to train on or to score.

    Args:
        series: of the panel.
        splits: of each series.
        horizon: ``N``.

    Raises:
        InputError: no series is long enough.
    """
    if any(split.scored for split in splits):
        return
    longest = max(series, key=lambda one: len(one.values))
    possible = (len(longest.values) - 1) // 3
    needed = 3 * horizon + 1
    message = (
        f"a horizon of {horizon} needs a series of at least {needed} steps, to train, validate and test on; "
        f"the longest has {len(longest.values)}"
    )
    hint = f"choose --horizon {possible} or less" if possible >= 1 else "give more rows"
    raise InputError(message, hint)


def check_scaled(data: ForecastData) -> None:
    """Refuse series of which scaling leaves nothing that the network can read.

    Args:
        data: of the run.

    Raises:
        InputError: every value of the training part is too large for float32.
    """
    for first, split in zip(data.first_row.tolist(), data.splits, strict=True):
        if data.values[first : first + split.training_end].isfinite().any():
            return
    raise InputError(
        "every scaled value of the training part is too large: expected numbers that 32 bits hold",
        "use --scaling standard, or give the target in larger units",
    )


def check_observed(series: Sequence[Series], splits: Sequence[Split]) -> None:
    """Refuse series whose gaps leave nothing to learn from, or nothing to compare epochs by.

    Args:
        series: of the panel.
        splits: of each series.

    Raises:
        InputError: after its first step the training part, or the validation part, holds no value.
    """
    parts = {
        "training": [one.values[1 : split.training_end] for one, split in zip(series, splits, strict=True)],
        "validation": [
            one.values[split.training_end : split.validation_end]
            for one, split in zip(series, splits, strict=True)
        ],
    }
    for name, values in parts.items():
        if not any(np.isfinite(part).any() for part in values):
            hint = "fill the gap, or move the parts with --validation-share and --test-share"
            raise InputError(f"the {name} part has no value to forecast: a gap covers all of it", hint)
