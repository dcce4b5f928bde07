"""What does not fit a layer is refused with what was expected, what was received and a remedy."""

# wrong arguments are what is tested here
# pyright: reportArgumentType=false

import math

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import gatewright as gw

X = torch.zeros(4, 2, 3)
ORDER = "arguments stand in torch.nn's order; pass options by name"

# name: what is done, message, a part of the hint
INPUTS = {
    "list": (
        lambda: gw.GRU(3, 5)([[1.0]]),
        "GRU: expected a tensor or a PackedSequence, received list",
        "torch.as_tensor",
    ),
    "none": (
        lambda: gw.GRU(3, 5)(None),
        "GRU: expected a tensor or a PackedSequence, received NoneType",
        "torch.as_tensor",
    ),
    "numpy": (
        lambda: gw.GRU(3, 5)(X.numpy()),
        "GRU: expected a tensor or a PackedSequence, received ndarray",
        "torch.as_tensor(x, dtype=torch.float32)",
    ),
    "one_dimension": (
        lambda: gw.GRU(3, 5)(torch.zeros(3)),
        "GRU: expected an input of 2 or 3 dimensions, received [3]",
        "give [T, B, I], or [T, I] for a single sequence",
    ),
    "four_dimensions": (
        lambda: gw.LSTM(3, 5, batch_first=True)(torch.zeros(1, 4, 2, 3)),
        "LSTM: expected an input of 2 or 3 dimensions, received [1, 4, 2, 3]",
        "give [B, T, I], or [T, I] for a single sequence",
    ),
    "input_size": (
        lambda: gw.RNN(3, 5)(torch.zeros(4, 2, 7)),
        "RNN: expected a last dimension of input_size=3, received shape [4, 2, 7]",
        "reshape the input, or make the layer with that input_size",
    ),
    "input_size_unbatched": (
        lambda: gw.RNN(3, 5)(torch.zeros(4, 2)),
        "RNN: expected a last dimension of input_size=3, received shape [4, 2]",
        "reshape the input",
    ),
    "integers": (
        lambda: gw.GRU(3, 5)(X.long()),
        "GRU: input: expected torch.float32 as the weights have, received torch.int64",
        "convert the input with .to(torch.float32)",
    ),
    "complex": (
        lambda: gw.GRU(3, 5)(X.to(torch.complex64)),
        "GRU: input: expected torch.float32 as the weights have, received torch.complex64",
        "convert the input with .to(torch.float32)",
    ),
    "double": (
        lambda: gw.GRU(3, 5)(X.double()),
        "GRU: input: expected torch.float32 as the weights have, received torch.float64",
        "convert the input with .to(torch.float32), or the layer with .to(torch.float64)",
    ),
    "meta": (
        lambda: gw.GRU(3, 5)(X.to("meta")),
        "GRU: input is on meta, the weights are on cpu",
        "move the input with .to('cpu'), or the layer with .to('meta')",
    ),
    "weights_on_meta": (
        lambda: gw.GRU(3, 5, device="meta")(X),
        "GRU: input is on cpu, the weights are on meta",
        "move the input with .to('meta')",
    ),
    "packed_size": (
        lambda: gw.GRU(3, 5)(pack_padded_sequence(torch.zeros(4, 2, 7), [4, 2])),
        "GRU: expected a last dimension of input_size=3, received shape [6, 7]",
        "reshape the input",
    ),
    "packed_dtype": (
        lambda: gw.GRU(3, 5)(pack_padded_sequence(X.double(), [4, 2])),
        "GRU: input: expected torch.float32 as the weights have, received torch.float64",
        "convert the input",
    ),
    "packed_dimensions": (
        lambda: gw.GRU(3, 5)(PackedSequence(torch.zeros(6, 1, 3), torch.tensor([2, 2, 1, 1]))),
        "GRU: expected packed data [N, 3], received [6, 1, 3]",
        "pack [T, B, I]",
    ),
    "custom_cells_name": (
        lambda: gw.Recurrent("gru", 3, 5)(torch.zeros(3)),
        "Recurrent: expected an input of 2 or 3 dimensions, received [3]",
        "give [T, B, I]",
    ),
}

