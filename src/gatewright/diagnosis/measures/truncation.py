"""What is lost where backpropagation is cut: ‖g_cut − g‖ / ‖g‖ of the recurrent weights.

The twin notices a state that goes on from the call before but was taken out of the graph, and can put it
back: the same loss then gives the whole gradient g (truncation bias as in Aicher et al. 2019,
arXiv:1905.07473). A small bias in a model that has not learned yet says little: what it would need from
behind the cut it cannot hear of. Costs two backward passes a batch.
"""

from __future__ import annotations

import numpy as np
import torch

from gatewright.diagnosis.measures.measured import Measured
from gatewright.diagnosis.problem import Problem
from gatewright.diagnosis.records import Records, recurrent_parameters
from gatewright.diagnosis.twin import Twin

_BATCHES = 2


def truncation(records: Records, twin: Twin, problem: Problem) -> Measured:
    """Where the gradient is cut, and what that changes.

    Args:
        records: of some batches.
        twin: that was recorded.
        problem: as given.

    Returns:
        ``cut`` (steps between two cuts, 0 for none) and ``cut_bias``.
    """
    result = Measured()
    pieces = [piece for batch in records.batches for piece in batch.cuts]
    result.add(
        "cut",
        float(np.median(pieces)) if pieces else 0.0,
        "steps after which the gradient is cut, 0 for never",
    )
    names = recurrent_parameters(twin.model)
    trained = any(twin.model.get_parameter(name).requires_grad for name in names)
    biases = []
    for batch in problem.batches[:_BATCHES] if pieces and trained else []:
        found = []
        for bridged in (False, True):
            twin.bridged = bridged
            twin.forget()
            recording = twin.run(problem.loss, batch)
            wanted = [twin.model.get_parameter(n) for n in names]
            wanted = [p for p in wanted if p.requires_grad]
            grads = torch.autograd.grad(recording.loss, wanted, allow_unused=True)
            found.append(torch.cat([g.flatten().double() for g in grads if g is not None]))
        twin.bridged = False
        cut, whole = found
        if len(cut) == len(whole) and float(whole.norm()) > 0:
            biases.append(float((cut - whole).norm() / whole.norm()))
    twin.forget()
    if biases:
        result.add(
            "cut_bias", float(np.mean(biases)), "difference that the cuts make to the gradient, as a share"
        )
    return result
