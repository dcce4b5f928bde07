"""First weights and biases: what each initialiser promises, what is left alone, and what is refused."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gatewright as gw
from gatewright import exp, sigmoid, tanh
from gatewright.layers.initialise import BIASES, INPUT_WEIGHTS, RECURRENT_WEIGHTS

H = 8
CELLS = pytest.mark.parametrize("cell", gw.CATALOGUE.values(), ids=str)
GATED = pytest.mark.parametrize("cell", [c for c in gw.CATALOGUE.values() if c.keep], ids=str)


@gw.cell(keep={"f": -1})
def minimal(x, U, h):
    """One gate, which lets in the new; its maps have their places at different rows."""
    n = tanh(x.n + h)
    f = sigmoid(x.f + U.f(h))
    return (1 - f) * h + f * (n + U.m(h))


@gw.cell(keep={"i": -1, "o": -1})
def twice_new(x, U, h):
    return sigmoid(-(x.i + U.i(h))) * h + sigmoid(x.o) * tanh(x.n)


@gw.cell(keep={"late": 1})
def only_recurrent(x, U, h):
    k = sigmoid(U.late(h))
    return k * h + (1 - k) * tanh(x.n + U.n(h))


@gw.cell(keep={"z": 1})
def parallel(x, w, h):
    """No recurrent maps, and a vector weight."""
    z = sigmoid(x.z)
    return z * h + (1 - z) * x.n * exp(w.a)


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def blocks(weight, rows):
    """The blocks of a weight, in double precision."""
    return weight.detach().double().split(rows)


def bias_sums(layer, name):
    """For every layer and direction the bias that the map's pre-activation gets in all."""
    graph, size, sums = layer.cell.graph, layer.hidden_size, []
    for suffix in suffixes(layer):
        total = torch.zeros(size, dtype=torch.float64)
        for kind, maps in (("bias_ih", graph.input_maps), ("bias_hh", graph.recurrent_maps)):
            if name in maps:
                total += blocks(layer.get_parameter(f"{kind}_{suffix}"), size)[maps.index(name)]
        sums.append(total)
    return sums


def suffixes(layer):
    ends = ["", "_reverse"] if layer.bidirectional else [""]
    return [f"l{number}{end}" for number in range(layer.num_layers) for end in ends]


def copies(layer):
    return {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}


def changed(layer, before):
    return {name for name, parameter in layer.named_parameters() if not torch.equal(parameter, before[name])}


def wide(cell, **options):
    return gw.Recurrent(cell, 3, H, num_layers=2, bidirectional=True, **options)


# weights


@CELLS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthogonal_blocks_are_orthogonal_to_the_last_digits(cell, dtype):
    layer = gw.initialise(wide(cell, dtype=dtype), input_weights="orthogonal", recurrent_weights="orthogonal")
    allowed = 20 * torch.finfo(dtype).eps
    for suffix in suffixes(layer):
        for kind in ("weight_ih", "weight_hh"):
            weight = layer.get_parameter(f"{kind}_{suffix}")
            assert weight.dtype == dtype
            for block in blocks(weight, H):
                narrow = block if block.shape[0] <= block.shape[1] else block.T
                product = narrow @ narrow.T
                assert (product - torch.eye(len(narrow), dtype=torch.float64)).abs().max() < allowed


def test_the_blocks_of_one_weight_differ():
    layer = gw.initialise(gw.LSTM(3, H), recurrent_weights="orthogonal")
    assert (
        len({tuple(block.flatten().tolist()) for block in blocks(layer.get_parameter("weight_hh_l0"), H)})
        == 4
    )


def test_a_gain_scales_the_recurrent_weights():
    one = gw.initialise(gw.GRU(3, H), recurrent_weights="orthogonal", generator=drawn())
    half = gw.initialise(gw.GRU(3, H), recurrent_weights="orthogonal", recurrent_gain=0.5, generator=drawn())
    assert torch.equal(half.get_parameter("weight_hh_l0"), 0.5 * one.get_parameter("weight_hh_l0"))


@CELLS
def test_glorot_has_its_bound_and_its_variance(cell):
    layer = gw.Recurrent(cell, 100, 150)
    gw.initialise(layer, input_weights="glorot", recurrent_weights="glorot", generator=drawn())
    for weight, columns in (
        (layer.get_parameter("weight_ih_l0"), 100),
        (layer.get_parameter("weight_hh_l0"), 150),
    ):
        bound = math.sqrt(6 / (150 + columns))
        for block in blocks(weight, 150):
            assert block.abs().max() <= bound * (1 + 1e-6)
            assert block.abs().max() > 0.99 * bound
            # the variance of a uniform distribution, which is Glorot's 2 / (rows + columns)
            assert block.var().item() == pytest.approx(2 / (150 + columns), rel=0.05)


