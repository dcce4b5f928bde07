"""What does not fit a layer is refused with what was expected, what was received and a remedy."""

# wrong arguments are what is tested here
# pyright: reportArgumentType=false

import math
from typing import Any

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


FLAGS = torch.ones(4, 2, dtype=torch.bool)
PACKED = pack_padded_sequence(X, [4, 2])
FOREIGN = gw.LSTM(3, 5).make_state(2)
CALLS = {
    "lengths_over_the_steps": (
        lambda: gw.GRU(3, 5)(X, lengths=[2, 5]),
        "GRU: expected lengths from 0 to the 4 steps, received 5",
        "a length of 0 leaves a row as it is",
    ),
    "lengths_negative": (
        lambda: gw.GRU(3, 5)(X, lengths=torch.tensor([-1, 5])),
        "GRU: expected lengths from 0 to the 4 steps, received -1",
        "a length of 0 leaves a row as it is",
    ),
    "lengths_of_another_batch": (
        lambda: gw.GRU(3, 5)(X, lengths=[2, 3, 4]),
        "GRU: expected lengths of shape [2], received [3]",
        "one length a row, here 2",
    ),
    "lengths_of_two_dimensions": (
        lambda: gw.GRU(3, 5)(X, lengths=torch.ones(2, 1, dtype=torch.int64)),
        "GRU: expected lengths of shape [2], received [2, 1]",
        "one length a row",
    ),
    "lengths_of_the_steps_with_batch_first": (
        lambda: gw.GRU(3, 5, batch_first=True)(X, lengths=[2, 2]),
        "GRU: expected lengths of shape [4], received [2]",
        "one length a row, here 4",
    ),
    "lengths_float": (
        lambda: gw.GRU(3, 5)(X, lengths=torch.tensor([2.0, 3.0])),
        "GRU: expected lengths as whole numbers, received torch.float32",
        "convert them with .to(torch.int64)",
    ),
    "lengths_bool": (
        lambda: gw.GRU(3, 5)(X, lengths=FLAGS[0]),
        "GRU: expected lengths as whole numbers, received torch.bool",
        "convert them with .to(torch.int64)",
    ),
    "lengths_floats_in_a_list": (
        lambda: gw.GRU(3, 5)(X, lengths=[2.0, 3.0]),
        "GRU: expected lengths as whole numbers, received list",
        "give a tensor of whole numbers, or a list of them",
    ),
    "lengths_one_number": (
        lambda: gw.GRU(3, 5)(X, lengths=3),
        "GRU: expected lengths as whole numbers, received int",
        "give a tensor of whole numbers, or a list of them",
    ),
    "mask_of_numbers": (
        lambda: gw.GRU(3, 5)(X, mask=FLAGS.float()),
        "GRU: expected mask of torch.bool, received torch.float32",
        "compare it first: mask != 0",
    ),
    "mask_list": (
        lambda: gw.GRU(3, 5)(X, mask=[[True, False]] * 4),
        "GRU: expected mask as a tensor, received list",
        "use torch.tensor",
    ),
    "mask_transposed": (
        lambda: gw.GRU(3, 5)(X, mask=FLAGS.T),
        "GRU: expected mask of shape [4, 2], received [2, 4]",
        "its layout is [T, B], that of the input without its features",
    ),
    "mask_transposed_with_batch_first": (
        lambda: gw.GRU(3, 5, batch_first=True)(X, mask=FLAGS.T),
        "GRU: expected mask of shape [4, 2], received [2, 4]",
        "its layout is [B, T]",
    ),
    "mask_of_features": (
        lambda: gw.GRU(3, 5)(X, mask=X == 0),
        "GRU: expected mask of shape [4, 2], received [4, 2, 3]",
        "that of the input without its features",
    ),
    "mask_of_an_unbatched_input": (
        lambda: gw.GRU(3, 5)(X[:, 0], mask=FLAGS),
        "GRU: expected mask of shape [4], received [4, 2]",
        "its layout is [T]",
    ),
    "mask_elsewhere": (
        lambda: gw.GRU(3, 5)(X, mask=FLAGS.to("meta")),
        "GRU: mask is on meta, the weights are on cpu",
        "move it with .to('cpu')",
    ),
    "resets_of_numbers": (
        lambda: gw.GRU(3, 5)(X, resets=torch.ones(4, 2, dtype=torch.int64)),
        "GRU: expected resets of torch.bool, received torch.int64",
        "compare it first: resets != 0",
    ),
    "resets_of_another_shape": (
        lambda: gw.GRU(3, 5)(X, resets=FLAGS[:2]),
        "GRU: expected resets of shape [4, 2], received [2, 2]",
        "its layout is [T, B]",
    ),
    "resets_elsewhere": (
        lambda: gw.GRU(3, 5)(X, resets=FLAGS.to("meta")),
        "GRU: resets is on meta, the weights are on cpu",
        "move it with .to('cpu')",
    ),
    "masked_unknown": (
        lambda: gw.GRU(3, 5)(X, lengths=[2, 4], masked="skip"),
        "GRU: expected masked as 'hold' or 'zero', received 'skip'",
        "'hold' repeats the output of the last step that counts",
    ),
    "packed_with_lengths": (
        lambda: gw.GRU(3, 5)(PACKED, lengths=[4, 2]),
        "GRU: lengths with a PackedSequence, which has its lengths already",
        "give the padded tensor with lengths=...",
    ),
    "packed_with_a_mask": (
        lambda: gw.GRU(3, 5)(PACKED, mask=FLAGS),
        "GRU: mask with a PackedSequence, which has its lengths already",
        "give the padded tensor with lengths=...",
    ),
    "packed_with_resets": (
        lambda: gw.GRU(3, 5)(PACKED, resets=FLAGS),
        "GRU: resets with a PackedSequence, which has its lengths already",
        "give the padded tensor with lengths=...",
    ),
    "packed_with_all_states": (
        lambda: gw.GRU(3, 5)(PACKED, all_states=True),
        "GRU: all_states with a PackedSequence",
        "give the padded tensor with lengths=...",
    ),
    "lengths_with_a_projection": (
        lambda: gw.LSTM(3, 5, proj_size=2)(X, lengths=[4, 2]),
        "LSTM: lengths, mask and resets are not possible with proj_size",
        "pack the sequences, or make the layer without proj_size",
    ),
    "state_of_another_cell": (
        lambda: gw.GRU(3, 5)(X, FOREIGN),
        "GRU: expected a state of the cell gru (h), received State(lstm, h: [1, 2, 5], c: [1, 2, 5])",
        "layer.make_state(batch) makes one of this layer",
    ),
    "state_of_another_cell_with_the_same_names": (
        lambda: gw.RNN(3, 5)(X, gw.GRU(3, 5).make_state(2)),
        "RNN: expected a state of the cell rnn_tanh (h), received State(gru, h: [1, 2, 5])",
        "layer.make_state(batch) makes one of this layer",
    ),
    "state_of_another_size": (
        lambda: gw.LSTM(3, 4)(X, FOREIGN),
        "LSTM: state h: expected shape [1, 2, 4], received [1, 2, 5]",
        "a state is",
    ),
    "state_of_another_batch": (
        lambda: gw.LSTM(3, 5)(X, FOREIGN.select([0])),
        "LSTM: state h: expected shape [1, 2, 5], received [1, 1, 5]",
        "a state is",
    ),
    "state_of_fewer_layers": (
        lambda: gw.LSTM(3, 5, 2).chunk(X, FOREIGN),
        "LSTM: state h: expected shape [2, 2, 5], received [1, 2, 5]",
        "a state is",
    ),
    "step_in_both_directions": (
        lambda: gw.GRU(3, 5, bidirectional=True).step(X[0]),
        "GRU: step is not possible in reverse, which begins at the end",
        "make the layer with bidirectional=False",
    ),
    "chunk_in_both_directions": (
        lambda: gw.GRU(3, 5, bidirectional=True).chunk(X),
        "GRU: chunk is not possible in reverse, which begins at the end",
        "or give it the whole sequence",
    ),
    "step_of_a_sequence": (
        lambda: gw.GRU(3, 5).step(X),
        "GRU: expected [B, I] or [I], received [4, 2, 3]",
        "give the features of one time step, without a dimension of time",
    ),
    "step_of_a_list": (
        lambda: gw.GRU(3, 5).step([0.0, 1.0, 2.0]),
        "GRU: expected [B, I] or [I], received list",
        "give the features of one time step",
    ),
    "make_state_of_a_fraction": (
        lambda: gw.GRU(3, 5).make_state(2.0),
        "GRU: expected batch as a whole number of rows, received 2.0",
        "0 is possible",
    ),
    "make_state_negative": (
        lambda: gw.GRU(3, 5).make_state(-1),
        "GRU: expected batch as a whole number of rows, received -1",
        "0 is possible",
    ),
    "explain_of_what_is_not_said": (
        lambda: gw.explain(gw.GRU(3, 5), X, length=[4, 2]),
        "GRU: a layer is not called with 'length'",
        "give what the layer would be called with",
    ),
    "select_out_of_range": (
        lambda: FOREIGN.select([0, 2]),
        "State: expected rows of a batch of 2, received [0, 2]",
        "name rows by numbers below 2, by a mask [2] or by a slice",
    ),
    "select_out_of_range_from_behind": (
        lambda: FOREIGN.select([-3]),
        "State: expected rows of a batch of 2, received [-3]",
        "name rows by numbers below 2",
    ),
    "select_by_fractions": (
        lambda: FOREIGN.select(torch.tensor([0.5])),
        "State: expected rows of a batch of 2, received tensor([0.5000])",
        "name rows by numbers below 2",
    ),
    "reset_by_a_mask_of_another_batch": (
        lambda: FOREIGN.reset(FLAGS[:, 0]),
        "State: expected a mask of shape [2], received [4]",
        "a mask has one value a row",
    ),
    "reset_to_a_state_of_another_batch": (
        lambda: FOREIGN.reset([0], FOREIGN.select([0])),
        "State: expected a state like State(lstm, h: [1, 2, 5], c: [1, 2, 5]), received State(lstm, ",
        "states of one layer go together",
    ),
    "join_with_a_state_of_another_cell": (
        lambda: FOREIGN.join(gw.GRU(3, 5).make_state(1)),
        "State: expected a state like State(lstm, h: [1, 2, 5], c: [1, 2, 5]), received State(gru, ",
        "states of one layer go together",
    ),
    "states_of_different_batches": (
        lambda: gw.State({"h": STATE, "c": STATE[:, :1]}, "lstm"),
        "State: expected states with the same rows, received h [1, 2, 5], c [1, 1, 5]",
        "every state is [layers · directions, B, size]",
    ),
}


