"""What a layer does besides computing: copies, dtypes, empty input, gradients, backends, packed sequences."""

import copy
import io
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from benchmarks.parity import (
    KINDS,
    Options,
    Sizes,
    make_input,
    make_pair,
    make_state,
    relative_error,
    tensors_of,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence

import gatewright as gw
from gatewright import exp, sigmoid, tanh

# torch says so of its own LSTM with projections, every time it is made or run
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

ALL_KINDS = pytest.mark.parametrize("kind", KINDS)
BACKENDS = pytest.mark.parametrize("backend", ["eager", "torch"])


@gw.cell
def leaky(x, U, w, h, a):
    """Two states, vector weights, two stages, of no layer of torch."""
    z = sigmoid(x.z + U.z(h) + w.p * a)
    n = tanh(x.n + U.n(z * h))
    a = exp(-exp(w.decay)) * a + (1 - exp(-exp(w.decay))) * n
    return (1 - z) * a + z * h, a


def close(actual, expected, tolerance=1e-10):
    """Every tensor of two results within the tolerance, relative to its largest entry."""
    return all(
        relative_error(a, b) <= tolerance
        for a, b in zip(tensors_of(actual), tensors_of(expected), strict=True)
    )


def wide_options(kind):
    return Options(kind, num_layers=2, bidirectional=True)


# weights


@ALL_KINDS
def test_state_dicts_load_in_both_directions_without_renaming(kind):
    ours, theirs, _ = KINDS[kind]
    arguments = wide_options(kind).arguments()
    for source, target in ((ours, theirs), (theirs, ours)):
        saved, loaded = source(3, 5, **arguments), target(3, 5, **arguments)
        assert not loaded.load_state_dict(saved.state_dict(), strict=True).missing_keys
        assert list(loaded.state_dict()) == list(saved.state_dict())
        x = torch.randn(4, 2, 3)
        assert close(loaded(x)[0], saved(x)[0], 2e-5)


def test_the_weights_of_a_gru_with_reset_before_have_torchs_names_and_rows():
    before, after = gw.GRU(3, 5, 2, reset="before"), nn.GRU(3, 5, 2)
    assert before.load_state_dict(after.state_dict()).missing_keys == []
    assert {n: p.shape for n, p in before.named_parameters()} == {
        n: p.shape for n, p in after.named_parameters()
    }


@ALL_KINDS
def test_all_weights_lists_what_torch_lists(kind):
    layer, reference = make_pair(wide_options(kind), torch.float64, Sizes())
    assert isinstance(reference, nn.RNNBase)
    ours, theirs = layer.all_weights, reference.all_weights
    assert [len(group) for group in ours] == [len(group) for group in theirs]
    for group, expected in zip(ours, theirs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(group, expected, strict=True))
    assert ours[0][0] is layer.get_parameter("weight_ih_l0")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_layers": 3},
        {"bias": False},
        {"batch_first": True},
        {"num_layers": 2, "dropout": 0.25},
        {"bidirectional": True},
        {"num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.5, "bidirectional": True},
    ],
    ids=lambda a: "-".join(a) or "plain",
)
def test_repr_is_torchs(arguments):
    for ours, theirs in ((gw.GRU, nn.GRU), (gw.LSTM, nn.LSTM), (gw.RNN, nn.RNN)):
        assert repr(ours(3, 5, **arguments)) == repr(theirs(3, 5, **arguments))
    projected = {"proj_size": 2, **arguments}
    assert repr(gw.LSTM(3, 5, **projected)) == repr(nn.LSTM(3, 5, **projected))


def test_repr_adds_what_torch_does_not_have():
    layer = gw.GRU(3, 5, reset="before")
    layer.backend = "eager"
    assert repr(layer) == "GRU(3, 5, backend='eager', reset='before')"
    assert repr(gw.RNN(3, 5, nonlinearity="relu")) == "RNN(3, 5, nonlinearity='relu')"
    assert repr(gw.Recurrent(leaky, 3, 5, num_layers=2)) == "Recurrent(leaky, 3, 5, num_layers=2)"


# copies


