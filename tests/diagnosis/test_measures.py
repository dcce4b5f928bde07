"""Each measure against a case whose answer is known."""

import math

import numpy as np
import pytest
import torch
from problems import Chunked, Loop, Net, recall, squared
from torch import nn

import gatewright as gw
from gatewright import sigmoid
from gatewright.diagnosis.measures.algebra import algebra
from gatewright.diagnosis.measures.chaos import chaos
from gatewright.diagnosis.measures.gradient_by_lag import gradient_by_lag, horizon_of
from gatewright.diagnosis.measures.learning_rate import learning_rate
from gatewright.diagnosis.measures.lyapunov import exponents, lyapunov
from gatewright.diagnosis.measures.memory import memory
from gatewright.diagnosis.measures.noise import noise, ratio
from gatewright.diagnosis.measures.non_finite import non_finite
from gatewright.diagnosis.measures.progress import progress
from gatewright.diagnosis.measures.rank import rank
from gatewright.diagnosis.measures.step_gradients import step_gradients
from gatewright.diagnosis.measures.time_constants import time_constants
from gatewright.diagnosis.measures.truncation import truncation
from gatewright.diagnosis.measures.unused import unused
from gatewright.diagnosis.measures.used_context import used_context
from gatewright.diagnosis.practice import fast_copy
from gatewright.diagnosis.problem import Problem
from gatewright.diagnosis.records import record
from gatewright.diagnosis.regression import held_out_share
from gatewright.diagnosis.twin import Twin


@gw.cell
def linear(x, U, h):
    """h' = x.a + U.a h."""
    return x.a + U.a(h)


@gw.cell
def min_gru(x, h):
    """Affine in its state."""
    z = sigmoid(x.z)
    return (1 - z) * h + z * x.n


def records_of(model, batches, loss=squared, **options):
    problem = Problem(model, batches, loss, **options)
    twin = Twin(model)
    return record(twin, problem, seconds=60), twin, problem


def with_weights(model, recurrent, inputs=None):
    """The layer's recurrent weights, and perhaps input weights, set; no biases."""
    with torch.no_grad():
        for name, parameter in model.rnn.named_parameters():
            if "bias" in name:
                parameter.zero_()
        model.rnn.weight_hh_l0.copy_(torch.as_tensor(recurrent, dtype=torch.float32))
        if inputs is not None:
            model.rnn.weight_ih_l0.copy_(torch.as_tensor(inputs, dtype=torch.float32))
    return model


def linear_net(recurrent, inputs=None, **options):
    size = len(recurrent)
    net = Net(lambda i, h: gw.Recurrent(linear, i, h), hidden=size, **options)
    return with_weights(net, recurrent, inputs)


def test_the_gradient_of_a_linear_network_falls_by_its_eigenvalue():
    records, _, _ = records_of(linear_net(0.5 * np.eye(4)), recall(20, 3))
    found = gradient_by_lag(records)
    curve = found.charts["gradient_by_lag"]["rnn"]
    np.testing.assert_allclose(curve, 0.5 ** np.arange(20), rtol=1e-4)
    # 0.5^6 is the last that is above a hundredth
    assert found.values["horizon"] == 6
    assert found.values["lag_growth"] == pytest.approx(math.log(0.5), rel=1e-3)


def test_a_horizon_is_the_last_lag_above_a_hundredth():
    assert horizon_of(np.array([1.0, 0.5, 0.001, 0.02, 0.009])) == 3
    assert horizon_of(np.array([0.0, 0.0])) == -1
    assert horizon_of(np.array([np.nan, 1.0])) == 1


def test_lyapunov_exponents_of_a_linear_network_are_those_of_its_matrix():
    matrix = np.diag([1.3, 0.8, 0.5])
    found = lyapunov(records_of(linear_net(matrix), recall(30, 3))[0])
    np.testing.assert_allclose(found.charts["lyapunov"]["rnn"], np.log([1.3, 0.8, 0.5]), atol=1e-3)
    assert found.values["lyapunov"] == pytest.approx(math.log(1.3), abs=1e-3)
    assert found.values["jacobian"] == pytest.approx(1.3, rel=1e-4)


def test_lyapunov_exponents_of_a_rotation_are_zero():
    angle = 0.7
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    np.testing.assert_allclose(exponents(turn.double().expand(40, 2, 2, 2)), 0, atol=1e-6)


