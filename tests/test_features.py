"""What docs/features.md says of this library follows from tests, and what it says of others has a source.

``python tests/test_features.py`` writes the column of this library anew.
"""

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs/features.md"


class Feature(NamedTuple):
    """What stands in the column of this library, and where that is proved.

    A place is a module of tests, ``module::pattern`` with a test whose name the pattern matches, or
    ``docs/layers.md#heading`` with a snippet there that asserts something (tests/test_documents.py runs it).
    """

    says: str
    places: tuple[str, ...]


CONTRACT, TORCH = "tests/layers/test_contract.py", "tests/layers/test_with_torch.py"
PARITY, GUIDE = "tests/backends/cpu/test_kernel_parity.py", "docs/layers.md"


def feature(says: str, *places: str) -> Feature:
    return Feature(says, places)


OPTIONS = f"{PARITY}::every_cell_with_every_option"

FEATURES = {
    "Custom cell at fused speed": feature(
        "yes", f"{PARITY}::every_cell_gives", f"{PARITY}::a_random_cell"
    ),
    "Fused CPU kernels for training": feature(
        "yes", PARITY, "tests/backends/cpu/test_kernel_gradients.py::gradients_equal_differences"
    ),
    "Fused GPU kernel for a custom cell": feature(
        "partly G1", "tests/backends/gpu/test_gpu_parity.py::every_cell_gives"
    ),
    "Lengths without packing": feature("yes G2", f"{GUIDE}#Rows have different lengths", OPTIONS, CONTRACT),
    "Mask of any pattern": feature("yes G2", f"{GUIDE}#Rows have different lengths", OPTIONS, CONTRACT),
    "Rows of length zero": feature("yes G2", f"{GUIDE}#Rows have different lengths", CONTRACT),
    "Resets inside a sequence": feature(
        "yes G2", f"{GUIDE}#A sequence begins in the middle of a row", OPTIONS, CONTRACT
    ),
    "States of every step, c too": feature("yes", f"{GUIDE}#The states of every step", CONTRACT),
    "Final states of ragged rows, both directions": feature(
        "yes", f"{GUIDE}#Rows have different lengths",
        "tests/layers/test_recurrent.py::a_packed_batch_equals_each_sequence_alone", CONTRACT,
    ),
    "Recurrent dropout": feature("yes", OPTIONS, f"{GUIDE}#It overfits", CONTRACT),
    "Zoneout": feature("yes", OPTIONS, f"{GUIDE}#It overfits", CONTRACT),
    "Weight drop": feature("yes", f"{GUIDE}#It overfits", CONTRACT),
    "One dropout mask for all steps between layers": feature("yes", f"{GUIDE}#It overfits", CONTRACT),
    "Layer norm in the cell": feature("yes", OPTIONS, CONTRACT),
    "Residual stack": feature("yes", f"{GUIDE}#It is deep, or its activations drift", CONTRACT),
    "Learned initial state": feature("yes", f"{GUIDE}#The beginning matters", CONTRACT),
    "Block-diagonal heads": feature("yes", "tests/backends/test_heads.py::heads_are_a_dense_layer"),
    "Other activations": feature("yes", f"{GUIDE}#Fewer weights, other functions", CONTRACT),
    "GRU with reset before the product": feature(
        "yes", "tests/cells/test_catalogue_cells.py::a_catalogued_cell_equals_its_formulas",
        "tests/layers/test_recurrent.py::gru_with_reset_before",
    ),
    "Projected output": feature(
        "yes", f"{PARITY}::a_projected_output", "tests/layers/test_recurrent.py::with_a_projection"
    ),
    "First weights: orthogonal, chrono, forget bias": feature(
        "yes", "tests/layers/test_initialise.py::orthogonal_blocks",
        "tests/layers/test_initialise.py::chrono_gives", "tests/layers/test_initialise.py::a_forget_bias_is",
    ),
    "One step at a time": feature(
        "yes", f"{GUIDE}#Steps come one by one",
        "tests/layers/test_recurrent.py::one_step_at_a_time", CONTRACT,
    ),
    "State as a value: select, reset, save": feature("yes", f"{GUIDE}#Steps come one by one", CONTRACT),
    "Data loader for truncated backpropagation": feature(
        "yes", "tests/data/test_streams.py::every_step_is_seen_once",
        "tests/data/test_streams.py::a_saved_epoch_goes_on",
    ),
    "Compiled in one graph, exported with any length": feature(
        "yes", "tests/backends/test_operator.py::a_compiled_layer_is_one_graph",
        "tests/backends/test_operator.py::a_compiled_layer_takes_other_lengths", TORCH,
    ),
    "Gradients of each sample, vmap": feature(
        "yes G4", "tests/backends/cpu/test_kernel_gradients.py::transforms_of_a_layer", TORCH
    ),
    "Second derivatives": feature(
        "yes G4", "tests/backends/cpu/test_kernel_gradients.py::second_gradients_equal_differences"
    ),
    "Says which code ran, and why": feature(
        "yes", "tests/layers/test_recurrent.py::explain_begins_with",
        "tests/layers/test_recurrent.py::explain_says_why",
    ),
}  # fmt: skip


