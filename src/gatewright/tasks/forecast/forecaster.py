"""A forecaster in Python: from a pandas or polars table to a forecast in a table of the same kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import narwhals as nw
import polars as pl

from gatewright.errors import InputError
from gatewright.tasks.forecast.fitting import Fit, fit_plan, forecast_beyond, plan_run
from gatewright.tasks.forecast.model import ForecastModel
from gatewright.tasks.forecast.panels import panel_of
from gatewright.tasks.forecast.run_folder import MODEL, RunFolder, write_files
from gatewright.tasks.forecast.settings import make_settings
from gatewright.training.loop import Watcher


class Forecaster:
    """Fits a recurrent network to a table and forecasts it.

        forecaster = Forecaster(horizon=24).fit(table, target="rentals", time="time")
        forecaster.scores                    # on the held-out end, beside the baselines
        forecaster.predict()                 # the 24 steps after the end of the table

    Args:
        horizon: time steps to forecast.
        **options: any setting of a run by name, such as ``cell="lstm"``, ``hidden_sizes=(64, 32)``,
            ``levels=(80, 95)``, ``max_epochs=20``, ``seed=1``; `gatewright fit --help` lists them.

    Attributes:
        fitted: everything the last fit found, or None.
        model: the trained model, or None.
    """

    def __init__(self, horizon: int, **options: Any) -> None:
        self._options = {"horizon": horizon, **options}
        make_settings(target="", **self._options)
        self.fitted: Fit | None = None
        self.model: ForecastModel | None = None
        self._implementation: Any = nw.Implementation.POLARS

    def fit(
        self,
        table: Any,
        *,
        target: str,
        time: str | None = None,
        id: str | None = None,  # noqa: A002 - the name of the command line's option
        watcher: Watcher | None = None,
    ) -> Forecaster:
        """Train on a table in long format, and score the held-out end.

        Args:
            table: a pandas or polars data frame.
            target: column to forecast.
            time: column of times; without it rows are evenly spaced.
            id: column that tells the series apart.
            watcher: follows training and may ask to stop.

        Returns:
            This forecaster.

        Raises:
            InputError: bad settings or data.
        """
        settings = make_settings(target=target, time=time, id=id, **self._options)
        self.fitted = fit_plan(plan_run(settings, panel_of(table, settings.data)), watcher=watcher)
        self.model = self.fitted.model
        self._implementation = nw.from_native(table, eager_only=True).implementation
        return self

    @property
    def scores(self) -> Any:
        """Scores of the model and the baselines on the held-out end, a row a model."""
        fit = self._fit_of("scores")
        rows = [{"model": name, **values} for name, values in fit.scores.models.items()]
        return self._native(pl.DataFrame(rows))

    def predict(self, table: Any = None) -> Any:
        """Forecast the steps after the end of the fitted table, or of another one.

        Args:
            table: newer or other series with the same columns and time step; None for the fitted ones.

        Returns:
            A table with ``unique_id``, ``ds``, ``cutoff``, the median under the cell's name and its bands
            (``gru-lo-90``, ``gru-hi-90`` …); of the same kind as the table given, or the fitted one.

        Raises:
            InputError: nothing was fitted, or the table does not fit the model.
        """
        if table is None:
            return self._native(self._fit_of("predict").forecast)
        if self.model is None:
            raise InputError("the forecaster was not fitted", "call fit, or load a run folder")
        model = self.model
        forecast = forecast_beyond(model, model.data(panel_of(table, model.settings.data)))
        return self._native(forecast, nw.from_native(table, eager_only=True).implementation)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the run folder that the command line would write.

        Args:
            folder: where to.
            overwrite: replace a run that is there.

        Raises:
            InputError: nothing was fitted, or the folder cannot be written.
        """
        fit = self._fit_of("save")
        run = RunFolder(Path(folder))
        with run.held():
            run.begin(fit.model.settings, overwrite=overwrite)
            try:
                write_files(run.partial, fit)
                run.complete(keep_checkpoint=False)
            except BaseException:
                run.discard()
                raise

    @classmethod
    def load(cls, folder: str | Path) -> Forecaster:
        """A forecaster from a run folder; ``predict`` then needs a table.

        Args:
            folder: a run folder.

        Returns:
            The forecaster.

        Raises:
            InputError: there is no run, or it is damaged.
        """
        if Path(folder).is_file():
            raise InputError(
                f"expected a run folder, received the file {folder}", "give the folder that it is in"
            )
        model = ForecastModel.load(Path(folder) / MODEL)
        forecaster = cls(model.features.horizon)
        forecaster.model = model
        return forecaster

    def _fit_of(self, wanted: str) -> Fit:
        """What the last fit found; a loaded model knows neither its data nor its scores."""
        if self.fitted is not None:
            return self.fitted
        if self.model is None:
            raise InputError("the forecaster was not fitted", "call fit, or load a run folder")
        raise InputError(
            f"{wanted} needs the data of a fit, received a model that was loaded",
            {
                "predict": "give predict a table",
                "scores": "read metrics.json in the run folder, or call fit",
                "save": "copy the run folder, or call fit",
            }[wanted],
        )

    def _native(self, frame: pl.DataFrame, implementation: Any = None) -> Any:
        """A table of the kind the user gave, or fitted."""
        kind: Any = implementation or self._implementation
        if kind is nw.Implementation.POLARS:
            return frame
        return nw.from_dict(frame.to_dict(as_series=False), backend=kind).to_native()