@pytest.mark.parametrize("bias", [-2.0, 0.0, 3.0])
def test_time_constants_of_gates_that_stand_still(bias):
    net = with_weights(Net(nn.GRU), torch.zeros(24, 8), torch.zeros(24, 2))
    with torch.no_grad():
        net.rnn.bias_ih_l0[8:16] = bias
        net.rnn.weight_ih_l0[16:] = 1.0
    found = time_constants(records_of(net, recall(12, 3))[0]).values
    keep = 1 / (1 + math.exp(-bias))
    assert found["tau"] == pytest.approx(-1 / math.log(keep), rel=1e-4)
    assert found["gate_slope"] == pytest.approx(keep * (1 - keep), rel=1e-4)
    assert found["tau_spread"] == pytest.approx(0, abs=1e-5)
    assert found["gate_high"] == float(keep > 0.9)
    assert found["open_slope"] == pytest.approx(0.25, rel=1e-4)


def test_a_delay_line_remembers_as_long_as_it_is():
    shift = np.eye(6, k=-1)
    inputs = np.zeros((6, 2))
    inputs[0, 0] = 1
    found = memory(records_of(linear_net(shift, inputs), recall(30, 3, batch=32))[0])
    lags, curve = found.charts["memory_lags"], found.charts["memory"]["rnn"]
    # of two inputs of one variance one is kept
    np.testing.assert_allclose(curve[lags < 6], 0.5, atol=0.05)
    assert curve[(lags >= 6) & (lags < 20)].max() < 0.05


def test_units_that_do_the_same():
    net = Net(nn.GRU)
    with torch.no_grad():
        for parameter in net.rnn.parameters():
            parameter.fill_(0.2)
    found = rank(records_of(net, recall(12, 3))[0]).values
    assert found["doubled"] == 1
    assert found["rank"] == pytest.approx(1, abs=0.05)
    plain = rank(records_of(Net(nn.GRU), recall(12, 3))[0]).values
    assert plain["doubled"] == 0
    assert plain["rank"] > 1.5


def test_signal_to_noise_is_that_of_the_numbers():
    rng = np.random.default_rng(0)
    signal = rng.standard_normal(2000)
    noisy = signal + 2.0 * rng.standard_normal((40, 2000))
    assert ratio(noisy) == pytest.approx(0.25, rel=0.1)
    assert ratio(2.0 * rng.standard_normal((40, 2000))) < 0.01
    assert math.isnan(ratio(np.full((3, 4), np.nan)))
    assert ratio(np.zeros((3, 4))) == 0


def test_noise_of_a_task_and_of_labels_that_say_nothing():
    torch.manual_seed(0)
    batches = recall(8, 0, count=12)
    learnable = noise(*records_of(Net(nn.GRU), batches)[:2]).values["snr"]
    drowned = [(x, 20 * torch.randn_like(y)) for x, y in batches]
    assert noise(*records_of(Net(nn.GRU), drowned)[:2]).values["snr"] < 0.1 * learnable


@pytest.mark.parametrize("lag", [0, 5, 17])
def test_the_lag_that_the_error_hangs_on(lag):
    torch.manual_seed(0)
    records, _, _ = records_of(Net(nn.GRU), recall(24, lag, count=8, batch=32))
    found = unused(records).values
    assert found["unused_lag"] == lag
    assert found["unused"] > 0.7


def test_an_error_that_hangs_on_nothing():
    torch.manual_seed(0)
    batches = [(x, torch.randn_like(y)) for x, y in recall(24, 0, count=8, batch=32)]
    found = unused(records_of(Net(nn.GRU), batches)[0]).values
    assert found["unused"] < 0.05
    assert found["unused_lag"] == 0
    assert found["unread"] < 0.05


def test_regression_is_judged_on_rows_it_has_not_seen():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((400, 5))
    y = x @ rng.standard_normal((5, 2)) + 0.5 * rng.standard_normal((400, 2))
    groups = np.arange(400) // 4
    assert 0.85 < held_out_share(x, y, groups) < 0.99
    assert held_out_share(x, rng.standard_normal((400, 2)), groups) < 0.05
    assert held_out_share(x, np.ones((400, 2)), groups) == 0


def test_spikes_depth_and_frozen_parameters():
    torch.manual_seed(0)
    batches = recall(10, 2)
    batches[3] = (batches[3][0], 1000 * batches[3][1])
    net = Net(nn.LSTM, num_layers=4)
    net.head.requires_grad_(False)
    records, twin, _ = records_of(net, batches)
    found = step_gradients(records, twin).values
    assert found["spikes"] > 50
    assert found["depth"] == 4
    assert found["depth_ratio"] < -0.5
    assert found["frozen"] == 1
    assert found["silent"] == 0


def test_exploding_gradients_grow_towards_the_first_step():
    records, twin, _ = records_of(linear_net(1.4 * np.eye(3)), recall(20, 2))
    growth = step_gradients(records, twin).values["time_growth"]
    assert growth == pytest.approx(19 * math.log(1.4), rel=0.05)


