"""From torch.nn to layers of this library, weights and all."""

from __future__ import annotations

from torch import nn

from gatewright.errors import InputError
from gatewright.layers.named import GRU, LSTM, RNN, share_parameters
from gatewright.layers.recurrent import Recurrent


def from_torch(module: nn.Module) -> nn.Module:
    """The same layer in this library; in a model, every recurrent layer is replaced in place.

    Parameters are shared, not copied: an optimizer that holds them keeps working. Subclasses of torch's
    layers are left as they are, since they may do more than their weights say.

    Args:
        module: a ``torch.nn.GRU``, ``LSTM`` or ``RNN``, or a model that holds some.

    Returns:
        The new layer, or the model itself.

    Raises:
        InputError: there is no recurrent layer of torch.nn in it, or one whose weights are computed from
            others.
    """
    if _convertible(module):
        return _converted(module)
    found = [(path, m) for path, m in module.named_modules(remove_duplicate=False) if _convertible(m)]
    if not found:
        hint = "give a torch.nn.GRU, LSTM or RNN, or a model that holds one"
        raise InputError(f"from_torch: no recurrent layer of torch.nn in {type(module).__name__}", hint)
    # a layer that stands in two places stays one layer; nothing is replaced unless everything can be
    replacements = {child: _converted(child) for child in dict(found).values()}
    for path, child in found:
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, replacements[child])
    return module


def _convertible(module: nn.Module) -> bool:
    return type(module) in (nn.GRU, nn.LSTM, nn.RNN)


def _converted(module: nn.Module) -> Recurrent:
    assert isinstance(module, nn.RNNBase)
    options = {
        "num_layers": module.num_layers,
        "bias": module.bias,
        "batch_first": module.batch_first,
        "dropout": module.dropout,
        "bidirectional": module.bidirectional,
        "device": "meta",
    }
    sizes = (module.input_size, module.hidden_size)
    if isinstance(module, nn.LSTM):
        return share_parameters(module, LSTM(*sizes, **options, proj_size=module.proj_size))
    if isinstance(module, nn.RNN):
        return share_parameters(module, RNN(*sizes, **options, nonlinearity=module.nonlinearity))
    return share_parameters(module, GRU(*sizes, **options))