LAYERS = {
    "gru": lambda: gw.GRU(3, 5, 2, bidirectional=True),
    "gru_before": lambda: gw.GRU(3, 5, reset="before"),
    "lstm": lambda: gw.LSTM(3, 5, proj_size=2, batch_first=True),
    "rnn": lambda: gw.RNN(3, 5, nonlinearity="relu", bias=False),
    "custom": lambda: gw.Recurrent(leaky, 3, 5, num_layers=2),
}
COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda layer: pickle.loads(pickle.dumps(layer))}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", LAYERS)
def test_a_copy_is_the_same_layer_with_weights_of_its_own(name, way):
    torch.manual_seed(4)
    layer = LAYERS[name]().eval()
    layer.backend = "eager"
    twin = COPIES[way](layer)
    x = torch.randn(4, 2, 3)
    assert repr(twin) == repr(layer)
    assert (twin.training, twin.backend, twin.cell.graph) == (False, "eager", layer.cell.graph)
    before = layer(x)[0]
    assert torch.equal(twin(x)[0], before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert torch.equal(layer(x)[0], before)
    assert not torch.equal(twin(x)[0], before)


def test_a_layer_of_a_local_cell_can_be_copied():
    @gw.cell
    def local(x, U, h):
        return tanh(x.h + U.h(h))

    layer = gw.Recurrent(local, 3, 5)
    x = torch.randn(4, 2, 3)
    assert torch.equal(copy.deepcopy(layer)(x)[0], layer(x)[0])


def test_weights_survive_a_file():
    layer, other = gw.LSTM(3, 5, 2), gw.LSTM(3, 5, 2)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(4, 2, 3)
    assert torch.equal(layer(x)[0], other(x)[0])


# dtypes and devices


@BACKENDS
@ALL_KINDS
def test_a_layer_moves_to_another_dtype(kind, backend):
    layer, reference = make_pair(wide_options(kind), torch.float32, Sizes())
    layer.to(torch.float64)
    layer.backend = backend
    reference.to(torch.float64)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    (y, state), (expected, expected_state) = layer(x), reference(x)
    assert close(y, expected)
    assert close(state, expected_state)


@BACKENDS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 4e-2), (torch.float16, 5e-3)], ids=str)
@ALL_KINDS
def test_half_precision_is_near_single_precision(kind, dtype, tolerance, backend):
    layer, _ = make_pair(wide_options(kind), torch.float32, Sizes())
    layer.to(dtype)
    layer.backend = backend
    x = torch.randn(4, 2, 3, dtype=dtype)
    y, state = layer(x)
    assert y.dtype == tensors_of(state)[0].dtype == dtype
    y.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters() if p.grad is not None)
    assert all(p.grad is not None for p in layer.parameters())
    single = layer.float()
    expected, expected_state = single(x.float())
    assert close(y.float(), expected, tolerance)
    assert close([s.float() for s in tensors_of(state)], expected_state, tolerance)


@BACKENDS
@ALL_KINDS
def test_a_layer_runs_under_autocast(kind, backend):
    layer, _ = make_pair(wide_options(kind), torch.float32, Sizes())
    layer.backend = backend
    x = torch.randn(4, 2, 3)
    expected = layer(x)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = layer(x)
    assert close(y.float(), expected, 4e-2)


@pytest.mark.parametrize("make", [gw.GRU, gw.LSTM, gw.RNN], ids=["GRU", "LSTM", "RNN"])
def test_a_layer_made_on_the_meta_device_takes_no_memory_and_draws_nothing(make):
    torch.manual_seed(1)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    layer = make(3, 5, 2, bidirectional=True, device="meta", dtype=torch.float64)
    assert torch.equal(torch.rand(1), drawn)
    assert all(p.is_meta and p.dtype == torch.float64 for p in layer.parameters())
    made = layer.to_empty(device="cpu")
    made.reset_parameters()
    assert torch.isfinite(made(torch.randn(2, 2, 3, dtype=torch.float64))[0]).all()


# unusual input


