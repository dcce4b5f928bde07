"""Kernels for GPUs, written in Triton from a cell's schedule."""
