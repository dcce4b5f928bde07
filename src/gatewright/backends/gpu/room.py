"""Memory and blocks of a pass: what the kernels are given, and what is made where they ask for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gatewright.backends import heads
from gatewright.backends.gpu import engine
from gatewright.backends.gpu.blocks import RESIDENT_SHARE, Blocks, choose_blocks
from gatewright.backends.sequence import Operands
from gatewright.compiler.graph import Graph
from gatewright.compiler.schedule import Schedule, schedule

_shares: dict[tuple[Any, ...], float] = {}
"""What share of the shared memory weights may fill, where the estimate was too large once."""


def _key(graph: Graph, operands: Operands, kind: str) -> tuple[Any, ...]:
    hidden = operands.sizes(graph)[3]
    return graph, hidden, heads_of(operands, hidden), operands.x.dtype, operands.x.device, kind


def blocks_of(graph: Graph, operands: Operands, kind: str = "forward", spare: int = 1) -> Blocks:
    """How a pass is laid over its device; ``spare`` divides what weights may fill."""
    steps, batch, _, hidden, _, _ = operands.sizes(graph)
    x, share = operands.x, _shares.get(_key(graph, operands, kind), RESIDENT_SHARE) / spare
    plan, size, device = schedule(graph), x.dtype.itemsize, engine.device_of(x.device)
    count = heads_of(operands, hidden)
    blocks = choose_blocks(plan, steps, batch, hidden // count, size, device, share)
    return replace(blocks, heads=count)


def heads_of(operands: Operands, hidden: int) -> int:
    """How often the columns of the recurrent weights go into the hidden units."""
    weight_hh = operands.weights[1]
    return 1 if weight_hh is None else heads.fit(hidden, weight_hh.shape[1])


class Room:
    """The memory of a pass: what is given by name, and what is made where a kernel asks for it.

    Args:
        graph: of the cell.
        operands: of the call.

    Attributes:
        given: tensors by the name that the kernels have for them.
        steps: dtypes of what is ``[B, H]`` and no float32.
        turns: dtype and first value of what is there for two steps in turn.
    """

    def __init__(self, graph: Graph, operands: Operands) -> None:
        self._graph, self._operands = graph, operands
        steps, batch, _, hidden, _, _ = operands.sizes(graph)
        self._sizes = steps, batch, hidden
        self.given: dict[str, Any] = {}
        self.steps: dict[str, torch.dtype] = {}
        self.turns: dict[str, tuple[torch.dtype, Tensor]] = {}

    def keep(self, plan: Schedule, stored: Sequence[Tensor]) -> dict[int, Tensor]:
        """Give what is kept for the gradient; returns the states that are no output, by their place."""
        out = plan.graph.state_index(plan.graph.output)
        saved, states = stored[: len(plan.saved)], stored[len(plan.saved) :]
        others = (i for i in range(len(plan.graph.states)) if i != out)
        history = dict(zip(others, states, strict=False))
        self.given |= {f"saved_{i}": tensor for i, tensor in enumerate(saved)}
        self.given |= {f"history_{i}": tensor for i, tensor in history.items()}
        return history

    def bias(self, weight: Tensor | None, bias: Tensor | None) -> Tensor | None:
        """A bias, zero where there is none."""
        if bias is None:
            return None if weight is None else self._operands.x.new_zeros(len(weight))
        return bias.contiguous()

    def run(self, kind: str, write: Callable[[Blocks], str]) -> None:
        """Run the kernels of a pass over all steps; smaller ones where they are too large for the device.

        Args:
            kind: of the pass, for what is remembered of sizes that did not fit.
            write: the source for some blocks.
        """
        while True:
            blocks = blocks_of(self._graph, self._operands, kind)
            try:
                with engine.on_device(self._operands.x.device):
                    self._run(write(blocks), blocks)
            except engine.too_large():
                if blocks.regime == "launches" or blocks.heads > 1 or not self._graph.recurrent_maps:
                    raise
                key = _key(self._graph, self._operands, kind)
                _shares[key] = _shares.get(key, RESIDENT_SHARE) / 2
            else:
                return

    def _run(self, text: str, blocks: Blocks) -> None:
        steps, batch, hidden = self._sizes
        programs = blocks.programs(batch, hidden)
        kernels = list(engine.functions(text).values())
        given: dict[str, Any] = self.given | {"T": steps, "B": batch, "H": hidden}
        for kernel in kernels:
            for name in kernel.arg_names:
                if name not in given and name != "step":
                    given[name] = self._made(name, programs[0])
        if blocks.regime != "launches":
            engine.launch(kernels[0], programs, given, blocks.warps, together=blocks.regime == "columns")
        else:

            def launches() -> None:
                for step in range(steps):
                    for kernel in kernels:
                        engine.launch(kernel, programs, given | {"step": step}, blocks.warps)

            read = {name for kernel in kernels for name in kernel.arg_names} & given.keys()
            places = tuple(given[name].data_ptr() for name in sorted(read - {"T", "B", "H"}))
            engine.repeated((text, self._operands.x.device, self._sizes, places), kernels, launches)
        self.given = given

    def _made(self, name: str, groups: int) -> Tensor:
        _, batch, hidden = self._sizes
        device = self._operands.x.device
        if name == "counters":
            return torch.zeros(groups, dtype=torch.int32, device=device)
        if name in self.turns:
            dtype, first = self.turns[name]
            made = torch.empty(2, batch, hidden, dtype=dtype, device=device)
            made[1] = first
            return made
        return torch.empty(batch, hidden, dtype=self.steps.get(name, torch.float32), device=device)
