"""Layers with what else torch offers: torch.func, derivatives, autocast, checkpoints, processes, copies."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
import torch._dynamo.config
import torch.distributed as dist
import torch.multiprocessing as mp
from benchmarks.parity import relative_error
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import gatewright as gw

PLAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "gru": ("gru", {}),
    "lstm": ("lstm", {"num_layers": 2, "bidirectional": True}),
    "layer_norm": ("gru", {"layer_norm": True}),
    "heads": ("lstm", {"heads": 2}),
    "residual": ("gru", {"num_layers": 2, "residual": True, "pre_norm": True}),
    "initial": ("lstm", {"train_initial_state": True}),
    "activation": ("lstm", {"activation": "softsign", "gate_activation": "softplus"}),
    "recompute": ("gru", {"recompute": True}),
}
"""Layers whose options draw nothing."""

RANDOM: dict[str, tuple[str, dict[str, Any]]] = {
    "recurrent_dropout": ("lstm", {"recurrent_dropout": 0.5}),
    "zoneout": ("lstm", {"zoneout": 0.5}),
    "weight_drop": ("gru", {"weight_drop": 0.5}),
    "variational_dropout": ("gru", {"variational_dropout": 0.5, "num_layers": 2}),
}
"""Layers whose options draw."""

LAYERS = PLAIN | RANDOM
MARKED = {"mask": torch.tensor([[1, 1], [0, 1], [1, 0]]).bool(), "resets": torch.eye(3, 2).bool()}


def made(name: str, dtype: torch.dtype = torch.float64, inputs: int = 3, hidden: int = 4) -> gw.Recurrent:
    cell, options = LAYERS[name]
    torch.manual_seed(5)
    return gw.Recurrent(cell, inputs, hidden, dtype=dtype, **options)


def all_of(results: Any) -> list[Tensor]:
    """The tensors of a result, in order."""
    return [results] if isinstance(results, Tensor) else [t for part in results for t in all_of(part)]


def close(found: Any, expected: Any, tolerance: float = 1e-10) -> bool:
    pairs = zip(all_of(found), all_of(expected), strict=True)
    return all(relative_error(a.detach(), b.detach()) <= tolerance for a, b in pairs)


def gradients(layer: nn.Module, loss: Tensor, *leaves: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [*leaves, *layer.parameters()]))


# ---------------------------------------------------------------- torch.func and derivatives


@pytest.mark.parametrize("name", PLAIN)
def test_vmap_over_inputs_is_a_loop(name):
    layer = made(name)
    weights: dict[str, Tensor] = dict(layer.named_parameters())
    x = torch.randn(5, 3, 2, 3, dtype=torch.float64)

    def run(x):
        return torch.func.functional_call(layer, weights, (x,), MARKED)[0]

    expected = torch.stack([layer(row, **MARKED)[0] for row in x])
    assert close(torch.vmap(run)(x), expected)


def test_vmap_over_weights_is_an_ensemble():
    layers = [gw.LSTM(3, 4, layer_norm=True, dtype=torch.float64) for _ in range(3)]
    weights, _ = torch.func.stack_module_state(layers)  # type: ignore[arg-type]  # a list of modules
    x = torch.randn(3, 2, 3, dtype=torch.float64)
    found = torch.vmap(lambda w: torch.func.functional_call(layers[0], w, (x,))[0])(weights)
    assert close(found, torch.stack([layer(x)[0] for layer in layers]))


@pytest.mark.parametrize("name", PLAIN)
def test_gradients_of_each_sample_are_those_of_a_loop(name):
    layer = made(name)
    weights = {n: p.detach() for n, p in layer.named_parameters()}
    x = torch.randn(4, 3, 3, dtype=torch.float64)

    def loss(weights, row):
        return torch.func.functional_call(layer, weights, (row,))[0].square().sum()

    found = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x)
    for place, row in enumerate(x):
        expected = gradients(layer, layer(row)[0].square().sum())
        for gradient, name in zip(expected, weights, strict=True):
            assert close(found[name][place], gradient)


# torch's own, when it loads its derivatives in forward mode
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("name", PLAIN)
def test_a_directional_derivative_is_that_of_the_gradients(name):
    layer = made(name)
    x, v = torch.randn(2, 3, 2, 3, dtype=torch.float64)
    _, found, *_ = torch.func.jvp(lambda x: layer(x, **MARKED)[0], (x,), (v,))
    # the gradient of a gradient that is linear in u is the derivative along v
    x.requires_grad_()
    y = layer(x, **MARKED)[0]
    u = torch.zeros_like(y, requires_grad=True)
    (backward,) = torch.autograd.grad(y, x, u, create_graph=True)
    (expected,) = torch.autograd.grad(backward, u, v)
    assert close(found, expected)


@pytest.mark.parametrize("marked", [False, True], ids=["whole", "marked"])
@pytest.mark.parametrize("name", LAYERS)
def test_second_derivatives_equal_differences(name, marked):
    layer = made(name, inputs=2, hidden=2)
    names = [n for n, _ in layer.named_parameters()]
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)

    def run(x, *parameters):
        # the same is drawn for every difference
        torch.manual_seed(1)
        weights = dict(zip(names, parameters, strict=True))
        return tuple(all_of(torch.func.functional_call(layer, weights, (x,), MARKED if marked else {})))

    parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, *parameters), fast_mode=True, atol=1e-4)


# ---------------------------------------------------------------- ways of running


@pytest.mark.parametrize("name", LAYERS)
def test_under_autocast_a_layer_is_near_single_precision(name):
    layer = made(name, torch.float32)
    x = torch.randn(3, 2, 3)
    torch.manual_seed(1)
    expected = layer(x, **MARKED)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(1)
        y = layer(x, **MARKED)[0]
        loss = y.float().square().sum()
    assert close(y.float(), expected, 4e-2)
    for found, wanted in zip(gradients(layer, loss), gradients(layer, expected.square().sum()), strict=True):
        assert (found - wanted).abs().max() <= 4e-2 * max(1.0, wanted.abs().max().item())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_checkpoint_gives_the_same_gradients(name, reentrant):
    layer = made(name)
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)

    def loss(run):
        torch.manual_seed(1)
        y = run(x)
        layer.zero_grad()
        x.grad = None
        y.square().sum().backward()
        return [y, x.grad, *(p.grad for p in layer.parameters())]

    expected = loss(lambda x: layer(x, **MARKED)[0])
    found = loss(lambda x: checkpoint(lambda x: layer(x, **MARKED)[0], x, use_reentrant=reentrant))
    assert close(found, expected)


@pytest.mark.parametrize("name", LAYERS)
def test_deterministic_algorithms_are_no_obstacle_and_repeat_to_the_bit(name):
    layer = made(name)
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(2):
            torch.manual_seed(1)
            y = layer(x, **MARKED)[0]
            runs.append([y, *gradients(layer, y.square().sum(), x)])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def _of_process(rank: int, path: str, results: Any) -> None:
    """A process of two: half of the batch through a layer that shares gradients."""
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    try:
        torch.set_num_threads(1)
        layer, x, lengths = _shared()
        half = slice(2 * rank, 2 * rank + 2)
        model = DistributedDataParallel(layer)
        model(x[:, half], lengths=lengths[half])[0].square().sum().backward()
        if rank == 0:
            results.put([p.grad.numpy() for p in layer.parameters() if p.grad is not None])
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _shared() -> tuple[gw.LSTM, Tensor, Tensor]:
    torch.manual_seed(7)
    options: dict[str, Any] = {"layer_norm": True, "train_initial_state": True, "dtype": torch.float64}
    layer = gw.LSTM(3, 4, 2, bidirectional=True, **options)
    return layer, torch.randn(5, 4, 3, dtype=torch.float64), torch.tensor([5, 2, 4, 3])


@pytest.mark.skipif(not dist.is_available(), reason="this torch was built without torch.distributed")
def test_two_processes_have_the_gradients_of_the_whole_batch(tmp_path):
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    processes = [
        context.Process(target=_of_process, args=(rank, str(tmp_path / "meeting"), results))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)  # it takes seconds, on a busy machine longer
    assert [process.exitcode for process in processes] == [0, 0]
    layer, x, lengths = _shared()
    layer(x, lengths=lengths)[0].square().sum().backward()
    expected = [p.grad for p in layer.parameters() if p.grad is not None]
    # what is shared is the mean over the processes, of which each has its sum
    found = [2 * torch.from_numpy(gradient) for gradient in results.get()]
    assert len(found) == len(list(layer.parameters()))
    assert close(found, expected)


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_the_meta_device_is_drawn_as_any_other(name):
    cell, options = LAYERS[name]
    layer = gw.Recurrent(cell, 3, 4, device="meta", dtype=torch.float64, **options)
    assert all(p.is_meta for p in layer.parameters())
    layer.to_empty(device="cpu")
    torch.manual_seed(5)
    layer.reset_parameters()
    expected = made(name).state_dict()
    assert list(layer.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[key]) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
                         ids=["deepcopy", "pickle"])  # fmt: skip
@pytest.mark.parametrize("name", LAYERS)
def test_a_copy_has_the_options_and_gives_the_same(name, copied):
    layer = made(name)
    # a layer that ran has no more to copy than one that did not
    x = torch.randn(3, 2, 3, dtype=torch.float64)
    layer(x, **MARKED)
    twin = copied(layer)
    assert (repr(twin), twin.options) == (repr(layer), layer.options)
    for _ in range(2):
        results = []
        for each in (layer, twin):
            torch.manual_seed(1)
            results.append(all_of(each(x, **MARKED)))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
        layer.eval()
        twin.eval()


PARAMETRIZATIONS = {
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "spectral_norm": parametrizations.spectral_norm,
}


@pytest.mark.parametrize("way", PARAMETRIZATIONS)
@pytest.mark.parametrize("name", ["gru", "layer_norm", "zoneout", "weight_drop"])
def test_a_parametrized_weight_is_the_one_that_is_used(name, way):
    layer = made(name).eval() if way == "spectral_norm" else made(name)
    PARAMETRIZATIONS[way](layer, "weight_hh_l0")
    x = torch.randn(3, 2, 3, dtype=torch.float64)
    results = {}
    for backend in ("auto", "eager"):
        layer.backend = backend
        torch.manual_seed(1)
        y = layer(x, **MARKED)[0]
        results[backend] = [y, *gradients(layer, y.square().sum())]
    assert close(results["auto"], results["eager"])
    weight: Any = layer.weight_hh_l0
    plain = made(name).train(layer.training)
    with torch.no_grad():
        plain.get_parameter("weight_hh_l0").copy_(weight)
    torch.manual_seed(1)
    assert close(results["auto"][0], plain(x, **MARKED)[0])
    # the weight stays what its parametrization makes of it
    torch.optim.SGD(layer.parameters(), 0.1).step()
    if way == "orthogonal":
        weight = layer.weight_hh_l0
        assert isinstance(weight, Tensor)
        assert close(weight.T @ weight, torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("ours", [gw.GRU, gw.LSTM, gw.RNN], ids=["GRU", "LSTM", "RNN"])
def test_a_layer_whose_options_have_no_weights_has_torchs_state_dict(ours):
    theirs = getattr(nn, ours.__name__)(3, 4, 2, bidirectional=True)
    rates = ("recurrent_dropout", "zoneout", "weight_drop", "variational_dropout")
    options = {"recompute": True, "residual": True} | dict.fromkeys(rates, 0.3)
    for given in ({}, options):
        layer = ours(3, 4, 2, bidirectional=True, **given)
        expected = {name: value.shape for name, value in theirs.state_dict().items()}
        assert {name: value.shape for name, value in layer.state_dict().items()} == expected
        assert list(layer.state_dict()) == list(expected)
        assert layer.load_state_dict(theirs.state_dict()).missing_keys == []


def test_options_with_weights_add_theirs_behind_torchs():
    options: dict[str, Any] = {"layer_norm": True, "pre_norm": True, "train_initial_state": True}
    names = list(gw.LSTM(3, 4, **options).state_dict())
    assert names[:4] == list(nn.LSTM(3, 4).state_dict())
    rest = names[4:]
    assert rest[-4:] == ["norm_weight_l0", "norm_bias_l0", "initial_h", "initial_c"]
    norms = [f"vector_norm_{k}_{m}_{w}_l0" for k in "xu" for m in "ifgo" for w in ("gain", "bias")]
    assert sorted(rest[:-4]) == sorted(norms)


# ---------------------------------------------------------------- compiled and exported


class Model(nn.Module):
    """A layer between others."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6))
        options: dict[str, Any] = {"layer_norm": True, "residual": True, "train_initial_state": True}
        self.rnn = gw.GRU(6, 6, 2, zoneout=0.2, **options)
        self.behind = nn.Linear(6, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        y, _ = self.rnn(torch.relu(self.before(x)), lengths=lengths, masked="zero")
        return self.behind(y)


@pytest.fixture
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def samples() -> list[tuple[Tensor, Tensor]]:
    return [
        (torch.randn(steps, batch, 3, dtype=torch.float64), torch.randint(0, steps + 1, (batch,)))
        # no size is another one's by chance, which a tracer would take for the same
        for steps, batch in ((4, 5), (9, 2), (2, 7))
    ]


@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
@pytest.mark.usefixtures("fresh_compiler")
def test_a_model_is_compiled_once_for_all_steps_and_rows(monkeypatch):
    model = Model().double().eval()
    compiled: Any = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    for place, (x, lengths) in enumerate(samples()):
        # whatever is not for all steps and rows is an error from the second call on
        monkeypatch.setattr(torch._dynamo.config, "error_on_recompile", place > 0)
        y, expected = compiled(x, lengths), model(x, lengths)
        assert close(y, expected)
        assert close(gradients(model, y.square().sum()), gradients(model, expected.square().sum()))


@pytest.mark.filterwarnings("ignore")  # torch's own, while it traces
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_model_is_saved_and_loaded_for_all_steps_and_rows(strict):
    model = Model().double().eval()
    T, B = torch.export.Dim("T", min=2, max=64), torch.export.Dim("B", min=2, max=64)
    dynamic = ({0: T, 1: B}, {0: B})
    program = torch.export.export(model, samples()[0], dynamic_shapes=dynamic, strict=strict)
    operators = [str(node.target) for node in program.graph.nodes if "gatewright" in str(node.target)]
    assert operators == ["gatewright.sequence.default"] * 2
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for sample in samples():
        assert close(loaded(*sample), model(*sample))