STATE = torch.zeros(1, 2, 5)
STATES = {
    "tuple_for_one_state": (
        lambda: gw.GRU(3, 5)(X, (STATE,)),
        "GRU: expected the state as a tensor, received tuple",
        "this layer has the one state h: pass the tensor itself",
    ),
    "tensor_for_two_states": (
        lambda: gw.LSTM(3, 5)(X, STATE),
        "LSTM: expected a tuple of 2 states, received Tensor",
        "pass (h, c)",
    ),
    "one_of_two_states": (
        lambda: gw.LSTM(3, 5)(X, (STATE,)),
        "LSTM: expected a tuple of 2 states, received 1 values",
        "pass (h, c)",
    ),
    "none_among_states": (
        lambda: gw.LSTM(3, 5)(X, (STATE, None)),
        "LSTM: state c: expected a tensor, received NoneType",
        "give a tensor [1, 2, 5]",
    ),
    "batch": (
        lambda: gw.GRU(3, 5)(X, torch.zeros(1, 4, 5)),
        "GRU: state h: expected shape [1, 2, 5], received [1, 4, 5]",
        "a state is [layers · directions, B, size], also with batch_first; leave it out to begin at zero",
    ),
    "rows": (
        lambda: gw.GRU(3, 5, 2, bidirectional=True)(X, torch.zeros(2, 2, 5)),
        "GRU: state h: expected shape [4, 2, 5], received [2, 2, 5]",
        "layers · directions",
    ),
    "batch_first": (
        lambda: gw.GRU(3, 5, 2, batch_first=True)(torch.zeros(7, 4, 3), torch.zeros(7, 2, 5)),
        "GRU: state h: expected shape [2, 7, 5], received [7, 2, 5]",
        "also with batch_first",
    ),
    "batched_state_of_an_unbatched_input": (
        lambda: gw.GRU(3, 5)(X[:, 0], torch.zeros(1, 1, 5)),
        "GRU: state h: expected shape [1, 5], received [1, 1, 5]",
        "a state is [layers · directions, size]",
    ),
    "unbatched_state_of_a_batch": (
        lambda: gw.GRU(3, 5)(X, torch.zeros(1, 5)),
        "GRU: state h: expected shape [1, 2, 5], received [1, 5]",
        "a state is [layers · directions, B, size]",
    ),
    "packed": (
        lambda: gw.GRU(3, 5)(pack_padded_sequence(X, [4, 2]), torch.zeros(1, 3, 5)),
        "GRU: state h: expected shape [1, 2, 5], received [1, 3, 5]",
        "a state is",
    ),
    "projected": (
        lambda: gw.LSTM(3, 5, proj_size=2)(X, (STATE, STATE)),
        "LSTM: state h: expected shape [1, 2, 2], received [1, 2, 5]",
        "a state is",
    ),
    "dtype": (
        lambda: gw.GRU(3, 5)(X, STATE.double()),
        "GRU: state h: expected torch.float32 as the weights have, received torch.float64",
        "convert the state h with .to(torch.float32)",
    ),
    "device": (
        lambda: gw.LSTM(3, 5)(X, (STATE, STATE.to("meta"))),
        "LSTM: state c is on meta, the weights are on cpu",
        "move the state c with .to('cpu')",
    ),
}

ARGUMENTS = {
    "hidden_size_zero": (
        lambda: gw.GRU(3, 0),
        "GRU: expected hidden_size as an integer of at least 1, received 0",
        ORDER,
    ),
    "hidden_size_negative": (
        lambda: gw.LSTM(3, -5),
        "LSTM: expected hidden_size as an integer of at least 1, received -5",
        ORDER,
    ),
    "input_size_zero": (
        lambda: gw.RNN(0, 5),
        "RNN: expected input_size as an integer of at least 1, received 0",
        ORDER,
    ),
    "size_bool": (
        lambda: gw.GRU(True, 5),
        "GRU: expected input_size as an integer of at least 1, received True",
        ORDER,
    ),
    "size_float": (
        lambda: gw.GRU(3, 5.0),
        "GRU: expected hidden_size as an integer of at least 1, received 5.0",
        ORDER,
    ),
    "size_text": (
        lambda: gw.GRU("gru", 3, 5),
        "GRU: expected input_size as an integer of at least 1, received 'gru'",
        ORDER,
    ),
    "size_tensor": (
        lambda: gw.GRU(3, torch.tensor(5)),
        "GRU: expected hidden_size as an integer of at least 1, received tensor(5)",
        ORDER,
    ),
    "no_layers": (
        lambda: gw.GRU(3, 5, 0),
        "GRU: expected num_layers as an integer of at least 1, received 0",
        ORDER,
    ),
    "layers_bool": (
        lambda: gw.GRU(3, 5, True),
        "GRU: expected num_layers as an integer of at least 1, received True",
        ORDER,
    ),
    "bias_number": (
        lambda: gw.GRU(3, 5, 2, 0.5),
        "GRU: expected bias as True or False, received 0.5",
        ORDER,
    ),
    "bidirectional_number": (
        lambda: gw.LSTM(3, 5, 2, True, True, 0.5, 64),
        "LSTM: expected bidirectional as True or False, received 64",
        ORDER,
    ),
    "nonlinearity_in_the_place_of_bias": (
        lambda: gw.RNN(3, 5, 2, True),
        "RNN: expected nonlinearity as 'tanh' or 'relu', received True",
        "as in torch.nn it is RNN's fourth argument, before bias",
    ),
    "nonlinearity_unknown": (
        lambda: gw.RNN(3, 5, nonlinearity="sigmoid"),
        "RNN: expected nonlinearity as 'tanh' or 'relu', received 'sigmoid'",
        "pass options by name",
    ),
    "dropout_above_one": (
        lambda: gw.GRU(3, 5, 2, dropout=2),
        "GRU: expected dropout between 0 and 1, received 2",
        "dropout is the probability of dropping a value",
    ),
    "dropout_negative": (
        lambda: gw.GRU(3, 5, 2, dropout=-0.1),
        "GRU: expected dropout between 0 and 1, received -0.1",
        "0 drops nothing",
    ),
    "dropout_bool": (
        lambda: gw.GRU(3, 5, 2, True, False, True),
        "GRU: expected dropout between 0 and 1, received True",
        "0 drops nothing",
    ),
    "dropout_nan": (
        lambda: gw.GRU(3, 5, 2, dropout=math.nan),
        "GRU: expected dropout between 0 and 1, received nan",
        "0 drops nothing",
    ),
    "dropout_text": (
        lambda: gw.GRU(3, 5, 2, dropout="0.5"),
        "GRU: expected dropout between 0 and 1, received '0.5'",
        "0 drops nothing",
    ),
    "projection_as_large": (
        lambda: gw.LSTM(3, 5, proj_size=5),
        "LSTM: expected proj_size smaller than hidden_size=5, received 5",
        "0 means no projection",
    ),
    "projection_negative": (
        lambda: gw.LSTM(3, 5, proj_size=-1),
        "LSTM: expected proj_size as an integer of at least 0, received -1",
        ORDER,
    ),
    "projection_of_a_gru": (
        lambda: gw.Recurrent("gru", 3, 5, proj_size=2),
        "Recurrent: proj_size needs a cell whose output state feeds only recurrent maps, as the LSTM's; ",
        "leave out proj_size",
    ),
    "reset_unknown": (
        lambda: gw.GRU(3, 5, reset="x"),
        "GRU: expected reset as 'after' or 'before', received 'x'",
        "'after' is torch's form and the default, 'before' the paper's",
    ),
    "dtype_of_integers": (
        lambda: gw.GRU(3, 5, dtype=torch.int32),
        "GRU: expected a real floating-point dtype, received torch.int32",
        "use torch.float32",
    ),
    "dtype_complex": (
        lambda: gw.GRU(3, 5, dtype=torch.complex64),
        "GRU: expected a real floating-point dtype, received torch.complex64",
        "use torch.float32",
    ),
    "dtype_text": (
        lambda: gw.GRU(3, 5, dtype="float64"),
        "GRU: expected a real floating-point dtype, received 'float64'",
        "use torch.float32",
    ),
    "cell_left_out": (
        lambda: gw.Recurrent(3, 5, 2),
        "expected a cell or a name, received a int",
        "give the name of a catalogued cell",
    ),
    "reset_before_to_torch": (
        lambda: gw.GRU(3, 5, reset="before").to_torch(),
        "GRU: torch.nn.GRU has no reset='before'",
        "train with reset='after'",
    ),
}


