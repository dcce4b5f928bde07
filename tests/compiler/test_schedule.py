"""The schedule of a cell: stages, what is kept for the gradient, what the whole-sequence products read.

A schedule is run here on tensors with nothing in memory but what it says is there, and has to give what the
graph and its derivative give. That is what a kernel does, so a value that is missing shows here first.
"""

import itertools
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from random_cells import random_cell, random_cells
from reference import B, H, Maps, evaluate, random_call
from test_derive import SHAPES
from test_expressive_cells import CELLS

import gatewright as gw
from gatewright import exp, layer_norm, maximum, relu, sigmoid, tanh, where
from gatewright.compiler.graph import LEAVES
from gatewright.compiler.operations import OPERATIONS
from gatewright.compiler.schedule import schedule

LITERATURE = {name: row[0] for name, row in CELLS.items()}
KNOWN = [*gw.CATALOGUE.values(), *LITERATURE.values(), *SHAPES]
SUMMED = ("input", "recurrent", "mean")
"""What no backward step computes again: it would take a product or a mean."""


def plan_of(cell):
    return schedule(cell.graph)


def logical(plan, index):
    row = OPERATIONS.get(plan.nodes[index].operation)
    return row is not None and row.logical


def operations(plan, indices):
    return [plan.nodes[index].operation for index in indices]


def products(plan, stages):
    """For each stage the recurrent maps of its products."""
    maps = plan.graph.recurrent_maps
    return [[" ".join(maps[m] for m in plan.groups[g].maps) for g in stage.groups] for stage in stages]


# the stages of cells that are known by heart


def test_a_gru_is_one_stage_in_both_directions():
    plan = plan_of(gw.CATALOGUE["gru"])
    assert products(plan, plan.forward) == [["r z n"]]
    # its only product backward is the one that gives the adjoint of h, which opens the next step
    assert products(plan, plan.backward) == [[]]
    assert plan.derivative.state_maps == (("r", "z", "n"),)
    assert not plan.forward[0].crossing
    assert not plan.backward[0].crossing


def test_a_gru_with_the_reset_before_the_product_is_two_stages():
    plan = plan_of(gw.CATALOGUE["gru_reset_before"])
    assert products(plan, plan.forward) == [["r z"], ["n"]]
    assert products(plan, plan.backward) == [[], ["n"]]
    first, second = plan.forward
    argument = plan.groups[1].argument
    assert plan.nodes[argument].operation == "multiply"
    assert argument in first.crossing
    assert not second.crossing
    assert plan.graph.results[0] in second.kept
    # the adjoint of n is what the second product backward is applied to
    n = plan.derivative.recurrent[plan.graph.recurrent_maps.index("n")]
    assert n in plan.backward[0].crossing
    assert n in plan.backward[0].kept


def test_an_lstm_is_one_stage_with_one_product():
    plan = plan_of(gw.CATALOGUE["lstm"])
    assert products(plan, plan.forward) == [["i f g o"]]
    assert set(plan.graph.results) <= set(plan.forward[0].kept)
    assert plan.derivative.states[0] is None  # h is read by products alone
    assert plan.derivative.states[1] in plan.backward[0].kept


def test_a_mingru_is_one_stage_without_a_product():
    plan = plan_of(LITERATURE["mingru"])
    assert products(plan, plan.forward) == [[]]
    assert products(plan, plan.backward) == [[]]
    assert plan.groups == ()


def test_maps_of_two_states_are_two_products_of_one_stage():
    @gw.cell
    def two(x, U, h, c):
        return tanh(x.a + U.a(h) + U.b(c) + U.d(h)), c + U.e(h)

    plan = plan_of(two)
    assert products(plan, plan.forward) == [["a d e", "b"]]


def test_a_mean_of_something_computed_opens_a_stage():
    @gw.cell
    def normed(x, U, h):
        return tanh(x.a + layer_norm(U.a(h)))

    plan = plan_of(normed)
    # the product; its mean and the squares; their mean and the rest
    assert [len(stage.means) for stage in plan.forward] == [0, 1, 1]
    assert products(plan, plan.forward) == [["a"], [], []]

    @gw.cell
    def normed_input(x, h):
        return h + layer_norm(x.a)

    # the mean of an input map is there at once, that of the squares is not
    assert [len(stage.means) for stage in plan_of(normed_input).forward] == [1, 1]


# classification


