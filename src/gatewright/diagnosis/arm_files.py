"""Finished arms in a folder: a call that was broken off goes on from them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import CellType, CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatewright.diagnosis.arms import Arm, Outcome, Plan
from gatewright.files import explained, write_json

_BYTES_PER_TENSOR = 2**20
_BYTES = 2**26
_DEPTH = 6


class ArmFiles:
    """One JSON file an arm, known by a fingerprint of everything that its losses depend on.

    Functions, such as the loss, are known by their code and by the plain values and tensors they close over,
    not by what they call: after another edit there, take another folder.

    Args:
        folder: holds a folder ``arms``, which is made.
        plan: its points are not needed.
        minutes: that the call may take.

    Raises:
        InputError: the folder cannot be made.
    """

    def __init__(self, folder: Path, plan: Plan, minutes: float) -> None:
        self._folder = folder / "arms"
        self._minutes = float(minutes)
        with explained(self._folder, "make"):
            self._folder.mkdir(parents=True, exist_ok=True)
        self._problem = _problem_fingerprint(plan)

    def read(self, arm: Arm, points: tuple[int, ...]) -> Outcome | None:
        """A finished arm, or None; files that are damaged or of something else are left out of account."""
        document = self._document(arm)
        losses = document.get("losses")
        if document.get("fingerprint") != self._fingerprint(arm, points[-1]):
            return None
        if not isinstance(losses, list) or len(losses) != len(points):
            return None
        if not all(loss is None or isinstance(loss, float) for loss in losses):
            return None
        return Outcome("finished", tuple(math.nan if loss is None else loss for loss in losses))

    def write(self, arm: Arm, outcome: Outcome, steps: int) -> None:
        """Keep a finished arm.

        Args:
            arm: which one.
            outcome: of it.
            steps: the budget.

        Raises:
            InputError: the disk is full, or the folder cannot be written.
        """
        document = {
            "arm": arm.name,
            "seed": arm.seed,
            "steps": steps,
            "minutes": self._minutes,
            "losses": list(outcome.losses),
            "fingerprint": self._fingerprint(arm, steps),
        }
        write_json(self._path(arm), document)

    def steps(self, arms: list[Arm]) -> int | None:
        """The budget that the same call chose when it was broken off: a newly timed one would fit no arm."""
        for arm in arms:
            document = self._document(arm)
            steps = document.get("steps")
            if type(steps) is not int or steps < 1 or document.get("minutes") != self._minutes:
                continue
            if document.get("fingerprint") == self._fingerprint(arm, steps):
                return steps
        return None

    def _document(self, arm: Arm) -> Mapping[str, Any]:
        try:
            document = json.loads(self._path(arm).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}

    def _path(self, arm: Arm) -> Path:
        name = re.sub(r"[^a-z0-9_-]+", "-", arm.name.lower())[:60]
        if name != arm.name:
            name += "-" + hashlib.sha256(arm.name.encode(errors="surrogateescape")).hexdigest()[:8]
        return self._folder / f"{name}-seed{arm.seed}.json"

    def _fingerprint(self, arm: Arm, steps: int) -> str:
        change = arm.change
        digest = _Digest()
        digest.add(self._problem, arm.seed, steps, dataclasses.asdict(change.remedy))
        digest.add(change.learning_rate, change.gradient_clip, change.weight_decay)
        digest.add(change.batches_per_step, change.skip_non_finite, change.apply, change.around)
        return digest.text()


def _problem_fingerprint(plan: Plan) -> str:
    problem = plan.problem
    digest = _Digest()
    digest.add(torch.__version__, problem.learning_rate, problem.gradient_clip, problem.weight_decay)
    digest.add(problem.seed, problem.loss)
    for name, module in problem.model.named_modules():
        described = re.sub(r" at 0x[0-9a-fA-F]+", "", module.extra_repr())
        digest.add(name, type(module).__qualname__, described, module.training)
    for name, parameter in problem.model.named_parameters():
        digest.add(name, parameter.requires_grad, parameter)
    for name, tensor in problem.model.named_buffers():
        digest.add(name, tensor)
    digest.add(len(plan.training), len(plan.held_out), plan.training, plan.held_out)
    return digest.text()


class _Digest:
    """A hash of values: what they hold where that can be seen, else their type."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._left = _BYTES

    def text(self) -> str:
        return self._hash.hexdigest()

    def add(self, *values: Any) -> None:
        for value in values:
            self._value(value, _DEPTH)

    def _value(self, value: Any, depth: int) -> None:
        # the type and a mark in front: [1], [2] is not [1, 2]
        self._hash.update(f"\0{type(value).__qualname__}:".encode())
        if isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, np.ndarray):
            self._hash.update(f"{value.dtype}{value.shape}".encode())
            if not value.dtype.hasobject:
                self._bytes(value.reshape(-1)[: _BYTES_PER_TENSOR // max(value.itemsize, 1)].tobytes())
        elif value is None or isinstance(value, (bool, int, float, complex, np.generic)):
            self._hash.update(repr(value).encode())
        elif isinstance(value, (str, bytes)):
            self._bytes(value.encode(errors="surrogateescape") if isinstance(value, str) else value)
        elif depth == 0 or self._left <= 0:
            return
        elif isinstance(value, Mapping):
            self._hash.update(str(len(value)).encode())
            for key, item in value.items():
                self._value(key, depth - 1)
                self._value(item, depth - 1)
        elif isinstance(value, (list, tuple)):
            self._hash.update(str(len(value)).encode())
            for item in value:
                self._value(item, depth - 1)
        elif isinstance(code := getattr(value, "__code__", None), CodeType):
            self._code(code)
            held = [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]
            # a list or an object may be a record that grows while the function is used
            plain = (str, int, float, Tensor, np.ndarray, FunctionType)
            for item in (*(value.__defaults__ or ()), *held):
                self._value(item if isinstance(item, plain) else type(item).__qualname__, depth - 1)
        elif isinstance(value, partial):
            self._value([value.func, value.args, value.keywords], depth - 1)
        elif dataclasses.is_dataclass(value):
            self._value(getattr(value, "__dict__", None), depth - 1)

    def _tensor(self, tensor: Tensor) -> None:
        self._hash.update(f"{tensor.dtype}{tuple(tensor.shape)}{tensor.layout}".encode())
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_nested:
            return
        start = tensor.detach().reshape(-1)[: _BYTES_PER_TENSOR // tensor.element_size()]
        start = start.resolve_conj().resolve_neg().cpu().contiguous()
        self._bytes(start.view(torch.uint8).numpy().tobytes())

    def _bytes(self, content: bytes) -> None:
        if self._left > 0:
            self._left -= len(content)
            self._hash.update(content)

    def _code(self, code: CodeType) -> None:
        self._hash.update(f"{code.co_qualname}{code.co_names}".encode())
        self._hash.update(code.co_code)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._code(constant)
            elif not isinstance(constant, frozenset):
                # the order of a set is another one in each process
                self._hash.update(repr(constant).encode())
