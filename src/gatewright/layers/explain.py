"""Which path a call takes, and why; the code that was generated for it."""

from __future__ import annotations

from typing import Any

from gatewright.backends import dispatch
from gatewright.backends.call import Call, transform_refusal
from gatewright.errors import InputError
from gatewright.layers.inputs import SequenceInput, read_sequence, read_states
from gatewright.layers.marks import read_marks
from gatewright.layers.recurrent import Recurrent


def explain(layer: Recurrent, x: SequenceInput, **marked: Any) -> str:
    """Say which backend runs this input and how, and why no faster one does.

    Args:
        layer: a recurrent layer.
        x: what it would be called with.
        **marked: ``lengths``, ``mask``, ``resets`` and ``all_states``, likewise.

    Returns:
        Text whose first line begins with the backend's name; then, for layers and directions that run alike,
        how they run, and each backend that was passed over with its reason.

    Raises:
        InputError: it is no recurrent layer of this package.
    """
    check_layer(layer, "explain")
    alike: dict[tuple[str, ...], list[str]] = {}
    names = []
    for suffix, call, route in _routes(layer, x, marked):
        names.append(route.backend.name)
        lines = [f"    {line}" for line in route.backend.describe(call)]
        lines += [f"    not {name}: {reason}" for name, reason in route.refusals.items()]
        alike.setdefault((route.backend.name, *lines), []).append(suffix)
    text = [f"{' + '.join(dict.fromkeys(names))}: cell {layer.cell.name}"]
    for (name, *lines), suffixes in alike.items():
        text += [f"  {', '.join(suffixes)}: {name}", *lines]
    return "\n".join(text)


def kernel_source(layer: Recurrent, x: SequenceInput, **marked: Any) -> str:
    """The code that was generated for this input.

    Args:
        layer: a recurrent layer.
        x: what it would be called with.
        **marked: ``lengths``, ``mask``, ``resets`` and ``all_states``, likewise.

    Returns:
        LLVM's text of the forward kernel and, where gradients are recorded, of the backward kernel, under the
        names of the layers and directions that it runs; on a GPU Triton's source.

    Raises:
        InputError: no code is generated: another backend runs the input, or there is nothing to compute.
    """
    check_layer(layer, "kernel_source")
    alike: dict[tuple[str, str], list[str]] = {}
    for suffix, call, route in _routes(layer, x, marked):
        text = route.backend.kernel_source(call)
        if not text:
            message = f"{suffix} runs on the backend {route.backend.name!r}, without generated code"
            raise InputError(f"kernel_source: {message}", "gatewright.explain(layer, x) says why")
        alike.setdefault((route.backend.comment, text), []).append(suffix)
    return "\n\n".join(f"{sign} {', '.join(suffixes)}\n{text}" for (sign, text), suffixes in alike.items())


def check_layer(layer: object, function: str) -> None:
    """Refuse what is no recurrent layer of this package, in the name of the function that was called."""
    if not isinstance(layer, Recurrent):
        hint = (
            "give the layer itself, such as model.rnn; gatewright.from_torch(model) converts those of torch"
        )
        message = f"{function}: expected a recurrent layer of gatewright, received {type(layer).__name__}"
        raise InputError(message, hint)


def _routes(
    layer: Recurrent, x: SequenceInput, marked: dict[str, Any]
) -> list[tuple[str, Call, dispatch.Route]]:
    """For every layer and direction the suffix of its weights, its call for an input, and the backend."""
    expected = layer.expectation()
    sequence = read_sequence(x, expected)
    states = read_states(None, sequence, expected, layer.initial_states())
    said = {"masked": "hold", "all_states": False, "lengths": None, "mask": None, "resets": None} | marked
    other = marked.keys() - {"masked", "all_states", "lengths", "mask", "resets"}
    if other:
        hint = "give what the layer would be called with"
        expected.refuse(f"a layer is not called with {sorted(other)[0]!r}", hint)
    marks = read_marks(said["lengths"], said["mask"], said["resets"], said["masked"], sequence, expected)
    sequence, marks = layer.padded(sequence, marks, states)
    data, routes = sequence.data, []
    trained = any(parameter.requires_grad for parameter in layer.parameters())
    for number in range(layer.num_layers):
        calls = layer.layer_calls(
            data, states, number, sequence.batch_sizes, marks, said["all_states"], draw=False
        )
        for call in calls:
            suffix = f"l{number}_reverse" if call.reverse else f"l{number}"
            routes.append((suffix, call, dispatch.route(call, layer.backend)))
        graded = data.requires_grad or trained
        data = data.new_empty(*data.shape[:-1], layer.output_size * len(calls))
        # what torch.func transforms may not be told; no kernel that asks runs there
        if graded and transform_refusal() is None:
            data.requires_grad_()
    return routes