@CELLS
def test_uniform_is_what_a_layer_is_made_with(cell):
    layer = gw.Recurrent(cell, 100, 100)
    everything: dict[str, Any] = dict.fromkeys(("input_weights", "recurrent_weights", "biases"), "uniform")
    before = copies(layer)
    gw.initialise(layer, **everything, generator=drawn())
    assert changed(layer, before) == set(before)
    for name, parameter in layer.named_parameters():
        assert parameter.abs().max() <= 0.1 * (1 + 1e-6)
        assert parameter.detach().std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.2), name


@CELLS
def test_identity_makes_of_every_map_its_own_input(cell):
    layer = gw.initialise(wide(cell), recurrent_weights="identity", recurrent_gain=0.25)
    for suffix in suffixes(layer):
        for block in blocks(layer.get_parameter(f"weight_hh_{suffix}"), H):
            assert torch.equal(block, 0.25 * torch.eye(H, dtype=torch.float64))


def test_a_relu_network_with_the_identity_adds_up_its_inputs():
    layer = gw.RNN(1, 1, nonlinearity="relu")
    gw.initialise(layer, recurrent_weights="identity", biases="zeros")
    nn.init.ones_(layer.get_parameter("weight_ih_l0"))
    y, _ = layer(torch.tensor([[1.0], [2.0], [4.0]]))
    assert y.flatten().tolist() == [1.0, 3.0, 7.0]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("name", RECURRENT_WEIGHTS)
