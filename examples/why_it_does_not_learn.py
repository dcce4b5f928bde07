"""Two models of plain torch.nn that do not learn, and what the diagnosis says of them.

    python examples/why_it_does_not_learn.py [adding | text] [--minutes 4] [--page diagnosis.html]

``adding``: the sum of two marked numbers among 400 (Hochreiter and Schmidhuber 1997), with a GRU as torch
makes it. ``text``: the next character of Python's help topics, with eight layers of LSTM. Both stay where a
model stays that reads nothing. The diagnosis says why, and tries what it prescribes.
"""

from __future__ import annotations

import argparse
import sys
from pydoc_data.topics import topics

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gatewright as gw

Batch = tuple[Tensor, Tensor]


class Adder(nn.Module):
    """A GRU over ``[B, T, 2]`` and a readout of its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(2, 64, batch_first=True)
        self.head = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The sum, ``[B, 1]``."""
        y, _ = self.rnn(x)
        return self.head(y[:, -1])


class Writer(nn.Module):
    """Eight layers of LSTM from characters ``[B, T]`` to logits of the next ones."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, 64)
        self.rnn = nn.LSTM(64, 64, num_layers=8, batch_first=True)
        self.head = nn.Linear(64, characters)

    def forward(self, codes: Tensor) -> Tensor:
        """Logits ``[B, T, characters]``."""
        y, _ = self.rnn(self.embedding(codes))
        return self.head(y)


def adding_batches(count: int, steps: int = 400, rows: int = 32) -> list[Batch]:
    """Numbers from 0 to 1, two of them marked, one in each half; the target is their sum."""
    found = []
    for _ in range(count):
        values, marks = torch.rand(rows, steps), torch.zeros(rows, steps)
        half = steps // 2
        for first in (0, half):
            marks[torch.arange(rows), torch.randint(first, first + half, (rows,))] = 1
        found.append((torch.stack([values, marks], -1), (values * marks).sum(1, keepdim=True)))
    return found


def text_batches(count: int, steps: int = 64, rows: int = 32) -> tuple[list[Batch], int]:
    """Stretches of the help topics, and how many characters there are."""
    text = "".join(topics[name] for name in sorted(topics))
    alphabet = sorted(set(text))
    codes = torch.tensor([alphabet.index(c) for c in text])
    found = []
    for _ in range(count):
        starts = torch.randint(len(codes) - steps - 1, (rows, 1))
        stretch = codes[starts + torch.arange(steps + 1)]
        found.append((stretch[:, :-1], stretch[:, 1:]))
    return found, len(alphabet)


def main() -> None:
    """Diagnose one of the two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", nargs="?", choices=("adding", "text"), default="adding")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--page", default="")
    given = parser.parse_args()
    torch.manual_seed(0)
    model: nn.Module
    if given.which == "adding":
        model, batches, rate = Adder(), adding_batches(40), 1e-3

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            return F.mse_loss(model(batch[0]), batch[1])

    else:
        batches, characters = text_batches(40)
        model, rate = Writer(characters), 3e-3

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())

    found = gw.diagnose(
        model,
        batches,
        loss,
        learning_rate=rate,
        gradient_clip=1.0,
        trials=given.minutes > 0,
        minutes=max(given.minutes, 0.1),
        progress=lambda text, share: print(f"{share:4.0%} {text}", file=sys.stderr),
    )
    print(found)
    if given.page:
        found.save(given.page)


if __name__ == "__main__":
    main()