@pytest.mark.parametrize("batch_first", [False, True], ids=["time_first", "batch_first"])
@ALL_KINDS
def test_an_empty_sequence_leaves_the_state_as_it_was(kind, batch_first):
    options = Options(kind, num_layers=2, batch_first=batch_first, bidirectional=True)
    layer, _ = make_pair(options, torch.float64, Sizes())
    state = make_state(options, "dense", torch.float64, Sizes())
    y, final = layer(torch.zeros((3, 0, 3) if batch_first else (0, 3, 3), dtype=torch.float64), state)
    features = 2 * (2 if kind == "LSTM-projected" else 5)
    assert y.shape == ((3, 0, features) if batch_first else (0, 3, features))
    for before, after in zip(tensors_of(state), tensors_of(final), strict=True):
        assert torch.equal(before, after)


@ALL_KINDS
def test_an_empty_batch_gives_an_empty_batch_and_zero_gradients(kind):
    layer, _ = make_pair(wide_options(kind), torch.float64, Sizes())
    y, final = layer(torch.zeros(4, 0, 3, dtype=torch.float64))
    width = 2 if kind == "LSTM-projected" else 5
    assert y.shape == (4, 0, 2 * width)
    assert tensors_of(final)[0].shape == (4, 0, width)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() == 0 for p in layer.parameters())


@BACKENDS
@ALL_KINDS
def test_input_that_is_not_contiguous(kind, backend):
    layer, _ = make_pair(wide_options(kind), torch.float64, Sizes())
    layer.backend = backend
    x = torch.randn(6, 3, 8, dtype=torch.float64).transpose(0, 2)[::2, :, 1:6:2]
    assert not x.is_contiguous()
    assert close(layer(x)[0], layer(x.contiguous())[0], 1e-14)
    options = wide_options(kind)
    states = tensors_of(make_state(options, "dense", torch.float64, Sizes()))
    strided = tuple(torch.stack([s.detach()] * 2, -1)[..., 0] for s in states)
    single = len(states) == 1
    expected = layer(x, states[0] if single else tuple(states))[0]
    assert close(layer(x, strided[0] if single else strided)[0], expected, 1e-14)


@BACKENDS
@pytest.mark.parametrize("form", ["dense", "unbatched", "packed-unsorted"])
@ALL_KINDS
def test_input_and_state_are_not_modified(kind, form, backend):
    if backend == "torch" and form.startswith("packed"):
        options = Options(kind, num_layers=2)  # in reverse torch's kernels refuse packed sequences
    else:
        options = wide_options(kind)
    layer, _ = make_pair(options, torch.float64, Sizes())
    layer.backend = backend
    x, given_input = make_input(options, form, torch.float64, Sizes())
    state = make_state(options, form, torch.float64, Sizes())
    kept = [t.detach().clone() for t in (x, *tensors_of(given_input), *tensors_of(state))]
    y, final = layer(given_input, state)
    for result in (tensors_of(y)[0], *tensors_of(final)):
        result.detach().add_(1)
    for before, after in zip(kept, (x, *tensors_of(given_input), *tensors_of(state)), strict=True):
        assert torch.equal(before, after)


def test_states_may_be_given_as_a_list_and_arguments_by_torchs_names():
    layer = gw.LSTM(3, 5)
    x, h, c = torch.randn(4, 2, 3), torch.randn(1, 2, 5), torch.randn(1, 2, 5)
    assert torch.equal(layer(input=x, hx=[h, c])[0], layer(x, (h, c))[0])


def test_flatten_parameters_changes_nothing():
    layer = gw.GRU(3, 5)
    x = torch.randn(4, 2, 3)
    expected = layer(x)[0]
    identities = [id(p) for p in layer.parameters()]
    assert layer.flatten_parameters() is None
    assert [id(p) for p in layer.parameters()] == identities
    assert torch.equal(layer(x)[0], expected)


def test_nan_in_one_sequence_stays_in_that_sequence():
    for backend in ("eager", "torch"):
        layer = gw.GRU(3, 5)
        layer.backend = backend
        x = torch.randn(6, 3, 3)
        x[2, 1] = torch.nan
        y, h = layer(x)
        assert torch.isnan(y[2:, 1]).all()
        assert torch.isnan(h[:, 1]).all()
        assert torch.isfinite(y[:, [0, 2]]).all()
        assert torch.isfinite(y[:2, 1]).all()