def test_where_the_gradient_is_cut_and_what_that_changes():
    torch.manual_seed(0)
    net = Chunked(nn.GRU, piece=4)
    records, twin, problem = records_of(net, recall(12, 6))
    found = truncation(records, twin, problem).values
    assert found["cut"] == 4
    assert found["cut_bias"] > 0.01
    net.cut = False
    records, twin, problem = records_of(net, recall(12, 6))
    assert truncation(records, twin, problem).values == {"cut": 0}


def test_a_loss_that_falls_and_one_that_cannot():
    torch.manual_seed(0)
    batches = recall(6, 0, count=12)
    problem = Problem(Net(nn.GRU), batches, squared, learning_rate=1e-2)
    found, practice = progress(fast_copy(problem.model), problem, steps=100, seconds=60, gentle=1e-2)
    assert found.values["gain"] > 0.7
    assert len(practice.losses) == 100
    random = [(x, torch.randn_like(y)) for x, y in batches]
    problem = Problem(Net(nn.GRU), random, squared, learning_rate=1e-2)
    found, _ = progress(fast_copy(problem.model), problem, steps=60, seconds=60, gentle=1e-2)
    assert found.values["gain"] < 0.1


@pytest.mark.parametrize(("rate", "sign"), [(1e-6, 1), (1.0, -1)])
def test_the_sweep_finds_better_rates(rate, sign):
    torch.manual_seed(0)
    problem = Problem(Net(nn.GRU), recall(6, 0, count=12), squared, learning_rate=rate)
    found = learning_rate(fast_copy(problem.model), problem, steps=20, seconds=60).values
    assert sign * found["rate_ratio"] >= 1
    assert found["rate_regret"] > 0.1
    assert 0 <= found["rate_width"] <= 5


def test_the_context_that_a_trained_model_uses():
    torch.manual_seed(0)
    batches = recall(16, 3, count=12, batch=32)
    problem = Problem(Net(nn.GRU, hidden=16), batches, squared, learning_rate=1e-2)
    _, practice = progress(fast_copy(problem.model), problem, steps=300, seconds=60, gentle=1e-2)
    found = used_context(practice.model, problem, 16).values
    assert found["used_context"] in (4, 8)
    assert found["used_inputs"] > 0.5


def test_where_a_number_is_not_finite():
    batches = recall(9, 2)
    batches[2][0][5, 3, 1] = math.nan
    problem = Problem(Net(nn.GRU), batches, squared)
    found = non_finite(fast_copy(problem.model), Twin(problem.model), problem)
    assert found.values["bad_batches"] == found.values["bad_inputs"] == 1
    assert "batch 2: the input of rnn is not finite at step 5 of row 3" in found.notes


def test_which_operation_is_not_finite():
    @gw.cell
    def logarithm(x, U, h):
        return gw.log(x.a + U.a(h))

    torch.manual_seed(0)
    net = Net(lambda i, h: gw.Recurrent(logarithm, i, h))
    problem = Problem(net, recall(9, 2), squared)
    found = non_finite(fast_copy(net), Twin(net), problem)
    assert any("comes from 'log' at step 0" in note for note in found.notes)


def test_affine_cells():
    torch.manual_seed(0)
    affine = records_of(Net(lambda i, h: gw.Recurrent(min_gru, i, h)), recall(9, 2))[0]
    assert algebra(affine).values["affine"] == 1
    assert algebra(records_of(Net(nn.GRU), recall(9, 2))[0]).values["affine"] == 0


def test_the_exponent_of_a_chaotic_map_and_of_noise():
    torch.manual_seed(0)
    x = torch.rand(1, 64)
    series = [x]
    for _ in range(39):
        series.append(4 * series[-1] * (1 - series[-1]))
    logistic = [(torch.cat(series).unsqueeze(-1), torch.zeros(64, 1))]
    found = chaos(records_of(Net(nn.GRU, inputs=1), logistic)[0]).values
    assert found["data_exponent"] == pytest.approx(math.log(2), abs=0.15)
    assert found["data_order"] > 0.95
    assert found["feedback"] == 0
    white = [(torch.randn(40, 64, 1), torch.zeros(64, 1))]
    assert chaos(records_of(Net(nn.GRU, inputs=1), white)[0]).values["data_order"] < 0.3


def test_a_model_that_reads_its_own_outputs():
    class Rollout(Loop):
        def forward(self, x):
            state, value = None, x[0, :, :1]
            for _ in x:
                state = self.cell(value.expand(-1, 2), state)
                value = self.head(state)
            return value

    assert chaos(records_of(Rollout(), recall(9, 2))[0]).values["feedback"] == 1
    assert chaos(records_of(Loop(), recall(9, 2))[0]).values["feedback"] == 0
