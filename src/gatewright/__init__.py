"""Gatewright: write the gates, get the network."""

import importlib as _importlib
import typing as _typing

from gatewright.backends.cpu.memory import release_memory as release_memory
from gatewright.cells.catalogue import CATALOGUE as CATALOGUE
from gatewright.compiler.graph import Graph as Graph
from gatewright.compiler.language import Cell as Cell
from gatewright.compiler.language import abs as abs  # noqa: A004 - the operation's standard name
from gatewright.compiler.language import cell as cell
from gatewright.compiler.language import cos as cos
from gatewright.compiler.language import exp as exp
from gatewright.compiler.language import layer_norm as layer_norm
from gatewright.compiler.language import log as log
from gatewright.compiler.language import log1p as log1p
from gatewright.compiler.language import maximum as maximum
from gatewright.compiler.language import minimum as minimum
from gatewright.compiler.language import relu as relu
from gatewright.compiler.language import sigmoid as sigmoid
from gatewright.compiler.language import sin as sin
from gatewright.compiler.language import softplus as softplus
from gatewright.compiler.language import sqrt as sqrt
from gatewright.compiler.language import tanh as tanh
from gatewright.compiler.language import where as where
from gatewright.compiler.trace import CellError as CellError
from gatewright.data.streams import Streams as Streams
from gatewright.errors import InputError as InputError
from gatewright.interop.torch import from_torch as from_torch
from gatewright.layers.explain import explain as explain
from gatewright.layers.explain import kernel_source as kernel_source
from gatewright.layers.initialise import initialise as initialise
from gatewright.layers.named import GRU as GRU
from gatewright.layers.named import LSTM as LSTM
from gatewright.layers.named import RNN as RNN
from gatewright.layers.recurrent import Recurrent as Recurrent
from gatewright.layers.state import State as State

__version__ = "0.1.0"

_LATER = {
    "Diagnosis": "gatewright.diagnosis.diagnose",
    "Forecaster": "gatewright.tasks.forecast.forecaster",
    "Monitor": "gatewright.diagnosis.monitor",
    "diagnose": "gatewright.diagnosis.diagnose",
}
"""What is loaded when it is asked for: the layers need none of it, the forecaster needs the extra ``app``."""

if _typing.TYPE_CHECKING:
    from gatewright.diagnosis.diagnose import Diagnosis as Diagnosis
    from gatewright.diagnosis.diagnose import diagnose as diagnose
    from gatewright.diagnosis.monitor import Monitor as Monitor
    from gatewright.tasks.forecast.forecaster import Forecaster as Forecaster


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'gatewright' has no attribute {name!r}")
    try:
        return getattr(_importlib.import_module(_LATER[name]), name)
    except ModuleNotFoundError as error:
        hint = "install it with: pip install 'gatewright[app]'"
        raise InputError(f"gatewright.{name} needs {error.name}, which is not installed", hint) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
