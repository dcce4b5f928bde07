"""From a panel and settings to a trained, scored model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from gatewright.data.tables import Panel
from gatewright.diagnosis.gradients import gradients_of
from gatewright.diagnosis.twin import Twin
from gatewright.tasks.forecast.baselines import choose_baselines
from gatewright.tasks.forecast.calibration import band_factors
from gatewright.tasks.forecast.dataset import (
    Features,
    ForecastData,
    Split,
    Windows,
    check_lengths,
    check_observed,
    check_scaled,
    choose_features,
    split_series,
)
from gatewright.tasks.forecast.frames import forecast_frame
from gatewright.tasks.forecast.memory import check_memory, memory_explained
from gatewright.tasks.forecast.model import ForecastModel
from gatewright.tasks.forecast.network import ForecastNetwork, Shape, quantile_loss
from gatewright.tasks.forecast.objective import ForecastObjective
from gatewright.tasks.forecast.scores import Scores, score
from gatewright.tasks.forecast.settings import RunSettings, settings_text
from gatewright.training.loop import LoopOptions, Outcome, Watcher, train

_CALIBRATION_WINDOWS = 2048
_GRADIENT_WINDOWS = 32
_LARGEST_ON_ONE_THREAD = 128  # hidden size


@dataclass(frozen=True)
class Fit:
    """A trained model and everything that was learned about it.

    Attributes:
        model: the best weights.
        panel: the data.
        splits: of each series.
        outcome: how training went.
        scores: on the held-out end.
        backtest: the forecasts that were scored, beside ``y``.
        forecast: beyond the end of the data.
        gradient_norms: layer -> ``[W]`` mean ‖∂L/∂h_t‖ by steps back.
    """

    model: ForecastModel
    panel: Panel
    splits: tuple[Split, ...]
    outcome: Outcome
    scores: Scores
    backtest: pl.DataFrame
    forecast: pl.DataFrame
    gradient_norms: dict[str, np.ndarray]


@dataclass(frozen=True)
class Plan:
    """A run before training; what can be wrong with it was refused.

    Attributes:
        settings: complete: what the data decide is filled in.
        panel: the data.
        splits: of each series.
        features: what the network reads.
    """

    settings: RunSettings
    panel: Panel
    splits: tuple[Split, ...]
    features: Features

    @property
    def shape(self) -> Shape:
        """What decides the sizes of the network."""
        model, forecast = self.settings.model, self.settings.forecast
        return Shape(
            cell=model.cell,
            hidden_sizes=model.hidden_sizes,
            dropout=model.dropout,
            inputs=self.features.inputs,
            known=len(self.features.calendar),
            anchors=self.features.anchors,
            horizon=forecast.horizon,
            quantiles=forecast.quantiles,
        )

    @property
    def fingerprint(self) -> str:
        """Identifies settings and data, wherever the table lies."""
        data = self.settings.data.model_copy(update={"table": None})
        digest = hashlib.sha256(settings_text(self.settings.model_copy(update={"data": data})).encode())
        for series in self.panel.series:
            digest.update(series.id.encode())
            digest.update(np.ascontiguousarray(series.times).tobytes())
            digest.update(np.ascontiguousarray(series.values).tobytes())
        return digest.hexdigest()


def plan_run(settings: RunSettings, panel: Panel) -> Plan:
    """Fill in what the data decide, and refuse what cannot be trained.

    Args:
        settings: as given.
        panel: the series.

    Returns:
        The plan.

    Raises:
        InputError: no series is long enough for the horizon, a gap covers a whole part, or the network does
            not fit into memory.
    """
    forecast, training = settings.forecast, settings.training
    splits = tuple(
        split_series(len(s.values), forecast.horizon, forecast.validation_share, forecast.test_share)
        for s in panel.series
    )
    check_lengths(panel.series, splits, forecast.horizon)
    check_observed(panel.series, splits)
    features = choose_features(panel, splits, forecast.horizon, forecast.context)
    threads = training.threads or _threads(settings.model.hidden_sizes)
    complete = settings.model_copy(
        update={
            "data": settings.data.model_copy(update={"frequency": panel.frequency.to_text()}),
            "forecast": forecast.model_copy(update={"context": features.context}),
            "training": training.model_copy(update={"threads": threads}),
        }
    )
    plan = Plan(complete, panel, splits, features)
    rows = sum(features.context + len(s.values) + forecast.horizon for s in panel.series)
    check_memory(plan.shape, features.context, training.batch_size, rows)
    return plan


def _threads(hidden_sizes: Sequence[int]) -> int:
    """One thread for small products, where several wait for each other longer than they compute."""
    return 1 if max(hidden_sizes) <= _LARGEST_ON_ONE_THREAD else torch.get_num_threads()


@contextmanager
def _thread_count(threads: int | None) -> Iterator[None]:
    """So many threads inside, as many as before outside."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit_plan(
    plan: Plan,
    *,
    watcher: Watcher | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> Fit:
    """Train, score the held-out end, and forecast beyond it.

    Args:
        plan: of the run.
        watcher: follows training and may ask to stop.
        checkpoint: file of the state between two epochs.
        resume: go on from there.

    Returns:
        The model and its scores.

    Raises:
        InputError: training diverged, the checkpoint does not fit, or memory ran out.
    """
    with _thread_count(plan.settings.training.threads), memory_explained():
        data = ForecastData(plan.panel, plan.splits, plan.features, plan.settings.forecast.scaling)
        check_scaled(data)
        model, outcome = _trained(plan, data, watcher, checkpoint, resume)
        model = calibrated(model, data)
        scores, backtest = backtest_model(model, data)
        return Fit(
            model=model,
            panel=plan.panel,
            splits=plan.splits,
            outcome=outcome,
            scores=scores,
            backtest=backtest,
            forecast=forecast_beyond(model, data),
            gradient_norms=_gradient_norms(model, data),
        )


