"""What the documents show is what the program prints.

A block of code behind one of these comments is held against the program:

    <!-- runs -->                     Python that is run; what it defines the blocks below it may use
    <!-- printed: EXPRESSION -->      the text of a Python expression, in a block or up to <!-- end -->
    <!-- emitted: EXPRESSION -->      LLVM code that is in the text of an expression, whatever its registers
                                      are called; a comment of three dots stands for lines left out

``python tests/test_documents.py`` writes the printed ones anew.
"""

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import gatewright as gw
from gatewright.backends.cpu import engine, functions, launch, threads
from gatewright.backends.gpu.blocks import choose_blocks
from gatewright.backends.gpu.engine import INTERPRETED_DEVICE
from gatewright.backends.gpu.forward import forward_source
from gatewright.backends.gpu.kernel import Format
from gatewright.compiler.schedule import schedule

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    "README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/compiler.md", "docs/features.md",
    "docs/diagnosis.md", "docs/initialisation.md", "docs/layers.md",
]  # fmt: skip
BLOCK = re.compile(
    r"<!-- (?P<kind>runs|printed|emitted)(?:: (?P<expression>.+?))? -->\n+"
    r"(?:```\w*\n(?P<code>.*?)^```$|(?P<text>.*?)^<!-- end -->$)",
    re.DOTALL | re.MULTILINE,
)


AVX_512 = engine.Machine("", "", 64, 32, "", "AVX-512")
AVX2 = engine.Machine("", "", 32, 16, "", "AVX2")


