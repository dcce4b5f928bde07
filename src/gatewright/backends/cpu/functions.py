"""The elementary functions of the cell language as LLVM code on vectors, without a call of a library.

A function takes the code it is written to and the names of its operands, and returns the name of its result.
NaN in gives NaN out: every bound is a comparison that is false for NaN, and then leaves the operand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from gatewright.backends.cpu.coefficients import FORMATS, Format
from gatewright.backends.cpu.simd import Code
from gatewright.compiler.operations import SOFTPLUS_THRESHOLD

ERROR_BOUNDS: dict[str, tuple[float, float]] = {
    "sigmoid": (2.6, 2.6),
    "tanh": (2.6, 2.6),
    "exp": (1.2, 1.2),
    "log": (1.0, 1.0),
    "log1p": (1.5, 1.5),
    "softplus": (3.0, 3.0),
    "sqrt": (0.5, 0.5),
    "sin": (2.4, 2.0),
    "cos": (2.4, 2.0),
    "power": (1.5, 1.5),
}
"""Largest error in float32 and float64, in units of the last place (ULP) of the exact result.

Below the smallest normal number it is in units of the smallest subnormal one, except that ``FLUSHED``
functions may give zero there. The tests hold these bounds; each function names what was measured.
"""

FLUSHED = ("sigmoid", "softplus")
"""Functions whose result may be zero where it would be below the smallest normal number."""

CIRCULAR_RANGE = {"float": 1e6, "double": 1e13}
"""Largest |v| for which sine and cosine keep their bounds; far beyond it they are only within ±1."""

MULTIPLIED_POWERS = 5
"""Whole exponents up to this size become products, whose errors add up."""


# ---------------------------------------------------------------- parts


def _format(code: Code) -> Format:
    return FORMATS[code.vectors.element]


def _polynomial(code: Code, v: str, coefficients: Sequence[float]) -> str:
    """The sum of c₀ + c₁v + c₂v² + … (Horner)."""
    total = code.constant(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = code.fused(total, v, code.constant(coefficient))
    return total


def _integer(code: Code, instruction: str, a: str, b: str | int) -> str:
    """An instruction on vectors of integers, the second operand perhaps a number."""
    b = code.constant_integers(b) if isinstance(b, int) else b
    return code.value(f"{instruction} {code.vectors.integers} {a}, {b}")


def _bits(code: Code, v: str) -> str:
    return code.value(f"bitcast {code.vectors.type} {v} to {code.vectors.integers}")


def _float(code: Code, bits: str) -> str:
    return code.value(f"bitcast {code.vectors.integers} {bits} to {code.vectors.type}")


def _exact(code: Code, instruction: str, a: str, b: str) -> str:
    """``fadd``, ``fsub`` or ``fmul`` that never shares a rounding: what is compensated relies on it."""
    return code.value(f"{instruction} {code.vectors.type} {a}, {b}")


def _negate(code: Code, v: str) -> str:
    return code.value(f"fneg {code.vectors.type} {v}")


def _at_least(code: Code, v: str, bound: float) -> str:
    low = code.constant(bound)
    return code.select(code.compare("ogt", low, v), low, v)


def _at_most(code: Code, v: str, bound: float) -> str:
    high = code.constant(bound)
    return code.select(code.compare("olt", high, v), high, v)


def _nearest(code: Code, v: str, factor: float, offset: int) -> tuple[str, str]:
    """The whole number n nearest to factor · v, and bits that end in those of n + offset.

    A number of this size has no bits behind the point: adding it rounds, and leaves n in the last bits.
    """
    magic = code.constant(1.5 * 2.0 ** _format(code).mantissa + offset)
    shifted = code.fused(v, code.constant(factor), magic)
    return code.arithmetic("fsub", shifted, magic), _bits(code, shifted)


def _power_of_two(code: Code, bits: str) -> str:
    """2ⁿ from bits that end in n + bias; zero and infinity at the two ends of the exponent."""
    return _float(code, _integer(code, "shl", bits, _format(code).mantissa))


def _half_angle(code: Code, v: str, k: float, compensated: bool) -> tuple[str, str, str]:
    """(r, C, 2ⁿ) with exp(kv) = 2ⁿ (C + r)/(C − r), from exp(2a) = (coth a + 1)/(coth a − 1).

    r = v − n ln 2 / k and C = r coth(kr/2) = 2/k · (1 + (kr/2)²/3 − …): an even function that needs few
    terms. The second part of ln 2 counts where a large n stays visible in the result.
    """
    form = _format(code)
    n, bits = _nearest(code, v, k / math.log(2), form.bias)
    r = code.fused(n, code.constant(-form.ln2[0] / k), v)
    if compensated:
        r = code.fused(n, code.constant(-form.ln2[1] / k), r)
    square = code.arithmetic("fmul", r, r)
    terms = [2 / k * (k / 2) ** (2 * i) * c for i, c in enumerate((1.0, *form.coth))]
    return r, _polynomial(code, square, terms), _power_of_two(code, bits)


# ---------------------------------------------------------------- exponential and its relatives


def _exp(code: Code, v: str, low: str = "") -> str:
    """The exponential of v + low, 2ⁿ exp(r) with r = v − n ln 2 + low.

    2ⁿ is applied in two factors: n may be beyond the exponents where the result is not.
    """
    form = _format(code)
    v = _at_least(code, v, -math.log(2) * (form.bias + form.mantissa + 1))
    v = _at_most(code, v, math.log(2) * (form.bias + 1.1))
    n, bits = _nearest(code, v, 1 / math.log(2), 2 * form.bias)
    r = code.fused(n, code.constant(-form.ln2[0]), v)
    r = code.fused(n, code.constant(-form.ln2[1]), r)
    if low:
        r = code.arithmetic("fadd", r, low)
    half = _integer(code, "lshr", bits, 1)
    rest = _integer(code, "sub", bits, half)
    y = _polynomial(code, r, (1.0, *form.exp))
    y = code.arithmetic("fmul", y, _power_of_two(code, half))
    return code.arithmetic("fmul", y, _power_of_two(code, rest))


def exp(code: Code, v: str) -> str:
    """The exponential, subnormal results included: 1.06 ULP, in float64 0.90."""
    return _exp(code, v)


def sigmoid(code: Code, v: str) -> str:
    """1/(1 + exp(−v)) = D/(D + 2ⁿN) with exp(−v) = 2ⁿN/D: 2.44 ULP, in float64 2.43.

    A result below the smallest normal number may be 0.
    """
    bias = _format(code).bias
    v = _at_least(code, v, -math.log(2) * (bias + 1))
    v = _at_most(code, v, math.log(2) * (bias - 1))
    r, c, scale = _half_angle(code, v, -1.0, compensated=True)
    numerator, denominator = code.arithmetic("fadd", c, r), code.arithmetic("fsub", c, r)
    return code.arithmetic("fdiv", denominator, code.fused(scale, numerator, denominator))


def tanh(code: Code, v: str) -> str:
    """((p − 1)C + (p + 1)r) / ((p + 1)C + (p − 1)r) with exp(2v) = p(C + r)/(C − r), p = 2ⁿ.

    2.50 ULP, in float64 2.48. Nothing cancels where n = 0, so small v keep their bits; odd; never beyond ±1.
    """
    one, end = code.constant(1.0), _format(code).one
    v = _at_most(code, _at_least(code, v, -end), end)
    r, c, scale = _half_angle(code, v, 2.0, compensated=False)
    # 1 − p and not p − 1: where it is zero the sign of a zero r must survive
    less, more = code.arithmetic("fsub", one, scale), code.arithmetic("fadd", scale, one)
    above = code.fused(_negate(code, less), c, code.arithmetic("fmul", more, r))
    below = code.fused(more, c, _negate(code, code.arithmetic("fmul", less, r)))
    return code.arithmetic("fdiv", above, below)


def softplus(code: Code, v: str) -> str:
    """log(1 + exp(v)) = max(v, 0) + 2 atanh(e/(2 + e)) with e = exp(−|v|); v above the threshold.

    2.91 ULP, in float64 2.86; a result below the smallest normal number may be 0.
    """
    form = _format(code)
    size = _at_most(code, code.intrinsic("fabs", v), math.log(2) * form.bias)
    r, c, scale = _half_angle(code, size, -1.0, compensated=True)
    denominator = code.arithmetic("fsub", c, r)
    e = code.arithmetic("fmul", scale, code.arithmetic("fadd", c, r))
    s = code.arithmetic("fdiv", e, code.fused(e, code.constant(0.5), denominator))
    square = code.arithmetic("fmul", s, s)
    rest = _polynomial(code, square, [c / 4 ** (i + 1) for i, c in enumerate(form.atanh_wide)])
    y = code.fused(code.arithmetic("fmul", s, square), rest, s)
    y = code.arithmetic("fadd", _at_least(code, v, 0.0), y)
    return code.select(code.compare("ogt", v, code.constant(SOFTPLUS_THRESHOLD)), v, y)


# ---------------------------------------------------------------- logarithms and powers


def _split(code: Code, v: str) -> tuple[str, str]:
    """(m, k) with v = m 2ᵏ and m in [√½, √2), of a positive normal v."""
    form = _format(code)
    bits = _integer(code, "add", _bits(code, v), (form.bias << form.mantissa) - form.root)
    # the exponent becomes the last bits of a number without bits behind the point
    k = _integer(code, "lshr", bits, form.mantissa)
    k = _float(code, _integer(code, "or", k, (form.bias + form.mantissa) << form.mantissa))
    k = code.arithmetic("fsub", k, code.constant(2.0**form.mantissa + form.bias))
    bits = _integer(code, "and", bits, (1 << form.mantissa) - 1)
    return _float(code, _integer(code, "add", bits, form.root)), k


def _split_any(code: Code, v: str) -> tuple[str, str]:
    """The same of a positive v that may be subnormal."""
    form = _format(code)
    tiny = code.compare("olt", v, code.constant(2.0 ** (1 - form.bias)))
    larger = code.arithmetic("fmul", v, code.constant(2.0 ** (form.mantissa + 1)))
    m, k = _split(code, code.select(tiny, larger, v))
    less = code.select(tiny, code.constant(form.mantissa + 1.0), code.constant(0.0))
    return m, code.arithmetic("fsub", k, less)


def _log(code: Code, f: str, k: str) -> str:
    """log(1 + f) + k ln 2; log(1 + f) = 2 atanh(s), s = f/(2 + f), as f − (f²/2 − s(f²/2 + s²(⅔ + …)))."""
    form = _format(code)
    s = code.arithmetic("fdiv", f, code.arithmetic("fadd", f, code.constant(2.0)))
    square = code.arithmetic("fmul", s, s)
    series = _polynomial(code, square, [2 * c for c in (form.third[0], *form.atanh)])
    half = code.arithmetic("fmul", f, code.arithmetic("fmul", f, code.constant(0.5)))
    low = code.arithmetic("fmul", k, code.constant(form.ln2[1]))
    low = code.fused(s, code.fused(square, series, half), low)
    y = code.arithmetic("fsub", f, code.arithmetic("fsub", half, low))
    return code.fused(k, code.constant(form.ln2[0]), y)


def _log_limits(code: Code, v: str, y: str) -> str:
    """The logarithm y of v where 0 < v < ∞; −∞ at 0, ∞ at ∞, NaN below 0 and at NaN."""
    y = code.select(code.compare("olt", v, code.constant(math.inf)), y, v)
    zero = code.constant(0.0)
    y = code.select(code.compare("oeq", v, zero), code.constant(-math.inf), y)
    return code.select(code.compare("olt", v, zero), code.constant(math.nan), y)


def log(code: Code, v: str) -> str:
    """The natural logarithm, of subnormal numbers too: 0.84 ULP, in float64 0.82."""
    m, k = _split_any(code, v)
    return _log_limits(code, v, _log(code, code.arithmetic("fsub", m, code.constant(1.0)), k))


def log1p(code: Code, v: str) -> str:
    """log(1 + v): 1.39 ULP, in float64 1.38.

    With 1 + v ≈ m 2ᵏ the reduced v 2⁻ᵏ + (2⁻ᵏ − 1) loses nothing of a small v.
    """
    form, one = _format(code), code.constant(1.0)
    total = code.arithmetic("fadd", v, one)
    m, k = _split(code, total)
    scale = _integer(code, "sub", _bits(code, m), _bits(code, total))
    scale = _float(code, _integer(code, "add", scale, form.bias << form.mantissa))
    f = code.fused(v, scale, code.arithmetic("fsub", scale, one))
    # 2⁻ᵏ is no normal number for the largest k, where 1 is nothing beside v
    large = code.compare("ogt", v, code.constant(2.0**64))
    f = code.select(large, code.arithmetic("fsub", m, one), f)
    return code.intrinsic("copysign", _log_limits(code, total, _log(code, f, k)), v)


def _two_sum(code: Code, a: str, b: str) -> tuple[str, str]:
    """The rounded a + b and what the rounding leaves, for |a| ≥ |b| or a = 0 (Dekker 1971)."""
    total = _exact(code, "fadd", a, b)
    return total, _exact(code, "fsub", b, _exact(code, "fsub", total, a))


def _two_product(code: Code, a: str, b: str) -> tuple[str, str]:
    """The rounded a · b and what the rounding leaves."""
    product = _exact(code, "fmul", a, b)
    return product, code.fused(a, b, _negate(code, product))


def _log_pair(code: Code, v: str) -> tuple[str, str]:
    """The logarithm of a positive finite v in two parts: 2(s + s·s²(⅓ + s²(…))) + k ln 2."""
    form = _format(code)
    m, k = _split_any(code, v)
    f = code.arithmetic("fsub", m, code.constant(1.0))
    below, below_low = _two_sum(code, code.constant(2.0), f)
    s = _exact(code, "fdiv", f, below)
    left = code.fused(_negate(code, s), below_low, code.fused(_negate(code, s), below, f))
    s_low = code.arithmetic("fdiv", left, below)
    square, square_low = _two_product(code, s, s)
    square_low = code.fused(code.arithmetic("fadd", s, s), s_low, square_low)
    tail = _exact(code, "fmul", square, _polynomial(code, square, form.atanh))
    series, series_low = _two_sum(code, code.constant(form.third[0]), tail)
    series_low = code.arithmetic("fadd", series_low, code.constant(form.third[1]))
    t, t_low = _two_product(code, square, series)
    t_low = code.fused(square, series_low, code.fused(square_low, series, t_low))
    p, p_low = _two_product(code, s, t)
    p_low = code.fused(s, t_low, code.fused(s_low, t, p_low))
    y, y_low = _two_sum(code, s, p)
    y_low = _exact(code, "fadd", y_low, code.arithmetic("fadd", p_low, s_low))
    power, power_low = _two_product(code, k, code.constant(form.ln2[0]))
    power_low = code.fused(k, code.constant(form.ln2[1]), power_low)
    y, rest = _two_sum(code, power, _exact(code, "fadd", y, y))
    return y, code.arithmetic("fadd", rest, code.fused(y_low, code.constant(2.0), power_low))


def power(code: Code, a: str, b: str) -> str:
    """aᵇ = exp(b log|a|), the logarithm in two parts: 1.2 ULP in both; special cases as C's ``pow``."""
    one, infinity = code.constant(1.0), code.constant(math.inf)
    size = code.intrinsic("fabs", a)
    high, low = _log_pair(code, size)
    high = code.select(code.compare("olt", size, infinity), high, size)
    high = code.select(code.compare("oeq", size, code.constant(0.0)), code.constant(-math.inf), high)
    y, y_low = _two_product(code, b, high)
    y_low = code.fused(b, low, y_low)
    # beyond every exponent the low part may be ∞ − ∞
    moderate = code.compare("olt", code.intrinsic("fabs", y), code.constant(2.0**11))
    y = _exp(code, y, code.select(moderate, y_low, code.constant(0.0)))
    y = code.select(code.compare("oeq", b, code.constant(0.0)), one, y)
    y = code.select(code.compare("oeq", size, one), one, y)

    half = code.arithmetic("fmul", b, code.constant(0.5))
    whole = code.compare("oeq", code.intrinsic("floor", b), b)
    even = code.compare("oeq", code.intrinsic("floor", half), half)
    signed = code.select(even, y, code.intrinsic("copysign", y, a))
    refused = code.select(code.compare("olt", size, infinity), code.constant(math.nan), y)
    below = code.select(whole, signed, refused)
    y = code.select(code.compare("olt", a, code.constant(0.0)), below, code.select(whole, signed, y))
    y = code.select(code.compare("uno", b, b), b, y)
    return code.select(code.compare("oeq", a, one), one, y)