def test_one_step_at_a_time_is_the_whole_sequence():
    layer = gw.Recurrent(leaky, 3, 5, num_layers=2, dtype=torch.float64)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    expected, final = layer(x)
    state, outputs = None, []
    for t in range(6):
        y, state = layer(x[t : t + 1], state)
        outputs.append(y)
    assert close(torch.cat(outputs), expected, 1e-14)
    assert close(state, final, 1e-14)


# gradients


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: gw.GRU(2, 3, 2, bidirectional=True, **o),
        lambda **o: gw.GRU(2, 3, 2, bidirectional=True, reset="before", **o),
        lambda **o: gw.LSTM(2, 3, bidirectional=True, **o),
        lambda **o: gw.LSTM(2, 3, 2, proj_size=2, **o),
        lambda **o: gw.RNN(2, 3, 2, **o),
        lambda **o: gw.RNN(2, 3, nonlinearity="relu", **o),
    ],
    ids=["gru_after", "gru_before", "lstm", "lstm_projected", "rnn_tanh", "rnn_relu"],
)
def test_gradients_equal_differences(make):
    torch.manual_seed(8)
    layer = make(dtype=torch.float64)
    names = [name for name, _ in layer.named_parameters()]
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    widths = (layer.output_size, 3)[: len(layer.cell.graph.states)]
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    states = [torch.randn(rows, 2, n, dtype=torch.float64, requires_grad=True) for n in widths]

    def run(x, *rest):
        state, parameters = rest[: len(states)], rest[len(states) :]
        given_state = state if len(states) > 1 else state[0]
        weights = dict(zip(names, parameters, strict=True))
        y, final = torch.func.functional_call(layer, weights, (x, given_state))
        return (y, *tensors_of(final))

    for backend in ("eager", "torch") if layer.cell.torch_function else ("eager",):
        layer.backend = backend
        parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]
        assert torch.autograd.gradcheck(run, (x, *states, *parameters), eps=1e-6, atol=1e-7)


# backends


def test_explain_begins_with_the_backends_name_and_says_how_it_runs():
    layer = gw.GRU(3, 5, 2, bidirectional=True)
    x = torch.randn(4, 2, 3)
    lines = gw.explain(layer, x).splitlines()
    assert lines[0] == "cpu: cell gru"
    assert [line for line in lines if line.startswith("  l")] == ["  l0, l0_reverse, l1, l1_reverse: cpu"]
    assert "    threads: 1" in lines
    assert "    kept for the gradient beside the output: 4 x 5 values a time step and row" in lines
    layer.backend = "torch"
    assert gw.explain(layer, x).splitlines() == [
        "torch: cell gru",
        "  l0, l0_reverse, l1, l1_reverse: torch",
        "    torch.gru",
    ]
    layer.backend = "eager"
    assert gw.explain(layer, x).startswith("eager: cell gru\n")


def test_explain_says_why_faster_backends_do_not_run():
    x = torch.randn(4, 2, 3)
    text = gw.explain(gw.Recurrent(leaky, 3, 5).to(torch.bfloat16), x.to(torch.bfloat16))
    assert text.startswith("eager: ")
    assert "    not cpu: its kernels compute in float32, float64, the input is bfloat16" in text
    assert "    not torch: torch has no kernel for the cell 'leaky'" in text
    both = gw.LSTM(3, 5, bidirectional=True, proj_size=2)
    text = gw.explain(both, pack_padded_sequence(x, [4, 2]))
    assert text.startswith("torch + eager: ")
    assert "    not torch: torch's kernels run a packed sequence" in text
    assert "    nothing to compute" in gw.explain(gw.GRU(3, 5), x[:0])
    projected = gw.Recurrent("rnn_tanh", 3, 5, proj_size=2)
    text = gw.explain(projected, pack_padded_sequence(x, [4, 2]))
    assert "not torch: torch projects the output of an LSTM only" in text


def test_explain_inside_a_transform_of_torch_func():
    layer = gw.GRU(3, 5, num_layers=2)
    said = []

    def loss(x):
        said.append(gw.explain(layer, x))
        return layer(x)[0].sum()

    x = torch.randn(4, 2, 3)
    torch.func.grad(loss)(x)
    torch.func.vmap(loss)(x.expand(2, 4, 2, 3))
    assert all(text.startswith("eager: ") for text in said)
    assert all("not cpu: torch.func cannot transform its kernels" in text for text in said)