@gw.cell
def gate_of_the_input(x, h):
    return where(x.a < 0, h / (1 + exp(x.b)), -h + x.c)


@gw.cell
def mean_of_the_state(x, h):
    return h + layer_norm(x.a) * (x.b - h)


@gw.cell
def squared(x, h):
    return x.a - h * h


@gw.cell
def divided(x, h):
    return x.a / (2 + h)


@gw.cell
def chosen_by_the_state(x, h):
    return where(h < 0, x.a, h)


@gw.cell
def raised(x, h):
    return x.a + h**2


@gw.cell
def product_of_states(x, h, c):
    return x.a + h * c, x.b


@gw.cell
def normed_state(x, h):
    return x.a + layer_norm(h)


@gw.cell
def largest(x, h):
    return maximum(x.a, h)


@gw.cell
def multiplied(x, U, h):
    return x.a + U.a(h)


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        *((cell, "dense") for cell in gw.CATALOGUE.values()),
        *((LITERATURE[name], "dense") for name in ("lem", "slstm", "highway", "peephole_lstm")),
        (LITERATURE["mingru"], "affine"),
        (LITERATURE["lru"], "affine"),
        (LITERATURE["indrnn"], "elementwise"),
        (gate_of_the_input, "affine"),
        (mean_of_the_state, "affine"),
        (squared, "elementwise"),
        (divided, "elementwise"),
        (chosen_by_the_state, "elementwise"),
        (raised, "elementwise"),
        (product_of_states, "elementwise"),
        (normed_state, "elementwise"),
        (largest, "elementwise"),
        (multiplied, "dense"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_cell_is_classified_by_what_its_step_is(cell, kind):
    assert plan_of(cell).kind == kind


# what is kept for the gradient


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("gru", ["sigmoid", "sigmoid", "recurrent", "tanh"]),
        ("gru_reset_before", ["sigmoid", "sigmoid", "tanh"]),
        ("lstm", ["sigmoid", "sigmoid", "tanh", "sigmoid"]),
        ("rnn_tanh", []),
        ("rnn_relu", []),
    ],
)
def test_the_fewest_values_are_kept_and_those_nearest_to_their_use(name, kept):
    plan = plan_of(gw.CATALOGUE[name])
    assert operations(plan, plan.saved) == kept


def always_there(graph):
    """States, old and new, and what is no value of the step."""
    leaves = {i for i, node in enumerate(graph.nodes) if node.operation in ("state", "vector", "constant")}
    return leaves | set(graph.results)


def needed_backward(plan):
    arguments = {group.argument for group in plan.groups}
    return set(plan.derivative.needs) | {i for i in arguments if plan.nodes[i].operation != "state"}


def follow(plan, needed, there):
    """Whether all that is needed follows element by element from what is there."""
    missing, waiting = set(), list(needed)
    while waiting:
        index = waiting.pop()
        if index in there or index in missing:
            continue
        node = plan.graph.nodes[index]
        if node.operation in SUMMED:
            return False
        missing.add(index)
        waiting.extend(node.inputs)
    return True


def fewest_by_trial(plan, most):
    """The size of the smallest set that suffices, or None when there are too many to try."""
    needed, free = needed_backward(plan), always_there(plan.graph)
    # what lies before a needed value, and can stand in memory
    candidates, waiting = set(), list(needed)
    while waiting:
        index = waiting.pop()
        if index in free or index in candidates:
            continue
        candidates.add(index)
        if plan.nodes[index].operation not in SUMMED:
            waiting.extend(plan.nodes[index].inputs)
    candidates = sorted(index for index in candidates if not logical(plan, index))
    size = len(plan.saved)
    if sum(math.comb(len(candidates), count) for count in range(size)) > most:
        return None
    for count in range(size):
        for chosen in itertools.combinations(candidates, count):
            if follow(plan, needed, free.union(chosen)):
                return count
    return size


@pytest.mark.parametrize("cell", KNOWN, ids=lambda cell: cell.name)
def test_no_smaller_set_of_values_suffices_for_the_gradient(cell):
    plan = plan_of(cell)
    assert follow(plan, needed_backward(plan), always_there(plan.graph).union(plan.saved))
    least = fewest_by_trial(plan, 50_000)
    assert least is None or least == len(plan.saved)