def power_of(code: Code, v: str, number: float) -> str:
    """A power known beforehand: products for small whole numbers, a root for ±½, else ``power``; 4 ULP.

    As in torch the root of −0 is −0 and that of −∞ is NaN.
    """
    one, size = code.constant(1.0), abs(number)
    if size == 0.5:
        y = code.intrinsic("sqrt", v)
    elif size <= MULTIPLIED_POWERS and size == int(size):
        y, square = one, v
        for i in range(int(size).bit_length()):
            if i:
                square = code.arithmetic("fmul", square, square)
            if int(size) >> i & 1:
                y = square if y == one else code.arithmetic("fmul", y, square)
    else:
        return power(code, v, code.constant(number))
    return code.arithmetic("fdiv", one, y) if number < 0 else y


# ---------------------------------------------------------------- circular functions


def _circular(code: Code, v: str, quarter: int) -> str:
    """sin(v + quarter · π/2): v less a multiple of π/2 (Cody and Waite 1980), then a sine or a cosine."""
    form = _format(code)
    n, bits = _nearest(code, v, 2 / math.pi, quarter)
    r = v
    for part in form.half_pi:
        r = code.fused(n, code.constant(-part), r)
    # far beyond the range r is meaningless; while it is bounded, so is the result
    r = _at_most(code, _at_least(code, r, -1.0), 1.0)
    square = code.arithmetic("fmul", r, r)
    sine = code.arithmetic("fmul", _polynomial(code, square, (1.0, *form.sine)), r)
    cosine = _polynomial(code, square, (1.0, *form.cosine))
    odd = _integer(code, "icmp ne", _integer(code, "and", bits, 1), 0)
    negative = _integer(code, "shl", _integer(code, "and", bits, 2), code.vectors.bits - 2)
    return _float(code, _integer(code, "xor", _bits(code, code.select(odd, cosine, sine)), negative))


