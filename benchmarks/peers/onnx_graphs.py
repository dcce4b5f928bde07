"""ONNX Runtime and OpenVINO: inference of the same graph, one GRU or LSTM operator with constant weights."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from benchmarks.cases import CELLS, Problem
from benchmarks.peers.peer import Peer, Prepared, reordered
from torch import Tensor

ORDERS = {"gru": (1, 0, 2), "gru_reset_before": (1, 0, 2), "lstm": (0, 3, 1, 2)}
"""ONNX's order of the maps' rows in terms of torch's."""

OFFERS = {"training": (), "inference": tuple(ORDERS)}


class OnnxRuntimePeer(Peer):
    """ONNX Runtime with its input and outputs bound to memory made beforehand."""

    name = package = module = "onnxruntime"
    offers = OFFERS

    def absence(self) -> str:
        """The graph is built with onnx."""
        return super().absence() or ("" if find_spec("onnx") else "onnx is not installed")

    def prepare(self, problem: Problem, threads: int) -> Prepared:
        """A session on the graph."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # its threads would go on spinning while the next rival is measured
        options.add_session_config_entry("session.force_spinning_stop", "1")
        graph = _graph(problem).SerializeToString()
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        binding, names = session.io_binding(), _names(problem)
        binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(problem.x.numpy()))
        outputs = {name: np.empty(shape, np.float32) for name, shape in names.items()}
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

        def run(_kept: Any = outputs) -> Any:
            # the session writes to these arrays, and does not keep them
            return session.run_with_iobinding(binding)

        return Prepared(
            run,
            lambda result: _named(outputs, problem),
            "outputs bound",
        )


class OpenVinoPeer(Peer):
    """OpenVINO, tuned for latency, in float32."""

    name = package = module = "openvino"
    offers = OFFERS

    def absence(self) -> str:
        """The graph is built with onnx."""
        return super().absence() or ("" if find_spec("onnx") else "onnx is not installed")

    def prepare(self, problem: Problem, threads: int) -> Prepared:
        """A compiled model and a request whose input is set."""
        # importing OpenVINO would send a message about it over the network, from a forked process
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino as ov

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        core = ov.Core()
        model = core.read_model(_graph(problem).SerializeToString())
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        request.set_input_tensor(ov.Tensor(problem.x.numpy(), shared_memory=True))
        names = list(_names(problem))

        def named(result: Any) -> dict[str, Tensor]:
            arrays = {name: request.get_tensor(name).data for name in names}
            return _named(arrays, problem)

        return Prepared(lambda: request.infer(share_outputs=True), named, "latency")


def _names(problem: Problem) -> dict[str, tuple[int, ...]]:
    """Outputs of the graph and their shapes."""
    size, states = problem.case.size, CELLS[problem.case.cell].cell.graph.states
    return {"y": (size.T, 1, size.B, size.H), **dict.fromkeys(states, (1, size.B, size.H))}


def _graph(problem: Problem) -> Any:
    """The operator as a model; the opset is one that both rivals know in every version."""
    from onnx import TensorProto, checker, helper, numpy_helper

    cell, H = problem.case.cell, problem.case.size.H
    ordered = {name: reordered(tensor, ORDERS[cell]) for name, tensor in problem.weights.items()}
    constants = {
        "W": ordered["weight_ih"],
        "R": ordered["weight_hh"],
        "B": torch.cat([ordered["bias_ih"], ordered["bias_hh"]]),
    }
    names = _names(problem)
    reset: dict[str, Any] = {} if cell == "lstm" else {"linear_before_reset": int(cell == "gru")}
    node = helper.make_node(
        "LSTM" if cell == "lstm" else "GRU", ["x", *constants], list(names), hidden_size=H, **reset
    )
    graph = helper.make_graph(
        [node],
        cell,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(problem.x.shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in names.items()],
        [numpy_helper.from_array(value.unsqueeze(0).numpy(), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    checker.check_model(model)
    return model


def _named(arrays: dict[str, np.ndarray], problem: Problem) -> dict[str, Tensor]:
    """Results in torch's layout."""
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    return {name: tensor.squeeze(1 if name == "y" else 0) for name, tensor in tensors.items()}