@pytest.mark.parametrize("case", [*INPUTS.values(), *STATES.values(), *ARGUMENTS.values()],
                         ids=[*(f"input-{k}" for k in INPUTS), *(f"state-{k}" for k in STATES),
                              *(f"argument-{k}" for k in ARGUMENTS)])  # fmt: skip
def test_refused_with_expectation_reception_and_remedy(case):
    attempt, message, hint = case
    with pytest.raises(gw.InputError) as caught:
        attempt()
    assert caught.value.message[: len(message)] == message
    assert hint in caught.value.hint


@pytest.mark.parametrize("case", INPUTS)
def test_explain_refuses_the_same_input_as_the_layer(case, monkeypatch):
    monkeypatch.setattr(gw.Recurrent, "__call__", gw.explain)
    test_refused_with_expectation_reception_and_remedy(INPUTS[case])


def test_a_projection_is_no_argument_of_a_gru():
    with pytest.raises(TypeError, match="argument 'proj_size'"):
        gw.GRU(3, 5, proj_size=2)  # type: ignore[call-arg]  # refused by Python itself


@pytest.mark.parametrize(
    "make",
    [
        lambda: gw.GRU(3, 5, dropout=0.5),
        lambda: gw.RNN(3, 5, dropout=0.5),
        lambda: gw.Recurrent("lstm", 3, 5, dropout=0.5),
    ],
    ids=["GRU", "RNN", "Recurrent"],
)
def test_dropout_in_one_layer_warns_where_the_layer_is_made(make):
    with pytest.warns(
        UserWarning, match=r"dropout=0.5 acts between layers and does nothing with num_layers=1"
    ) as w:
        make()
    assert [warning.filename for warning in w] == [__file__]


def test_a_refused_call_leaves_the_layer_usable():
    layer = gw.GRU(3, 5)
    before = layer(X)[0]
    with pytest.raises(gw.InputError):
        layer(X.double())
    assert torch.equal(layer(X)[0], before)


def test_torch_itself_accepts_what_is_accepted_here():
    """The refusals above are not stricter than torch's own, except where torch computes nonsense."""
    state = torch.randn(2, 4, 5)
    for layer in (nn.GRU(3, 5, 2, batch_first=True), gw.GRU(3, 5, 2, batch_first=True)):
        y, h = layer(torch.zeros(4, 6, 3), state)
        assert (tuple(y.shape), tuple(h.shape)) == ((4, 6, 5), (2, 4, 5))
