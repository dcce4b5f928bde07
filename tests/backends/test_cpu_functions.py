"""The CPU backend's elementary functions against float64 and mpmath, in units of the last place."""

import ctypes
import functools
import itertools
import re

import mpmath
import numpy as np
import pytest
import torch

from gatewright.backends.cpu.functions import (
    CIRCULAR_RANGE,
    ERROR_BOUNDS,
    FLUSHED,
    FUNCTIONS,
    MULTIPLIED_POWERS,
    power_of,
)
from gatewright.backends.cpu.simd import Code
from gatewright.backends.cpu.vectors import Vectors
from gatewright.compiler.operations import OPERATIONS, SOFTPLUS_THRESHOLD

llvm = pytest.importorskip("llvmlite.binding", reason="the CPU backend is compiled by llvmlite")

ELEMENTS = {"float": np.float32, "double": np.float64}
LANES = [("float", 4), ("float", 8), ("float", 16), ("double", 2), ("double", 4), ("double", 8)]
UNARY = [name for name, bound in ERROR_BOUNDS.items() if name != "power"]
POWERS = (*range(-MULTIPLIED_POWERS, MULTIPLIED_POWERS + 1), 0.5, -0.5, 1.5, -2.75, 7)
POWER_BOUND = 4.0
INTRINSICS = ("fma", "fabs", "sqrt", "copysign", "floor")
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -2.0, 3.0, -3.0, 2.5, 1e30, -1e30, 1e-40, -1e-40)
LIMITS = (*SPECIAL, float("inf"), float("-inf"), float("nan"))


def emitters():
    """Every operation, with its logical operands and results as numbers, and the powers known beforehand."""
    found = {}
    for name, emit in FUNCTIONS.items():
        arity = OPERATIONS[name].arity
        if OPERATIONS[name].logical:
            found[name] = arity, functools.partial(_as_number, emit)
        elif name == "where":
            found[name] = arity, functools.partial(_of_number, emit)
        else:
            found[name] = arity, emit
    for number in POWERS:
        found[f"power_of {number}"] = 1, functools.partial(_power_of, number)
    return found


def _as_number(emit, code, *operands):
    return code.select(emit(code, *operands), code.constant(1.0), code.constant(0.0))


def _of_number(emit, code, condition, *operands):
    return emit(code, code.compare("une", condition, code.constant(0.0)), *operands)


def _power_of(number, code, v):
    return power_of(code, v, number)


def source(element, lanes):
    """A module with a loop over arrays for every operation."""
    declarations, functions = set(), []
    for i, (arity, emit) in enumerate(emitters().values()):
        code = Code(Vectors(element, lanes, 32), declarations)
        with code.loop(0, "%n", lanes) as loop:
            operands = [code.load(code.at(f"%a{k}", loop.index)) for k in range(arity)]
            code.store(emit(code, *operands), code.at("%y", loop.index))
        code.do("ret void")
        pointers = "".join(f"ptr %a{k}, " for k in range(arity))
        functions.append(code.text(f"void @f{i}({pointers}ptr %y, i64 %n)"))
    return "\n".join([*functions, *sorted(declarations)])


