"""Cells of the literature, written in the language and checked against plain NumPy loops in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gatewright as gw
from gatewright import cos, exp, layer_norm, maximum, relu, sigmoid, sin, softplus, sqrt, tanh

T, B, I, H = 6, 3, 4, 5  # noqa: E741 - the field's own letters


@gw.cell(source="Rusch et al. 2022, arXiv:2110.04744")
def lem(x, U, y, z):
    dt = sigmoid(x.dt + U.dt(y))
    dt_bar = sigmoid(x.dt_bar + U.dt_bar(y))
    z = (1 - dt) * z + dt * tanh(x.z + U.z(y))
    y = (1 - dt_bar) * y + dt_bar * tanh(x.y + U.y(z))  # of the new z
    return y, z


@gw.cell(source="Li et al. 2018, arXiv:1803.04831")
def indrnn(x, w, h):
    return relu(x.h + w.u * h)


@gw.cell(source="Feng et al. 2024, arXiv:2410.01201")
def mingru(x, h):
    z = sigmoid(x.z)
    return (1 - z) * h + z * x.h


@gw.cell(source="Orvieto et al. 2023, arXiv:2303.06349")
def lru(x, w, a, b):
    radius, angle = exp(-exp(w.nu)), exp(w.theta)
    re, im = radius * cos(angle), radius * sin(angle)
    gamma = sqrt(1 - radius**2)
    return re * a - im * b + gamma * x.re, im * a + re * b + gamma * x.im


@gw.cell(source="Beck et al. 2024, arXiv:2405.04517", output="h")
def slstm(x, U, c, n, h, m):
    i = x.i + U.i(h)
    f = -softplus(-(x.f + U.f(h)))  # log of the forget gate
    z = tanh(x.z + U.z(h))
    o = sigmoid(x.o + U.o(h))
    top = maximum(f + m, i)
    i, f = exp(i - top), exp(f + m - top)
    c = f * c + i * z
    n = f * n + i
    return c, n, o * c / n, top


@gw.cell(source="Zilly et al. 2017, arXiv:1607.03474")
def highway(x, U, s):
    t = sigmoid(x.t + U.t1(s))
    s = tanh(x.h + U.h1(s)) * t + s * (1 - t)
    t = sigmoid(U.t2(s))
    return tanh(U.h2(s)) * t + s * (1 - t)


@gw.cell(source="Gers et al. 2002")
def peephole_lstm(x, U, w, h, c):
    i = sigmoid(x.i + U.i(h) + w.i * c)
    f = sigmoid(x.f + U.f(h) + w.f * c)
    c = f * c + i * tanh(x.g + U.g(h))
    return sigmoid(x.o + U.o(h) + w.o * c) * tanh(c), c


@gw.cell(source="Ba et al. 2016, arXiv:1607.06450")
def layer_norm_gru(x, U, w, h):
    z = sigmoid(layer_norm(x.z, w.gx_z, w.bx_z) + layer_norm(U.z(h), w.gh_z, w.bh_z))
    r = sigmoid(layer_norm(x.r, w.gx_r, w.bx_r) + layer_norm(U.r(h), w.gh_r, w.bh_r))
    n = tanh(layer_norm(x.n, w.gx_n) + r * layer_norm(U.n(h), w.gh_n))
    return (1 - z) * n + z * h


# the same by hand: a step takes products p.<map> of the input, U.<map>(v), w.<vector> and the states


def logistic(v):
    return 1 / (1 + np.exp(-v))


def lem_by_hand(p, U, w, y, z):
    dt, dt_bar = logistic(p.dt + U.dt(y)), logistic(p.dt_bar + U.dt_bar(y))
    new_z = z + dt * (np.tanh(p.z + U.z(y)) - z)
    new_y = y + dt_bar * (np.tanh(p.y + U.y(new_z)) - y)
    return new_y, new_z


def indrnn_by_hand(p, U, w, h):
    return (np.where(p.h + w.u * h > 0, p.h + w.u * h, 0),)


def mingru_by_hand(p, U, w, h):
    return (h + logistic(p.z) * (p.h - h),)


def lru_by_hand(p, U, w, a, b):
    eigenvalue = np.exp(-np.exp(w.nu) + 1j * np.exp(w.theta))
    new = eigenvalue * (a + 1j * b) + np.sqrt(1 - np.abs(eigenvalue) ** 2) * (p.re + 1j * p.im)
    return new.real, new.imag


def slstm_by_hand(p, U, w, c, n, h, m):
    # without the stabiliser: c and n are kept divided by exp(m)
    i, f = np.exp(p.i + U.i(h)), logistic(p.f + U.f(h))
    new_c = f * c * np.exp(m) + i * np.tanh(p.z + U.z(h))
    new_n = f * n * np.exp(m) + i
    new_m = np.where(np.log(f) + m > np.log(i), np.log(f) + m, np.log(i))
    return new_c / np.exp(new_m), new_n / np.exp(new_m), logistic(p.o + U.o(h)) * new_c / new_n, new_m


def highway_by_hand(p, U, w, s):
    t = logistic(p.t + U.t1(s))
    s = s + t * (np.tanh(p.h + U.h1(s)) - s)
    t = logistic(U.t2(s))
    return (s + t * (np.tanh(U.h2(s)) - s),)


def peephole_lstm_by_hand(p, U, w, h, c):
    i, f = logistic(p.i + U.i(h) + c * w.i), logistic(p.f + U.f(h) + c * w.f)
    new = i * np.tanh(p.g + U.g(h)) + f * c
    return np.tanh(new) * logistic(p.o + U.o(h) + new * w.o), new


def layer_norm_gru_by_hand(p, U, w, h):
    def norm(v):
        return (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-5)

    z = logistic(norm(p.z) * w.gx_z + w.bx_z + norm(U.z(h)) * w.gh_z + w.bh_z)
    r = logistic(norm(p.r) * w.gx_r + w.bx_r + norm(U.r(h)) * w.gh_r + w.bh_r)
    n = np.tanh(norm(p.n) * w.gx_n + r * norm(U.n(h)) * w.gh_n)
    return ((1 - z) * n + z * h,)


CELLS = {
    # cell, step by hand, rows of weight_ih, rows of weight_hh, place of the output among the states
    "lem": (lem, lem_by_hand, "dt dt_bar z y", "dt dt_bar z y", 0),
    "indrnn": (indrnn, indrnn_by_hand, "h", "", 0),
    "mingru": (mingru, mingru_by_hand, "z h", "", 0),
    "lru": (lru, lru_by_hand, "re im", "", 0),
    "slstm": (slstm, slstm_by_hand, "i f z o", "i f z o", 2),
    "highway": (highway, highway_by_hand, "t h", "t1 h1 t2 h2", 0),
    "peephole_lstm": (peephole_lstm, peephole_lstm_by_hand, "i f g o", "i f g o", 0),
    "layer_norm_gru": (layer_norm_gru, layer_norm_gru_by_hand, "z r n", "z r n", 0),
}


def made(name, input_size=I, hidden_size=H, scale=1.0):
    """A layer in float64 with larger weights than a fresh one has, so that gates open and shut."""
    torch.manual_seed(sum(map(ord, name)))
    layer = gw.Recurrent(CELLS[name][0], input_size, hidden_size, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return layer


def looped(name, layer, x, states):
    """Every output and the final states, step by step in NumPy."""
    _, step, inputs, recurrents, output = CELLS[name]
    parameters = {key: value.detach().numpy() for key, value in layer.named_parameters()}

    def rows(kind, names):
        if not names:
            return {}
        weights = np.split(parameters[f"weight_{kind}_l0"], len(names))
        biases = np.split(parameters[f"bias_{kind}_l0"], len(names))
        return dict(zip(names, zip(weights, biases, strict=True), strict=True))

    def product(weight, bias):
        return lambda v: np.einsum("bi,oi->bo", v, weight) + bias

    U = SimpleNamespace(**{n: product(*row) for n, row in rows("hh", recurrents.split()).items()})
    maps = {n: product(*row) for n, row in rows("ih", inputs.split()).items()}
    vectors = {key[7:-3]: value for key, value in parameters.items() if key.startswith("vector_")}
    outputs = []
    for x_t in x:
        p = SimpleNamespace(**{n: apply(x_t) for n, apply in maps.items()})
        states = step(p, U, SimpleNamespace(**vectors), *states)
        outputs.append(states[output])
    return np.stack(outputs), states


@pytest.mark.parametrize("begin", ["at_zero", "given_state"])
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_of_the_literature_equals_its_numpy_loop(name, begin):
    layer = made(name)
    count = len(layer.cell.graph.states)
    rng = np.random.default_rng(7)
    x, first = rng.normal(size=(T, B, I)), np.zeros((count, B, H))
    state = None
    if begin == "given_state":
        first = rng.uniform(0.1, 1, size=(count, B, H))
        given = [torch.from_numpy(s)[None] for s in first]
        state = tuple(given) if count > 1 else given[0]
    outputs, finals = looped(name, layer, x, first)
    y, final = layer(torch.from_numpy(x), state)
    results = [(outputs, y), *zip(finals, final if count > 1 else (final,), strict=True)]
    for expected, actual in results:
        actual = actual.detach().numpy()
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(
            actual.reshape(expected.shape), expected, rtol=1e-12, atol=1e-12, equal_nan=False
        )


@pytest.mark.parametrize("name", CELLS)
def test_the_gradients_of_a_cell_of_the_literature_equal_differences(name):
    layer = made(name, 2, 3, scale=0.3)
    names = [key for key, _ in layer.named_parameters()]
    count = len(layer.cell.graph.states)
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    states = [torch.rand(1, 2, 3, dtype=torch.float64).add(0.1).requires_grad_() for _ in range(count)]

    def run(x, *rest):
        given, parameters = rest[:count], rest[count:]
        state = given if count > 1 else given[0]
        y, final = torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x, state))
        return (y, *final) if count > 1 else (y, final)

    parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(run, (x, *states, *parameters), eps=1e-6, atol=1e-7)


def test_the_highway_prints_as_its_equations():
    assert str(highway.graph) == (
        "cell highway: state s, output s\n"
        "  input maps: t h\n"
        "  recurrent maps: t1 h1 t2 h2\n"
        "    t1 = sigmoid(x.t + U.t1(s))\n"
        "    t2 = tanh(x.h + U.h1(s)) * t1 + s * (1 - t1)\n"
        "    t3 = sigmoid(U.t2(t2))\n"
        "    s' = tanh(U.h2(t2)) * t3 + t2 * (1 - t3)"
    )
    assert highway.graph.recurrent_groups == (("t1", "h1"), ("t2", "h2"))


def test_lem_applies_its_last_map_to_the_new_state():
    assert lem.graph.recurrent_groups == (("dt", "dt_bar", "z"), ("y",))


def test_a_fresh_layer_norm_begins_at_gain_one_and_bias_zero():
    layer = gw.Recurrent(layer_norm_gru, I, H)
    for name, parameter in layer.named_parameters():
        if name.startswith("vector_"):
            begin = 1.0 if name.startswith("vector_g") else 0.0
            assert parameter.tolist() == [begin] * H, name


def test_cells_without_recurrent_maps_have_no_recurrent_weights():
    assert [name for name, _ in gw.Recurrent(mingru, I, H).named_parameters()] == [
        "weight_ih_l0",
        "bias_ih_l0",
    ]
    assert [name for name, _ in gw.Recurrent(indrnn, I, H, bias=False).named_parameters()] == [
        "weight_ih_l0",
        "vector_u_l0",
    ]