def names_of_tests(module: str) -> list[str]:
    """The names of a module's tests, in classes too."""
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    found = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [name for name in found if name.startswith("test_")]


def section(document: str, heading: str) -> str:
    """The text below a heading, to the next one."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def proves(place: str) -> bool:
    """Whether there is such a test, or a snippet that asserts something."""
    if "#" in place:
        blocks = re.findall(r"<!-- runs -->\n```python\n(.*?)```", section(*place.split("#")), re.DOTALL)
        return any(re.search(r"^(assert |torch\.testing\.)", block, re.MULTILINE) for block in blocks)
    module, _, pattern = place.partition("::")
    return (ROOT / module).is_file() and any(re.search(pattern, name) for name in names_of_tests(module))


def rows() -> list[list[str]]:
    """The cells of the document's table, without its head."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def own_column(text: str) -> str:
    """The document with the column of this library as the table above has it."""

    def anew(line: str) -> str:
        cells = line.split(" | ")
        known = FEATURES.get(cells[0].removeprefix("| "))
        return line if known is None else " | ".join([cells[0], known.says, *cells[2:]])

    return "\n".join(map(anew, text.split("\n")))


@pytest.mark.parametrize("name", FEATURES)
def test_what_is_said_of_this_library_is_proved(name):
    places = FEATURES[name].places
    assert places
    assert not [place for place in places if not proves(place)]


def test_the_document_says_of_this_library_what_the_tests_prove():
    assert {row[0]: row[1] for row in rows()} == {name: row.says for name, row in FEATURES.items()}, (
        "python tests/test_features.py writes it anew"
    )


def test_whatever_is_said_has_a_source_that_is_named_below():
    notes = re.findall(r"^- ([A-Z]\d+): ", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(notes) == len(set(notes))
    used = set()
    for name, *cells in rows():
        assert len(cells) == 9, name
        for place, cell in enumerate(cells):
            verdict, *sources = cell.split(" ")
            assert verdict in ("yes", "no", "partly", "n.a.", "?"), (name, cell)
            assert bool(sources) == (verdict in ("yes", "no", "partly")) or place == 0, (name, cell)
            used.update(sources)
    assert used == set(notes)


def test_a_test_that_is_not_there_proves_nothing():
    assert proves("tests/test_features.py::proves_nothing")
    assert not proves("tests/test_features.py::proves_everything")
    assert not proves("tests/no_such_module.py")
    assert not proves("docs/layers.md#No such heading")
    assert not proves("docs/layers.md#It is slower than expected, or memory runs out")  # it asserts nothing


if __name__ == "__main__":
    DOCUMENT.write_text(own_column(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
