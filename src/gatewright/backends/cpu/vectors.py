"""The vectors of a machine."""

from __future__ import annotations

from dataclasses import dataclass

ELEMENT_BITS = {"float": 32, "double": 64}


@dataclass(frozen=True)
class Vectors:
    """The vectors of a machine.

    Attributes:
        element: ``"float"`` or ``"double"``.
        lanes: elements of a vector.
        registers: vector registers of the machine.
    """

    element: str
    lanes: int
    registers: int

    @property
    def type(self) -> str:
        """LLVM's name of the vector type."""
        return f"<{self.lanes} x {self.element}>"

    @property
    def integers(self) -> str:
        """Vectors of integers as wide as the elements."""
        return f"<{self.lanes} x i{self.bits}>"

    @property
    def bits(self) -> int:
        """Bits of an element."""
        return ELEMENT_BITS[self.element]

    @property
    def bytes(self) -> int:
        """Bytes of an element."""
        return self.bits // 8

    @property
    def suffix(self) -> str:
        """How intrinsics name the type: ``v16f32``."""
        return f"v{self.lanes}f{self.bits}"