def sin(code: Code, v: str) -> str:
    """The sine: 2.2 ULP, in float64 1.97, within ``CIRCULAR_RANGE``."""
    return _circular(code, v, 0)


def cos(code: Code, v: str) -> str:
    """The cosine: 2.2 ULP, in float64 1.97, within ``CIRCULAR_RANGE``."""
    return _circular(code, v, 1)


# ---------------------------------------------------------------- arithmetic and choices


def _arithmetic(instruction: str) -> Callable[..., str]:
    return lambda code, a, b: code.arithmetic(instruction, a, b)


def _comparison(condition: str) -> Callable[..., str]:
    return lambda code, a, b: code.compare(condition, a, b)


def _intrinsic(name: str) -> Callable[..., str]:
    return lambda code, v: code.intrinsic(name, v)


def _extreme(condition: str) -> Callable[..., str]:
    """The larger or smaller of two; NaN if either is, as in torch."""

    def emit(code: Code, a: str, b: str) -> str:
        chosen = code.select(code.compare(condition, a, b), a, b)
        return code.select(code.compare("uno", a, a), a, chosen)

    return emit


FUNCTIONS: dict[str, Callable[..., str]] = {
    "add": _arithmetic("fadd"),
    "subtract": _arithmetic("fsub"),
    "multiply": _arithmetic("fmul"),
    "divide": _arithmetic("fdiv"),
    "negate": _negate,
    "power": power,
    "less": _comparison("olt"),
    "less_equal": _comparison("ole"),
    "equal": _comparison("oeq"),
    "not_equal": _comparison("une"),
    "where": lambda code, condition, a, b: code.select(condition, a, b),
    "sigmoid": sigmoid,
    "tanh": tanh,
    "relu": lambda code, v: _at_least(code, v, 0.0),
    "exp": exp,
    "log": log,
    "log1p": log1p,
    "softplus": softplus,
    "sqrt": _intrinsic("sqrt"),
    "abs": _intrinsic("fabs"),
    "maximum": _extreme("ogt"),
    "minimum": _extreme("olt"),
    "sin": sin,
    "cos": cos,
}
"""Every operation of the language on one element, by name."""
