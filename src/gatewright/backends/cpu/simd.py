"""LLVM code as text: scalars, vectors of one width, pointers, loops and branches.

Values are the names of LLVM registers, so every method takes and returns strings. Nothing here knows of
cells.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from gatewright.backends.cpu.vectors import Vectors


@dataclass
class Loop:
    """A loop that is being emitted.

    Attributes:
        index: the counter, an i64.
        carried: the values at the beginning of an iteration.
        results: the carried values after the last iteration; known once the loop is closed.
    """

    index: str
    carried: tuple[str, ...]
    results: tuple[str, ...] = ()
    following: tuple[str, ...] = field(default=(), repr=False)

    def carry(self, values: Sequence[str]) -> None:
        """Say what the carried values are at the end of the iteration."""
        self.following = tuple(values)


class Code:
    """The body of one function.

    Args:
        vectors: the vector type.
        declarations: intrinsics used so far, shared by the functions of a module.
        short: whether packed weights are bfloat16.
    """

    def __init__(self, vectors: Vectors, declarations: set[str], short: bool = False) -> None:
        self.vectors, self._short = vectors, short
        self.lines: list[str] = []
        self._declarations = declarations
        self._count = 0
        self._block = "entry"
        self._entry: list[str] = []

    def text(self, header: str) -> str:
        """The whole function."""
        return "\n".join([f"define {header} {{", "entry:", *self._entry, *self.lines, "}"])

    def name(self, hint: str = "v") -> str:
        """A register name that is not used yet."""
        self._count += 1
        return f"%{hint}{self._count}"

    def value(self, expression: str) -> str:
        """A new register."""
        name = self.name()
        self.lines.append(f"  {name} = {expression}")
        return name

    def do(self, instruction: str) -> None:
        """An instruction without a result."""
        self.lines.append(f"  {instruction}")

    def call(self, result: str, name: str, *operands: tuple[str, str]) -> str:
        """A call of an intrinsic, which is declared when first used."""
        types = ", ".join(kind for kind, _ in operands)
        self._declarations.add(f"declare {result} @{name}({types})")
        given = ", ".join(f"{kind} {value}" for kind, value in operands)
        if result == "void":
            self.do(f"call void @{name}({given})")
            return ""
        return self.value(f"call {result} @{name}({given})")

    # ---------------------------------------------------------------- integers and pointers

    def add_int(self, a: str | int, b: str | int) -> str:
        """A + b in i64."""
        if isinstance(a, int) and isinstance(b, int):
            return str(a + b)
        if str(b) == "0":
            return str(a)
        if str(a) == "0":
            return str(b)
        return self.value(f"add i64 {a}, {b}")

    def subtract_int(self, a: str | int, b: str | int) -> str:
        """A − b in i64."""
        return str(a) if str(b) == "0" else self.value(f"sub i64 {a}, {b}")

    def multiply_int(self, a: str | int, b: str | int) -> str:
        """A · b in i64."""
        if isinstance(a, int) and isinstance(b, int):
            return str(a * b)
        if str(b) == "1":
            return str(a)
        if str(a) == "1":
            return str(b)
        return self.value(f"mul i64 {a}, {b}")

    def divide_int(self, a: str, b: str | int) -> str:
        """A // b of non-negative i64."""
        return self.value(f"udiv i64 {a}, {b}")

    def minimum_int(self, a: str | int, b: str | int) -> str:
        """The smaller of two i64."""
        return self.call("i64", "llvm.smin.i64", ("i64", str(a)), ("i64", str(b)))

    def maximum_int(self, a: str | int, b: str | int) -> str:
        """The larger of two i64."""
        return self.call("i64", "llvm.smax.i64", ("i64", str(a)), ("i64", str(b)))

    def compare_int(self, condition: str, a: str | int, b: str | int) -> str:
        """A comparison of i64, such as ``slt``."""
        return self.value(f"icmp {condition} i64 {a}, {b}")

    def choose(self, condition: str, kind: str, a: str | int, b: str | int) -> str:
        """A if the condition holds, else b."""
        return self.value(f"select i1 {condition}, {kind} {a}, {kind} {b}")

    def at(self, pointer: str, offset: str | int) -> str:
        """The pointer moved by so many elements."""
        if str(offset) == "0":
            return pointer
        return self.value(f"getelementptr inbounds {self.vectors.element}, ptr {pointer}, i64 {offset}")

    def word(self, pointer: str, index: str | int) -> str:
        """Pointer to a 64-bit word of an array of words."""
        return self.value(f"getelementptr inbounds i64, ptr {pointer}, i64 {index}")

    def reserve(self, elements: int) -> str:
        """Room on the stack for so many elements, aligned to a cache line."""
        name = self.name("stack")
        self._entry.append(f"  {name} = alloca [{elements} x {self.vectors.element}], align 64")
        return name

    def variable(self, initial: int) -> str:
        """A mutable i64 on the stack."""
        name = self.name("variable")
        self._entry.append(f"  {name} = alloca i64")
        self._entry.append(f"  store i64 {initial}, ptr {name}")
        return name

    # ---------------------------------------------------------------- vectors

    def constant(self, number: float) -> str:
        """A vector of one number."""
        element = self.vectors.element
        text = literal(number, element)
        return "<" + ", ".join([f"{element} {text}"] * self.vectors.lanes) + ">"

    def constant_integers(self, number: int) -> str:
        """A vector of one integer."""
        kind = f"i{self.vectors.bits}"
        return "<" + ", ".join([f"{kind} {number}"] * self.vectors.lanes) + ">"

    def load(self, pointer: str, mask: str = "") -> str:
        """A vector from memory; lanes outside the mask are zero."""
        kind, size = self.vectors.type, self.vectors.bytes
        if not mask:
            return self.value(f"load {kind}, ptr {pointer}, align {size}")
        bits = f"<{self.vectors.lanes} x i1>"
        name = f"llvm.masked.load.{self.vectors.suffix}.p0"
        self._declarations.add(f"declare {kind} @{name}(ptr, i32, {bits}, {kind})")
        return self.value(
            f"call {kind} @{name}(ptr {pointer}, i32 {size}, {bits} {mask}, {kind} zeroinitializer)"
        )

    def weight_at(self, pointer: str, offset: str | int) -> str:
        """The pointer moved by so many packed weights."""
        if not self._short or str(offset) == "0":
            return self.at(pointer, offset)
        return self.value(f"getelementptr inbounds i16, ptr {pointer}, i64 {offset}")

    def weights(self, pointer: str) -> str:
        """A vector of packed weights; bfloat16 is the upper half of a float."""
        if not self._short:
            return self.load(pointer)
        lanes = self.vectors.lanes
        halves = self.value(f"load <{lanes} x i16>, ptr {pointer}, align 2")
        whole = self.value(f"zext <{lanes} x i16> {halves} to <{lanes} x i32>")
        moved = self.value(f"shl <{lanes} x i32> {whole}, splat (i32 16)")
        return self.value(f"bitcast <{lanes} x i32> {moved} to {self.vectors.type}")

    def store(self, vector: str, pointer: str, mask: str = "") -> None:
        """A vector to memory; lanes outside the mask are left as they are."""
        kind, size = self.vectors.type, self.vectors.bytes
        if not mask:
            self.do(f"store {kind} {vector}, ptr {pointer}, align {size}")
            return
        bits = f"<{self.vectors.lanes} x i1>"
        name = f"llvm.masked.store.{self.vectors.suffix}.p0"
        self._declarations.add(f"declare void @{name}({kind}, ptr, i32, {bits})")
        self.do(f"call void @{name}({kind} {vector}, ptr {pointer}, i32 {size}, {bits} {mask})")

    def broadcast(self, pointer: str) -> str:
        """One element from memory in every lane."""
        element = self.vectors.element
        return self.splat(self.value(f"load {element}, ptr {pointer}, align {self.vectors.bytes}"))

    def splat(self, scalar: str) -> str:
        """One element in every lane."""
        kind = self.vectors.type
        first = self.value(f"insertelement {kind} poison, {self.vectors.element} {scalar}, i64 0")
        zeros = f"<{self.vectors.lanes} x i32> zeroinitializer"
        return self.value(f"shufflevector {kind} {first}, {kind} poison, {zeros}")

    def lanes_below(self, count: str) -> str:
        """A mask of the first so many lanes."""
        lanes = self.vectors.lanes
        first = self.value(f"insertelement <{lanes} x i64> poison, i64 {count}, i64 0")
        zeros = f"<{lanes} x i32> zeroinitializer"
        limit = self.value(f"shufflevector <{lanes} x i64> {first}, <{lanes} x i64> poison, {zeros}")
        numbers = "<" + ", ".join(f"i64 {lane}" for lane in range(lanes)) + ">"
        return self.value(f"icmp slt <{lanes} x i64> {numbers}, {limit}")

    def shuffle(self, a: str, b: str, lanes: Sequence[int]) -> str:
        """Lanes picked from two vectors."""
        kind = self.vectors.type
        picked = "<" + ", ".join(f"i32 {lane}" for lane in lanes) + ">"
        return self.value(f"shufflevector {kind} {a}, {kind} {b}, <{len(lanes)} x i32> {picked}")

    def arithmetic(self, instruction: str, a: str, b: str) -> str:
        """``fadd``, ``fsub``, ``fmul`` or ``fdiv``; a product and a sum may become one rounding."""
        return self.value(f"{instruction} contract {self.vectors.type} {a}, {b}")

    def fused(self, a: str, b: str, c: str) -> str:
        """A · b + c with one rounding."""
        kind = self.vectors.type
        return self.call(kind, f"llvm.fma.{self.vectors.suffix}", (kind, a), (kind, b), (kind, c))

    def intrinsic(self, name: str, *operands: str) -> str:
        """An intrinsic of LLVM on vectors, such as ``floor``."""
        kind = self.vectors.type
        return self.call(kind, f"llvm.{name}.{self.vectors.suffix}", *((kind, v) for v in operands))

    def compare(self, condition: str, a: str, b: str) -> str:
        """A comparison of vectors, such as ``olt``."""
        return self.value(f"fcmp {condition} {self.vectors.type} {a}, {b}")

    def select(self, condition: str, a: str, b: str) -> str:
        """Lane by lane a where the condition holds, else b."""
        kind = self.vectors.type
        return self.value(f"select <{self.vectors.lanes} x i1> {condition}, {kind} {a}, {kind} {b}")

    # ---------------------------------------------------------------- control flow

    def _label(self, name: str) -> None:
        self.lines.append(f"{name[1:]}:")
        self._block = name[1:]

    @contextmanager
    def loop(
        self,
        start: str | int,
        stop: str | int,
        step: str | int = 1,
        carried: Sequence[tuple[str, str]] = (),
    ) -> Iterator[Loop]:
        """``for index in range(start, stop, step)`` with an upward step.

        Args:
            start: first index.
            stop: the index that is no longer run.
            step: a positive step.
            carried: type and initial value of what an iteration hands to the next.

        Yields:
            The loop, whose ``carry`` must be called inside when something is carried.
        """
        head, body, latch, done = (self.name(f"{part}.") for part in ("head", "body", "latch", "done"))
        before = self._block
        self.do(f"br label {head}")
        self._label(head)
        index, following = self.name("i"), self.name("n")
        loop = Loop(index, tuple(self.name("c") for _ in carried))
        place = len(self.lines)
        inside = self.compare_int("slt", index, stop)
        self.do(f"br i1 {inside}, label {body}, label {done}")
        self._label(body)
        yield loop
        self.do(f"br label {latch}")
        self._label(latch)
        self.do(f"{following} = add nsw i64 {index}, {step}")
        self.do(f"br label {head}")
        phis = [f"  {index} = phi i64 [{start}, %{before}], [{following}, {latch}]"]
        for (kind, initial), name, last in zip(carried, loop.carried, loop.following, strict=True):
            phis.append(f"  {name} = phi {kind} [{initial}, %{before}], [{last}, {latch}]")
        self.lines[place:place] = phis
        self._label(done)
        loop.results = loop.carried

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        """Run only if the condition holds."""
        yes, after = self.name("yes."), self.name("after.")
        self.do(f"br i1 {condition}, label {yes}, label {after}")
        self._label(yes)
        yield
        self.do(f"br label {after}")
        self._label(after)


def literal(number: float, element: str) -> str:
    """A number as LLVM writes it: the bits of a double, rounded to the element first."""
    if element == "float" and abs(number) <= 3.4028234e38:
        number = struct.unpack("<f", struct.pack("<f", number))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', number))[0]:016X}"
