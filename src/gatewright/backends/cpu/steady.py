"""One time step again and again, with all memory made and all weights packed beforehand.

What a call of a layer does around its kernel takes longer than a small step itself. Here it is done once:
only the address of the input changes from step to step, and the states are overwritten where they lie.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from gatewright.backends.call import Call
from gatewright.backends.cpu import launch, memory
from gatewright.backends.cpu.arguments import set_sequence, set_weights
from gatewright.backends.cpu.passes import readable
from gatewright.backends.sequence import operands_of


class Steady:
    """The step of one layer in one direction.

    Args:
        call: of one step, which the CPU backend does not refuse.
        short: whether weights are kept as bfloat16.

    Attributes:
        words: the arguments of the kernel.
        x: which of them is the address of the input, ``[B, I]``.
        y: the output, ``[1, B, H]``, overwritten by each step.
        states: overwritten by each step.
        enter: the kernel, called with ``address`` and 0.
        address: of the arguments.
    """

    def __init__(self, call: Call, short: bool = False) -> None:
        given, graph, dtype = operands_of(call), call.cell.graph, call.x.dtype
        key = graph, dtype, given.sizes(graph), 1, False
        # maps are packed; vector weights are read where they lie, and must not change under the steps
        given = given._replace(vectors=tuple(vector.clone() for vector in given.vectors))
        self._operands = operands = readable(given)
        prepared = launch.forward(*key)
        place, sizes = prepared.place, prepared.sizes()
        self.states = tuple(state.clone() for state in operands.states)
        output = graph.state_index(graph.output)
        self.y = torch.empty(1, *self.states[output].shape, dtype=dtype)
        # it has zeros that the kernel reads
        self._prepared = prepared
        self.words, self._space = prepared.words(), memory.Lease(prepared.size)
        prepared.lay_out(self.words, self._space.address)
        set_weights(self.words, place, operands)
        set_sequence(self.words, place, "x", operands.x, False)
        set_sequence(self.words, place, "y", self.y, False)
        for number, state in enumerate(self.states):
            # read before it is written
            self.words[place[f"first_{number}"]] = self.words[place[f"final_{number}"]] = state.data_ptr()
        self.x, self._ready = place["x"], place["ready"]
        self._pack, self.address = prepared.library(), self.words.buffer_info()[0]
        self._library = launch.forward(*key, short=True).library() if short else self._pack
        self.enter = self._library.run
        packed = {place[name]: size for name, size in sizes.items() if name.startswith("packed_")}
        self._packed = {p: self.words[p] for p in packed} if short else {}
        self._short = {p: torch.empty(packed[p] // 4, dtype=torch.bfloat16) for p in self._packed}
        self.refresh()

    def refresh(self) -> None:
        """Pack the weights anew, which may have changed where they lie."""
        kept = [state.clone() for state in self.states]
        self.words[self._ready] = 0
        self.words[self.x] = self._operands.x.data_ptr()
        for place, address in self._packed.items():
            self.words[place] = address
        # a step of no use, for what is packed in front of it
        self._pack.run(self.address, 0)
        self.words[self._ready] = 1
        for place, short in self._short.items():
            short.copy_(_floats(self._packed[place], len(short)))
            self.words[place] = short.data_ptr()
        for state, value in zip(self.states, kept, strict=True):
            state.copy_(value)


def _floats(address: int, count: int) -> Tensor:
    """What lies at an address, as a tensor."""
    return torch.frombuffer((ctypes.c_float * count).from_address(address), dtype=torch.float32)