@pytest.mark.parametrize("function", [gw.explain, gw.kernel_source])
def test_what_is_no_layer_of_ours_has_nothing_to_explain(function):
    for other in (torch.nn.GRU(3, 5), torch.nn.Sequential(gw.GRU(3, 5))):
        with pytest.raises(gw.InputError, match="expected a recurrent layer of gatewright") as caught:
            function(other, torch.randn(4, 2, 3))
        assert "from_torch" in caught.value.hint


def test_explain_changes_nothing():
    layer = gw.GRU(3, 5, 2, dropout=0.5)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    gw.explain(layer, torch.zeros(4, 2, 3))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("choice", ["CPU", "cuda", "", None, 3], ids=str)
def test_an_unknown_backend_is_refused_and_the_choices_named(choice):
    layer = gw.GRU(3, 5)
    with pytest.raises(gw.InputError) as caught:
        layer.backend = choice
    assert (
        caught.value.message == f"backend: expected one of auto, cpu, torch, gpu, eager, received {choice!r}"
    )
    assert caught.value.hint == "use 'auto'"
    assert layer.backend == "auto"


def test_a_backend_that_cannot_run_the_call_is_refused_with_the_reason():
    layer = gw.Recurrent(leaky, 3, 5)
    layer.backend = "torch"
    for call in (layer, lambda x: gw.explain(layer, x)):
        with pytest.raises(gw.InputError) as caught:
            call(torch.randn(4, 2, 3))
        assert caught.value.message == (
            "backend 'torch' cannot run this call: torch has no kernel for the cell 'leaky'"
        )
        assert caught.value.hint == "set layer.backend = 'auto'"


@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_a_cell_with_a_projection_that_torch_does_not_have_runs(backend):
    layer = gw.Recurrent("rnn_tanh", 3, 5, proj_size=2, dtype=torch.float64)
    layer.backend = backend
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    weights = {name: p.detach().numpy() for name, p in layer.named_parameters()}
    h, outputs = np.zeros((2, 2)), []
    for x_t in x.numpy():
        a = x_t @ weights["weight_ih_l0"].T + weights["bias_ih_l0"] + weights["bias_hh_l0"]
        h = np.tanh(a + h @ weights["weight_hh_l0"].T) @ weights["weight_hr_l0"].T
        outputs.append(h)
    y, final = layer(x)
    np.testing.assert_allclose(y.detach().numpy(), np.stack(outputs), rtol=0, atol=1e-12, equal_nan=False)
    np.testing.assert_allclose(final[0].detach().numpy(), h, rtol=0, atol=1e-12, equal_nan=False)


# a cell of one's own in stacked, bidirectional layers


def leaky_by_hand(x, weights, h, a):
    """One layer in one direction, in NumPy."""
    logistic = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731 - a formula
    (W_z, W_n), (b_z, b_n) = np.split(weights.weight_ih, 2), np.split(weights.bias_ih, 2)
    (U_z, U_n), (c_z, c_n) = np.split(weights.weight_hh, 2), np.split(weights.bias_hh, 2)
    decay = np.exp(-np.exp(weights.vector_decay))
    outputs = []
    for x_t in x:
        z = logistic(x_t @ W_z.T + b_z + h @ U_z.T + c_z + weights.vector_p * a)
        n = np.tanh(x_t @ W_n.T + b_n + (z * h) @ U_n.T + c_n)
        a = decay * a + (1 - decay) * n
        h = (1 - z) * a + z * h
        outputs.append(h)
    return np.stack(outputs), h, a


def test_a_custom_cell_in_stacked_bidirectional_layers_equals_a_loop():
    T, B, I, H, L = 6, 3, 4, 5, 3  # noqa: E741 - the field's own letters
    torch.manual_seed(0)
    layer = gw.Recurrent(leaky, I, H, num_layers=L, bidirectional=True, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    h0, a0 = torch.randn(2, 2 * L, B, H, dtype=torch.float64)
    data, finals = x.numpy(), []
    for row in range(L):
        directions = []
        for reverse, suffix in enumerate((f"_l{row}", f"_l{row}_reverse")):
            weights = SimpleNamespace(
                **{
                    name.removesuffix(suffix): parameter.detach().numpy()
                    for name, parameter in layer.named_parameters()
                    if name.endswith(suffix)
                }
            )
            place = 2 * row + reverse
            given_data = data[::-1] if reverse else data
            y, h, a = leaky_by_hand(given_data, weights, h0[place].numpy(), a0[place].numpy())
            directions.append(y[::-1] if reverse else y)
            finals.append((h, a))
        data = np.concatenate(directions, -1)
    y, (h, a) = layer(x, (h0, a0))
    for actual, expected in (
        (y, data),
        (h, np.stack([f[0] for f in finals])),
        (a, np.stack([f[1] for f in finals])),
    ):
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=0, atol=1e-12, equal_nan=False)