def test_heads_are_drawn_one_by_one(cell, name):
    layer = gw.Recurrent(cell, 3, H)
    maps = len(layer.cell.graph.recurrent_maps)
    # two heads: each map is two blocks of half the units, one below the other
    layer.weight_hh_l0 = nn.Parameter(torch.zeros(maps * H, H // 2))
    gw.initialise(layer, recurrent_weights=name, gates="uniform", generator=drawn())
    expected = torch.eye(H // 2, dtype=torch.float64)
    heads = blocks(layer.get_parameter("weight_hh_l0"), H // 2)
    assert len(heads) == 2 * maps
    for head in heads:
        if name in ("orthogonal", "identity"):
            assert (head @ head.T - expected).abs().max() < 1e-6
        elif name == "glorot":
            assert 0.5 < head.abs().max() / math.sqrt(6 / H) <= 1 + 1e-6
        else:
            assert 0.5 < head.abs().max() * math.sqrt(H) <= 1 + 1e-6


@pytest.mark.parametrize("name", ["orthogonal", "glorot", "uniform"])
def test_a_projection_follows_the_recurrent_weights(name):
    layer = gw.LSTM(3, H, num_layers=2, proj_size=5)
    before = copies(layer)
    gw.initialise(layer, recurrent_weights=name, recurrent_gain=0.5, generator=drawn())
    assert changed(layer, before) == {n for n in before if n.startswith(("weight_hh", "weight_hr"))}
    projection = layer.get_parameter("weight_hr_l1").detach().double()
    if name == "orthogonal":
        assert (projection @ projection.T - torch.eye(5, dtype=torch.float64)).abs().max() < 1e-6
        for block in blocks(layer.get_parameter("weight_hh_l0"), H):
            assert (block.T @ block - 0.25 * torch.eye(5, dtype=torch.float64)).abs().max() < 1e-6
    elif name == "glorot":
        assert projection.abs().max() <= math.sqrt(6 / (H + 5)) * (1 + 1e-6)


# gates


@GATED
def test_chrono_gives_time_constants_up_to_the_longest(cell):
    longest = 50
    layer = gw.initialise(gw.Recurrent(cell, 3, 2000), gates="chrono", longest=longest, generator=drawn())
    keeping = next(name for name, sign in cell.keep.items() if sign == 1)
    (bias,) = bias_sums(layer, keeping)
    # exp(b) is uniform, and by it 1 / (1 − σ(b)) lies in [2, longest] and −1 / ln σ(b) in [1, longest]
    assert_uniform(bias.exp(), 1, longest - 1)
    for constants in (1 / (1 - bias.sigmoid()), -1 / nn.functional.logsigmoid(bias)):
        assert constants.min() >= 1
        assert constants.max() <= longest * (1 + 1e-5)


@GATED
def test_uniform_gates_keep_uniform_shares(cell):
    layer = gw.initialise(gw.Recurrent(cell, 3, 2000), gates="uniform", generator=drawn())
    for name in cell.keep:
        (bias,) = bias_sums(layer, name)
        assert_uniform(bias.sigmoid(), 1 / 2000, 1 - 1 / 2000)


def assert_uniform(values, low, high):
    """Kolmogorov and Smirnov's largest distance of the distributions, at one in ten thousand."""
    scaled = ((values - low) / (high - low)).sort().values
    count = len(scaled)
    assert scaled[0] > -1e-4
    assert scaled[-1] < 1 + 1e-4
    steps = torch.arange(1, count + 1, dtype=torch.float64) / count
    distance = torch.maximum((steps - scaled).abs(), (scaled - steps + 1 / count).abs()).max()
    assert distance < math.sqrt(math.log(2 / 1e-4) / 2) / math.sqrt(count)


@pytest.mark.parametrize("options", [{"gates": "chrono", "longest": 30}, {"gates": "uniform"}], ids=str)
def test_the_gate_that_lets_in_the_new_gets_the_negative(options):
    layer = gw.initialise(wide("lstm"), **options)
    sums = [bias_sums(layer, name) for name in "fi"]
    for f, i in zip(*sums, strict=True):
        assert torch.equal(f, -i)
        assert len(set(f.tolist())) == H
    # each layer and direction is drawn for itself
    assert len({tuple(f.tolist()) for f in sums[0]}) == 4


def test_a_forget_bias_is_for_the_gates_that_keep():
    layer = gw.LSTM(3, H)
    (others,) = bias_sums(layer, "i")
    gw.initialise(layer, forget_bias=1.0)
    assert torch.equal(bias_sums(layer, "f")[0], torch.ones(H, dtype=torch.float64))
    assert torch.equal(bias_sums(layer, "i")[0], others)


def test_a_forget_bias_is_negated_for_a_cell_whose_gates_all_let_in_the_new():
    layer = gw.initialise(gw.Recurrent(twice_new, 3, H), forget_bias=2)
    for name in "io":
        assert torch.equal(bias_sums(layer, name)[0], torch.full((H,), -2.0, dtype=torch.float64))


@GATED
def test_one_of_both_biases_is_the_gate_and_the_other_zero(cell):
    layer = gw.initialise(wide(cell), gates="chrono", longest=20)
    for suffix in suffixes(layer):
        for name in cell.keep:
            place = cell.graph.recurrent_maps.index(name)
            assert not blocks(layer.get_parameter(f"bias_hh_{suffix}"), H)[place].any()
            place = cell.graph.input_maps.index(name)
            assert blocks(layer.get_parameter(f"bias_ih_{suffix}"), H)[place].any()


@GATED
def test_what_a_catalogued_cell_says_of_its_gates_is_so(cell):
    """With every gate wide open for the old state, a step leaves the last state as it was."""
    layer = gw.Recurrent(cell, 3, H)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    gw.initialise(layer, gates="chrono", longest=1e9)
    states = [torch.randn(1, 2, H) for _ in cell.graph.states]
    _, final = layer(torch.randn(1, 2, 3), tuple(states) if len(states) > 1 else states[0])
    final = final if isinstance(final, tuple) else (final,)
    assert (final[-1] - states[-1]).abs().max() < 1e-5


def test_a_custom_cell_finds_the_rows_of_its_gates():
    layer = gw.Recurrent(minimal, 3, H)
    before = copies(layer)
    gw.initialise(layer, gates="uniform")
    assert minimal.graph.input_maps == ("n", "f")
    assert minimal.graph.recurrent_maps == ("f", "m")
    assert changed(layer, before) == {"bias_ih_l0", "bias_hh_l0"}
    assert torch.equal(layer.get_parameter("bias_ih_l0")[:H], before["bias_ih_l0"][:H])
    assert torch.equal(layer.get_parameter("bias_hh_l0")[H:], before["bias_hh_l0"][H:])
    assert not layer.get_parameter("bias_hh_l0")[:H].any()


def test_a_gate_of_one_map_alone_has_its_bias_there():
    layer = gw.initialise(gw.Recurrent(only_recurrent, 3, H), forget_bias=1.5)
    assert torch.equal(layer.get_parameter("bias_hh_l0")[:H], torch.full((H,), 1.5))
    layer = gw.initialise(gw.Recurrent(parallel, 3, H), forget_bias=1.5)
    assert torch.equal(layer.get_parameter("bias_ih_l0")[:H], torch.full((H,), 1.5))


def test_zero_biases_come_before_the_gates():
    layer = gw.initialise(gw.GRU(3, H), biases="zeros", forget_bias=1.0)
    assert layer.get_parameter("bias_ih_l0").tolist() == [0.0] * H + [1.0] * H + [0.0] * H
    assert not layer.get_parameter("bias_hh_l0").any()


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("options", [{"gates": "chrono", "longest": 2}, {"gates": "uniform"}], ids=str)
def test_the_smallest_sizes_are_finite(size, options):
    layer = gw.initialise(gw.GRU(1, size), **options)
    assert all(bool(parameter.isfinite().all()) for parameter in layer.parameters())


# every layer


@CELLS
@pytest.mark.parametrize("biases", BIASES)
@pytest.mark.parametrize("recurrent", RECURRENT_WEIGHTS)
@pytest.mark.parametrize("inputs", INPUT_WEIGHTS)
def test_every_cell_takes_every_option_and_still_trains(cell, inputs, recurrent, biases):
    layer = wide(cell)
    options: dict[str, Any] = {"gates": "chrono", "longest": 12} if cell.keep else {}
    done = gw.initialise(
        layer, input_weights=inputs, recurrent_weights=recurrent, biases=biases, **options, generator=drawn()
    )
    assert done is layer
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in layer.parameters())
    y, _ = layer(torch.randn(4, 2, 3))
    y.square().sum().backward()
    assert all(isinstance(p.grad, Tensor) and bool(p.grad.isfinite().all()) for p in layer.parameters())


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, ()),
        ({"input_weights": "glorot"}, ("weight_ih",)),
        ({"recurrent_weights": "orthogonal"}, ("weight_hh",)),
        ({"biases": "uniform"}, ("bias",)),
        ({"gates": "uniform"}, ("bias",)),
    ],
    ids=str,
)
def test_what_is_not_named_stays_as_it_is(options, kinds):
    layer = wide("gru")
    before = copies(layer)
    gw.initialise(layer, **options)
    assert changed(layer, before) == {name for name in before if name.startswith(kinds)}


