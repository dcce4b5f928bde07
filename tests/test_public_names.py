"""The names of the package, and what importing it brings along."""

import subprocess
import sys

import gatewright

NAMES = {
    # layers
    "GRU", "LSTM", "RNN", "Recurrent", "explain", "from_torch", "initialise", "kernel_source",
    # why a model does not learn
    "Diagnosis", "Monitor", "diagnose",
    # from a table to a forecast
    "Forecaster",
    # data
    "State", "Streams",
    # memory
    "release_memory",
    # cells
    "CATALOGUE", "Cell", "Graph", "cell",
    # operations
    "abs", "cos", "exp", "layer_norm", "log", "log1p", "maximum", "minimum", "relu", "sigmoid", "sin",
    "softplus", "sqrt", "tanh", "where",
    # errors
    "CellError", "InputError",
}  # fmt: skip

PARTS = {
    "backends", "cells", "cli", "compiler", "data", "diagnosis", "errors", "files", "interop", "layers",
    "reports", "tasks", "training",
}  # fmt: skip


def test_the_package_has_these_names_and_no_others():
    public = {name for name in dir(gatewright) if not name.startswith("_")}
    # a part of the package is there once something has imported it
    assert public - PARTS == NAMES
    for name in ("Diagnosis", "Forecaster", "Monitor", "diagnose"):
        # loaded when it is asked for, as it needs more than the layers do
        assert getattr(gatewright, name).__name__ == name


def test_the_version_is_the_installed_one():
    from importlib.metadata import version

    assert gatewright.__version__ == version("gatewright")


def test_every_operation_of_the_language_is_a_name_of_the_package():
    from gatewright.compiler.operations import FUNCTIONS

    assert set(FUNCTIONS) <= NAMES


def test_importing_the_layers_brings_along_nothing_of_the_application():
    code = "import sys, gatewright; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "gatewright" in loaded
    application = {
        "polars",
        "pandas",
        "matplotlib",
        "typer",
        "pydantic",
        "rich",
        "narwhals",
        "jinja2",
        "pyarrow",
    }
    assert not loaded & application
