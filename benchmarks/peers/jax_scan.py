"""JAX: the equations as a jitted ``lax.scan``, as its users write them, the input product before the loop."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from benchmarks.cases import CELLS, MODES, Problem
from benchmarks.peers.peer import Peer, Prepared, quickest
from torch import Tensor

GROUPS = {"gru": (3,), "lstm": (4,), "gru_reset_before": (2, 1), "mgu": (1, 1), "min_gru": ()}
"""How many recurrent maps share a product, for each product of a cell."""

Parameters = dict[str, Any]


class JaxPeer(Peer):
    """A scan, unrolled or not, whichever is faster; minGRU also as an associative scan.

    Args:
        dtype: of all numbers, as JAX names it.
    """

    name = package = module = "jax"
    offers = {mode: tuple(GROUPS) for mode in MODES}  # noqa: RUF012 - never changed

    def __init__(self, dtype: str = "float32") -> None:
        self._dtype = dtype

    def prepare(self, problem: Problem, threads: int) -> Prepared:
        """Compile every variant and keep the fastest."""
        os.environ.setdefault("NPROC", str(threads))  # the size of XLA's thread pool
        import jax

        case = problem.case
        parameters = _parameters(problem, self._dtype)
        x, dy = (jax.numpy.asarray(tensor.numpy(), self._dtype) for tensor in (problem.x, problem.dy))
        forwards: dict[str, Callable[..., Any]] = {
            f"scan, unroll={unroll}": _scan(case.cell, unroll) for unroll in (1, 4)
        }
        if case.cell == "min_gru":
            forwards["associative scan"] = _associative_scan()
        make = _inference if case.mode == "inference" else _training
        variants = {}
        for settings, forward in forwards.items():
            run = make(forward, parameters, x, dy)
            variants[settings] = Prepared(run, lambda result: _named(result, problem))
        return quickest(variants)

    def clean(self) -> None:
        """Drop the compiled functions."""
        import jax

        jax.clear_caches()


def _parameters(problem: Problem, dtype: str) -> Parameters:
    """Weights as JAX's users hold them, ``[in, out]``, one array a product."""
    import jax.numpy as jnp

    H, weights = problem.case.size.H, problem.weights
    parameters: Parameters = {"w": weights["weight_ih"].T, "b": weights["bias_ih"], "u": [], "c": []}
    groups = [maps * H for maps in GROUPS[problem.case.cell]]
    if groups:
        parameters["u"] = [part.T for part in weights["weight_hh"].split(groups)]
        parameters["c"] = list(weights["bias_hh"].split(groups))

    def convert(value: Any) -> Any:
        if isinstance(value, list):
            return [convert(item) for item in value]
        return jnp.array(value.contiguous().numpy(), dtype)

    return {name: convert(value) for name, value in parameters.items()}


def _scan(cell: str, unroll: int) -> Callable[..., Any]:
    """From parameters and input to outputs and final states."""
    import jax
    import jax.numpy as jnp

    step = _steps()[cell]

    def forward(parameters: Parameters, x: Any) -> Any:
        maps = x @ parameters["w"] + parameters["b"]
        products = list(zip(parameters["u"], parameters["c"], strict=True))

        def product(group: int, value: Any) -> Any:
            u, c = products[group]
            return value @ u + c

        def body(states: Any, gx: Any) -> Any:
            states = step(gx, product, states)
            return states, states[0]

        zeros = jnp.zeros(x.shape[1:], x.dtype)
        final, y = jax.lax.scan(body, (zeros,) * len(CELLS[cell].cell.graph.states), maps, unroll=unroll)
        return y, final

    return forward


def _steps() -> dict[str, Callable[..., Any]]:
    """One step of each cell: input maps side by side, products by group, states."""
    import jax
    import jax.numpy as jnp

    sigmoid, tanh = jax.nn.sigmoid, jnp.tanh

    def gru(gx: Any, product: Any, states: Any) -> Any:
        (h,) = states
        (xr, xz, xn), (ur, uz, un) = jnp.split(gx, 3, -1), jnp.split(product(0, h), 3, -1)
        z = sigmoid(xz + uz)
        return ((1 - z) * tanh(xn + sigmoid(xr + ur) * un) + z * h,)

    def gru_reset_before(gx: Any, product: Any, states: Any) -> Any:
        (h,) = states
        H = h.shape[-1]
        r, z = jnp.split(sigmoid(gx[..., : 2 * H] + product(0, h)), 2, -1)
        return ((1 - z) * tanh(gx[..., 2 * H :] + product(1, r * h)) + z * h,)

    def lstm(gx: Any, product: Any, states: Any) -> Any:
        h, c = states
        i, f, g, o = jnp.split(gx + product(0, h), 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c

    def mgu(gx: Any, product: Any, states: Any) -> Any:
        (h,) = states
        xf, xn = jnp.split(gx, 2, -1)
        f = sigmoid(xf + product(0, h))
        return ((1 - f) * h + f * tanh(xn + product(1, f * h)),)

    def min_gru(gx: Any, product: Any, states: Any) -> Any:
        (h,) = states
        z, n = jnp.split(gx, 2, -1)
        z = sigmoid(z)
        return ((1 - z) * h + z * n,)

    return {f.__name__: f for f in (gru, gru_reset_before, lstm, mgu, min_gru)}


def _associative_scan() -> Callable[..., Any]:
    """minGRU, parallel in time."""
    import jax
    import jax.numpy as jnp

    def compose(earlier: Any, later: Any) -> Any:
        (a, b), (c, d) = earlier, later
        return a * c, b * c + d

    def forward(parameters: Parameters, x: Any) -> Any:
        z, n = jnp.split(x @ parameters["w"] + parameters["b"], 2, -1)
        z = jax.nn.sigmoid(z)
        _, y = jax.lax.associative_scan(compose, (1 - z, z * n))
        return y, (y[-1],)

    return forward


def _inference(forward: Callable[..., Any], parameters: Parameters, x: Any, dy: Any) -> Callable[[], Any]:
    import jax

    compiled = jax.jit(forward)
    return lambda: jax.block_until_ready(compiled(parameters, x))


def _training(forward: Callable[..., Any], parameters: Parameters, x: Any, dy: Any) -> Callable[[], Any]:
    import jax

    @jax.jit
    def compiled(parameters: Parameters, x: Any, dy: Any) -> Any:
        y, backward, final = jax.vjp(forward, parameters, x, has_aux=True)
        return y, final, backward(dy)

    return lambda: jax.block_until_ready(compiled(parameters, x, dy))


def _named(result: Any, problem: Problem) -> dict[str, Tensor]:
    """Results in torch's layout."""
    y, final, *gradients = result
    states = CELLS[problem.case.cell].cell.graph.states
    named = {"y": y, **dict(zip(states, final, strict=True))}
    if gradients:
        parameters, dx = gradients[0]
        named |= {"dx": dx, "dweight_ih": parameters["w"].T, "dbias_ih": parameters["b"]}
        if parameters["u"]:
            named["dweight_hh"] = np.concatenate([np.asarray(u).T for u in parameters["u"]])
            named["dbias_hh"] = np.concatenate([np.asarray(c) for c in parameters["c"]])
    return {name: torch.from_numpy(np.array(value, dtype=np.float32)) for name, value in named.items()}
