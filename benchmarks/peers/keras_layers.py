"""Keras on TensorFlow: its layers in a ``tf.function``, compiled by XLA or not, whichever is faster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from benchmarks.cases import CELLS, MODES, Problem
from benchmarks.peers.peer import Peer, Prepared, quickest, reordered
from torch import Tensor

ORDERS = {"gru": (1, 0, 2), "gru_reset_before": (1, 0, 2), "lstm": (0, 1, 2, 3)}
"""Keras's order of the maps' rows in terms of torch's; each is its own inverse."""


class KerasPeer(Peer):
    """``keras.layers.GRU`` in both forms and ``LSTM``, batch first as Keras has it."""

    name = package = module = "keras"
    offers = {mode: tuple(ORDERS) for mode in MODES}  # noqa: RUF012 - never changed

    def version(self) -> str:
        """Of Keras and of TensorFlow."""
        for package in ("tensorflow", "tensorflow-cpu"):
            with suppress(metadata.PackageNotFoundError):
                return f"{super().version()} on TensorFlow {metadata.version(package)}"
        return super().version()

    def absence(self) -> str:
        """Keras needs TensorFlow."""
        missing = super().absence()
        return missing or ("" if find_spec("tensorflow") else "tensorflow is not installed")

    def prepare(self, problem: Problem, threads: int) -> Prepared:
        """Build the layer, load the weights, trace both variants and keep the faster one."""
        tf = _tensorflow(threads)
        layer = _layer(problem)
        x = tf.constant(problem.x.transpose(0, 1).contiguous().numpy())
        dy = tf.constant(problem.dy.transpose(0, 1).contiguous().numpy())
        variants = {}
        for settings, jit in (("tf.function", False), ("tf.function, XLA", True)):
            run = _runner(tf, layer, problem.case.mode, x, dy, jit)
            variants[settings] = Prepared(run, lambda result: _named(result, problem))
        return quickest(variants)

    def clean(self) -> None:
        """Drop the traced functions."""
        import keras

        keras.utils.clear_session()


def _tensorflow(threads: int) -> Any:
    """TensorFlow with so many threads; they can be set only before its first operation."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    with _silence():
        import tensorflow as tf

    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


@contextmanager
def _silence() -> Iterator[None]:
    """Keep off the terminal what TensorFlow writes while it is loaded, past every setting of its log."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _layer(problem: Problem) -> Any:
    """Keras's layer with the problem's weights."""
    import keras

    H, cell = problem.case.size.H, problem.case.cell
    options: dict[str, Any] = {"return_sequences": True, "return_state": True}
    if cell == "lstm":
        layer: Any = keras.layers.LSTM(H, **options)
    else:
        layer = keras.layers.GRU(H, reset_after=cell == "gru", **options)
    layer.build((problem.case.size.B, problem.case.size.T, H))
    ordered = {name: reordered(tensor, ORDERS[cell]) for name, tensor in problem.weights.items()}
    biases = (ordered["bias_ih"], ordered["bias_hh"])
    bias = torch.stack(biases) if cell == "gru" else biases[0] + biases[1]
    layer.set_weights([ordered["weight_ih"].T.numpy(), ordered["weight_hh"].T.numpy(), bias.numpy()])
    return layer


def _runner(tf: Any, layer: Any, mode: str, x: Any, dy: Any, jit: bool) -> Callable[[], Any]:
    if mode == "inference":

        @tf.function(jit_compile=jit)
        def infer(x: Any) -> Any:
            return layer(x, training=False)

        return lambda: infer(x)

    @tf.function(jit_compile=jit)
    def train(x: Any, dy: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, *final = layer(x, training=True)
        weights = [weight.value for weight in layer.trainable_weights]
        return y, *final, tape.gradient(y, [x, *weights], output_gradients=dy)

    return lambda: train(x, dy)


def _named(result: Any, problem: Problem) -> dict[str, Tensor]:
    """Results in torch's layout."""
    cell, training = problem.case.cell, problem.case.mode == "training"
    gradients = result[-1] if training else ()
    y, *final = result[:-1] if training else result
    named = {"y": _tensor(y).transpose(0, 1)}
    named |= {name: _tensor(value) for name, value in zip(CELLS[cell].cell.graph.states, final, strict=True)}
    if training:
        dx, kernel, recurrent_kernel, bias = map(_tensor, gradients)
        # where Keras has one bias, its gradient is that of each of torch's two
        biases = bias.unbind() if bias.dim() == 2 else (bias, bias)
        rows = {"weight_ih": kernel.T, "weight_hh": recurrent_kernel.T}
        rows |= dict(zip(("bias_ih", "bias_hh"), biases, strict=True))
        named["dx"] = dx.transpose(0, 1)
        named |= {f"d{name}": reordered(tensor, ORDERS[cell]) for name, tensor in rows.items()}
    return named


def _tensor(value: Any) -> Tensor:
    return torch.from_numpy(np.array(value))