@gw.cell
def lone(x, w, h):
    """No recurrent map."""
    z = gw.sigmoid(x.z + w.p * h)
    return z * h + (1 - z) * gw.tanh(x.n)


# names that the signature does not have
MISSPELT: dict[str, Any] = {"zone_out": 0.5}
PROJECTED: dict[str, Any] = {"proj_size": 2}

RATES = ("recurrent_dropout", "zoneout", "weight_drop", "variational_dropout")
FLAG_OPTIONS = ("recompute", "layer_norm", "residual", "pre_norm", "train_initial_state")
OPTIONS = {
    **{
        f"{name}_of_{value!r}": (
            lambda name=name, value=value: gw.GRU(3, 5, 2, **{name: value}),
            f"GRU: expected {name} from 0 to below 1, received {value!r}",
            "0 turns it off",
        )
        for name in RATES
        for value in (-0.1, 1, 1.5, math.nan, True, "0.5")
    },
    **{
        f"{name}_of_{value!r}": (
            lambda name=name, value=value: gw.GRU(3, 5, **{name: value}),
            f"GRU: expected {name} as True or False, received {value!r}",
            "options are given by name",
        )
        for name in FLAG_OPTIONS
        for value in (1, None)
    },
    **{
        f"heads_of_{value!r}": (
            lambda value=value: gw.GRU(3, 6, heads=value),
            f"GRU: expected heads as a divisor of hidden_size=6, received {value!r}",
            "each head has hidden_size / heads units",
        )
        for value in (4, 0, -2, 12, 2.0, True)
    },
    **{
        f"{name}_of_{value!r}": (
            lambda name=name, value=value: gw.GRU(3, 5, **{name: value}),
            f"GRU: expected {name} as one of tanh, sigmoid, relu, softplus, sin, linear, hard_sigmoid, "
            f"hard_tanh, softsign, received {value!r}",
            "leave it out",
        )
        for name in ("activation", "gate_activation")
        for value in ("gelu", "", math.tanh)
    },
    **{
        f"{name}_without_recurrent_maps": (
            lambda name=name, value=value: gw.Recurrent(lone, 3, 6, **{name: value}),
            f"Recurrent: {name} needs recurrent maps, the cell 'lone' has none",
            "leave it out",
        )
        for name, value in (("recurrent_dropout", 0.5), ("weight_drop", 0.5), ("heads", 2))
    },
    **{
        f"{name}_with_a_projection": (
            lambda name=name, value=value: gw.LSTM(3, 6, proj_size=2, **{name: value}),
            f"LSTM: {name} is not possible with proj_size",
            f"leave out {name}",
        )
        for name, value in (("recurrent_dropout", 0.5), ("zoneout", 0.5), ("heads", 2))
    },
    "unknown_option": (
        lambda: gw.GRU(3, 5, **MISSPELT),
        "GRU: no option named 'zone_out'",
        "the options are recompute, recurrent_dropout, zoneout",
    ),
    "zoneout_of_an_unknown_state": (
        lambda: gw.GRU(3, 5, zoneout={"c": 0.5}),
        "GRU: zoneout: no state named 'c'",
        "the states are h",
    ),
    "zoneout_of_a_state_out_of_range": (
        lambda: gw.LSTM(3, 5, zoneout={"h": 0.1, "c": 1.0}),
        "LSTM: expected zoneout from 0 to below 1, received 1.0",
        "0 turns it off",
    ),
    "zoneout_none": (
        lambda: gw.LSTM(3, 5, zoneout=None),
        "LSTM: expected zoneout from 0 to below 1, received None",
        "0 turns it off",
    ),
}


ALL = {"input": INPUTS, "state": STATES, "argument": ARGUMENTS, "call": CALLS, "option": OPTIONS}


@pytest.mark.parametrize(
    "case",
    [row for table in ALL.values() for row in table.values()],
    ids=[f"{kind}-{name}" for kind, table in ALL.items() for name in table],
)
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
    with pytest.raises(
        gw.InputError, match="GRU: proj_size needs a cell whose output state feeds only"
    ) as caught:
        gw.GRU(3, 5, **PROJECTED)
    assert caught.value.hint == "leave out proj_size"


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
