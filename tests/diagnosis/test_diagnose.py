"""From a model and its batches to findings, remedies that were tried, and what is refused."""

import json
import math
from dataclasses import replace

import pytest
import torch
from problems import Chunked, Loop, Net, recall, squared
from torch import nn

import gatewright as gw
from gatewright.errors import InputError


def forgetful(hidden=16):
    """A GRU whose gates forget at once."""
    torch.manual_seed(0)
    model = Net(nn.GRU, hidden=hidden)
    with torch.no_grad():
        model.rnn.bias_ih_l0[hidden : 2 * hidden] = -4.0
    return model


def test_a_model_that_learns_is_healthy():
    torch.manual_seed(0)
    batches = recall(12, 1, count=12, batch=24)
    found = gw.diagnose(Net(nn.GRU, hidden=16), batches, squared, learning_rate=1e-2, gradient_clip=1.0)
    assert [finding.name for finding in found.findings] == ["healthy"]
    assert found.report.good
    assert found.measures["gain"] > 0.5


def test_a_gradient_that_vanishes_and_the_remedy_that_was_tried(tmp_path):
    batches = recall(32, 28, count=16, batch=32)
    said = []
    found = gw.diagnose(
        forgetful(),
        batches,
        squared,
        learning_rate=1e-2,
        gradient_clip=1.0,
        trials=True,
        minutes=0.4,
        folder=tmp_path / "trials",
        progress=lambda text, share: said.append((text, share)),
    )
    first = found.findings[0]
    assert first.name == "vanishing"
    assert first.layer == "rnn"
    assert first.confidence > 0.6
    assert found.measures["unused_lag"] == 28
    # what helped most leads
    helped = sorted((t.change, t.remedy) for t in found.trials if t.judgement == "helped")
    assert first.remedy is not None
    assert first.remedy.name == (helped[0][1] if helped else "chrono-norm")
    assert any("gates='chrono', longest=" in remedy.code for remedy in first.remedies)
    assert {trial.remedy for trial in found.trials} >= {"chrono", "uniform-gates"}
    shares = [share for _, share in said]
    assert shares == sorted(shares)
    assert 0 < shares[-1] <= 1
    text = str(found)
    assert text.startswith("Verdict: vanishing")
    found.save(tmp_path / "page.html")
    assert "vanishing" in (tmp_path / "page.html").read_text()
    found.save(tmp_path / "found.json")
    document = json.loads((tmp_path / "found.json").read_text())
    assert document["findings"][0]["name"] == "vanishing"
    with pytest.raises(InputError, match=r"\.html or \.json"):
        found.save(tmp_path / "found.txt")


def test_the_same_seed_gives_the_same_numbers():
    batches = recall(10, 2, count=6)
    runs = [gw.diagnose(forgetful(8), batches, squared, seconds=600).measures for _ in range(2)]
    assert runs[0].keys() == runs[1].keys()
    for name, value in runs[0].items():
        assert value == runs[1][name] or (math.isnan(value) and math.isnan(runs[1][name])), name


def test_a_loop_around_a_cell_and_a_generator_of_batches():
    torch.manual_seed(0)
    found = gw.diagnose(Loop(), (batch for batch in recall(8, 1)), squared, learning_rate=1e-2)
    assert found.measures["sequence"] == 8
    assert found.measures["horizon"] > 0


def test_other_shapes_of_batches():
    torch.manual_seed(0)

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(7, 4)
            self.layers = nn.ModuleList([nn.LSTM(4, 6, batch_first=True), gw.GRU(6, 6, batch_first=True)])
            self.head = nn.Linear(6, 7)

        def forward(self, codes):
            x = self.embedding(codes)
            for layer in self.layers:
                x, _ = layer(x)
            return self.head(x)

    batches = [{"codes": torch.randint(7, (12, 9))} for _ in range(6)]

    def loss(model, batch):
        logits = model(batch["codes"][:, :-1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch["codes"][:, 1:].flatten())

    found = gw.diagnose(Named(), batches, loss, validation=batches[:1])
    assert set(found.report.charts.gradient_by_lag) == {"layers.0", "layers.1"}


def test_a_batch_that_is_not_finite_is_found_and_named():
    batches = recall(12, 2, count=8)
    batches[3][0][2, 1, 0] = math.nan
    found = gw.diagnose(Net(), batches, squared)
    assert found.findings[0].name == "non-finite"
    assert any("batch 3" in note for note in found.report.notes)


def test_all_batches_not_finite():
    batches = [(x * math.nan, y) for x, y in recall(12, 2, count=3)]
    found = gw.diagnose(Net(), batches, squared)
    assert found.findings[0].name == "non-finite"


def autocast(model, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return squared(model, batch)


def anomalies():
    return torch.autograd.set_detect_anomaly(True)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, anomalies])
def test_the_mode_of_the_caller_does_not_matter(mode):
    batches = recall(8, 2, count=4)
    model = Net()
    with mode():
        found = gw.diagnose(model, batches, squared, seconds=4)
    assert found.measures["horizon"] > 0


