"""The forward and the backward pass of a call on the GPU kernels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from gatewright.backends.call import Call
from gatewright.backends.gpu import engine
from gatewright.backends.gpu.backward import backward_source
from gatewright.backends.gpu.blocks import Blocks
from gatewright.backends.gpu.forward import forward_source
from gatewright.backends.gpu.gradients import Adjoints
from gatewright.backends.gpu.kernel import Format
from gatewright.backends.gpu.room import Room, blocks_of
from gatewright.backends.gpu.scan import backward_scan, forward_scan
from gatewright.backends.sequence import Operands, Pass, operands_of, records_gradient
from gatewright.compiler.graph import Graph
from gatewright.compiler.schedule import Schedule, schedule

ELEMENTS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
"""The dtypes the backend computes in, as Triton names them."""


def _format(dtype: torch.dtype) -> Format:
    # the interpreter takes bfloat16 for whole numbers in a product
    operand = "float32" if engine.interpreted() and dtype is torch.bfloat16 else ELEMENTS[dtype]
    return Format(ELEMENTS[dtype], operand, "tf32" if dtype is torch.float32 and _allows_tf32() else "ieee")


def _allows_tf32() -> bool:
    """Whether products of float32 may be rounded; once the newer setting was used, the older one raises."""
    matmul = torch.backends.cuda.matmul
    newer = getattr(matmul, "fp32_precision", None)
    return bool(matmul.allow_tf32) if newer in (None, "none") else newer == "tf32"


def describe(call: Call) -> tuple[str, ...]:
    """How a call runs, in words."""
    operands = operands_of(call)
    plan, blocks = schedule(call.cell.graph), blocks_of(call.cell.graph, operands)
    _, batch, _, hidden, _, _ = operands.sizes(call.cell.graph)
    device = engine.device_of(operands.x.device)
    rows, columns = blocks.programs(batch, hidden)
    how = {
        "scan": f"{blocks.rows} steps at once, by an associative scan",
        "elements": "no recurrent products: every program runs through the sequence on its own",
        "resident": "weights stay in each program, which runs through the sequence on its own",
        "columns": "weights stay, columns are shared out, programs wait for each other behind a stage",
        "launches": f"weights stay nowhere: {len(plan.forward)} launch(es) a step, captured as a CUDA graph",
    }[blocks.regime]
    if blocks.heads > 1:
        how = f"{blocks.heads} heads at once: {how}"
    return (
        f"{device.name}, {ELEMENTS[call.x.dtype]}, sums in float32",
        how,
        f"programs: {rows} x {columns} over batch and columns, {blocks.rows} x {blocks.columns} each",
        f"{plan.kind} cell, {len(plan.forward)} stage(s)",
    )


def takes_heads(call: Call) -> bool:
    """Whether all heads of a call run at once: the weights of each stay in a program, with room to spare."""
    operands, graph = operands_of(call), call.cell.graph
    # a mean of vector weights is one over the part of a head, and leaves the loop before there are heads
    if any(node.operation == "mean" for node in schedule(graph).lowered.hoisted):
        return False
    return all(blocks_of(graph, operands, kind, 2).regime == "resident" for kind in ("forward", "backward"))


def kernel_source(call: Call) -> str:
    """The source of the forward kernels and, where gradients are recorded, of the backward kernels."""
    operands, graph = operands_of(call), call.cell.graph
    plan, blocks = schedule(graph), blocks_of(graph, operands)
    format_, training = _format(call.x.dtype), records_gradient(operands)
    texts = [_forward_text(plan, blocks, format_, call.reverse, training)]
    if training:
        blocks = blocks_of(graph, operands, "backward")
        by_steps = range(len(graph.states)) if call.every else [graph.state_index(graph.output)]
        texts.append(_backward_text(plan, blocks, format_, call.reverse, tuple(by_steps)))
    return "\n\n".join(texts)


@lru_cache(maxsize=1024)
def _forward_text(plan: Schedule, blocks: Blocks, format_: Format, reverse: bool, training: bool) -> str:
    if blocks.regime == "scan":
        return forward_scan(plan, blocks, reverse, training)
    return forward_source(plan, blocks, format_, reverse, training)


@lru_cache(maxsize=1024)
def _backward_text(
    plan: Schedule, blocks: Blocks, format_: Format, reverse: bool, by_steps: tuple[int, ...]
) -> str:
    if blocks.regime == "scan":
        return backward_scan(plan, blocks, reverse, by_steps)
    return backward_source(plan, blocks, format_, reverse, by_steps)


def output(graph: Graph, operands: Operands) -> Tensor:
    """An uninitialised output ``[T, B, H]``."""
    steps, batch, _, _, width, _ = operands.sizes(graph)
    return operands.x.new_empty(steps, batch, width)


def kept(graph: Graph, operands: Operands) -> tuple[Tensor, ...]:
    """Uninitialised, what a forward pass keeps: saved nodes, and the states that are no output in float32."""
    steps, batch, _, hidden, _, _ = operands.sizes(graph)
    dtypes = [operands.x.dtype] * len(schedule(graph).saved) + [torch.float32] * (len(graph.states) - 1)
    return tuple(operands.x.new_empty(steps, batch, hidden, dtype=dtype) for dtype in dtypes)


def forward_pass(
    graph: Graph,
    reverse: bool,
    operands: Operands,
    *,
    training: bool,
    every: bool = False,
    y: Tensor | None = None,
) -> Pass:
    """Run the input product and the forward kernels."""
    plan, x = schedule(graph), operands.x
    steps, batch = x.shape[:2]
    y = output(graph, operands) if y is None else y
    states = range(len(graph.states))
    # what is kept for a gradient holds the states of every step
    training = training or every
    stored = kept(graph, operands) if training else ()
    others = [i for i in states if i != graph.state_index(graph.output)] if every else []
    if 0 in (steps, batch):
        values = tuple(x.new_empty(steps, *operands.states[i].shape) for i in others)
        return Pass(y, tuple(state.clone() for state in operands.states), stored, values)
    room = Room(graph, operands)
    room.keep(plan, stored)
    weight_ih, weight_hh, bias_ih, bias_hh, _ = operands.weights
    # products of a pass are of its dtype, whatever a caller's autocast says
    with torch.autocast(x.device.type, enabled=False):
        maps = F.linear(x, weight_ih, bias_ih).contiguous()
    room.given |= {f"vector_{i}": tensor.contiguous() for i, tensor in enumerate(operands.vectors)}
    room.given |= {f"mask_{i}": tensor.contiguous() for i, tensor in enumerate(operands.masks)}
    room.given |= {
        "maps": maps,
        "w_hh": None if weight_hh is None else weight_hh.contiguous(),
        "b_hh": room.bias(weight_hh, bias_hh),
        "y": y,
    }
    for i, state in enumerate(operands.states):
        room.given[f"first_{i}"] = state.float().contiguous()
        room.turns |= {f"rows_{i}": (x.dtype, state), f"turn_{i}": (torch.float32, state)}
    room.steps |= {f"argument_{i}": x.dtype for i in range(len(plan.groups))}
    format_ = _format(x.dtype)
    room.run("forward", lambda blocks: _forward_text(plan, blocks, format_, reverse, training))
    final = tuple(room.given[f"final_{i}"].to(x.dtype) for i in states)
    values = tuple(stored[len(plan.saved) + place].to(x.dtype) for place in range(len(others)))
    return Pass(y, final, stored, values)


def backward_pass(
    graph: Graph,
    reverse: bool,
    operands: Operands,
    found: Pass,
    gradients: Sequence[Tensor | None],
    need_dx: bool,
    every: bool = False,
) -> Operands:
    """Run the backward kernels, and behind them the products of the whole sequence."""
    plan, x = schedule(graph), operands.x
    steps, batch, _, hidden, _, _ = operands.sizes(graph)
    out = graph.state_index(graph.output)
    dfinal = [None] * len(graph.states) if every else gradients[1:]
    others = [i for i in range(len(graph.states)) if i != out] if every else []
    by_steps = {i: d for i, d in zip((out, *others), gradients, strict=False) if d is not None}
    room = Room(graph, operands)
    zero_state = torch.zeros(batch, hidden, dtype=torch.float32, device=x.device)
    carry = [zero_state.clone() if d is None else zero_state + d for d in dfinal]
    weight_ih, weight_hh, bias_ih, bias_hh, weight_hr = operands.weights
    if 0 in (steps, batch):
        zero = [None if t is None else torch.zeros_like(t) for t in (x, *operands.weights, *operands.vectors)]
        first = [c.to(x.dtype) for c in carry]
        return Operands.of([*zero, *first], len(operands.vectors), 0)
    history = room.keep(plan, found.kept)
    adjoints = x.new_empty(steps, batch, len(plan.segments), hidden)
    room.given |= {f"vector_{i}": tensor.contiguous() for i, tensor in enumerate(operands.vectors)}
    room.given |= {f"mask_{i}": tensor.contiguous() for i, tensor in enumerate(operands.masks)}
    room.given |= {f"first_{i}": state.contiguous() for i, state in enumerate(operands.states)}
    room.given |= {f"carry_{i}": tensor for i, tensor in enumerate(carry)}
    weight_hh = None if weight_hh is None else weight_hh.contiguous()
    room.given |= {
        "w_hh": weight_hh,
        "y": found.y.contiguous(),
        "adjoints": adjoints,
    }
    room.given |= {f"dy_{i}": gradient.contiguous() for i, gradient in by_steps.items()}
    format_, given = _format(x.dtype), tuple(sorted(by_steps))
    room.run("backward", lambda blocks: _backward_text(plan, blocks, format_, reverse, given))
    done = Adjoints(plan, adjoints, reverse)
    values = {i: history[i].to(x.dtype) if i in history else found.y for i in range(len(graph.states))}
    old = [(values[i], operands.states[i]) for i in range(len(graph.states))]
    dweights = (
        done.of_input_weights(x),
        None if weight_hh is None else done.of_recurrent_weights(weight_hh, old),
        None if bias_ih is None else done.of_input_bias(),
        None if bias_hh is None else done.of_recurrent_bias(),
        weight_hr,
    )
    dfirst = tuple(done.of_first_state(i, c, weight_hh) for i, c in enumerate(carry))
    dx = done.of_input(weight_ih.contiguous()) if need_dx else x.new_empty(0)
    return Operands(dx, dweights, tuple(done.of_vectors()), dfirst)
