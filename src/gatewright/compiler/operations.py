"""The operations of the cell language: one row each, for tensors, for printing and for the graph.

To add an operation, add its row here and its function in ``language``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LAYER_NORM_EPSILON = 1e-5

SOFTPLUS_THRESHOLD = 20.0
"""Above it torch's softplus is the identity."""


def _layer_norm(v: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(v, v.shape[-1:], eps=LAYER_NORM_EPSILON) * gain + bias


def _mean(v: Tensor) -> Tensor:
    return v.mean(-1, keepdim=True).expand_as(v)


@dataclass(frozen=True)
class Operation:
    """What the language knows of one operation.

    Attributes:
        arity: number of operands.
        compute: the operation on tensors.
        infix: its sign when it is written between its operands, else empty.
        precedence: how tightly the sign binds; a larger number binds tighter.
        commutative: whether the operands may be exchanged.
        logical: whether the result is true or false, usable only as the first operand of ``where``.
        internal: whether no cell can say it: it is only made by lowering.
    """

    arity: int
    compute: Callable[..., Tensor]
    infix: str = ""
    precedence: int = 100
    commutative: bool = False
    logical: bool = False
    internal: bool = False


OPERATIONS: dict[str, Operation] = {
    "add": Operation(2, torch.add, "+", 20, commutative=True),
    "subtract": Operation(2, torch.sub, "-", 20),
    "multiply": Operation(2, torch.mul, "*", 30, commutative=True),
    "divide": Operation(2, torch.true_divide, "/", 30),
    "negate": Operation(1, torch.neg, "-", 40),
    "power": Operation(2, torch.pow, "**", 50),
    "less": Operation(2, torch.lt, "<", 10, logical=True),
    "less_equal": Operation(2, torch.le, "<=", 10, logical=True),
    "equal": Operation(2, torch.eq, "==", 10, commutative=True, logical=True),
    "not_equal": Operation(2, torch.ne, "!=", 10, commutative=True, logical=True),
    "where": Operation(3, torch.where),
    "sigmoid": Operation(1, torch.sigmoid),
    "tanh": Operation(1, torch.tanh),
    "relu": Operation(1, torch.relu),
    "exp": Operation(1, torch.exp),
    "log": Operation(1, torch.log),
    "log1p": Operation(1, torch.log1p),
    "softplus": Operation(1, F.softplus),
    "sqrt": Operation(1, torch.sqrt),
    "abs": Operation(1, torch.abs),
    "maximum": Operation(2, torch.maximum, commutative=True),
    "minimum": Operation(2, torch.minimum, commutative=True),
    "sin": Operation(1, torch.sin),
    "cos": Operation(1, torch.cos),
    "layer_norm": Operation(3, _layer_norm),
    "mean": Operation(1, _mean, internal=True),
}
"""Every operation by name. At a tie ``maximum`` and ``minimum`` split the gradient evenly, as torch does."""

FUNCTIONS = tuple(name for name, row in OPERATIONS.items() if not (row.infix or row.internal))
"""Names of the operations that are written as functions."""
