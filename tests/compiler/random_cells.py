"""Random cells of the language, from a seed or from Hypothesis, as source text that a failure prints.

Values stay tame: what a logarithm, a root, a quotient or an exponential gets is squashed first, and so is
every state, so that derivatives can be compared to many digits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

import gatewright as gw

Pick = Callable[[Sequence[Any]], Any]
"""Chooses one of several: the only source of chance."""

# the first operand is never a number, so that no operation has numbers only: Python would compute those
TEMPLATES = (
    "({} + {})", "({} - {})", "(1 - {})", "({} * {})", "({} * {})", "(-{})",
    "({} / (1.5 + tanh({})))", "(0.5 / (1.5 + tanh({})))",
    "sigmoid({})", "tanh({})", "relu({})", "softplus({})", "abs({})", "sin({})", "cos({})",
    "exp(tanh({}))", "exp(-softplus({}))", "log(sigmoid({}) + 0.1)", "log1p(softplus({}))",
    "sqrt(softplus({}) + 0.1)", "maximum({}, {})", "minimum({}, {})",
    "where({} < {}, {}, {})", "where({} <= {}, {}, {})", "where(relu({}) == 0, {}, {})",
    "where({} != {}, {}, {})", "where({} > 0, 1, {})",
    "(tanh({}) ** 2)", "(tanh({}) ** 3)", "((sigmoid({}) + 0.1) ** 0.5)", "((1.5 + tanh({})) ** -1)",
    "(tanh({}) ** 1)", "(tanh({}) ** 0)", "((softplus({}) + 0.5) ** tanh({}))", "(2 ** tanh({}))",
)  # fmt: skip
LAYER_NORMS = ("layer_norm({})", "layer_norm({}, 1, {})", "layer_norm({}, {}, {})")
NUMBERS = ("0.3", "-0.7", "1", "0", "2")


class RandomCell(gw.Cell):
    """A cell that prints as its source."""

    def __init__(self, text: str, output: str) -> None:
        names: dict[str, Any] = dict(vars(gw))
        exec(compile(text, "<random cell>", "exec"), names)
        super().__init__(names["random_cell"], source="made at random", output=output)
        self.text = text

    def __repr__(self) -> str:
        return f"@gw.cell(output={self.graph.output!r})\n{self.text}"


class _Writer:
    """Writes the source of one cell; whatever it declares it uses."""

    def __init__(self, pick: Pick, layer_norm: bool) -> None:
        self._pick = pick
        self._templates = TEMPLATES + LAYER_NORMS * 3 if layer_norm else TEMPLATES
        self._states: tuple[str, ...] = ("h", "c", "m")[: pick((1, 1, 2, 3))]
        self._lines: list[str] = []
        self._values: list[str] = list(self._states)
        self._unused: list[str] = list(self._states)
        self._names: dict[str, list[str]] = {"x": [], "U": [], "w": []}

    def _new(self, namespace: str) -> str:
        """A map or vector weight that was not declared yet."""
        names = self._names[namespace]
        names.append("abcdefghijklmnopqrstuvwxyz"[len(names)])
        return f"{namespace}.{names[-1]}"

    def _leaf(self, namespace: str) -> str:
        """An input map or a vector weight, at most four of them, sometimes one that is already used."""
        names = self._names[namespace]
        if len(names) < 4 and (not names or self._pick((True, False))):
            return self._new(namespace)
        return f"{namespace}.{self._pick(names)}"

    def _use(self, value: str) -> str:
        if value in self._unused:
            self._unused.remove(value)
        return value

    def _atom(self, number: bool) -> str:
        kind = self._pick(("value", "unused", "state", "x", "w", "number" if number else "value"))
        if kind in ("x", "w"):
            return self._leaf(kind)
        if kind == "number":
            return self._pick(NUMBERS)
        return self._use(
            self._pick({"state": self._states, "unused": self._unused}.get(kind) or self._values)
        )

    def _expression(self, depth: int, number: bool = False) -> str:
        if depth == 0 or self._pick((False, False, True)):
            return self._atom(number)
        template = self._pick(self._templates)
        places = template.count("{}")
        return template.format(*(self._expression(depth - 1, number=place > 0) for place in range(places)))

    def _assign(self, expression: str) -> str:
        name = f"v{len(self._lines) + 1}"
        self._lines.append(f"    {name} = {expression}")
        self._values.append(name)
        self._unused.append(name)
        return name

    def _gate(self, argument: str) -> str:
        """A squashed sum with a recurrent map, kept in a variable."""
        product = f"{self._new('U')}({argument})"
        form = self._pick(("plain", "plain", "peephole", "reset", "any"))
        if form == "peephole":
            product = f"{product} + {self._leaf('w')} * {self._pick(self._states)}"
        elif form == "reset":
            product = f"{self._expression(1)} * {product}"
        elif form == "any":
            product = f"{product} + {self._expression(2)}"
        return self._assign(f"{self._pick(('sigmoid', 'tanh'))}({self._leaf('x')} + {product})")

    def _stages(self) -> None:
        """Recurrent maps, first of states, then of what depends on recurrent maps."""
        carrier = ""
        for stage in range(self._pick((1, 1, 2, 3))):
            argument = self._pick(self._states)
            if stage > 0:
                form = self._pick(("{} * {}", "tanh({} + {})", "maximum({}, {})"))
                argument = self._assign(form.format(self._use(carrier), self._expression(1)))
            for _ in range(self._pick((1, 2, 3))):
                if stage == 0:
                    argument = self._pick((argument, argument, self._pick(self._states)))
                carrier = self._gate(self._use(argument))

    def _result(self, state: str, leftovers: Sequence[str]) -> str:
        candidate = f"tanh({' + '.join([self._expression(2), *map(self._use, leftovers)])})"
        if self._pick((True, False)):
            gate = self._assign(f"sigmoid({self._expression(2)})")
            return f"{self._use(gate)} * {self._use(state)} + (1 - {gate}) * {candidate}"
        return candidate

    def _other_result(self, state: str) -> str:
        """The new value of a state that is not the first: sometimes no more than a leaf."""
        kind = self._pick(("computed", "computed", "computed", "value", "state", "x", "w"))
        if kind == "computed":
            return self._result(state, ())
        if kind in ("x", "w"):
            return self._leaf(kind)
        return self._use(self._pick(self._values if kind == "value" else self._states))

    def written(self) -> RandomCell:
        """The cell."""
        self._stages()
        results = [self._other_result(state) for state in self._states[1:]]
        results.insert(0, self._result(self._states[0], list(self._unused)))
        arguments = ", ".join(("x", "U", "w", *self._states))
        # a result may have left a variable behind: the first one takes it in
        rest = "".join(f" + {value}" for value in self._unused)
        first = f"tanh({results[0]}{rest})" if rest else results[0]
        returned = f"    return {', '.join([first, *results[1:]])}"
        text = "\n".join([f"def random_cell({arguments}):", *self._lines, returned, ""])
        return RandomCell(text, self._pick(self._states))


def random_cell(seed: int, layer_norm: bool = False) -> RandomCell:
    """The random cell of a seed; with ``layer_norm`` it may have layer norms."""
    return _Writer(random.Random(seed).choice, layer_norm).written()


@st.composite
def random_cells(draw: st.DrawFn, layer_norm: bool = False) -> RandomCell:
    """Random cells of one to three states and stages; with ``layer_norm`` they may have layer norms."""
    return _Writer(lambda options: draw(st.sampled_from(options)), layer_norm).written()
