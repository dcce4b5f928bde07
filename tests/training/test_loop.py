"""The training loop: stopping, resuming, early stopping, divergence."""

import pytest
import torch
from torch import nn

from gatewright.errors import InputError
from gatewright.training.loop import LoopOptions, Watcher, train

OPTIONS = LoopOptions(max_epochs=6, steps_per_epoch=4, learning_rate=0.05, gradient_clip=1.0, patience=20)


class Regression:
    """A network with dropout; the batch follows from epoch and step, the dropout from torch's generator."""

    def __init__(self, seed=0, break_at=None):
        torch.manual_seed(seed)
        self.network = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self._break_at = break_at

    def training_loss(self, epoch, step):
        generator = torch.Generator().manual_seed(100 * epoch + step)
        x = torch.randn(16, 3, generator=generator)
        loss = (self.network(x).squeeze(-1) - x.sum(-1)).square().mean()
        return loss * float("inf") if (epoch, step) == self._break_at else loss

    def validation_loss(self):
        x = torch.randn(64, 3, generator=torch.Generator().manual_seed(9))
        return (self.network(x).squeeze(-1) - x.sum(-1)).square().mean().item()


class StopAfter(Watcher):
    def __init__(self, steps):
        self.steps = steps

    def step(self, epoch, step, loss):
        self.steps -= 1

    def stop(self):
        return self.steps <= 0


def weights(objective):
    return torch.cat([p.flatten() for p in objective.network.parameters()])


@pytest.mark.parametrize("stops", [[1], [3], [4], [10], [2, 5, 1, 7]], ids=str)
def test_a_broken_run_ends_with_the_same_bits(stops, tmp_path):
    whole = Regression()
    expected = train(whole, OPTIONS, checkpoint=tmp_path / "whole", fingerprint="a")
    for steps in stops:
        outcome = train(
            Regression(),
            OPTIONS,
            watcher=StopAfter(steps),
            checkpoint=tmp_path / "c",
            resume=True,
            fingerprint="a",
        )
        assert outcome.status == "interrupted"
    resumed = Regression()
    outcome = train(resumed, OPTIONS, checkpoint=tmp_path / "c", resume=True, fingerprint="a")
    assert torch.equal(weights(resumed), weights(whole))
    assert outcome.progress.history == expected.progress.history
    assert outcome.status == "finished"


def test_the_best_weights_are_kept():
    class Worsening(Regression):
        def __init__(self):
            super().__init__()
            self.losses = iter([3.0, 1.0, 2.0, 2.0, 2.0])
            self.seen = []

        def validation_loss(self):
            self.seen.append(weights(self).clone())
            return next(self.losses)

    objective = Worsening()
    options = LoopOptions(max_epochs=50, steps_per_epoch=1, learning_rate=0.1, gradient_clip=1.0, patience=3)
    outcome = train(objective, options)
    assert (outcome.status, outcome.progress.epoch, outcome.progress.best_epoch) == ("stopped early", 5, 2)
    assert torch.equal(weights(objective), objective.seen[1])
    assert not torch.equal(objective.seen[4], objective.seen[1])


def test_learning_rate_is_halved_when_nothing_improves():
    class Flat(Regression):
        def validation_loss(self):
            return 1.0

    options = LoopOptions(max_epochs=9, steps_per_epoch=1, learning_rate=0.1, gradient_clip=1.0, patience=6)
    history = train(Flat(), options).progress.history
    assert [record["learning_rate"] for record in history] == [0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05]


def test_divergence_before_the_first_epoch_is_refused_and_leaves_no_checkpoint(tmp_path):
    with pytest.raises(InputError, match=r"diverged(.|\n)*learning rate"):
        train(Regression(break_at=(1, 2)), OPTIONS, checkpoint=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_validation_that_is_never_finite_is_refused():
    class Undefined(Regression):
        def validation_loss(self):
            return float("nan")

    with pytest.raises(InputError, match="diverged"):
        train(Undefined(), OPTIONS)


def test_divergence_later_keeps_the_best_weights():
    objective = Regression(break_at=(4, 2))
    outcome = train(objective, OPTIONS)
    assert (outcome.status, outcome.progress.epoch) == ("diverged", 3)
    assert weights(objective).isfinite().all()
    assert objective.validation_loss() == outcome.progress.best_loss


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    path = tmp_path / "c"
    train(Regression(), OPTIONS, watcher=StopAfter(6), checkpoint=path, fingerprint="a")
    with pytest.raises(InputError, match="other data or other settings"):
        train(Regression(), OPTIONS, checkpoint=path, resume=True, fingerprint="b")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="damaged"):
        train(Regression(), OPTIONS, checkpoint=path, resume=True, fingerprint="a")
