"""The kernels where torch traces: registered operators, and layers under torch.compile."""

import pytest
import torch
from benchmarks.parity import relative_error

import gatewright as gw
from gatewright import exp, sigmoid, tanh
from gatewright.backends import operator as operator  # registers the operators
from gatewright.compiler.graph import Graph


@gw.cell
def peephole(x, U, w, h, c):
    i = sigmoid(x.i + U.i(h) + exp(w.i) * c)
    c = (1 - i) * c + i * tanh(x.g + U.g(h))
    return tanh(c), c


CELLS = ("gru", "lstm", "gru_reset_before", peephole)


def outputs_and_gradients(layer, x):
    y, final = layer(x)
    states = final if isinstance(final, tuple) else (final,)
    torch.manual_seed(1)
    loss = torch.stack([(value * torch.randn_like(value)).sum() for value in (y, *states)]).sum()
    return [y, *states, *torch.autograd.grad(loss, [x, *layer.parameters()])]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_compiled_layer_is_one_graph_and_gives_the_same(cell):
    layer = gw.Recurrent(cell, 3, 5, 2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    expected = outputs_and_gradients(layer, x)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y, final = compiled(x)
    states = final if isinstance(final, tuple) else (final,)
    torch.manual_seed(1)
    loss = torch.stack([(value * torch.randn_like(value)).sum() for value in (y, *states)]).sum()
    found = [y, *states, *torch.autograd.grad(loss, [x, *layer.parameters()])]
    for actual, reference in zip(found, expected, strict=True):
        assert torch.equal(actual, reference)


@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
def test_a_compiled_layer_takes_other_lengths_and_batches():
    layer = gw.GRU(3, 5)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for steps, batch in ((4, 2), (7, 3), (2, 9)):
        x = torch.randn(steps, batch, 3)
        assert torch.equal(compiled(x)[0], layer(x)[0])


@pytest.mark.parametrize(("backend", "dtype"), [("cpu", torch.float64), ("gpu", torch.float32)], ids=str)
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_the_operator_keeps_torchs_rules(cell, backend, dtype):
    if backend == "gpu":
        pytest.importorskip("triton", reason="the GPU backend is compiled by triton")
    chosen = gw.CATALOGUE[cell] if isinstance(cell, str) else cell
    graph, hidden, inputs = chosen.graph, 5, 3

    def random(*shape):
        return torch.randn(*shape, dtype=dtype, requires_grad=True)

    arguments = (
        random(4, 2, inputs), random(len(graph.input_maps) * hidden, inputs),
        random(len(graph.recurrent_maps) * hidden, hidden), random(len(graph.input_maps) * hidden),
        None, None,
        [random(hidden) for _ in graph.vector_weights], [random(2, hidden) for _ in graph.states],
        [], chosen.serialized, backend, False, False, True,
    )  # fmt: skip
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.gatewright.sequence.default, arguments, test_utils=checks)


@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
def test_a_compiled_layer_runs_on_the_kernels_that_are_asked_for():
    pytest.importorskip("triton", reason="the GPU backend is compiled by triton")
    layer = gw.GRU(3, 5)
    layer.backend = "gpu"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = torch.randn(4, 2, 3, device=device, requires_grad=True)
    layer.to(device)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(
        outputs_and_gradients(compiled, x), outputs_and_gradients(layer, x), strict=True
    ):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("cell", [*gw.CATALOGUE.values(), peephole], ids=lambda cell: cell.name)
def test_a_graph_survives_being_written_as_text(cell):
    assert Graph.from_json(cell.serialized) == cell.graph
    assert str(Graph.from_json(cell.serialized)) == str(cell.graph)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("steps", [0, 1, 5, 16, 17, 50, 300])
def test_gates_computed_again_change_nothing(steps, reverse):
    plain = gw.LSTM(3, 5, 2, bidirectional=reverse, dtype=torch.float64)
    again = gw.LSTM(3, 5, 2, bidirectional=reverse, dtype=torch.float64, recompute=True)
    again.load_state_dict(plain.state_dict())
    x = torch.randn(steps, 2, 3, dtype=torch.float64, requires_grad=True)
    if steps:
        assert "gates are computed again" in gw.explain(again, x)
    for actual, expected in zip(
        outputs_and_gradients(again, x), outputs_and_gradients(plain, x), strict=True
    ):
        if expected.numel() and expected.abs().max() > 0:
            assert relative_error(actual, expected) <= 1e-10
        else:
            assert torch.equal(actual, expected)


def test_recomputing_keeps_less():
    held = {}
    for recompute in (False, True):
        layer = gw.GRU(8, 16, recompute=recompute)
        sizes = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layer(torch.randn(200, 4, 8, requires_grad=True))
        held[recompute] = sum(sizes)
    # the output alone is 200 x 4 x 16, what the gates need four times that
    assert held[False] - held[True] > 4 * 200 * 4 * 16


def test_the_equations_recompute_too():
    layer = gw.GRU(3, 5, recompute=True, dtype=torch.float64)
    x = torch.randn(6, 2, 3, dtype=torch.float64, requires_grad=True)
    expected = outputs_and_gradients(layer, x)
    layer.backend = "eager"
    for actual, reference in zip(outputs_and_gradients(layer, x), expected, strict=True):
        assert relative_error(actual, reference) <= 1e-10
    layer.backend = "torch"
    with pytest.raises(gw.InputError, match="torch's kernels keep what they need"):
        layer(x)
