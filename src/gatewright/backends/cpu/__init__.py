"""The CPU backend: a cell's schedule as LLVM code, compiled on the machine it runs on."""
