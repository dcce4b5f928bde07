"""Trials: pairs see the same, changes change what they say, and nothing that goes wrong is lost or hangs."""

import dataclasses
import json
import math
import multiprocessing
import os
import random
import signal
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

import gatewright as gw
from gatewright.diagnosis.arms import AS_IT_IS, Arm, evaluation_points, split, train_arm
from gatewright.diagnosis.change import Change
from gatewright.diagnosis.judgement import compare, loss_scale, t_quantile
from gatewright.diagnosis.problem import Problem
from gatewright.diagnosis.processes import can_fork
from gatewright.diagnosis.trials import run_trials
from gatewright.errors import InputError
from gatewright.reports.diagnosis_contents import Remedy

forked = pytest.mark.skipif(not can_fork(), reason="no safe fork here")
LONG = 5.0


class Net(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.rnn = gw.GRU(2, 6)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(6, 1)

    def forward(self, x):
        return self.out(self.dropout(self.rnn(x)[0][-1]))


def squared(model, batch):
    x, y = batch
    return nn.functional.mse_loss(model(x), y)


def problem(count=8, dropout=0.0, loss=squared, **settings):
    torch.manual_seed(3)
    inputs = [torch.randn(5, 12, 2) for _ in range(count)]
    batches = [(x, x[-2:].sum(0)[:, :1]) for x in inputs]
    return Problem(Net(dropout), batches, loss, **settings)


def change(name, **settings):
    return Change(Remedy(name, f"what {name} does"), **settings)


def curve(task, what=AS_IT_IS, seed=0, steps=12):
    plan = dataclasses.replace(split(task), points=evaluation_points(steps))
    return train_arm(plan, Arm(what, seed), lambda: False)


def test_a_higher_learning_rate_helps_where_it_is_too_low():
    task = problem(dropout=0.1, learning_rate=1e-5)
    told = []
    trials, baseline = run_trials(
        task,
        [change("higher", learning_rate=1e-2), change("nothing")],
        minutes=LONG,
        steps=60,
        progress=lambda text, share: told.append((text, share)),
    )
    higher, nothing = trials
    assert higher.judgement == "helped"
    assert higher.low <= higher.change <= higher.high < -0.02
    assert higher.loss < higher.baseline
    assert (nothing.judgement, nothing.change, nothing.low, nothing.high) == ("harmless", 0, 0, 0)
    assert baseline.curves.shape == higher.curves.shape == (3, 9)
    assert list(baseline.steps) == list(higher.steps) == list(evaluation_points(60))
    assert [share for _, share in told] == pytest.approx(np.arange(1, 10) / 9)
    assert any(text.startswith("higher, seed 3 of 3: held-out loss") for text, _ in told)


@forked
@pytest.mark.parametrize("threads", [1, 2])
def test_processes_give_what_one_process_gives(threads):
    task = problem(dropout=0.3)
    kept = torch.get_num_threads()

    def results(workers):
        changes = [change("higher", learning_rate=1e-2), change("decay", weight_decay=0.1)]
        trials, baseline = run_trials(task, changes, minutes=LONG, seeds=2, steps=15, workers=workers)
        return np.stack([baseline.curves, *(trial.curves for trial in trials)])

    alone = results(1)
    try:
        # the parent has then run kernels of torch and of ours on several threads
        torch.set_num_threads(threads)
        wide = nn.GRU(64, 128)
        wide(torch.randn(20, 64, 64))[0].sum().backward()
        gw.GRU(64, 128)(torch.randn(20, 64, 64))[0].sum().backward()
        beside = results(3)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(kept)
    assert np.isfinite(alone).all()
    np.testing.assert_array_equal(beside, alone)


def test_arms_of_a_pair_see_the_same_batches_in_the_same_order_whatever_a_change_draws():
    seen = []

    def loss(model, batch):
        if model.training:
            seen.append(float(batch[0][0, 0, 0]))
        return squared(model, batch)

    def drawing(model):
        torch.randn(1000)
        np.random.rand(10)
        random.random()
        return model

    task = problem(loss=loss, dropout=0.2)
    orders = []
    for what, seed in [(AS_IT_IS, 0), (change("draws", apply=drawing), 0), (AS_IT_IS, 1)]:
        seen.clear()
        assert curve(task, what, seed).status == "finished"
        orders.append(list(seen))
    assert orders[0] == orders[1] != orders[2]
    assert len(orders[0]) == 12
    # six of eight batches are trained on, and each pass has all of them
    assert set(orders[0][:6]) == set(orders[0][6:])
    assert curve(task) == curve(task, change("draws", apply=drawing))


def test_budgets_are_equal_where_batches_are_averaged():
    steps = []
    trained = []

    class Counted(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            if self.training:
                trained.append(1)
                key = self.inner.out.weight[0, 0].item()
                steps.append(key)
            return self.inner(x)

    outcome = curve(problem(), change("averaged", apply=Counted, batches_per_step=4), steps=10)
    assert len(trained) == 10
    # weights move after 4, 8 and 10 batches
    assert [steps.index(key) for key in dict.fromkeys(steps)] == [0, 4, 8]
    assert len(outcome.losses) == len(evaluation_points(10))
    assert outcome.losses[-1] != outcome.losses[-2]


def test_steps_that_are_not_finite_are_left_out_or_end_the_arm():
    def loss(model, batch):
        value = squared(model, batch)
        return value * float("nan") if model.training and bool(batch[0][0, 0, 0] > 0) else value

    task = problem(loss=loss)
    trials, baseline = run_trials(
        task, [change("skip", skip_non_finite=True), change("nothing")], minutes=LONG, steps=20, workers=1
    )
    assert np.isfinite(baseline.curves[:, 0]).all()
    assert np.isnan(baseline.curves[:, -1]).all()
    skip, nothing = trials
    assert skip.judgement == "helped"
    assert skip.note == "Training diverged in 0 of 3 seeds with it, in 3 without it."
    assert np.isfinite(skip.curves).all()
    assert math.isnan(skip.baseline)
    assert nothing.judgement == "harmless"


def test_a_clip_is_that_of_the_change():
    task = problem(learning_rate=1e-2, loss=lambda model, batch: 1e3 * squared(model, batch))
    # Adam divides by the size of the gradient: only one near its epsilon of 1e-8 slows it down
    free, clipped = curve(task), curve(task, change("clip", gradient_clip=1e-9))
    assert free.losses[0] == clipped.losses[0]
    moved = [abs(outcome.losses[-1] - outcome.losses[0]) for outcome in (free, clipped)]
    assert moved[1] < 0.3 * moved[0]


def test_modes_and_frozen_weights_stay_as_they_are_and_contexts_are_around():
    entered = []

    class Around:
        def __init__(self, model):
            self.model = model

        def __enter__(self):
            entered.append(self.model)

        def __exit__(self, *what):
            entered.append(None)

    task = problem(dropout=0.5)
    task.model.get_submodule("dropout").eval()
    out = task.model.get_submodule("out").requires_grad_(False)
    modes = set()

    def loss(model, batch):
        assert torch.equal(model.out.weight, out.get_parameter("weight"))
        modes.add((model.training, model.dropout.training, model.rnn.training))
        return squared(model, batch)

    outcome = curve(dataclasses.replace(task, loss=loss), change("around", around=Around))
    assert outcome.status == "finished"
    assert modes == {(True, False, True), (False, False, False)}
    assert len(entered) == 2
    assert entered[1] is None


def test_a_change_that_cannot_be_applied_has_failed_and_says_why():
    def refuses(model):
        raise InputError("no GRU here", "take one")

    def breaks(model):
        return model.nothing

    calls = []
    trials, baseline = run_trials(
        problem(),
        [change("refuses", apply=refuses), change("breaks", apply=breaks), change("nothing")],
        minutes=LONG,
        steps=4,
        workers=1,
        progress=lambda text, share: calls.append(text),
    )
    assert [trial.judgement for trial in trials] == ["failed", "failed", "harmless"]
    assert trials[0].note == "no GRU here"
    assert trials[1].note.startswith("AttributeError: ")
    # what failed once is not run for the other seeds
    assert len([text for text in calls if text.startswith("refuses")]) == 1
    assert len(baseline.curves) == 3


@forked
def test_a_child_that_dies_fails_alone():
    parent = os.getpid()

    def dies(model):
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return model

    def leaves(model):
        if os.getpid() != parent:
            os._exit(7)
        return model

    changes = [change("dies", apply=dies), change("leaves", apply=leaves), change("nothing")]
    trials, _ = run_trials(problem(), changes, minutes=LONG, seeds=2, steps=4, workers=2)
    assert [trial.judgement for trial in trials] == ["failed", "failed", "harmless"]
    assert "memory" in trials[0].note
    assert "exit code 7" in trials[1].note
    assert not multiprocessing.active_children()


@forked
def test_where_a_fork_is_not_borne_the_arms_are_trained_here():
    parent = os.getpid()

    def loss(model, batch):
        if os.getpid() != parent:
            raise RuntimeError("not in a fork")
        return squared(model, batch)

    trials, baseline = run_trials(
        problem(loss=loss), [change("nothing")], minutes=LONG, seeds=2, steps=3, workers=2
    )
    assert trials[0].judgement == "harmless"
    assert len(baseline.curves) == 2


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=forked)])
def test_the_deadline_is_hard_and_leaves_out_whole_seeds(workers):
    stuck = threading.Event()

    def waits(model, batch):
        # in one process each wait is short, so that the arm is asked; a child is killed in a long one
        if model.out.weight.requires_grad is False:
            stuck.wait(0.01 if workers == 1 else 4)
        return squared(model, batch)

    def freeze(model):
        model.out.requires_grad_(False)
        return model

    trials, baseline = run_trials(
        problem(loss=waits),
        [change("quick"), change("stuck", apply=freeze)],
        minutes=3 / 60,
        steps=10_000 if workers == 1 else 3,
        seeds=2 if workers == 1 else 20,
        workers=workers,
    )
    assert trials[1].judgement == "not run"
    assert "time" in trials[1].note
    assert baseline.notes or workers == 2
    assert not multiprocessing.active_children()


