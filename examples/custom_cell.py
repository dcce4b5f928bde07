"""A cell of one's own in ten lines: its graph, a stacked layer of it, and what a mistake looks like.

python examples/custom_cell.py
"""

from __future__ import annotations

import torch

import gatewright as gw
from gatewright import sigmoid, tanh


@gw.cell(source="Zhou et al. 2016, arXiv:1603.09420")
def mgu(x, U, h):
    """Minimal gated unit: one gate both forgets and resets."""
    f = sigmoid(x.f + U.f(h))
    n = tanh(x.n + U.n(f * h))
    return (1 - f) * h + f * n


def mistake() -> str:
    """The error of a cell that asks for the truth of a value that is not known yet."""
    try:

        @gw.cell
        def leaky(x, U, h):
            v = x.v + U.v(h)
            return v if v > 0 else 0.1 * v
    except gw.CellError as error:
        return str(error)
    raise AssertionError("the cell should have been refused")


def main() -> tuple[float, float]:
    """Print what the cell is, train a layer of it for a few steps, and show a mistake.

    Returns:
        The loss before and after training.
    """
    torch.manual_seed(0)
    print(mgu.graph)
    layer = gw.Recurrent(mgu, 3, 8, num_layers=2, bidirectional=True)
    x = torch.randn(20, 4, 3)
    print(f"\n{layer}\n{gw.explain(layer, x)}")
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        y, _ = layer(x)
        # the running mean of the input, which needs memory of all steps so far
        target = x.mean(-1).cumsum(0) / torch.arange(1, 21).unsqueeze(1)
        loss = (y.mean(-1) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"\nloss {losses[0]:.4f} → {losses[-1]:.4f} in {len(losses)} steps\n")
    print(mistake())
    return losses[0], losses[-1]


if __name__ == "__main__":
    main()