@contextmanager
def on(machine: engine.Machine, count: int) -> Iterator[None]:
    """Code is made for another machine and so many threads; nothing is run on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "machine", lambda: machine)
        patch.setattr(engine, "refusal", lambda: None)
        patch.setattr(threads, "available", lambda: count)
        launch.forward.cache_clear()
        launch.backward.cache_clear()
        try:
            yield
        finally:
            launch.forward.cache_clear()
            launch.backward.cache_clear()


def explained(layer: gw.Recurrent, *shape: int) -> str:
    """What ``explain`` says of an input of zeros, with AVX-512 and two threads."""
    with on(AVX_512, 2):
        return gw.explain(layer, torch.zeros(*shape, dtype=layer.all_weights[0][0].dtype))


def emitted_forward(cell: gw.Cell, batch: int, size: int) -> str:
    """The forward kernel for AVX2, in float32, with ``I`` and ``H`` of one size."""
    with on(AVX2, 1):
        text = gw.kernel_source(gw.Recurrent(cell, size, size), torch.zeros(1, batch, size))
    return text.partition("; backward kernel")[0]


def triton_forward(cell: gw.Cell, hidden: int) -> str:
    """The forward kernel for a GPU, in bfloat16, without its imports."""
    plan = schedule(cell.graph)
    blocks = choose_blocks(plan, 100, 32, hidden, 2, INTERPRETED_DEVICE)
    text = forward_source(plan, blocks, Format("bfloat16", "bfloat16", "ieee"), False, True)
    return text.partition("\n\n\n")[2].strip()


def error_table() -> str:
    """For each elementary function the largest error that was found, and the one that the tests allow."""
    lines = ["| function | float32 | float64 | bound |", "|---|---|---|---|"]
    for name, bounds in functions.ERROR_BOUNDS.items():
        bound = " / ".join(dict.fromkeys(f"{number:g}" for number in bounds))
        text = inspect.getdoc(functions.FUNCTIONS[name]) or ""
        found = re.search(r"(\d+(?:\.\d+)?) ULP(?:, in float64 (\d+(?:\.\d+)?)| in both)", text)
        single, double = ("0.5", "0.5") if found is None else (found[1], found[2] or found[1])
        lines.append(f"| `{name}` | {single} | {double} | {bound} |")
    return "\n".join(lines)


def names() -> dict[str, object]:
    """What the expressions of a document may use."""
    helpers = {
        "explained": explained,
        "emitted_forward": emitted_forward,
        "triton_forward": triton_forward,
        "error_table": error_table,
    }
    return {"gw": gw, "torch": torch, **gw.CATALOGUE, **helpers}


# LLVM code up to the names of registers and labels

REGISTER = re.compile(r"%[\w.]+")


def instructions(text: str) -> list[str]:
    """Lines without comments and indentation, a label as it is written where it is used."""
    lines = [line.partition(";")[0].strip() for line in text.splitlines()]
    return [re.sub(r"^([\w.]+):$", r"%\1:", line) for line in lines if line]


def renamed(shown: str, real: str, known: dict[str, str]) -> dict[str, str] | None:
    """The names in the real line for those in the shown one, or None when the lines differ otherwise."""
    if REGISTER.sub("%", shown) != REGISTER.sub("%", real):
        return None
    known = dict(known)
    for one, other in zip(REGISTER.findall(shown), REGISTER.findall(real), strict=True):
        if known.setdefault(one, other) != other:
            return None
    return known if len(set(known.values())) == len(known) else None


def occurs(parts: list[list[str]], code: list[str], known: dict[str, str]) -> bool:
    """Whether the parts stand in the code, in this order, under one renaming."""
    if not parts:
        return True
    for start in range(len(code) - len(parts[0]) + 1):
        found: dict[str, str] | None = known
        for shown, real in zip(parts[0], code[start:], strict=False):
            found = renamed(shown, real, found)
            if found is None:
                break
        if found is not None and occurs(parts[1:], code[start + len(parts[0]) :], found):
            return True
    return False


def excerpt(text: str) -> list[list[str]]:
    return [instructions(part) for part in re.split(r"^\s*; \.\.\.$", text, flags=re.MULTILINE)]


# the documents


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_shows_what_the_program_prints(document):
    known = names()
    for block in BLOCK.finditer((ROOT / document).read_text(encoding="utf-8")):
        shown = (block["code"] or block["text"]).strip("\n")
        if block["kind"] == "runs":
            exec(compile(shown, document, "exec"), known)
            continue
        printed = str(eval(block["expression"], known))
        if block["kind"] == "printed":
            assert shown == printed, "python tests/test_documents.py writes it anew"
        else:
            assert occurs(excerpt(shown), instructions(printed), {}), block["expression"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_links_of_a_document_lead_somewhere(document):
    path = ROOT / document
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_every_module_stands_in_the_house():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    house = set(re.findall(r"\w+", text.partition("## The house")[2].split("```")[1]))
    source = ROOT / "src/gatewright"
    modules = [path for path in source.rglob("*.py") if not path.stem.startswith("__")]
    assert not [str(path.relative_to(source)) for path in modules if path.stem not in house]


def test_an_excerpt_must_be_in_the_code():
    code = instructions("a:\n  %v1 = add i64 %x, 1\n  %v2 = mul i64 %v1, %v1\n  br label %a\n")
    assert occurs(excerpt("%one = add i64 %n, 1 ; a comment\n; ...\n  br label %top"), code, {})
    assert occurs(excerpt("top:\n; ...\n  br label %top"), code, {})
    assert not occurs(excerpt("%one = add i64 %n, 2"), code, {})
    assert not occurs(excerpt("%one = mul i64 %n, %m"), code, {})
    assert not occurs(excerpt("%same = add i64 %same, 1"), code, {})
    assert not occurs(excerpt("br label %a\n; ...\n%one = add i64 %n, 1"), code, {})


def written_anew(text: str, document: str) -> str:
    """A document with its printed blocks as the program prints them."""
    known = names()

    def block_anew(block: re.Match[str]) -> str:
        if block["kind"] == "runs":
            exec(compile(block["code"], document, "exec"), known)
        if block["kind"] != "printed":
            return block[0]
        part, blank = ("code", "") if block["text"] is None else ("text", "\n")
        start, stop = (place - block.start() for place in block.span(part))
        printed = str(eval(block["expression"], known))
        return f"{block[0][:start]}{printed}\n{blank}{block[0][stop:]}"

    return BLOCK.sub(block_anew, text)


if __name__ == "__main__":
    for name in DOCUMENTS:
        path = ROOT / name
        path.write_text(written_anew(path.read_text(encoding="utf-8"), name), encoding="utf-8")