@functools.cache
def compiled(element, lanes):
    """Every operation by name, as a function of arrays."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(source(element, lanes))
    module.verify()
    features = llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3)
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    dtype = ELEMENTS[element]

    def bind(i, arity):
        kinds = [ctypes.c_void_p] * (arity + 1) + [ctypes.c_int64]
        function = ctypes.CFUNCTYPE(None, *kinds)(engine.get_function_address(f"f{i}"))

        def run(*operands):
            rest = -len(operands[0]) % lanes
            arrays = [np.append(v, np.ones(rest)).astype(dtype) for v in operands]
            y = np.empty_like(arrays[0])
            function(*(v.ctypes.data for v in (*arrays, y)), len(y))
            return y[: len(operands[0])]

        return run

    functions = {name: bind(i, arity) for i, (name, (arity, _)) in enumerate(emitters().items())}
    # the engine owns the code
    functions["engine"] = engine
    return functions


def error(y, exact, dtype, smallest=0):
    """Largest error in ULP where the exact result is finite in the dtype, by way of float64 or mpmath."""
    rounded = np.array(exact, dtype=np.float64).astype(dtype)
    unit = np.spacing(np.abs(rounded))
    finite = np.isfinite(rounded)
    assert np.array_equal(np.isfinite(y), finite)
    assert not np.isnan(y).any()
    if dtype is np.float32:
        difference = np.abs(y[finite].astype(np.float64) - exact[finite])
    else:
        difference = np.array([float(abs(mpmath.mpf(float(a)) - b)) for a, b in zip(y, exact, strict=True)])
    difference[difference <= smallest] = 0
    return (difference / unit[finite]).max(initial=0.0)


def smallest_kept(name, dtype):
    return np.finfo(dtype).tiny if name in FLUSHED else 0


def exact_float64(name, x):
    if name == "softplus":
        return np.where(x > SOFTPLUS_THRESHOLD, x, np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))
    if name == "sigmoid":
        return 1 / (1 + np.exp(-x))
    return getattr(np, name)(x)


def exact_mpmath(name, x):
    if name == "softplus":
        return x if x > SOFTPLUS_THRESHOLD else mpmath.log1p(mpmath.exp(x))
    if name == "sigmoid":
        return 1 / (1 + mpmath.exp(-x))
    return getattr(mpmath, name)(x)


DENSE = {
    "exp": (-104, 88.7),
    "sigmoid": (-87.3, 18),
    "tanh": (-9.2, 9.2),
    "softplus": (-87.3, 21),
    "log": (0.25, 4),
    "log1p": (-0.999, 4),
    "sqrt": (0, 4),
}


@functools.cache
def float_sweep(name):
    """Random bits over all exponents and a dense sweep, within the domain; and the results in float64."""
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**32, 1_000_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    low, high = DENSE.get(name, (-100, 100))
    inner = random.uniform(max(low, -2), min(high, 2), 300_000)
    x = np.concatenate([bits[np.isfinite(bits)], np.linspace(low, high, 500_000), inner]).astype(np.float32)
    if name in ("log", "sqrt"):
        x = x[x > 0]
    elif name == "log1p":
        x = x[x > -1]
    elif name in ("sin", "cos"):
        x = np.append(x[np.abs(x) <= CIRCULAR_RANGE["float"]], random.uniform(-1e6, 1e6, 200_000))
        multiples = random.integers(1, 600_000, 100_000) * (np.pi / 2)
        x = np.append(x, multiples[multiples < CIRCULAR_RANGE["float"]]).astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        return x, exact_float64(name, x.astype(np.float64))


@functools.cache
def double_sweep(name):
    """Some thousand points over many exponents and in a dense range, and the results of mpmath."""
    random = np.random.default_rng(1)
    low, high = DENSE.get(name, (-100, 100))
    wide = {"exp": (-745, 709), "sigmoid": (-708, 40), "softplus": (-708, 25), "tanh": (-20, 20)}
    scattered = random.choice([-1, 1], 500) * 10 ** random.uniform(-320, 12, 500)
    x = np.concatenate(
        [scattered, random.uniform(low, high, 1000), random.uniform(*wide.get(name, (low, high)), 500)]
    )
    if name in ("log", "sqrt"):
        x = np.abs(x)
    elif name == "log1p":
        x = np.where(x > -1, x, -x)
    elif name in ("exp", "sigmoid", "softplus"):
        x = x[np.abs(x) < 745]
    elif name in ("sin", "cos"):
        x = np.append(x, random.integers(1, 10**12, 500) * (np.pi / 2))
    with mpmath.workprec(160):
        return x, [exact_mpmath(name, mpmath.mpf(float(v))) for v in x]


@pytest.mark.parametrize(("element", "lanes"), LANES)
@pytest.mark.parametrize("name", UNARY)
def test_errors_stay_within_their_bounds(name, element, lanes):
    dtype = ELEMENTS[element]
    x, exact = float_sweep(name) if element == "float" else double_sweep(name)
    with mpmath.workprec(160), np.errstate(over="ignore", under="ignore"):
        found = error(compiled(element, lanes)[name](x), exact, dtype, smallest_kept(name, dtype))
    assert found <= ERROR_BOUNDS[name][element == "double"]


@functools.cache
def power_sweep(element):
    """Bases around one and over all exponents, with exponents that make use of the range of results."""
    random = np.random.default_rng(2)
    dtype, count = ELEMENTS[element], 200_000 if element == "float" else 1000
    largest = np.log(np.finfo(dtype).max)
    logs = [
        random.uniform(-largest, largest, count),
        random.uniform(-1, 1, count),
        random.standard_normal(count) * 10 ** random.uniform(-6, -0.5, count),
    ]
    a = np.exp(np.concatenate(logs)).astype(dtype)
    a[a == 1] = 2
    b = (random.uniform(-largest, 0.999 * largest, len(a)) / np.log(a.astype(np.float64))).astype(dtype)
    if element == "float":
        return a, b, np.power(a.astype(np.float64), b.astype(np.float64))
    with mpmath.workprec(160):
        return a, b, [mpmath.mpf(float(p)) ** mpmath.mpf(float(q)) for p, q in zip(a, b, strict=True)]


@pytest.mark.parametrize(("element", "lanes"), LANES)
def test_powers_stay_within_their_bound(element, lanes):
    a, b, exact = power_sweep(element)
    with mpmath.workprec(160), np.errstate(over="ignore", under="ignore"):
        found = error(compiled(element, lanes)["power"](a, b), exact, ELEMENTS[element])
    assert found <= ERROR_BOUNDS["power"][element == "double"]


@pytest.mark.parametrize("number", POWERS)
def test_known_powers_stay_within_their_bound(number):
    x = np.exp(np.random.default_rng(3).uniform(-8, 8, 100_000)).astype(np.float32)
    y = compiled("float", 8)[f"power_of {number}"](x)
    assert error(y, np.power(x.astype(np.float64), number), np.float32) <= POWER_BOUND


@pytest.mark.parametrize(("element", "lanes"), LANES)
@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_special_values_are_those_of_torch(name, element, lanes):
    dtype, row = ELEMENTS[element], OPERATIONS[name]
    first = (0.0, 1.0) if name == "where" else LIMITS
    operands = np.array(list(itertools.product(first, *[LIMITS] * (row.arity - 1))), dtype=dtype).T
    y = compiled(element, lanes)[name](*operands)
    tensors = [torch.from_numpy(v.copy()) for v in operands]
    if name == "where":
        tensors[0] = tensors[0] != 0
    expected = row.compute(*tensors).numpy().astype(dtype)
    if name in ("sin", "cos"):
        # torch reduces any argument, which is beyond the range here
        kept = ~(np.isfinite(operands[0]) & (np.abs(operands[0]) > CIRCULAR_RANGE[element]))
        y, expected = y[kept], expected[kept]
    tolerance = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(y, expected, rtol=tolerance, atol=4 * np.finfo(dtype).smallest_subnormal)
    if name not in ("maximum", "minimum"):
        known = ~np.isnan(expected)
        np.testing.assert_array_equal(np.signbit(y)[known], np.signbit(expected)[known])


@pytest.mark.parametrize("number", POWERS)
def test_special_values_of_known_powers_are_those_of_torch(number):
    v = np.array(LIMITS, dtype=np.float32)
    y = compiled("float", 8)[f"power_of {number}"](v)
    np.testing.assert_allclose(y, torch.pow(torch.from_numpy(v), number).numpy(), rtol=1e-6)


@pytest.mark.parametrize(("element", "lanes"), LANES)
def test_gates_keep_their_exact_properties(element, lanes):
    run, dtype = compiled(element, lanes), ELEMENTS[element]
    x = np.linspace(0, 40, 300_001).astype(dtype)
    tanh, sigmoid = run["tanh"](x), run["sigmoid"](np.append(x, -x))
    np.testing.assert_array_equal(run["tanh"](-x), -tanh)
    assert tanh.max() == 1
    assert sigmoid.min() >= 0
    assert sigmoid.max() == 1
    assert (sigmoid[0], run["exp"](x[:1])[0], run["cos"](x[:1])[0]) == (0.5, 1, 1)
    tiny = (10 ** np.linspace(-40, -5, 1000)).astype(dtype)[: 1000 if element == "float" else 0]
    np.testing.assert_array_equal(run["tanh"](tiny), tiny)


@pytest.mark.parametrize(("element", "lanes"), LANES)
def test_circular_functions_stay_bounded_beyond_their_range(element, lanes):
    run = compiled(element, lanes)
    x = (10 ** np.linspace(5, 38, 10_000)).astype(ELEMENTS[element])
    for name in ("sin", "cos"):
        assert np.abs(run[name](np.append(x, -x))).max() <= 1


def test_every_operation_on_elements_is_here():
    assert set(OPERATIONS) - set(FUNCTIONS) <= {"layer_norm", "mean"}


@pytest.mark.parametrize(("element", "lanes"), LANES)
def test_no_function_of_a_library_is_called(element, lanes):
    names = re.findall(r"call .*?@([\w.]+)\(", source(element, lanes))
    assert {name.removeprefix("llvm.").split(".")[0] for name in names} == set(INTRINSICS)
