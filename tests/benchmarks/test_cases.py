"""What the benchmark compares with: the arithmetic of a case and its exact results."""

import math

import pytest
import torch
from benchmarks.cases import (
    CELLS,
    GRID,
    MODES,
    Case,
    Size,
    expected_results,
    make_problem,
    parse_sizes,
    worst_error,
)
from benchmarks.peers import OURS, make_peers
from benchmarks.peers.peer import Prepared
from benchmarks.run import TOLERANCE, prepare_and_check
from torch import nn

SIZE = Size(3, 4, 5)


@pytest.mark.parametrize(
    ("cell", "per_step"), [("gru", 12), ("lstm", 16), ("gru_reset_before", 12), ("mgu", 8), ("min_gru", 4)]
)
def test_work_counts_the_products_of_a_step_and_three_times_that_in_training(cell, per_step):
    assert Case(cell, "inference", SIZE).work == per_step * 4 * 3 * 25
    assert Case(cell, "training", SIZE).work == 3 * per_step * 4 * 3 * 25


def test_sizes_are_read_as_indices_and_as_sizes():
    assert parse_sizes("all") == GRID
    assert parse_sizes("0, 3x7x16") == (GRID[0], Size(3, 7, 16))


@pytest.mark.parametrize("text", ["11", "3x7", "-1", "", "axbxc", "1x2x3x4"])
def test_sizes_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match=r"index|indices"):
        parse_sizes(text)


@pytest.mark.parametrize(("cell", "layer"), [("gru", nn.GRU), ("lstm", nn.LSTM)])
def test_the_exact_results_are_those_of_torch_in_float64(cell, layer):
    problem = make_problem(Case(cell, "training", SIZE))
    torchs = layer(SIZE.H, SIZE.H, dtype=torch.float64)
    torchs.load_state_dict({f"{name}_l0": value.double() for name, value in problem.weights.items()})
    x = problem.x.double().requires_grad_()
    y, final = torchs(x)
    gradients = torch.autograd.grad(y, [x, *torchs.parameters()], problem.dy.double())
    states = final if isinstance(final, tuple) else (final,)
    actual = {"y": y, **{name: state[0] for name, state in zip("hc", states, strict=False)}}
    actual |= {f"d{name}": g for name, g in zip(("x", *problem.weights), gradients, strict=True)}
    error, _ = worst_error(actual, expected_results(problem))
    assert error < 1e-13


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cell", CELLS)
def test_every_backend_of_ours_and_torch_pass_the_check(cell, mode):
    names = (OURS, f"{OURS}-eager", "torch")
    peers = {name: peer for name, peer in make_peers().items() if name in names and cell in peer.offers[mode]}
    ready, errors, left_out = prepare_and_check(Case(cell, mode, SIZE), peers, 1, 0, lambda text: None)
    assert set(ready) == set(peers) >= {OURS, f"{OURS}-eager"}
    assert not left_out
    assert all(error < TOLERANCE / 10 for error in errors.values())


def test_a_rival_that_is_wrong_or_raises_is_left_out_with_its_reason():
    class Wrong:
        def prepare(self, problem, threads):
            results = expected_results(problem)
            results["dweight_hh"] = results["dweight_hh"] * (1 + 2 * TOLERANCE)
            return Prepared(lambda: None, lambda result: results)

    class Broken:
        def prepare(self, problem, threads):
            raise OSError("no such library")

    peers = {"wrong": Wrong(), "broken": Broken()}
    case = Case("gru", "training", SIZE)
    ready, _, left_out = prepare_and_check(case, peers, 1, 0, lambda text: None)  # pyright: ignore
    assert not ready
    assert "2.0e-04 of dweight_hh" in left_out["wrong"]
    assert left_out["broken"] == "OSError: no such library"


@pytest.mark.parametrize(
    "y", [None, torch.ones(2, 3), torch.tensor([1, math.nan]), torch.tensor([1, math.inf])]
)
def test_what_is_missing_misshapen_or_not_finite_never_passes(y):
    given = {} if y is None else {"y": y}
    assert worst_error(given, {"y": torch.ones(2)}) == (math.inf, "y")