def test_vector_weights_stay_as_they_are():
    layer = gw.Recurrent(parallel, 3, H)
    before = copies(layer)
    gw.initialise(layer, input_weights="glorot", biases="zeros", gates="uniform")
    assert changed(layer, before) == {"weight_ih_l0", "bias_ih_l0"}


EVERYTHING: dict[str, Any] = {
    "input_weights": "glorot", "recurrent_weights": "orthogonal", "biases": "uniform", "gates": "uniform",
}  # fmt: skip


def test_a_seed_gives_the_same_weights_and_another_seed_others():
    one, same, other = (
        copies(gw.initialise(wide("lstm"), **EVERYTHING, generator=drawn(seed))) for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one)


def test_torchs_own_seed_counts_without_a_generator():
    layer = wide("gru")
    torch.manual_seed(3)
    first = copies(gw.initialise(layer, **EVERYTHING))
    torch.manual_seed(3)
    assert not changed(gw.initialise(layer, **EVERYTHING), first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_dtype_stays_and_the_numbers_are_those_of_double_precision_rounded(dtype):
    exact = gw.initialise(gw.GRU(3, H, dtype=torch.float64), **EVERYTHING, generator=drawn())
    layer = gw.initialise(gw.GRU(3, H, dtype=dtype), **EVERYTHING, generator=drawn())
    for ours, theirs in zip(layer.parameters(), exact.parameters(), strict=True):
        assert torch.equal(ours, theirs.to(dtype))


def test_a_layer_without_memory_of_its_own_is_left_so():
    layer = gw.initialise(gw.GRU(3, H, device="meta"), **EVERYTHING)
    assert all(parameter.is_meta for parameter in layer.parameters())


def test_weights_work_without_biases():
    layer = gw.initialise(gw.GRU(3, H, bias=False), recurrent_weights="identity")
    assert torch.equal(layer.get_parameter("weight_hh_l0")[:H], torch.eye(H))


# what is refused

REFUSALS = {
    "weights": ({"input_weights": "he"}, "one of uniform, glorot, orthogonal, received 'he'", "None"),
    "identity": ({"input_weights": "identity"}, "expected input_weights as one of", "None"),
    "type": ({"recurrent_weights": 3}, "expected recurrent_weights as one of", "None"),
    "biases": ({"biases": 0.0}, "expected biases as one of uniform, zeros, received 0.0", "None"),
    "gates": ({"gates": "ur"}, "gates as one of chrono, uniform, received 'ur'", "forget_bias=1.0"),
    "both": ({"gates": "uniform", "forget_bias": 1.0}, "gates or forget_bias, received both", "leave one"),
    "longest": ({"gates": "chrono"}, "longest as a number of at least 2, received None", "number of steps"),
    "short": ({"gates": "chrono", "longest": 1.5}, "of at least 2, received 1.5", "number of steps"),
    "nan": ({"gates": "chrono", "longest": math.nan}, "of at least 2, received nan", "number of steps"),
    "text": ({"gates": "chrono", "longest": "9"}, "of at least 2, received '9'", "number of steps"),
    "alone": ({"longest": 9}, "longest=9 says something to gates='chrono' alone", "gates='chrono'"),
    "bias": ({"forget_bias": math.inf}, "forget_bias as a finite number, received inf", "1.0"),
    "truth": ({"forget_bias": True}, "forget_bias as a finite number, received True", "1.0"),
    "gain": ({"recurrent_weights": "glorot", "recurrent_gain": "1"}, "gain as a finite number", "1 leaves"),
    "gain alone": ({"recurrent_gain": 2.0}, "recurrent_gain=2.0 without recurrent_w", "such as"),
    "generator": ({"biases": "uniform", "generator": 5}, "a torch.Generator, received 5", "manual_seed"),
}  # fmt: skip


def assert_refused(layer, options, message, hint):
    before = copies(layer)
    with pytest.raises(gw.InputError) as caught:
        gw.initialise(layer, **options)
    assert caught.value.message.startswith("initialise: ")
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert not changed(layer, before)


@pytest.mark.parametrize("case", REFUSALS)
def test_a_bad_option_is_refused_before_anything_is_changed(case):
    options, message, hint = REFUSALS[case]
    # what comes first is checked only after everything else is
    assert_refused(gw.GRU(3, H), {"input_weights": "glorot"} | options, message, hint)


@pytest.mark.parametrize("options", [{"gates": "uniform"}, {"forget_bias": 1.0}], ids=str)
def test_a_cell_that_states_no_gates_is_refused_with_what_to_state(options):
    message = f"{next(iter(options))} needs a gate that keeps the state, and the cell 'rnn_tanh' states none"
    assert_refused(gw.RNN(3, H), options, message, "@gw.cell(keep={'z': 1})")


@pytest.mark.parametrize(
    "options", [{"biases": "zeros"}, {"gates": "uniform"}, {"forget_bias": 1.0}], ids=str
)
def test_a_layer_without_biases_is_refused_what_needs_them(options):
    message = f"{next(iter(options))} needs biases, and the layer was made with bias=False"
    assert_refused(gw.GRU(3, H, bias=False), options, message, "bias=True")


def test_a_cell_without_recurrent_maps_is_refused_recurrent_weights():
    options: dict[str, Any] = {"recurrent_weights": "orthogonal"}
    assert_refused(gw.Recurrent(parallel, 3, H), options, "'parallel' has no recurrent maps", "leave out")


def test_a_projection_has_no_identity():
    options: dict[str, Any] = {"recurrent_weights": "identity"}
    assert_refused(gw.LSTM(3, H, proj_size=5), options, "square recurrent weights", "'orthogonal'")


def test_computed_weights_are_refused():
    layer = gw.GRU(3, H, num_layers=2)
    nn.utils.parametrizations.weight_norm(layer, "weight_hh_l1")
    options: dict[str, Any] = {"input_weights": "glorot"}
    assert_refused(layer, options, "weight_hh_l1 is computed from others", "initialise first")


@pytest.mark.parametrize("layer", [nn.GRU(3, H), None, "gru"], ids=["torch", "none", "name"])
def test_only_layers_of_this_package_are_initialised(layer):
    with pytest.raises(gw.InputError, match="initialise: expected a recurrent layer of gatewright"):
        gw.initialise(layer, biases="zeros")


def test_gates_with_layer_norm_get_their_bias_behind_the_norm():
    """In front of a norm it would be taken out again."""
    layer = gw.initialise(wide("lstm", layer_norm=True), forget_bias=2.0)
    for suffix in suffixes(layer):
        assert torch.equal(layer.get_parameter(f"vector_norm_x_f_bias_{suffix}"), torch.full((H,), 2.0))
        assert not layer.get_parameter(f"vector_norm_u_f_bias_{suffix}").any()
        assert not layer.get_parameter(f"vector_norm_x_i_bias_{suffix}").any()