def test_no_smaller_set_suffices_for_random_cells():
    tried = 0
    for seed in range(150):
        plan = plan_of(random_cell(seed))
        least = fewest_by_trial(plan, 2_000)
        assert least is None or least == len(plan.saved), f"seed {seed}"
        tried += least is not None
    assert tried > 50


# a comparison that crosses stages


@gw.cell
def chosen_later(x, U, h):
    v = sigmoid(x.a + U.a(h))
    return where(v * x.c < 0.5, U.b(v * h), h)


CHOSEN_LATER = """\
  forward, stage 1: U.a with h
    t1 = sigmoid(x.a + U.a(h))
    t2 = t1 * x.c
    t3 = t1 * h
    for later stages: t2 t3
  forward, stage 2: U.b with t3
    t4 = t2 < 0.5
    h' = where(t4, U.b(t3), h)
  kept for the gradient, beside the states: t1 t2
  backward, stage 1: Uᵀ.a of the step behind
    dh' = doutput + carry.h + Uᵀ.a(dU.a)
    again t4 = t2 < 0.5
    again t3 = t1 * h
"""


def test_a_comparison_is_made_again_in_a_later_stage():
    plan = plan_of(chosen_later)
    (comparison,) = (index for index in range(len(plan.graph.nodes)) if logical(plan, index))
    assert comparison in plan.forward[0].nodes
    assert comparison not in plan.forward[0].crossing
    assert set(plan.nodes[comparison].inputs) - {
        index for index, node in enumerate(plan.nodes) if node.operation == "constant"
    } <= set(plan.forward[0].crossing)
    assert CHOSEN_LATER in str(plan)


# segments: what the whole-sequence products read


def assert_segments_are_in_order(plan):
    inputs = [s.input_map for s in plan.segments if s.input_map is not None]
    recurrent = [s.recurrent_map for s in plan.segments if s.recurrent_map is not None]
    assert sorted(inputs) == list(range(len(plan.graph.input_maps)))
    assert sorted(recurrent) == list(range(len(plan.graph.recurrent_maps)))
    kinds = [
        "x" if s.input_map is not None and s.recurrent_map is None
        else "xU" if s.input_map is not None
        else "U" if s.recurrent_map is not None
        else "w" if s.vector is not None
        else "argument"
        for s in plan.segments
    ]  # fmt: skip
    # both the input maps and the recurrent maps stand side by side
    assert kinds == sorted(kinds, key=["x", "xU", "U", "w", "argument"].index)
    for segment in plan.segments:
        if segment.input_map is not None:
            assert segment.node == plan.derivative.inputs[segment.input_map]
        if segment.recurrent_map is not None:
            assert segment.node == plan.derivative.recurrent[segment.recurrent_map]
        if segment.vector is not None:
            assert segment.node == plan.derivative.vectors[segment.vector]
        if segment.group is not None:
            assert segment.node == plan.groups[segment.group].argument
    vectors = [s.vector for s in plan.segments if s.vector is not None]
    assert vectors == list(range(len(plan.graph.vector_weights)))
    arguments = [g for g, group in enumerate(plan.groups) if plan.nodes[group.argument].operation != "state"]
    assert [s.group for s in plan.segments if s.group is not None] == arguments


@pytest.mark.parametrize("cell", KNOWN, ids=lambda cell: cell.name)
def test_input_maps_come_first_and_those_shared_with_recurrent_maps_last_among_them(cell):
    assert_segments_are_in_order(plan_of(cell))


def test_the_segments_of_a_gru_share_two_adjoints_of_three():
    plan = plan_of(gw.CATALOGUE["gru"])
    r, z, n = range(3)
    assert [(s.input_map, s.recurrent_map) for s in plan.segments] == [(n, None), (r, r), (z, z), (None, n)]


# a schedule run on tensors, with nothing in memory but what it says is there