def test_one_pair_is_not_judged(monkeypatch):
    moved = []

    def loss(model, batch):
        moved.append(1)
        return squared(model, batch)

    task = problem(loss=loss)
    run_trials(task, [change("nothing")], minutes=LONG, seeds=2, steps=4, workers=1)
    # enough for the first two of four arms
    enough = len(moved) * 0.6
    moved.clear()
    monkeypatch.setattr(
        "gatewright.diagnosis.trials.time.monotonic", lambda: 0.0 if len(moved) < enough else 1e9
    )
    trials, baseline = run_trials(task, [change("nothing")], minutes=LONG, seeds=2, steps=4, workers=1)
    assert trials[0].judgement == "not run"
    assert trials[0].note == "The time was enough for 1 of 2 seeds; it takes 2 to judge."
    assert trials[0].loss == trials[0].baseline
    assert baseline.notes == ("The time was enough for 1 of 2 seeds.",)


def test_the_same_call_runs_nothing_again(tmp_path):
    changes = [change("a b/c", learning_rate=1e-2), change("diverges", apply=_exploding)]
    told = []

    def call(task, **settings):
        before = len(list(tmp_path.glob("arms/*")))
        times = {file: file.stat().st_mtime_ns for file in tmp_path.glob("arms/*.json")}
        results = run_trials(task, changes, seeds=2, folder=tmp_path, workers=1, **settings)
        files = list(tmp_path.glob("arms/*"))
        assert len(files) == 6 or not before
        return results, {file.name for file in files if times.get(file) != file.stat().st_mtime_ns}

    settings = {"minutes": 0.1, "progress": lambda text, share: told.append(text)}
    first, written = call(problem(), **settings)
    assert len(written) == 6
    # the steps were chosen by time, and are those of the first call
    second, written = call(problem(), **settings)
    assert not written
    assert told[:6] == told[6:]
    for one, other in zip(first[0], second[0], strict=True):
        np.testing.assert_array_equal(one.curves, other.curves)
    # a damaged file and one of something else are written again
    damaged, foreign = sorted(tmp_path.glob("arms/*.json"))[:2]
    damaged.write_bytes(damaged.read_bytes()[:50])
    foreign.write_text(json.dumps({"fingerprint": "x", "losses": [1.0], "steps": "many"}))
    _, written = call(problem(), **settings)
    assert written == {damaged.name, foreign.name}
    # other weights are another problem
    other = problem()
    with torch.no_grad():
        other.model.get_parameter("out.bias").add_(1)
    _, written = call(other, minutes=0.1, steps=3)
    assert len(written) == 6


