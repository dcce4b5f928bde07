"""Work in forked children: nothing is pickled, a child that dies or hangs holds nobody up.

A child must not use the threads of its parent: they are not there after a fork, and OpenMP waits for them for
ever. With ``torch.set_num_threads(1)`` before anything else it does not, which is also what the workers of
torch's own data loader rely on.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

import torch

from gatewright.files import to_json

_PAUSE = 0.5
_T = TypeVar("_T")


def can_fork() -> bool:
    """Whether children may be forked here.

    Elsewhere than on Linux they may not, or are not safe. Where torch has an accelerator, its threads of
    autograd make gradients in a forked child impossible. A daemon of multiprocessing may have no children.
    """
    return (
        sys.platform.startswith("linux")
        and not torch.accelerator.is_available()
        and not multiprocessing.current_process().daemon
    )


class Child:
    """A forked process that answers once.

    Args:
        work: is run there; its result must be JSON.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        context = multiprocessing.get_context("fork")
        self.reader, writer = context.Pipe(duplex=False)
        self._process = context.Process(target=_answer, args=(writer, work), daemon=True)
        try:
            with warnings.catch_warnings():
                # Python warns of threads in the parent: the child does not use them
                warnings.simplefilter("ignore")
                self._process.start()
        except BaseException:
            self.reader.close()
            raise
        finally:
            # the child's end is then the only one, and its death the end of the pipe
            writer.close()

    def ready(self) -> bool:
        """Whether there is an answer, or none will come."""
        return self.reader.poll() or not self._process.is_alive()

    def answer(self) -> Any:
        """What the work returned.

        Returns:
            The answer.

        Raises:
            ChildDiedError: there is none.
        """
        try:
            # a child may have written and died since it was asked
            if self.reader.poll():
                return json.loads(self.reader.recv_bytes())
        except (EOFError, OSError, ValueError):
            self._process.join(5.0)
        finally:
            exit_code = self._process.exitcode
            self.kill()
        raise ChildDiedError(_death(exit_code))

    def kill(self) -> None:
        """End the process, if it has not ended; it holds nothing that anybody needs."""
        self._process.kill()
        self._process.join()
        self.reader.close()


class ChildDiedError(Exception):
    """A child ended without an answer; the text says how."""


def _death(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return "its process was killed, as the system does when memory runs out"
    if exit_code is not None and exit_code < 0:
        return f"its process was ended by signal {-exit_code}"
    return f"its process ended without an answer (exit code {exit_code})"


def _answer(writer: Connection, work: Callable[[], Any]) -> None:
    torch.set_num_threads(1)
    # an interrupt at the terminal reaches the parent too, which ends its children
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    writer.send_bytes(to_json(work()).encode(errors="replace"))
    writer.close()


class Pool(Generic[_T]):
    """Tasks, each in a child of its own.

    Args:
        work: on a task; its result must be JSON.
        workers: children at a time.
        deadline: of ``time.monotonic()``: what runs then is killed, what waits is not begun.
    """

    def __init__(self, work: Callable[[_T], Any], workers: int, deadline: float) -> None:
        self._work, self._workers, self._deadline = work, workers, deadline
        self._running: list[tuple[_T, Child]] = []

    def run(self, tasks: list[_T], wanted: Callable[[_T], bool]) -> Generator[tuple[_T, Any], None, None]:
        """Results as they come; whatever ends the iteration ends the children.

        Args:
            tasks: begun in this order.
            wanted: asked of a task when its turn has come.

        Yields:
            A task and its answer; or a ``ChildDiedError``, not raised.
        """
        waiting = deque(tasks)
        try:
            while time.monotonic() < self._deadline:
                while waiting and len(self._running) < self._workers:
                    task = waiting.popleft()
                    if wanted(task):
                        yield from self._start(task)
                if not self._running:
                    return
                yield from self._finished()
        finally:
            for _, child in self._running:
                child.kill()

    def _start(self, task: _T) -> Iterator[tuple[_T, Any]]:
        try:
            self._running.append((task, Child(lambda: self._work(task))))
        except OSError as error:
            yield task, ChildDiedError(f"its process could not be started: {error.strerror or error}")

    def _finished(self) -> Iterator[tuple[_T, Any]]:
        # a child of a child may keep the pipe open: who is alive is looked at now and then as well
        left = max(self._deadline - time.monotonic(), 0.0)
        wait([child.reader for _, child in self._running], timeout=min(left, _PAUSE))
        done = [pair for pair in self._running if pair[1].ready()]
        self._running = [pair for pair in self._running if pair not in done]
        results: list[tuple[_T, Any]] = []
        for task, child in done:
            try:
                results.append((task, child.answer()))
            except ChildDiedError as death:
                results.append((task, death))
        yield from results
