"""The catalogued cells against plain NumPy loops in float64, straight from their written formulas."""

import inspect

import numpy as np
import pytest
import torch

import gatewright as gw
from gatewright import cells
from gatewright.cells.catalogue import CATALOGUE, find_cell

T, B, I, H = 7, 3, 4, 5  # noqa: E741 - the field's own letters


def logistic(v):
    return 1 / (1 + np.exp(-v))


def gru_by_hand(x, W, b, U, c, h):
    """Rows r, z, n; the candidate is n = tanh(W_n x + b_n + r ⊙ (U_n h + c_n))."""
    (W_r, W_z, W_n), (b_r, b_z, b_n) = np.split(W, 3), np.split(b, 3)
    (U_r, U_z, U_n), (c_r, c_z, c_n) = np.split(U, 3), np.split(c, 3)
    outputs = []
    for x_t in x:
        r = logistic(x_t @ W_r.T + b_r + h @ U_r.T + c_r)
        z = logistic(x_t @ W_z.T + b_z + h @ U_z.T + c_z)
        n = np.tanh(x_t @ W_n.T + b_n + r * (h @ U_n.T + c_n))
        h = (1 - z) * n + z * h
        outputs.append(h)
    return np.stack(outputs), [h]


def gru_reset_before_by_hand(x, W, b, U, c, h):
    """The paper's four equations on the concatenation [h, x], with one bias each: the sum of the two here."""
    (W_r, W_z, W_h), (U_r, U_z, U_h) = np.split(W, 3), np.split(U, 3)
    b_r, b_z, b_h = np.split(b + c, 3)
    W_r, W_z, W_h = np.hstack([U_r, W_r]), np.hstack([U_z, W_z]), np.hstack([U_h, W_h])
    outputs = []
    for x_t in x:
        z = logistic(np.hstack([h, x_t]) @ W_z.T + b_z)
        r = logistic(np.hstack([h, x_t]) @ W_r.T + b_r)
        candidate = np.tanh(np.hstack([r * h, x_t]) @ W_h.T + b_h)
        h = (1 - z) * candidate + z * h
        outputs.append(h)
    return np.stack(outputs), [h]


def lstm_by_hand(x, W, b, U, c, h, memory):
    """Rows i, f, g, o."""
    (W_i, W_f, W_g, W_o), (U_i, U_f, U_g, U_o) = np.split(W, 4), np.split(U, 4)
    b_i, b_f, b_g, b_o = np.split(b + c, 4)
    outputs = []
    for x_t in x:
        i = logistic(x_t @ W_i.T + h @ U_i.T + b_i)
        f = logistic(x_t @ W_f.T + h @ U_f.T + b_f)
        g = np.tanh(x_t @ W_g.T + h @ U_g.T + b_g)
        o = logistic(x_t @ W_o.T + h @ U_o.T + b_o)
        memory = f * memory + i * g
        h = o * np.tanh(memory)
        outputs.append(h)
    return np.stack(outputs), [h, memory]


def rnn_by_hand(activation):
    def by_hand(x, W, b, U, c, h):
        outputs = []
        for x_t in x:
            h = activation(x_t @ W.T + b + h @ U.T + c)
            outputs.append(h)
        return np.stack(outputs), [h]

    return by_hand


BY_HAND = {
    "gru": (gru_by_hand, 1),
    "gru_reset_before": (gru_reset_before_by_hand, 1),
    "lstm": (lstm_by_hand, 2),
    "rnn_tanh": (rnn_by_hand(np.tanh), 1),
    "rnn_relu": (rnn_by_hand(lambda v: np.where(v > 0, v, 0)), 1),
}


def test_every_catalogued_cell_has_a_loop_here():
    assert set(BY_HAND) == set(CATALOGUE)


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("begin", ["at_zero", "given_state"])
@pytest.mark.parametrize("name", BY_HAND)
def test_a_catalogued_cell_equals_its_formulas(name, begin, backend):
    by_hand, count = BY_HAND[name]
    torch.manual_seed(11)
    layer = gw.Recurrent(name, I, H, dtype=torch.float64)
    layer.backend = backend
    rng = np.random.default_rng(5)
    x, first = rng.normal(size=(T, B, I)), np.zeros((count, B, H))
    state = None
    if begin == "given_state":
        first = rng.normal(size=(count, B, H))
        given = tuple(torch.from_numpy(s)[None] for s in first)
        state = given if count > 1 else given[0]
    weights = [parameter.detach().numpy() for parameter in layer.parameters()]
    W, U, b, c = weights
    outputs, finals = by_hand(x, W, b, U, c, *first)
    y, final = layer(torch.from_numpy(x), state)
    actual = [y, *(final if count > 1 else (final,))]
    for expected, tensor in zip([outputs, *finals], actual, strict=True):
        assert np.isfinite(expected).all()
        np.testing.assert_allclose(
            tensor.detach().numpy().reshape(expected.shape), expected, rtol=0, atol=1e-12, equal_nan=False
        )


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_catalogued_cell_says_what_it_is(name):
    cell = CATALOGUE[name]
    assert cell.name == name
    assert cell.source
    assert cell.__doc__
    assert cell.graph.name == name
    assert find_cell(name) is cell
    assert find_cell(cell) is cell


def test_every_cell_of_the_package_is_catalogued():
    modules = [value for value in vars(cells).values() if inspect.ismodule(value)]
    defined = [value for module in modules for value in vars(module).values() if isinstance(value, gw.Cell)]
    assert {cell.name for cell in defined} == set(CATALOGUE)


@pytest.mark.parametrize(("name", "rows"), [("gru", "rzn"), ("gru_reset_before", "rzn"), ("lstm", "ifgo")])
def test_rows_are_in_torchs_order(name, rows):
    graph = CATALOGUE[name].graph
    assert graph.input_maps == graph.recurrent_maps == tuple(rows)


@pytest.mark.parametrize(
    ("wrong", "near"), [("gur", "gru"), ("LSTM", ""), ("lstmm", "lstm"), ("rnn_than", "rnn_tanh")]
)
def test_an_unknown_name_suggests_the_nearest(wrong, near):
    with pytest.raises(gw.InputError, match=f"no cell named '{wrong}'") as caught:
        gw.Recurrent(wrong, 3, 5)
    assert caught.value.hint.startswith(f"did you mean '{near}'? " if near else "The catalogue has")
    assert "The catalogue has gru, gru_reset_before, lstm, rnn_tanh, rnn_relu" in caught.value.hint


@pytest.mark.parametrize(
    "given", [3, None, len, torch.nn.GRUCell(3, 5)], ids=["number", "none", "function", "module"]
)
def test_something_that_is_no_cell_is_refused(given):
    with pytest.raises(
        gw.InputError, match=f"expected a cell or a name, received a {type(given).__name__}"
    ) as e:
        find_cell(given)
    assert "@gatewright.cell" in e.value.hint