class _Step:
    """One step, stage by stage.

    Args:
        plan: of the cell.
        maps: the recurrent maps.
        memory: by node, what is there at the beginning.
    """

    def __init__(self, plan, maps, memory):
        self.plan, self.maps, self.memory = plan, maps, dict(memory)

    def run(self, stages, first):
        for number, stage in enumerate(stages):
            if number == 1:
                # the adjoints of the new states are summed in the first stage of a backward step
                there = {*stages[0].crossing, *stages[0].kept}
                for index in [i for i in self.memory if self.plan.nodes[i].operation == "adjoint"]:
                    if index not in there:
                        del self.memory[index]
            self._stage(stage, first)
        return self.memory

    def _stage(self, stage, first):
        sums, plan = {}, self.plan
        for group in stage.groups:
            names = [plan.graph.recurrent_maps[place] for place in plan.groups[group].maps]
            if first == 0:
                argument = self.memory[plan.groups[group].argument]
                nodes = zip(plan.groups[group].nodes, names, strict=True)
                sums |= {index: self.maps.product(name, argument) for index, name in nodes}
                continue
            for index, node in enumerate(plan.nodes):
                if node.operation == "transposed" and sorted(node.name.split()) == sorted(names):
                    operands = [self.memory[operand] for operand in node.inputs]
                    sums[index] = self.maps.transposed(node.name.split(), operands)
        for index in stage.means:
            operand = self.memory[plan.nodes[index].inputs[0]].expand(B, H)
            self.memory[index] = sums[index] = operand.mean(-1, keepdim=True).expand(B, H)
        for index in {*stage.crossing, *stage.kept}:
            # a forward value that was not kept is made again in every stage that uses it
            value = self._value(index, stage, first, sums)
            if index >= first or plan.nodes[index].operation == "constant":
                self.memory[index] = value

    def _value(self, index, stage, first, known):
        if index not in known:
            node = self.plan.nodes[index]
            again = index < first and index not in self.memory and node.operation not in SUMMED
            if node.operation == "constant":
                known[index] = torch.tensor(node.value, dtype=torch.float64)
            elif index in stage.nodes or logical(self.plan, index) or again:
                operands = [self._value(operand, stage, first, known) for operand in node.inputs]
                known[index] = OPERATIONS[node.operation].compute(*operands)
            else:
                known[index] = self.memory[index]
        return known[index]


def assert_the_schedule_computes_the_cell(cell):
    plan, call = plan_of(cell), random_call(cell)
    graph, weights = plan.graph, call.weights
    assert weights.bias_ih is not None
    with torch.no_grad():
        maps = Maps.of(graph.recurrent_maps, weights.weight_hh, weights.bias_hh)
        vectors = plan.lowered.vectors(weights.vectors)
        rows = (call.x[0] @ weights.weight_ih.T + weights.bias_ih).chunk(len(graph.input_maps), -1)
        leaves = {("vector", name): v for name, v in zip(graph.vector_weights, vectors, strict=True)}
        leaves |= {("state", name): v for name, v in zip(graph.states, call.states, strict=True)}
        leaves |= {("input", name): v for name, v in zip(graph.input_maps, rows, strict=True)}
        generator = torch.Generator().manual_seed(1)
        leaves |= {
            ("adjoint", name): torch.randn(B, H, generator=generator, dtype=torch.float64)
            for name in graph.states
        }
        expected = evaluate(plan.nodes, leaves, maps)
        there = {
            i: leaves[n.operation, n.name]
            for i, n in enumerate(plan.nodes)
            if (n.operation, n.name) in leaves
        }
        adjoints = {i: there.pop(i) for i in list(there) if plan.nodes[i].operation == "adjoint"}
        found = _Step(plan, maps, there).run(plan.forward, 0)
        kept = {i: found[i] for i in (*plan.saved, *graph.results)}
        # the input maps of a step are gone by then
        there = {i: value for i, value in there.items() if plan.nodes[i].operation != "input"}
        last = _Step(plan, maps, there | kept | adjoints).run(plan.backward, len(graph.nodes))
    for index in (*plan.saved, *graph.results):
        assert_same(found[index], expected[index], plan, index)
    wanted = {segment.node for segment in plan.segments} | {
        i for i in plan.derivative.states if i is not None
    }
    for index in wanted:
        if index >= len(graph.nodes) and plan.nodes[index].operation != "constant":
            assert_same(last[index], expected[index], plan, index)


def assert_same(found, expected, plan, index):
    scale = max(1.0, expected.abs().max().item())
    found, expected = torch.broadcast_tensors(found, expected)
    torch.testing.assert_close(
        found, expected, rtol=0, atol=1e-11 * scale, msg=lambda m: f"value {index}: {m}\n{plan}"
    )


