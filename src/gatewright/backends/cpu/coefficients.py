"""The numbers that the elementary functions are made of, for float32 and float64.

The coefficients are minimax fits of the relative error on the intervals named below, by a Remez exchange in
60 digits, rounded to the element; a leading coefficient that is not listed keeps its exact value.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """One element type: its bits and the coefficients that suit its precision.

    Attributes:
        mantissa: explicit bits of the mantissa.
        bias: of the exponent.
        root: bits of √½, where the mantissas of a logarithm begin.
        ln2: ln 2 in two parts.
        half_pi: π/2 in three parts, none negative, so that the sign of a zero survives them.
        third: ⅓ in two parts.
        one: where tanh has become one.
        exp: (exp(r) − 1)/r in r, |r| ≤ ½ ln 2.
        coth: (r coth(r) − 1)/r² in r², |r| ≤ ¼ ln 2.
        atanh: (atanh(s)/s − 1 − s²/3)/s⁴ in s², |s| ≤ 3 − 2√2.
        atanh_wide: (atanh(s)/s − 1)/s² in s², |s| ≤ ⅓.
        sine: (sin(r)/r − 1)/r² in r², |r| ≤ π/4.
        cosine: (cos(r) − 1)/r² in r², |r| ≤ π/4.
    """

    mantissa: int
    bias: int
    root: int
    ln2: tuple[float, float]
    half_pi: tuple[float, float, float]
    third: tuple[float, float]
    one: float
    exp: tuple[float, ...]
    coth: tuple[float, ...]
    atanh: tuple[float, ...]
    atanh_wide: tuple[float, ...]
    sine: tuple[float, ...]
    cosine: tuple[float, ...]


# fmt: off
FORMATS = {
    "float": Format(
        mantissa=23,
        bias=127,
        root=0x3F3504F3,
        ln2=(0.6931471824645996, -1.9046542121259336e-09),
        half_pi=(1.570796251296997, 7.549789415861596e-08, 5.390302529957765e-15),
        third=(0.3333333432674408, -9.934107481068821e-09),
        one=9.1,
        exp=(1.0, 0.49999994, 0.166664317, 0.0416680016, 0.00837416295, 0.00138436421),
        coth=(0.333332509, -0.0221340936),
        atanh=(0.200000763, 0.142735422, 0.117099091),
        atanh_wide=(0.333332062, 0.200107992, 0.140002668, 0.140093908),
        sine=(-0.166666552, 0.00833215564, -0.00019514632),
        cosine=(-0.5, 0.0416666195, -0.00138866727, 2.43827217e-05),
    ),
    "double": Format(
        mantissa=52,
        bias=1023,
        root=0x3FE6A09E667F3BCD,
        ln2=(0.6931471805599453, 2.3190468138462996e-17),
        half_pi=(1.5707963267948966, 6.123233995736765e-17, 1.0828566739219139e-32),
        third=(0.3333333333333333, 1.850371707708594e-17),
        one=19.2,
        exp=(
            1.0, 0.5000000000000012, 0.16666666666666216, 0.04166666666651771, 0.008333333333549863,
            0.0013888888946386986, 0.0001984126943655364, 2.480149059801659e-05, 2.755762682225131e-06,
            2.7631048724811473e-07, 2.4991419630986282e-08,
        ),
        coth=(
            0.33333333333333204, -0.022222222221613592, 0.0021164020229884656, -0.0002116339535874506,
            2.1187335120657687e-05,
        ),
        atanh=(
            0.20000000000001136, 0.14285714285045956, 0.11111111260675152, 0.09090892118685838,
            0.07693381758217448, 0.06628334593275564, 0.06598873497436765,
        ),
        atanh_wide=(
            0.33333333333333154, 0.20000000000078313, 0.1428571427395744, 0.11111111983476951,
            0.09090871994202943, 0.07693279635490488, 0.06650486692506169, 0.06053076910896923,
            0.04169765933113681, 0.08510057855152918,
        ),
        sine=(
            -0.1666666666666663, 0.008333333333322005, -0.00019841269829495167, 2.7557313587520744e-06,
            -2.5050742294493885e-08, 1.5895904060798445e-10,
        ),
        cosine=(
            -0.5, 0.04166666666666647, -0.0013888888888861726, 2.4801587283952272e-05,
            -2.755731308012297e-07, 2.0875577373741412e-09, -1.135304447638768e-11,
        ),
    ),
}
# fmt: on
