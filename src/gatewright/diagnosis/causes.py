"""The causes: one row each, with the conditions that speak for it, all of which must hold.

Thresholds stand in ``thresholds.py``. Those that say no other source were set on the injected faults of
``benchmarks/faults.py`` of some seeds and judged on those of others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CALIBRATED = "set on injected faults"


@dataclass(frozen=True)
class Condition:
    """A number that must be above, or below, a threshold.

    Attributes:
        measure: its name; several separated by ``/`` are divided, with ``-`` in between subtracted.
        above: whether it must be above.
        scale: over which the confidence changes; of the logarithm where ``ratio``.
        text: what it says where it holds, with ``{value}``.
        ratio: compare logarithms.
        optional: leave it out where the number is missing.
        source: of the threshold.
    """

    measure: str
    above: bool
    scale: float
    text: str
    ratio: bool = False
    optional: bool = False
    source: str = CALIBRATED

    def value(self, values: Mapping[str, float]) -> float:
        """The number; NaN where it is missing."""
        for sign in ("/", "-"):
            if sign in self.measure:
                left, right = (values.get(name.strip(), math.nan) for name in self.measure.split(sign))
                if sign == "-":
                    return left - right
                return left / max(right, 1.0) if math.isfinite(left + right) else math.nan
        return values.get(self.measure, math.nan)

    def confidence(self, value: float, threshold: float) -> float:
        """0 to 1, 0.5 at the threshold."""
        if value == threshold and math.isinf(value):
            return 0.5
        if self.ratio:
            value, threshold = math.log(max(value, 1e-12)), math.log(max(threshold, 1e-12))
        distance = (value - threshold) / self.scale * (1 if self.above else -1)
        return 1 / (1 + math.exp(-max(-50.0, min(50.0, 2 * distance))))


@dataclass(frozen=True)
class Rule:
    """A cause.

    Attributes:
        name: of the finding.
        cause: what goes wrong, one sentence.
        groups: all must hold; of the conditions in a group one is enough.
        explains: findings that this one accounts for where both hold.
        layer: measures whose layer is where it is.
    """

    name: str
    cause: str
    groups: Sequence[Sequence[Condition]]
    explains: Sequence[str] = ()
    layer: Sequence[str] = ()


def _above(measure: str, scale: float, text: str, **more: Any) -> Condition:
    return Condition(measure, True, scale, text, **more)


def _below(measure: str, scale: float, text: str, **more: Any) -> Condition:
    return Condition(measure, False, scale, text, **more)


GAIN = _above("gain", 0.15, "held-out loss below that of a control that reads other rows' inputs")
"""By which a healthy model learns from its inputs."""

_NOT_LEARNING = _below(
    "gain", 0.15, "how far the loss is below that of a control that reads other rows' inputs, as a share"
)
_UNUSED = _above("unused_after", 0.1, "share of what is left of the error that unused inputs explain")
_GRAPH = "seen in the graph"
_ANY = "any is too many"
_WORSE = "rise of the loss on the training batches over the observed steps, over the loss of a control"
_SLOW = "relative change of the weights over the observed steps"

_RULES = (
    Rule(
        "non-finite",
        "A number that is not finite goes into the loss, and every weight with it.",
        [
            [
                _above("bad_batches", 0.2, "batches whose loss is not finite", source=_ANY),
                _above("bad_held_out", 0.2, "held-out batches whose loss is not finite", source=_ANY),
                _above("bad_inputs", 0.2, "batches that hold numbers that are not finite", source=_ANY),
            ]
        ],
        explains=(
            "learning-rate",
            "exploding",
            "noise",
            "vanishing",
            "overfitting",
            "capacity",
            "readout",
            "wrong-time-scale",
            "depth",
        ),
        layer=("bad_batches",),
    ),
    Rule(
        "rank-collapse",
        "The units of a layer do the same thing, so that it is as good as a few.",
        [
            [
                _above("doubled", 0.1, "share of the units that are another one's double"),
                _below("rank", 0.2, "effective rank of the states"),
            ],
            [
                _above(
                    "units",
                    1.0,
                    "units of the narrowest layer, which could do different things",
                    source="one unit has no double",
                )
            ],
        ],
        explains=(
            "vanishing",
            "capacity",
            "noise",
            "readout",
            "wrong-time-scale",
            "learning-rate",
            "depth",
            "stuck-gates",
            "exploding",
        ),
        layer=("doubled", "rank"),
    ),
    Rule(
        "stuck-gates",
        "The gates that keep the state are shut so firmly that hardly any gradient moves them.",
        [
            [_below("gate_slope", 0.002, "mean slope z(1 − z) of the gates")],
            [_above("gate_high", 0.1, "share of the gates above 0.9")],
            [
                _NOT_LEARNING,
                _UNUSED,
                _below("state_change", 0.05, "change of the state in a step over its spread"),
            ],
        ],
        explains=(
            "vanishing",
            "capacity",
            "noise",
            "readout",
            "wrong-time-scale",
            "overfitting",
            "learning-rate",
            "rank-collapse",
        ),
        layer=("gate_slope",),
    ),
    Rule(
        "chaos",
        "The model runs on its own outputs through a chaotic system: gradients through it must explode.",
        [
            [_above("feedback", 0.2, "outputs that are fed back as inputs: 1 for yes", source=_GRAPH)],
            [
                _above(
                    "time_growth",
                    1.0,
                    "growth of the gradient to the first step, as a logarithm",
                )
            ],
            [
                _above(
                    "data_exponent",
                    0.05,
                    "divergence of neighbouring stretches of the data per step",
                )
            ],
            [_above("data_order", 0.1, "share of the next input that neighbouring stretches agree on")],
        ],
        explains=(
            "exploding",
            "noise",
            "capacity",
            "readout",
            "vanishing",
            "overfitting",
            "learning-rate",
            "wrong-time-scale",
        ),
    ),
    Rule(
        "exploding",
        "Gradients grow from step to step on their way back, or leap from batch to batch.",
        [
            [
                _above("time_growth", 1.0, "growth of the gradient to the first step, as a logarithm"),
                _above("lyapunov", 0.05, "largest Lyapunov exponent"),
                _above("loss_outlier", 0.4, "largest loss of a batch over the median", ratio=True),
            ],
            [
                _NOT_LEARNING,
                _above("loss_outlier", 0.4, "largest loss of a batch over the median", ratio=True),
                _above("stopped", 1.0, "step at which a number was not finite", source="any is too early"),
            ],
        ],
        explains=(
            "noise",
            "capacity",
            "readout",
            "vanishing",
            "overfitting",
            "learning-rate",
            "wrong-time-scale",
        ),
        layer=("time_growth", "lyapunov"),
    ),
    Rule(
        "learning-rate",
        "The learning rate is outside the window in which this model learns.",
        [
            [
                _above(
                    "rate_behind",
                    0.08,
                    "how much farther the loss falls in a short run at another rate",
                ),
                _below("moved", 0.4, _SLOW, ratio=True),
                _above("worsened", 0.1, _WORSE),
            ],
        ],
        explains=("noise", "vanishing", "capacity", "readout", "state-tracking", "overfitting"),
    ),
    Rule(
        "depth",
        "Hardly any gradient reaches the lower layers of the stack.",
        [
            [_above("depth", 1.0, "recurrent layers, one upon the other")],
            [_below("depth_ratio", 0.5, "gradient of the weakest layer over that of the uppermost, log10")],
            [_NOT_LEARNING, _UNUSED],
        ],
        explains=("vanishing", "noise", "capacity", "readout", "rank-collapse", "learning-rate", "exploding"),
    ),
    Rule(
        "state-tracking",
        "The cell is affine in its state: it can keep and forget, but not turn a state over.",
        [
            [
                _above(
                    "affine",
                    0.2,
                    "share of the layers that are affine in their state",
                    source="arXiv:2404.08819",
                )
            ],
            [_NOT_LEARNING],
        ],
        explains=("vanishing", "noise", "capacity", "readout"),
    ),
    Rule(
        "truncation",
        "Backpropagation is cut before it reaches the steps that the task needs.",
        [
            [_above("cut", 0.5, "steps after which the gradient is cut", source=_GRAPH)],
            [
                _above("needed_lag/cut", 0.3, "needed lag over the steps between two cuts", ratio=True),
                _above("cut_bias", 0.1, "change of the gradient where the cuts are bridged"),
            ],
            [_UNUSED],
            [_NOT_LEARNING],
        ],
        explains=("vanishing", "capacity", "noise", "readout", "learning-rate"),
    ),
    Rule(
        "readout",
        "The state holds what the loss needs; what stands behind it does not read it.",
        [
            [
                _above("silent", 0.1, "share of the recurrent parameters whose gradient is exactly 0"),
                _above(
                    "frozen",
                    0.1,
                    "share of the parameters outside the recurrent layers that are frozen",
                    source="any counts",
                ),
                _above("unread_after", 0.1, "share of the rest error that can be read from the state itself"),
            ],
            [_NOT_LEARNING],
        ],
        explains=("capacity", "vanishing", "noise", "overfitting", "learning-rate"),
    ),
    Rule(
        "wrong-time-scale",
        "All units forget at nearly the same rate, a slow one, and the task asks for others.",
        [
            [_below("tau_spread", 0.04, "spread of the time constants, as a logarithm")],
            [_above("tau", 0.4, "median steps over which a unit forgets", ratio=True)],
            [_NOT_LEARNING, _UNUSED],
        ],
        explains=("vanishing", "noise", "capacity", "readout", "learning-rate"),
        layer=("tau_spread",),
    ),
    Rule(
        "vanishing",
        "The gradient dies out before it reaches the steps that the task needs.",
        [
            [
                _above("needed_lag/horizon", 0.3, "needed lag over the horizon of the gradient", ratio=True),
                _above(
                    "needed_lag/horizon_after",
                    0.3,
                    "needed lag over the horizon of the gradient behind the observed steps",
                    ratio=True,
                ),
            ],
            [_UNUSED],
            [_NOT_LEARNING],
        ],
        explains=("capacity", "noise", "readout"),
        layer=("horizon",),
    ),
    Rule(
        "capacity",
        "The state is too narrow for all that must be remembered.",
        [
            [_UNUSED],
            [_NOT_LEARNING],
            [
                _above(
                    "rank_share_after",
                    0.1,
                    "effective rank of the states over the units: near 1 they are used up",
                )
            ],
            [
                _below("needed_lag/horizon", 0.3, "needed lag over the horizon of the gradient", ratio=True),
                _below(
                    "needed_lag/horizon_after",
                    0.3,
                    "needed lag over the horizon of the gradient behind the observed steps",
                    ratio=True,
                ),
            ],
        ],
        explains=("noise", "readout", "overfitting", "vanishing"),
        layer=("rank_share",),
    ),
    Rule(
        "overfitting",
        "The model learns its training batches, and not what they have in common with others.",
        [
            [
                _above(
                    "gap_after", 0.1, "share of the held-out loss that is not there on the training batches"
                ),
                _above(
                    "gap",
                    0.1,
                    "share of the held-out loss that is not there on the training batches, as given",
                ),
            ],
            [
                _above(
                    "excess_after", 0.02, "held-out loss above the training loss, over the loss of a control"
                ),
                _above(
                    "excess",
                    0.02,
                    "held-out loss above the training loss as given, over that of a control",
                ),
            ],
            [_above("fall_or_gap", 0.1, "how far the training loss is below that of a control, as a share")],
        ],
        explains=("noise", "vanishing", "capacity", "readout", "learning-rate", "exploding"),
    ),
    Rule(
        "noise",
        "Batches do not agree on where to go: what could be learned is drowned.",
        [
            [
                _below("snr", 0.5, "signal to noise of one batch's gradient", ratio=True),
                _below(
                    "snr_after",
                    0.5,
                    "signal to noise of one batch's gradient behind the observed steps",
                    ratio=True,
                ),
            ],
            [_NOT_LEARNING],
            [_below("unused_after", 0.1, "share of the rest error that inputs explain", optional=True)],
        ],
    ),
)

CAUSES: dict[str, Rule] = {rule.name: rule for rule in _RULES}
"""Every cause by name."""
