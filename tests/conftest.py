"""Shared by all tests: what every test process needs before its first import."""

import sys
from pathlib import Path

import torch

# a benchmark's comparison is the tests' too: benchmarks/ is imported from the repository's root
sys.path.insert(0, str(Path(__file__).parents[1]))

# tensors here are tiny: threads that wait for each other would take most of the time
torch.set_num_threads(1)
