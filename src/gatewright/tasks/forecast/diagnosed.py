"""A fitted run as a problem to diagnose: its network, batches of its windows, its loss."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from gatewright.data.tables import Panel
from gatewright.diagnosis.problem import Problem
from gatewright.errors import InputError
from gatewright.tasks.forecast.dataset import ForecastData
from gatewright.tasks.forecast.fitting import plan_run
from gatewright.tasks.forecast.model import ForecastModel
from gatewright.tasks.forecast.objective import ForecastObjective

_BATCHES = 24
_VALIDATION_BATCHES = 4


def problem_of(model: ForecastModel, panel: Panel) -> Problem:
    """The problem that a run trained on.

    Args:
        model: of the run folder.
        panel: the data of the run.

    Returns:
        The network in training mode, windows of its training and its validation part, and its loss.

    Raises:
        InputError: the data no longer give the windows that the run was trained on.
    """
    settings = model.settings
    plan = plan_run(settings, panel)
    if plan.features != model.features:
        raise InputError(
            "the table is not the one that the run was fitted to: it gives other features",
            "give the run's own table with --data",
        )
    data = ForecastData(panel, plan.splits, plan.features, settings.forecast.scaling)
    objective = ForecastObjective(model.network.train(), data, plan.settings)
    training = settings.training
    return Problem(
        objective.network,
        [objective.training_windows(0, step) for step in range(_BATCHES)],
        objective.loss,
        list(islice(objective.validation_windows(training.batch_size), _VALIDATION_BATCHES)),
        training.learning_rate,
        training.gradient_clip,
        seed=training.seed,
    )


def table_of(model: ForecastModel, data: Path | None) -> Path:
    """The table that a run was fitted to, or the one that is given.

    Args:
        model: of the run folder.
        data: given on the command line.

    Returns:
        A path that exists.

    Raises:
        InputError: there is none.
    """
    table = data or (Path(model.settings.data.table) if model.settings.data.table else None)
    if table is None:
        raise InputError("the run was fitted in Python and names no table", "give one with --data")
    if data is None and not table.exists():
        raise InputError(f"the table of the run, {table}, is not there any more", "give one with --data")
    return table
