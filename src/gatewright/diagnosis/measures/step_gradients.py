"""Norms of the gradient by step, by batch and by layer.

Through time: how much larger ‖∂ℓ/∂h_t‖ gets towards the first step. Over batches: the largest norm of the
whole gradient over the median one (spikes; Pascanu et al. 2013). Through depth: root mean square of the
gradient by the lowest layer's weights over that of the uppermost. No cost beyond the backward pass.
"""

from __future__ import annotations

import math

import numpy as np

from gatewright.diagnosis.measures.measured import Measured
from gatewright.diagnosis.records import Records, recurrent_parameters
from gatewright.diagnosis.twin import Twin


def step_gradients(records: Records, twin: Twin) -> Measured:
    """Growth through time, spikes, depth and what gets no gradient.

    Args:
        records: of some batches.
        twin: that was recorded.

    Returns:
        ``time_growth``, ``spikes``, ``depth_ratio``, ``depth``, ``silent`` and ``frozen``.
    """
    result = Measured()
    growth = {}
    for name in records.chains:
        curves = [batch.by_step[name] for batch in records.batches if name in batch.by_step]
        longest = max((len(curve) for curve in curves), default=0)
        if not longest:
            continue
        curve = np.mean([curve for curve in curves if len(curve) == longest], 0)
        usable = np.flatnonzero((curve > 1e-30) & np.isfinite(curve))
        if len(usable) >= 4:
            growth[name] = -float(np.polyfit(usable, np.log(curve[usable]), 1)[0]) * (usable[-1] - usable[0])
    text = "growth of the whole gradient from the last step to the first, natural logarithm"
    result.worst("time_growth", growth, text, largest=True)
    norms = np.array(
        [
            math.sqrt(sum(g.double().square().sum().item() for g in b.parameters.values()))
            for b in records.batches
        ]
    )
    if len(norms) and np.isfinite(norms).all() and np.median(norms) > 0:
        result.add(
            "spikes", norms.max() / np.median(norms), "largest gradient norm of a batch over the median one"
        )
        result.add("gradient_norm", np.median(norms), "median norm of the whole gradient")
    _depth(result, records, twin)
    _silent(result, records, twin)
    return result


def _depth(result: Measured, records: Records, twin: Twin) -> None:
    """The lowest layer's gradient beside the uppermost one's."""
    sizes = []
    last = records.batches
    for path, module in twin.model.named_modules():
        if module not in twin.modules.values():
            continue
        for layer in range(module.num_layers):  # type: ignore[union-attr]
            name = f"{path}.weight_hh_l{layer}" if path else f"weight_hh_l{layer}"
            found = [
                b.parameters[name].double().square().mean().sqrt().item()
                for b in last
                if name in b.parameters
            ]
            if found:
                sizes.append(float(np.median(found)))
    result.add("depth", len(sizes), "recurrent layers, one upon the other")
    if len(sizes) > 1 and sizes[-1] > 0:
        ratio = np.log10(max(min(sizes[:-1]), 1e-30) / sizes[-1])
        result.add(
            "depth_ratio", ratio, "gradient of the weakest lower layer over that of the uppermost, log10"
        )


def _silent(result: Measured, records: Records, twin: Twin) -> None:
    """Parameters that get no gradient, and those that are frozen, apart from the recurrent ones."""
    recurrent = set(recurrent_parameters(twin.model))
    trained = [name for name, p in twin.model.named_parameters() if p.requires_grad]
    frozen = [n for n, p in twin.model.named_parameters() if not p.requires_grad and n not in recurrent]
    silent = [
        name
        for name in trained
        if all(
            not bool(batch.parameters[name].any()) for batch in records.batches if name in batch.parameters
        )
    ]
    outside = [name for name, _ in twin.model.named_parameters() if name not in recurrent]
    share = len(frozen) / len(outside) if outside else 0.0
    result.add("frozen", share, "share of the parameters outside the recurrent layers that are frozen")
    quiet = [name for name in silent if name in recurrent]
    count = sum(name in recurrent for name in trained)
    if count:
        result.add(
            "silent", len(quiet) / count, "share of the recurrent parameters that get no gradient at all"
        )
    if frozen:
        result.notes.append(f"frozen outside the recurrent layers: {', '.join(frozen[:6])}")
