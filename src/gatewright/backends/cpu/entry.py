"""How threads enter a kernel and wait for each other in it, as LLVM code."""

from __future__ import annotations

from collections.abc import Sequence


def barrier_function(pause: str) -> str:
    """Count oneself, then wait until all have: spinning first, then leaving the core to others, counted."""
    instruction = f"call void @{pause}" if pause else ""
    return f"""define internal void @barrier(ptr %counter, i64 %target, ptr %yield, ptr %waits) noinline {{
entry:
  %old = atomicrmw add ptr %counter, i64 1 acq_rel
  br label %spin
spin:
  %turn = phi i64 [1, %entry], [%next, %again]
  %seen = load atomic i64, ptr %counter acquire, align 8
  %ready = icmp uge i64 %seen, %target
  br i1 %ready, label %done, label %wait
wait:
  {instruction}
  %next = add i64 %turn, 1
  %low = and i64 %turn, 4095
  %patient = icmp ne i64 %low, 0
  br i1 %patient, label %again, label %leave
leave:
  %before = atomicrmw add ptr %waits, i64 1 monotonic
  %ignored = call i32 %yield()
  br label %again
again:
  br label %spin
done:
  ret void
}}"""


def entry_function(names: Sequence[str]) -> str:
    """Entered by every thread of a team: a team that is too small is reported, and nothing is done."""
    index = {name: place for place, name in enumerate(names)}
    return f"""define void @enter(ptr %arguments) {{
entry:
  %p0 = getelementptr inbounds i64, ptr %arguments, i64 {index["thread_number"]}
  %number = load ptr, ptr %p0
  %p1 = getelementptr inbounds i64, ptr %arguments, i64 {index["thread_count"]}
  %count = load ptr, ptr %p1
  %p2 = getelementptr inbounds i64, ptr %arguments, i64 {index["row_groups"]}
  %rows = load i64, ptr %p2
  %p3 = getelementptr inbounds i64, ptr %arguments, i64 {index["column_groups"]}
  %columns = load i64, ptr %p3
  %wanted = mul i64 %rows, %columns
  %team = call i32 %count()
  %team64 = sext i32 %team to i64
  %enough = icmp eq i64 %team64, %wanted
  br i1 %enough, label %go, label %short
short:
  %p4 = getelementptr inbounds i64, ptr %arguments, i64 {index["status"]}
  %status = load ptr, ptr %p4
  store i64 1, ptr %status
  ret void
go:
  %thread = call i32 %number()
  %thread64 = sext i32 %thread to i64
  call void @run(ptr %arguments, i64 %thread64)
  ret void
}}"""
