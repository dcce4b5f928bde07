"""Leading Lyapunov exponents of the driven network: λ_i = lim (1/T) Σ_t ln |R_ii|, Q_t R_t = J_t Q_{t−1}.

Per layer and direction, along the states of some rows, all states of a cell joined (Benettin et al. 1980;
for networks Engelken et al. 2023, arXiv:2006.02427). λ₁ > 0: neighbouring states part, and gradients grow
by about e^λ₁ a step (Mikhaeil et al. 2022, arXiv:2110.07238). λ₁ ≪ 0: they die out. Costs the Jacobians of
two rows, ``T·S²`` numbers, and T small QR decompositions.
"""

from __future__ import annotations

import numpy as np
import torch

from gatewright.diagnosis.measures.measured import Measured
from gatewright.diagnosis.records import Records
from gatewright.diagnosis.tokens import Tokens

_ROWS = 2
_EXPONENTS = 16
_LEAST_STEPS = 8
_MOST_STEPS = 256


def lyapunov(records: Records) -> Measured:
    """The exponents of every layer.

    Args:
        records: of some batches.

    Returns:
        ``lyapunov`` (the largest), ``jacobian`` (mean spectral norm of a step, where that is largest) and the
        chart.
    """
    result, spectra, norms = Measured(), {}, {}
    for name, trace in records.chains.items():
        found = [
            Tokens(one, torch.arange(min(_ROWS, one.call.x.shape[1]), device=one.call.x.device)).jacobians()
            for one in trace.sequence()
        ]
        jacobians = torch.cat(found)[-_MOST_STEPS:]
        if len(jacobians) < _LEAST_STEPS:
            result.notes.append(f"{name}: too few steps for Lyapunov exponents, {len(jacobians)}")
            continue
        if not bool(torch.isfinite(jacobians).all()):
            result.notes.append(f"{name}: no Lyapunov exponents, a Jacobian is not finite")
            continue
        spectra[name] = exponents(jacobians.double())
        sample = jacobians[:: max(1, len(jacobians) // 32)]
        norms[name] = float(torch.linalg.matrix_norm(sample, 2).mean())
    if spectra:
        result.charts["lyapunov"] = spectra
        leading = {name: float(values[0]) for name, values in spectra.items()}
        text = "largest Lyapunov exponent per step, natural logarithm"
        result.worst("lyapunov", leading, text, largest=True)
        result.worst("jacobian", norms, "mean largest stretch of one step", largest=True)
    return result


def exponents(jacobians: torch.Tensor) -> np.ndarray:
    """The leading exponents per step.

    Args:
        jacobians: ``[T, B, S, S]`` in the order of the steps.

    Returns:
        ``[m]`` descending, the mean over rows; a first fifth of the steps is only used to turn towards them.
    """
    steps, batch, size, _ = jacobians.shape
    count = min(_EXPONENTS, size)
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(size, count, generator=generator, dtype=torch.float64).to(jacobians.device)
    q = torch.linalg.qr(basis)[0].expand(batch, size, count)
    warm, total = steps // 5, jacobians.new_zeros(batch, count)
    for step in range(steps):
        q, r = torch.linalg.qr(jacobians[step] @ q)
        if step >= warm:
            total += r.diagonal(dim1=-2, dim2=-1).abs().clamp(min=1e-300).log()
    return np.sort((total / (steps - warm)).mean(0).cpu().numpy())[::-1].copy()
