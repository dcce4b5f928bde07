"""What the forecasting network is trained for, and by what its epochs are compared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from gatewright.tasks.forecast.dataset import ForecastData, Windows
from gatewright.tasks.forecast.network import ForecastNetwork, quantile_loss
from gatewright.tasks.forecast.settings import RunSettings

_ORIGINS_PER_WINDOW = 16
_VALIDATION_WINDOWS = 1024
_VALIDATION_BATCH = 256


class ForecastObjective:
    """Quantile loss over windows of the training part, each with several origins.

    Every batch follows from seed, epoch and step alone.
    """

    def __init__(self, network: ForecastNetwork, data: ForecastData, settings: RunSettings) -> None:
        self.network, self._data, self._settings = network, data, settings
        ends = torch.tensor([split.training_end for split in data.splits])
        # the last window still has one step to forecast; short histories are seen too, but rarely
        first = torch.minimum(ends - 2, torch.tensor(data.features.context // 2)).clamp(min=0)
        self._first, self._ends = first, ends
        self._counts = (ends - 1 - first).clamp(min=0)
        span = max(1, data.features.context // 2)
        self._back = tuple(range(0, span, -(-span // _ORIGINS_PER_WINDOW)))
        self._validation = data.origins("validation", at_most=_VALIDATION_WINDOWS)

    def training_loss(self, epoch: int, step: int) -> Tensor:
        """Loss of a batch of windows."""
        return self.loss(self.network, self.training_windows(epoch, step))

    def loss(self, network: nn.Module, windows: Windows) -> Tensor:
        """Quantile loss of a network on some windows."""
        forecast = network(windows.x, windows.origins, windows.known, windows.anchors)
        return quantile_loss(forecast, windows.target, self._settings.forecast.quantiles)

    def training_windows(self, epoch: int, step: int) -> Windows:
        """A batch of windows drawn evenly from all that there are."""
        training = self._settings.training
        seed = np.random.SeedSequence((training.seed, epoch, step)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(seed[0]))
        series = torch.multinomial(
            self._counts.double(), training.batch_size, replacement=True, generator=generator
        )
        share = torch.rand(training.batch_size, generator=generator, dtype=torch.float64)
        last = self._first[series] + (share * self._counts[series]).long()
        return self._data.windows(series, last, self._ends[series], self._back)

    def validation_windows(self, size: int) -> Iterator[Windows]:
        """The windows of the validation part, so many at once."""
        for rows in torch.arange(len(self._validation[0])).split(size):
            series, last, limit = (column[rows] for column in self._validation)
            yield self._data.windows(series, last, limit)

    def validation_loss(self) -> float:
        """Mean loss over the validation part, from the last step of each window."""
        total, weight = 0.0, 0
        for windows in self.validation_windows(_VALIDATION_BATCH):
            observed = int(windows.target.isfinite().sum())
            loss = self.loss(self.network, windows)
            total, weight = total + loss.item() * observed, weight + observed
        return total / max(weight, 1)