def _exploding(model):
    with torch.no_grad():
        model.out.weight.fill_(float("inf"))
    return model


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=forked)])
def test_an_interrupt_keeps_what_is_finished(tmp_path, workers):
    def interrupt(text, share):
        if share >= 0.3:
            raise KeyboardInterrupt

    settings = {"minutes": LONG, "seeds": 3, "steps": 4, "workers": workers, "folder": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        run_trials(problem(), [change("nothing")], progress=interrupt, **settings)
    assert not multiprocessing.active_children()
    finished = {file: file.stat().st_mtime_ns for file in tmp_path.glob("arms/*")}
    assert 2 <= len(finished) < 6
    trials, _ = run_trials(problem(), [change("nothing")], **settings)
    assert trials[0].judgement == "harmless"
    assert {file: file.stat().st_mtime_ns for file in finished} == finished


@pytest.mark.parametrize("workers", [1, 2])
def test_model_generators_and_threads_are_untouched(workers):
    task = problem(dropout=0.2)
    weights = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}

    def draws():
        return random.random(), np.random.rand(), torch.rand(()).item()

    def seed():
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed()
    expected = draws()
    seed()
    threads = torch.get_num_threads()
    with torch.no_grad():
        run_trials(task, [change("nothing")], minutes=LONG, seeds=2, steps=3, workers=workers)
        assert not torch.is_grad_enabled()
    assert draws() == expected
    assert torch.get_num_threads() == threads
    assert task.model.training
    assert all(parameter.grad is None for parameter in task.model.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in task.model.state_dict().items())