def _trained(
    plan: Plan, data: ForecastData, watcher: Watcher | None, checkpoint: Path | None, resume: bool
) -> tuple[ForecastModel, Outcome]:
    """A model with its best weights, its bands as the network gives them."""
    training, panel = plan.settings.training, plan.panel
    torch.manual_seed(training.seed)
    network = ForecastNetwork(plan.shape)
    options = LoopOptions(
        max_epochs=training.max_epochs,
        steps_per_epoch=training.steps_per_epoch,
        learning_rate=training.learning_rate,
        gradient_clip=training.gradient_clip,
        patience=training.patience,
    )
    outcome = train(
        ForecastObjective(network, data, plan.settings),
        options,
        watcher=watcher,
        checkpoint=checkpoint,
        resume=resume,
        fingerprint=plan.fingerprint,
    )
    model = ForecastModel(
        settings=plan.settings,
        network=network,
        features=plan.features,
        frequency=panel.frequency,
        scalers={series.id: scaler for series, scaler in zip(panel.series, data.scalers, strict=True)},
        band_factors=(1.0,) * len(plan.shape.quantiles),
        row_step=panel.row_step,
    )
    return model, outcome


def calibrated(model: ForecastModel, data: ForecastData) -> ForecastModel:
    """The model with bands that cover their share of the validation part."""
    series, last, limit = data.origins("validation", at_most=_CALIBRATION_WINDOWS)
    quantiles = model.settings.forecast.quantiles
    truth = data.in_units(data.windows(series, last, limit).target[0].double().numpy(), series)
    factors = band_factors(model.quantiles(data, series, last), truth, quantiles)
    return replace(model, band_factors=factors)


def backtest_model(model: ForecastModel, data: ForecastData) -> tuple[Scores, pl.DataFrame]:
    """Forecast the test part from one origin a horizon, with the model and the baselines, and score."""
    panel, splits, horizon = data.panel, data.splits, model.features.horizon
    series, last, _ = data.origins("test", stride=horizon)
    quantiles = model.settings.forecast.quantiles
    forecasts = {model.name: model.quantiles(data, series, last)}
    baselines = choose_baselines(panel, splits, model.features.seasons)
    for baseline in baselines:
        parts = []
        for index, (one, split) in enumerate(zip(panel.series, splits, strict=True)):
            origins = last[series == index].numpy()
            if len(origins):
                parts.append(baseline.quantiles(one.values, split, origins, horizon, quantiles))
        forecasts[baseline.name] = np.concatenate(parts)
    frame = forecast_frame(panel, series.numpy(), last.numpy(), forecasts, quantiles, truth=True)
    scores = score(frame, list(forecasts), panel, splits, quantiles, baselines[-1].season)
    return scores, frame


def forecast_beyond(model: ForecastModel, data: ForecastData) -> pl.DataFrame:
    """The forecast after the last observed value of every series."""
    series, last, _ = data.origins("future")
    quantiles = {model.name: model.quantiles(data, series, last)}
    return forecast_frame(
        data.panel, series.numpy(), last.numpy(), quantiles, model.settings.forecast.quantiles
    )


def _gradient_norms(model: ForecastModel, data: ForecastData) -> dict[str, np.ndarray]:
    """How the loss of some validation windows depends on the states before it."""
    series, last, limit = data.origins("validation", at_most=_GRADIENT_WINDOWS)
    windows = data.windows(series, last, limit)
    network, count = model.network, len(series)

    def loss(network: nn.Module, windows: Windows) -> Tensor:
        forecast = network(windows.x, windows.origins, windows.known, windows.anchors)
        return quantile_loss(forecast, windows.target, model.settings.forecast.quantiles) * count

    twin = Twin(network)
    with torch.enable_grad():
        sent = gradients_of(twin.run(loss, windows), twin.model, origins=1).sent
    # nothing is sent back where the forecast does not hang on the states at all
    found = (
        sent[0].states.values() if sent else [windows.x.new_zeros(len(windows.x), 1, 1)] * len(network.layers)
    )
    norms = [states.norm(dim=-1).mean(-1).numpy() for states in found]
    names: Sequence[str] = [
        f"layer {i + 1} ({model.name}, {h})" for i, h in enumerate(network.shape.hidden_sizes)
    ]
    return dict(zip(names, norms, strict=True))