def test_frozen_recurrent_layers_and_a_gradient_that_is_zero():
    torch.manual_seed(0)
    model = Net()
    model.rnn.requires_grad_(False)
    found = gw.diagnose(model, recall(8, 2), squared, seconds=4)
    assert any("recurrent layers are frozen" in note for note in found.report.notes)
    found = gw.diagnose(Net(), recall(8, 2), lambda model, batch: squared(model, batch) * 0 + 1, seconds=4)
    assert found.measures["silent"] == 1
    assert found.findings[0].name != "healthy"


def test_held_out_batches_that_are_not_finite():
    held_out = [(x * math.nan, y) for x, y in recall(8, 2, count=1)]
    found = gw.diagnose(Net(), recall(8, 2), squared, validation=held_out, seconds=4)
    assert found.findings[0].name == "non-finite"
    assert any("held-out batch 0" in note for note in found.report.notes)


@pytest.mark.parametrize(
    ("change", "expected", "hint"),
    [
        ({"model": nn.Linear(2, 1)}, "no recurrent layer in Linear", "torch.nn.GRU"),
        ({"model": "gru"}, "expected a torch.nn.Module, received a str", "the model itself"),
        ({"batches": []}, "expected some batches, received none", "not used up"),
        ({"loss": None}, "expected loss as a function", "lambda"),
        ({"loss": lambda model, batch: 1.0}, "one number as a tensor, received 1.0", "mse_loss"),
        ({"loss": lambda model, batch: model(batch[0])}, r"a tensor of shape \[16, 1\]", "mean"),
        (
            {"loss": lambda model, batch: batch[1].mean()},
            "did not run the recurrent layers",
            "its own argument 'model'",
        ),
        ({"batches": recall(1, 0)}, "sequences of several steps, received 1", "longer"),
        ({"learning_rate": 0.0}, "learning_rate as a number above 0", ""),
        ({"minutes": -1}, "minutes as a number above 0", ""),
        ({"seconds": math.nan}, "seconds as a number above 0", ""),
        ({"batches": torch.zeros(3)}, "batches as a list of batches, received a Tensor", "into a list"),
        ({"batches": 5}, "batches as a list of batches, received a int", "DataLoader"),
        ({"loss": lambda model, batch: squared(model, batch).detach()}, "the loss has no gradient", "detach"),
        ({"model": Net().requires_grad_(False)}, "every parameter of the model is frozen", "requires_grad_"),
        ({"model": Net().bfloat16()}, "float32 or float64, rnn.weight_ih_l0 is in bfloat16", "float()"),
        (
            {"model": nn.utils.parametrizations.weight_norm(Net().rnn, "weight_hh_l0")},
            "its weights are computed from others",
            "remove_parametrizations",
        ),
        ({"loss": autocast}, "runs under autocast", "without torch.autocast"),
        ({"weight_decay": -1.0}, "weight_decay as a number of at least 0", "0 is none"),
        ({"seed": 1.5}, "seed as a whole number", ""),
        ({"progress": 5}, "progress as a function", ""),
        ({"gradient_clip": -1.0}, "gradient_clip as a number above 0", ""),
        ({"seeds": 1}, "seeds as a whole number of at least 2", ""),
        ({"workers": 0}, "workers as a whole number of at least 1", ""),
        ({"needed_lag": 0}, "needed_lag as a whole number", "leave it out"),
    ],
)
def test_what_is_refused(change, expected, hint):
    torch.manual_seed(0)
    given = {"model": Net(), "batches": recall(8, 2), "loss": squared} | change
    model, batches, loss = (given.pop(name) for name in ("model", "batches", "loss"))
    with pytest.raises(InputError, match=expected) as caught:
        gw.diagnose(model, batches, loss, **given)
    assert hint in caught.value.hint


def test_weights_that_are_not_finite():
    model = Net()
    with torch.no_grad():
        model.rnn.weight_hh_l0[0, 0] = math.nan
    with pytest.raises(InputError, match=r"finite weights, rnn\.weight_hh_l0 holds a number that is not"):
        gw.diagnose(model, recall(8, 2), squared)


def test_a_model_that_cannot_be_copied():
    model = Net()
    model.kept = model(torch.randn(4, 3, 2))
    with pytest.raises(InputError, match="cannot be copied"):
        gw.diagnose(model, recall(8, 2), squared)


def test_a_subclass_is_left_alone_and_said():
    class Own(nn.GRU):
        pass

    with pytest.raises(InputError, match="subclass of torch's layer"):
        gw.diagnose(Net(Own), recall(8, 2), squared)


def test_truncated_gradients_are_named():
    torch.manual_seed(0)
    model = Chunked(nn.GRU, hidden=16, piece=4)
    layer = gw.from_torch(model.rnn)
    assert isinstance(layer, gw.Recurrent)
    gw.initialise(layer, gates="chrono", longest=24)
    found = gw.diagnose(
        model, recall(24, 20, count=12, batch=32), squared, learning_rate=1e-2, gradient_clip=1.0
    )
    assert found.findings[0].name == "truncation"
    assert found.measures["cut"] == 4


def test_a_diagnosis_can_be_changed_and_read_again():
    found = gw.diagnose(forgetful(8), recall(10, 2, count=6), squared, title="Mine", command="mine.py")
    assert found.report.title == "Mine"
    other = gw.Diagnosis(replace(found.report, verdict="other"))
    assert other.verdict == "other"