# properties over random options


random_options = st.builds(
    Options,
    kind=st.sampled_from(list(KINDS)),
    num_layers=st.integers(1, 3),
    bias=st.booleans(),
    batch_first=st.booleans(),
    bidirectional=st.booleans(),
)
random_sizes = st.builds(
    Sizes, T=st.integers(1, 7), B=st.integers(1, 5), I=st.integers(1, 6), H=st.integers(3, 9)
)
# the functions are quick, but a machine may be busy: no time limit for one example
often = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


def gradients_of(layer, results, leaves, seed):
    """Gradients of a fixed random combination of the results."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(r.shape, generator=generator, dtype=r.dtype) for r in results]
    loss = torch.stack([(r * w).sum() for r, w in zip(results, weights, strict=True)]).sum()
    return torch.autograd.grad(loss, [*leaves, *layer.parameters()])


@often
@given(options=random_options, sizes=random_sizes, seed=st.integers(0, 2**31))
def test_both_backends_agree(options, sizes, seed):
    torch.manual_seed(seed)
    layer, _ = make_pair(options, torch.float64, sizes)
    x, given_input = make_input(options, "dense", torch.float64, sizes)
    state = make_state(options, "dense", torch.float64, sizes)
    results, gradients = {}, {}
    for backend in ("eager", "torch"):
        layer.backend = backend
        y, final = layer(given_input, state)
        results[backend] = [y, *tensors_of(final)]
        gradients[backend] = gradients_of(layer, results[backend], [x, *tensors_of(state)], seed)
    assert close(results["eager"], results["torch"])
    assert close(gradients["eager"], gradients["torch"])


@often
@given(
    options=random_options,
    sizes=random_sizes,
    custom=st.booleans(),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_a_packed_batch_equals_each_sequence_alone(options, sizes, custom, seed, data):
    torch.manual_seed(seed)
    if custom:
        options = Options("GRU", options.num_layers, options.bias, False, options.bidirectional)
        shared = {"bias": options.bias, "bidirectional": options.bidirectional, "dtype": torch.float64}
        layer = gw.Recurrent(leaky, sizes.I, sizes.H, options.num_layers, **shared)
    else:
        layer, _ = make_pair(options, torch.float64, sizes)
    count = len(layer.cell.graph.states)
    lengths = data.draw(st.lists(st.integers(1, sizes.T), min_size=sizes.B, max_size=sizes.B))
    sequences = [torch.randn(n, sizes.I, dtype=torch.float64, requires_grad=True) for n in lengths]
    kind = "LSTM" if custom else options.kind
    state_options = Options(kind, options.num_layers, bidirectional=options.bidirectional)
    states = tensors_of(make_state(state_options, "dense", torch.float64, sizes))
    leaves = [*sequences, *states]

    def in_form(tensors):
        return tensors[0] if count == 1 else tuple(tensors)

    y, final = layer(pack_sequence(sequences, enforce_sorted=False), in_form(states))
    padded, _ = nn.utils.rnn.pad_packed_sequence(y)
    together = [*(padded[:n, row] for row, n in enumerate(lengths)), *tensors_of(final)]
    alone, finals = [], []
    for row, sequence in enumerate(sequences):
        y, final = layer(sequence, in_form([s[:, row] for s in states]))
        alone.append(y)
        finals.append(tensors_of(final))
    alone += [torch.stack(rows, 1) for rows in zip(*finals, strict=True)]
    assert close(together, alone)
    assert close(gradients_of(layer, together, leaves, seed), gradients_of(layer, alone, leaves, seed))
