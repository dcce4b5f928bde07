"""Elementary functions as Triton code: the same on a GPU and in Triton's interpreter.

They are made of exponential and logarithm alone, because the interpreter has no device library. NaN in means
NaN out; where torch has a limit, it is torch's.
"""

# triton reads annotations itself, so that none may be text
import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow."""
    z = tl.exp(-tl.abs(x))
    s = 1.0 / (1.0 + z)
    return tl.where(x >= 0, s, z * s)


@triton.jit
def tanh(x):
    """1 - 2z / (1 + z) with z = exp(-2|x|); near 0, where that cancels, the power series up to x^11.

    Near 1 it is right to half a unit in the last place, which counts in 1 - tanh(x)^2.
    """
    a = tl.abs(x)
    z = tl.exp(-2.0 * a)
    far = 1.0 - 2.0 * z / (1.0 + z)
    q = x * x
    series = 62.0 / 2835.0 - q * (1382.0 / 155925.0)
    series = -17.0 / 315.0 + q * series
    series = 2.0 / 15.0 + q * series
    series = -1.0 / 3.0 + q * series
    return tl.where(a < 0.35, x + x * (q * series), tl.where(x < 0, -far, far))


@triton.jit
def log1p(x):
    """log(1 + x), the rounding of 1 + x made good (Kahan)."""
    u = 1.0 + x
    rounded = u - 1.0
    small = rounded == 0.0
    ratio = x / tl.where(small, 1.0, rounded)
    # far out the correction is 1, and infinity would divide itself
    return tl.where(small, x, tl.log(u) * tl.where(x > 1e8, 1.0, ratio))


@triton.jit
def softplus(x):
    """log(1 + exp(x)), the identity above torch's threshold."""
    positive = tl.where(x > 0, x, 0.0)
    return tl.where(x > 20.0, x, positive + log1p(tl.exp(-tl.abs(x))))


@triton.jit
def maximum(a, b):
    """The larger one; NaN if one is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(a, b):
    """The smaller one; NaN if one is."""
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def power(a, b):
    """A ** b as torch has it: of a negative base for whole exponents only."""
    size = tl.abs(a)
    found = tl.exp(b * tl.log(tl.where(size == 0, 1.0, size)))
    found = tl.where(size == 0, tl.where(b > 0, 0.0, float("inf")), found)
    whole = tl.floor(b) == b
    odd = whole & (2.0 * tl.floor(b * 0.5) != b)
    valueless = (a < 0) & (a > float("-inf")) & (whole == 0)
    found = tl.where(valueless, float("nan"), tl.where((a < 0) & odd, -found, found))
    found = tl.where((a != a) | (b != b), a + b, found)
    return tl.where((b == 0) | (a == 1.0), 1.0, found)


@triton.jit
def all_arrived(counter, count):
    """Wait until so many programs have come here, and see what they wrote."""
    tl.debug_barrier()
    tl.atomic_add(counter, 1, sem="release")
    while tl.atomic_add(counter, 0, sem="acquire") < count:
        pass
    tl.debug_barrier()