def test_losses_below_zero():
    task = problem(learning_rate=1e-4, loss=lambda model, batch: squared(model, batch) - 5)
    trials, _ = run_trials(
        task, [change("higher", learning_rate=1e-2), change("nothing")], minutes=LONG, steps=40, workers=1
    )
    assert [trial.judgement for trial in trials] == ["helped", "harmless"]
    assert -1 < trials[0].change < 0


def test_the_scale_of_losses_around_zero_is_how_far_they_move():
    baseline = np.array([[900.0, 4.0, 2.0, 0.5, 0.0, -0.01], [800.0, 4.0, 2.0, 0.5, 0.0, 0.01]])
    scale = loss_scale(baseline, [])
    assert scale is not None
    assert 0.2 < scale < 5
    assert loss_scale(np.full((2, 3), 1e-9), []) is None
    assert loss_scale(np.full((2, 3), np.nan), []) == 1.0
    assert loss_scale(np.zeros((2, 3)), []) == 1.0


@pytest.mark.parametrize(
    ("remedy", "baseline", "judgement"),
    [
        ([0.5, 0.52, 0.48], [1, 1, 1], "helped"),
        ([0.5, 0.9, 1.1], [1, 1, 1], "harmless"),
        ([2, 30, 1.1], [1, 1, 1], "worse"),
        ([2, 30], [1, 1], "harmless"),
        ([0.99, 0.99, 0.99], [1, 1, 1], "harmless"),
        ([1e-3, 1e-2, 1e-3], [1, 1, 1], "helped"),
        ([np.nan, 0.5, 0.5], [1, 1, 1], "worse"),
        ([np.nan] * 3, [1, 1, 1], "worse"),
        ([np.nan] * 3, [np.nan] * 3, "harmless"),
        ([0.5, 0.5, 0.5], [np.nan] * 3, "helped"),
        ([1, 1, 1], [1, np.nan, np.nan], "helped"),
        ([1, 1, 1], [1, 1, np.nan], "harmless"),
        ([1.5, 1.5, 1], [1, 1, np.nan], "worse"),
    ],
)
def test_judgements(remedy, baseline, judgement):
    result = compare(np.array(remedy, dtype=float), np.array(baseline, dtype=float), None)
    assert result.judgement == judgement
    assert result.note or np.isfinite(remedy).all()
    assert not result.low < -1


def test_quantiles_of_student():
    # from tables
    known = {1: 12.706, 2: 4.303, 4: 2.776, 10: 2.228, 11: 2.201, 15: 2.131, 30: 2.042, 120: 1.980}
    for freedom, quantile in known.items():
        assert t_quantile(freedom) == pytest.approx(quantile, abs=2e-3)


def test_one_batch_is_trained_on_and_judged_by_and_said_so():
    trials, baseline = run_trials(
        problem(count=1), [change("nothing")], minutes=LONG, seeds=2, steps=4, workers=1
    )
    assert "one batch only" in baseline.notes[0]
    assert "All seeds gave the same losses" in trials[0].note


def test_what_is_held_out():
    task = problem(count=8)
    plan = split(task)
    assert (len(plan.training), len(plan.held_out)) == (6, 2)
    apart = dataclasses.replace(task, validation=task.batches[:3])
    assert (len(split(apart).training), len(split(apart).held_out)) == (8, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minutes": 0}, "minutes must be"),
        ({"seeds": 1}, "seeds must be at least 2"),
        ({"steps": 0}, "steps must be"),
        ({"workers": 0}, "workers must be"),
    ],
)
def test_arguments_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        run_trials(problem(), [], **{"minutes": 1.0, **settings})


def test_problems_that_cannot_be_trained():
    task = problem()
    other = problem().model
    for broken, message in [
        (dataclasses.replace(task, batches=[]), "there is none"),
        (dataclasses.replace(task, loss=lambda model, batch: squared(other, batch)), "does not depend"),
        (dataclasses.replace(task, loss=lambda model, batch: model(batch[0])), "one number"),
        (dataclasses.replace(task, model=nn.Identity()), "no weights"),
    ]:
        with pytest.raises(InputError, match=message):
            run_trials(broken, [], minutes=1.0)
    with pytest.raises(InputError, match="two remedies are called 'a'"):
        run_trials(task, [change("a"), change("a")], minutes=1.0)
    with pytest.raises(InputError, match="batches_per_step"):
        run_trials(task, [change("a", batches_per_step=0)], minutes=1.0)


def test_forks_are_for_linux(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not can_fork()
