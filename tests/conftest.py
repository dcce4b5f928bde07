"""Shared by all tests: what every test process needs before its first import."""

import os
import sys
import tempfile
from pathlib import Path

import torch

# a benchmark's comparison is the tests' too: benchmarks/ is imported from the repository's root
sys.path.insert(0, str(Path(__file__).parents[1]))

# tensors here are tiny: threads that wait for each other would take most of the time
torch.set_num_threads(1)

# without a GPU its kernels run in Triton's interpreter, which Triton decides when it is imported
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# a user's object code is no part of a test; the workers of one run share theirs
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="gatewright-tests-", ignore_cleanup_errors=True)
    os.environ["GATEWRIGHT_CACHE"] = _cache.name
