"""Small models and tasks for the tests of the diagnosis."""

from typing import Any

import torch
from torch import nn


class Net(nn.Module):
    """Recurrent layers and a readout of every step, or of the last one."""

    def __init__(self, kind: Any = nn.GRU, inputs=2, hidden=8, *, last=True, outputs=1, **options: Any):
        super().__init__()
        self.rnn = kind(inputs, hidden, **options)
        width = (options.get("proj_size") or hidden) * (2 if options.get("bidirectional") else 1)
        self.head = nn.Linear(width, outputs)
        self.last = last

    def forward(self, x):
        """From [T, B, I] (or batch first) to outputs."""
        y, _ = self.rnn(x)
        if self.last:
            y = y[:, -1] if self.rnn.batch_first else y[-1]
        return self.head(y)


class Loop(nn.Module):
    """A cell of torch.nn in a loop of its own."""

    def __init__(self, kind: Any = nn.GRUCell, inputs=2, hidden=8):
        super().__init__()
        self.cell = kind(inputs, hidden)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x):
        """From [T, B, I] to the output behind the last step."""
        state = None
        for step in x:
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


class Chunked(Net):
    """Runs the sequence in pieces and cuts the gradient between them."""

    def __init__(self, *given: Any, piece=5, cut=True, **options: Any):
        super().__init__(*given, **options)
        self.piece, self.cut = piece, cut

    def forward(self, x):
        """From [T, B, I] to outputs."""
        state, outputs = None, []
        for part in x.split(self.piece):
            y, state = self.rnn(part, state)
            if self.cut:
                state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
            outputs.append(y)
        y = torch.cat(outputs)
        return self.head(y[-1] if self.last else y)


def squared(model, batch):
    """Mean squared error."""
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def recall(steps, lag, count=8, batch=16, seed=0, dtype=torch.float32):
    """Batches whose target is the first input ``lag`` steps before the last one."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        x = torch.randn(steps, batch, 2, generator=generator, dtype=dtype)
        found.append((x, x[steps - 1 - lag, :, :1].clone()))
    return found
