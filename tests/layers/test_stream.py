"""A layer fed step by step: the stream gives what the layer gives."""

import copy

import pytest
import torch

import gatewright as gw

LAYERS = {
    "gru": lambda: gw.GRU(7, 9, 2),
    "gru_reset_before": lambda: gw.GRU(7, 9, reset="before"),
    "lstm": lambda: gw.LSTM(7, 9, 2),
    "projected": lambda: gw.LSTM(7, 9, 2, proj_size=4),
    "zoneout": lambda: gw.LSTM(7, 9, zoneout=0.2),
    "layer_norm": lambda: gw.GRU(7, 9, layer_norm=True),
    "double": lambda: gw.GRU(7, 9, dtype=torch.float64),
}
UNFUSED = {
    "heads": lambda: gw.GRU(7, 9, heads=3),
    "residual": lambda: gw.GRU(9, 9, 2, residual=True, pre_norm=True),
}


def learned():
    layer = gw.GRU(7, 9, train_initial_state=True)
    torch.nn.init.normal_(layer.get_parameter("initial_h"))
    return layer


LAYERS["initial"] = learned


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", [*LAYERS, *UNFUSED])
def test_every_step_is_that_of_the_layer(name, batch):
    layer = (LAYERS | UNFUSED)[name]()
    stream = layer.stream(batch)
    assert stream.fused == (name in LAYERS)
    assert layer.training
    layer.eval()
    state = layer.make_state(batch)
    with torch.no_grad():
        for _ in range(5):
            x = torch.randn(batch, layer.input_size, dtype=layer.get_parameter("weight_ih_l0").dtype)
            expected, state = layer.step(x, state)
            torch.testing.assert_close(stream(x), expected, rtol=1e-6, atol=1e-6)
    for key, value in stream.state.items():
        torch.testing.assert_close(value, state[key], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["lstm", "heads"])
def test_a_stream_goes_on_from_a_state_and_begins_anew(name):
    layer = (LAYERS | UNFUSED)[name]()
    stream, x = layer.stream(2), torch.randn(2, 7)
    first = stream(x).clone()
    state = stream.state
    second = stream(x).clone()
    assert not torch.equal(first, second)
    stream.state = state
    assert torch.equal(stream(x), second)
    stream.reset()
    assert torch.equal(stream(x), first)
    with pytest.raises(gw.InputError, match="expected a state like"):
        stream.state = gw.RNN(7, 8).make_state(2)


def test_weights_are_taken_over_when_asked_for():
    layer = gw.GRU(7, 9)
    stream, x = layer.stream(), torch.randn(1, 7)
    before = stream(x).clone()
    with torch.no_grad():
        layer.get_parameter("weight_ih_l0").mul_(2)
    stream.reset()
    assert torch.equal(stream(x), before)
    stream.reset()
    stream.refresh()
    with torch.no_grad():
        torch.testing.assert_close(stream(x), layer.step(x)[0])
    state = stream.state
    stream.refresh()
    assert torch.equal(stream.state["h"], state["h"])


@pytest.mark.parametrize("name", ["lstm", "heads"])
def test_a_copy_is_a_stream_of_its_own(name):
    layer = (LAYERS | UNFUSED)[name]()
    stream, x = layer.stream(2), torch.randn(2, 7)
    stream(x)
    other = copy.deepcopy(stream)
    expected = stream(x).clone()
    del stream
    gw.release_memory()
    torch.testing.assert_close(other(x), expected)
    assert layer.training


def test_inputs_as_they_come():
    layer = gw.GRU(7, 9)
    stream, x = layer.stream(3), torch.randn(7, 3).T
    assert not x.is_contiguous()
    with torch.no_grad():
        torch.testing.assert_close(stream(x), layer.step(x)[0])


@pytest.mark.parametrize("size", [5, 16, 64, 200])
def test_bfloat16_weights_are_right_to_their_rounding(size):
    """Each weight within 2⁻⁹ of itself: so is a sum of as many products, by the sum of their sizes."""
    layer = gw.LSTM(size, size, 2)
    stream = layer.stream(2, torch.bfloat16)
    rounded = gw.LSTM(size, size, 2)
    rounded.load_state_dict({k: v.to(torch.bfloat16).float() for k, v in layer.state_dict().items()})
    exact = rounded.stream(2)
    for _ in range(4):
        x = torch.randn(2, size)
        torch.testing.assert_close(stream(x), exact(x), rtol=1e-5, atol=1e-6)


def test_what_a_stream_refuses():
    layer = gw.GRU(7, 9)
    wrong = (torch.zeros(2, 7), torch.zeros(1, 6), torch.zeros(1, 7).double(), torch.zeros(7))
    for x in (*wrong, torch.zeros(1, 7, device="meta")):
        with pytest.raises(gw.InputError, match=r"a stream expected \[1, 7\] of torch.float32 on cpu"):
            layer.stream()(x)
    with pytest.raises(gw.InputError, match="stream is not possible in reverse"):
        gw.GRU(7, 9, bidirectional=True).stream()
    with pytest.raises(gw.InputError, match=r"expected weights of the stream as None, received torch\.int8"):
        layer.stream(weights=torch.int8)
    with pytest.raises(gw.InputError, match="bfloat16 weights need the CPU kernels in float32"):
        layer.double().stream(weights=torch.bfloat16)
    with pytest.raises(gw.InputError, match="expected batch as a whole number"):
        layer.stream("a")  # type: ignore[arg-type]  # a wrong argument is what is tested


def test_vector_weights_are_those_of_the_moment_too():
    layer = gw.GRU(7, 9, layer_norm=True)
    stream, x = layer.stream(), torch.randn(1, 7)
    before = stream(x).clone()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(3)
    layer.double()
    stream.reset()
    assert torch.equal(stream(x), before)


def test_a_stream_made_in_inference_mode_goes_on_outside():
    layer = gw.GRU(7, 9)
    with torch.inference_mode():
        stream = layer.stream(2)
        first = stream(torch.ones(2, 7)).clone()
    stream.reset()
    assert torch.equal(stream(torch.ones(2, 7)), first)


def test_no_rows_and_no_tensor():
    assert gw.GRU(7, 9).stream(0)(torch.zeros(0, 7)).shape == (0, 9)
    with pytest.raises(gw.InputError, match="received list"):
        gw.GRU(7, 9).stream()([1.0])  # type: ignore[arg-type]  # a wrong argument is what is tested
    with pytest.raises(gw.InputError, match="expected a state like"):
        gw.GRU(7, 9).stream(2).state = gw.GRU(7, 9, reset="before").make_state(2)


def test_a_state_file_with_another_description(tmp_path):
    from gatewright.files import write_tensors

    state = gw.GRU(7, 9).make_state(2)
    state.save(tmp_path / "state")
    assert torch.equal(gw.State.load(tmp_path / "state")["h"], state["h"])
    write_tensors(tmp_path / "state", {"h": state["h"]}, {"kind": "gatewright state", "names": ["c"]})
    with pytest.raises(gw.InputError, match="is damaged"):
        gw.State.load(tmp_path / "state")
    shared = gw.State({"h": state["h"], "c": state["h"]}, "lstm")
    shared.save(tmp_path / "shared")
    assert gw.State.load(tmp_path / "shared") != shared


def test_the_length_of_a_single_sequence():
    layer, x = gw.GRU(7, 9), torch.randn(5, 7)
    expected = layer(x[:3])[1]
    for length in (3, torch.tensor(3), torch.tensor([3]), [3], torch.tensor([3]).numpy()):
        assert torch.equal(layer(x, lengths=length)[1], expected)
