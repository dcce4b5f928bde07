"""The examples do what they say."""

import math
import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def example():
    return lambda name: runpy.run_path(str(EXAMPLES / f"{name}.py"))


def test_custom_cell_learns_and_its_mistake_is_explained(example, capsys):
    before, after = example("custom_cell")["main"]()
    assert after < before / 2
    printed = capsys.readouterr().out
    assert "h' = (1 - t1) * h + t1 * tanh(x.n + U.n(t1 * h))" in printed
    assert "where(condition, a, b)" in printed


def test_windows_of_the_comparison_are_split_in_time_and_aligned(example):
    module = example("gru_vs_lstm")
    task = module["make_task"](2000)
    windows, targets = task.training
    assert torch.isfinite(windows).all()
    # where two neighbouring windows exist, the target of one is the last value of the next
    follows = (windows[1:, :-1] == windows[:-1, 1:]).all(-1)
    assert follows.sum() > 300
    assert torch.equal(windows[1:, -1][follows], targets[:-1][follows])
    assert len(task.held_out[0]) > 30


def test_comparison_counts_parameters_and_beats_the_last_value(example, capsys):
    module = example("gru_vs_lstm")
    rows = {row.cell: row for row in module["main"](["--epochs", "4", "--seeds", "1", "--hours", "4000"])}
    h = module["HIDDEN"]
    for cell, maps in {"gru": 3, "gru_reset_before": 3, "lstm": 4, "rnn_tanh": 1}.items():
        assert rows[cell].gates == maps
        assert rows[cell].parameters == maps * (h + h * h + 2 * h)
    naive = module["naive_errors"](module["make_task"](4000))
    assert rows["gru"].errors[0] < naive["last value"]
    assert "lstm" in capsys.readouterr().out


def test_sequence_prediction_windows_are_aligned(example):
    windows, targets = example("sequence_prediction")["make_windows"](torch.arange(10.0), 4)
    assert torch.equal(targets, windows + 1)
    assert windows[0].tolist() == [0, 1, 2, 3]
    assert targets[-1, -1] == 9


def test_sequence_prediction_feeds_its_own_predictions_back(example):
    class AddOne(torch.nn.Module):
        def forward(self, windows):
            assert windows.shape == (1, 4)
            return windows + 1

    continued = example("sequence_prediction")["continue_series"](AddOne(), torch.arange(4.0), 6)
    assert continued.tolist() == [4, 5, 6, 7, 8, 9]


def test_sequence_prediction_learns_and_beats_the_baselines(example, tmp_path):
    figure = tmp_path / "continuation.png"
    history, errors = example("sequence_prediction")["main"](["--epochs", "10", "--plot", str(figure)])
    assert history[-1]["training"] < history[0]["training"] / 5
    assert errors["GRU"] < errors["seasonal naive"] / 2
    assert errors["GRU"] < errors["last value"] / 2
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_topics_of_the_character_model_share_no_paragraph(example):
    texts = example("character_model")["read_topics"]()
    assert len(texts) > 50
    paragraphs = [set(text.split("\n\n")) for text in texts]
    assert len(set.union(*paragraphs)) == sum(map(len, paragraphs))


def test_frequency_alone_takes_no_character_for_impossible(example):
    bits = example("character_model")["unigram_bits"]
    training = [torch.tensor([0, 0, 1])]
    # counts of 3, 2 and 1; the first character of a text is not scored
    assert bits(training, [torch.tensor([2, 0])], 3) == pytest.approx(1)
    assert bits(training, [torch.tensor([0, 2])], 3) == pytest.approx(math.log2(6))


def test_character_model_beats_frequency_alone_and_writes_a_line(example, capsys):
    arguments = ["--updates", "120", "--hidden", "64", "--streams", "16", "--steps", "32"]
    bits, unigram = example("character_model")["main"](arguments)
    assert bits < unigram - 0.5
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"{unigram:.3f} bits per character")
    assert printed[-2].endswith(f"{bits:.3f} bits per character")
    assert printed[-1].startswith("The")


def test_what_does_not_learn_is_made_as_it_says(example):
    module = example("why_it_does_not_learn")
    torch.manual_seed(0)
    ((x, y),) = module["adding_batches"](1, steps=40, rows=8)
    assert x.shape == (8, 40, 2)
    assert torch.equal(x[..., 1].sum(1), torch.full((8,), 2.0))
    assert torch.equal(x[:, :20, 1].sum(1), torch.ones(8))
    torch.testing.assert_close((x[..., 0] * x[..., 1]).sum(1, keepdim=True), y)
    assert module["Adder"]()(x).shape == y.shape
    ((codes, following),), characters = module["text_batches"](1, steps=12, rows=3)
    assert torch.equal(codes[:, 1:], following[:, :-1])
    assert module["Writer"](characters)(codes).shape == (3, 12, characters)