def assert_stages_are_sound(plan):
    for stages, own in (
        (plan.forward, range(len(plan.graph.nodes))),
        (plan.backward, range(len(plan.graph.nodes), len(plan.nodes))),
    ):
        computed = [index for stage in stages for index in (*stage.nodes, *stage.means)]
        every = [
            i for i in own if plan.nodes[i].operation not in (*LEAVES, "recurrent", "transposed", "adjoint")
        ]
        assert sorted(computed) == every
        for stage in stages:
            assert not any(logical(plan, index) for index in (*stage.crossing, *stage.kept))
            assert not set(operations(plan, stage.crossing)) & {"input", "vector", "state", "mean"}
        assert sorted(g for stage in stages for g in stage.groups) == sorted(
            {g for stage in stages for g in stage.groups}
        )
    assert {g for stage in plan.forward for g in stage.groups} == set(range(len(plan.groups)))


@pytest.mark.parametrize("cell", KNOWN, ids=lambda cell: cell.name)
def test_a_schedule_computes_what_its_cell_does(cell):
    assert_stages_are_sound(plan_of(cell))
    assert_the_schedule_computes_the_cell(cell)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(cell=random_cells(layer_norm=True))
def test_the_schedule_of_a_random_cell_computes_what_the_cell_does(cell):
    plan = plan_of(cell)
    assert follow(plan, needed_backward(plan), always_there(plan.graph).union(plan.saved))
    assert_stages_are_sound(plan)
    assert_segments_are_in_order(plan)
    assert_the_schedule_computes_the_cell(cell)


# the printed form


@gw.cell
def everything(x, U, w, h, c):
    v = relu(x.a + exp(-exp(w.a)) * U.a(h))
    return v * c + layer_norm(U.b(v)), v


EVERYTHING = """\
schedule of cell everything: dense, 4 stages forward, 4 stages backward
  once a sequence
    w.#0 = exp(-exp(w.a))
  before the steps: x.a
  forward, stage 1: U.a with h
    t1 = U.a(h)
    c' = relu(x.a + w.#0 * t1)
    t2 = c' * c
    for later stages: c' t2
  forward, stage 2: U.b with c'
    t3 = U.b(c')
    for later stages: t3
  forward, stage 3: no product
    t4 = mean(t3)
    t5 = t3 - t4
    t6 = t5 * t5
    for later stages: t5 t6
  forward, stage 4: no product
    t7 = mean(t6)
    t8 = sqrt(t7 + 1e-05)
    t9 = t5 / t8
    h' = t2 + t9
  kept for the gradient, beside the states: t1 t5 t8
  backward, stage 1: Uᵀ.a of the step behind
    dh' = doutput + Uᵀ.a(dU.a)
    dc' = carry.c
    again t9 = t5 / t8
    t10 = dh' / t8
    t11 = t10 * t9 / (2 * t8)
    carry.c = dh' * c'
    t12 = dc' + dh' * c
    for later stages: t10 t11 t12
  backward, stage 2: no product
    t13 = mean(t11)
    t14 = t13 * t5
    t15 = t10 - t14 - t14
    for later stages: t15
  backward, stage 3: no product
    t16 = mean(t15)
    dU.b = t15 - t16
    for later stages: dU.b
  backward, stage 4: Uᵀ.b
    dx.a = where(c' <= 0, 0, t12 + Uᵀ.b(dU.b))
    dw.#0 = dx.a * t1
    dU.a = dx.a * w.#0
  written by a backward step, side by side: dx.a | dU.a | dU.b | dw.#0 | c'
  after the steps, for all of them at once
    dx = dx.a with weight_ih
    dweight_ih = dx.a with x
    dweight_hh = dU.a with h; dU.b with c'
    dbias_ih dbias_hh dw.#0 = sums of these columns"""


def test_a_schedule_prints_as_its_equations():
    assert str(everything.schedule) == EVERYTHING
    assert everything.schedule is plan_of(everything)
    assert everything.derivative is everything.schedule.derivative


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(cell=random_cells(layer_norm=True))
def test_in_a_printed_schedule_every_name_is_made_before_it_is_used(cell):
    made = set()
    for line in str(cell.schedule).splitlines():
        left, equals, right = line.rpartition(" = ") if line.startswith("    ") else ("", "", line)
        for name in right.replace("(", " ").replace(")", " ").replace(",", " ").replace("-", " ").split():
            assert name[0] != "t" or not name[1:].isdigit() or name in made, (
                f"{name} in {line!r}\n{cell.schedule}"
            )
        if equals:
            made.update(left.removeprefix("    ").removeprefix("again ").split(" = "))
