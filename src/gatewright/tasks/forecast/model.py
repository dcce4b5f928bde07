"""A trained forecasting model: the network and all that is needed to use it, in one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatewright.data.frequency import Frequency
from gatewright.data.scaling import Scaler, fit_scaler
from gatewright.data.tables import Panel
from gatewright.errors import InputError
from gatewright.files import read_tensors, write_tensors
from gatewright.tasks.forecast.calibration import with_factors
from gatewright.tasks.forecast.dataset import Features, ForecastData, Split
from gatewright.tasks.forecast.network import ForecastNetwork, Shape
from gatewright.tasks.forecast.settings import RunSettings, make_settings

FORMAT = 1
_BATCH = 256


@dataclass(frozen=True)
class ForecastModel:
    """A network, what it reads, and the scale of the series it knows.

    Attributes:
        settings: of the run that made it.
        network: with its trained weights.
        features: what the network reads.
        frequency: of the series.
        scalers: by id; an unknown series is scaled by its own values.
        band_factors: for each quantile, on its distance from the median.
        row_step: usual distance between the rows it was fitted to, in steps.
    """

    settings: RunSettings
    network: ForecastNetwork
    features: Features
    frequency: Frequency
    scalers: Mapping[str, Scaler]
    band_factors: tuple[float, ...]
    row_step: float = 1.0

    @property
    def name(self) -> str:
        """What its forecasts are called: the cell's name."""
        return self.settings.model.cell

    def data(self, panel: Panel) -> ForecastData:
        """A panel as this model reads it; nothing is held out.

        Args:
            panel: series of the frequency that the model knows.

        Returns:
            The series as tensors.

        Raises:
            InputError: the panel's frequency is another one, or its rows lie further apart.
        """
        hint = "give data of the same time step, or fit a model to these"
        message = f"the model knows series with a step of {self.frequency.label}"
        if panel.frequency != self.frequency:
            raise InputError(f"{message}, received {panel.frequency.label}", hint)
        if panel.row_step > max(self.row_step, 1.0):
            raise InputError(f"{message}; most rows here are {panel.row_step:g} such steps apart", hint)
        splits = [Split(len(s.values), len(s.values), len(s.values)) for s in panel.series]
        method = self.settings.forecast.scaling
        scalers = [self.scalers.get(s.id) or fit_scaler(s.values, method) for s in panel.series]
        return ForecastData(panel, splits, self.features, method, scalers)

    def quantiles(self, data: ForecastData, series: Tensor, last: Tensor) -> np.ndarray:
        """Quantiles ``[P, N, Q]`` in units of the target from the steps ``last`` of some series."""
        parts = []
        self.network.eval()
        with torch.inference_mode():
            for rows in torch.arange(len(series)).split(_BATCH):
                windows = data.windows(series[rows], last[rows], last[rows])
                scaled = self.network(windows.x, windows.origins, windows.known, windows.anchors)[0]
                # Chernozhukov et al. 2010: sorting crossed quantiles never makes them worse
                parts.append(scaled.double().sort(-1).values.numpy())
        levels = self.settings.forecast.quantiles
        return data.in_units(with_factors(np.concatenate(parts), levels, self.band_factors), series)

    def save(self, path: Path) -> None:
        """Write weights and description into one safetensors file."""
        description = {
            "format": FORMAT,
            "settings": self.settings.model_dump(mode="json", exclude_none=True),
            "shape": asdict(self.network.shape),
            "features": asdict(self.features),
            "frequency": self.frequency.to_text(),
            "band_factors": list(self.band_factors),
            "row_step": self.row_step,
            "scalers": {name: [scaler.location, scaler.scale] for name, scaler in self.scalers.items()},
        }
        write_tensors(path, self.network.state_dict(), description)

    @classmethod
    def load(cls, path: Path) -> ForecastModel:
        """Read a model file.

        Args:
            path: of a file that ``save`` has written.

        Returns:
            The model.

        Raises:
            InputError: the file is missing, damaged, or of another version.
        """
        tensors, description = read_tensors(path)
        if description.get("format") != FORMAT:
            message = f"{path} has format {description.get('format')}, this version reads {FORMAT}"
            raise InputError(message, "use the version of gatewright that wrote it, or fit the model again")
        try:
            return cls._from(tensors, description)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            hint = "restore the file from a copy, or fit the model again"
            raise InputError(
                f"{path} is damaged: its weights and its description do not fit together", hint
            ) from error

    @classmethod
    def _from(cls, tensors: dict[str, Tensor], description: dict[str, Any]) -> ForecastModel:
        shape = {key: _tuples(value) for key, value in description["shape"].items()}
        features = {key: _tuples(value) for key, value in description["features"].items()}
        network = ForecastNetwork(Shape(**shape))
        network.load_state_dict(tensors)
        return cls(
            settings=make_settings(description["settings"]),
            network=network.eval(),
            features=Features(**features),
            frequency=Frequency.from_text(description["frequency"]),
            scalers={name: Scaler(*values) for name, values in description["scalers"].items()},
            band_factors=tuple(description["band_factors"]),
            row_step=float(description["row_step"]),
        )


def _tuples(value: Any) -> Any:
    """JSON has lists where the dataclasses have tuples."""
    return tuple(value) if isinstance(value, list) else value
