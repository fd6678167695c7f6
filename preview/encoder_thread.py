"""EncoderThread: calls into an encoder, one after the other, in a thread that can be given up.

SVT-AV1 4.1 in low delay waits for each frame's packet in C, and rarely, on a busy machine, for ever: all its threads wait for each other.
Nothing ends such a call. Its thread is left to itself then, with all that it holds, so that whoever asked can go on with another encoder.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")

STALL_SECONDS = 5.0
"""How long one call may take: a hundred times what it takes."""
MOST_LOST = 8
"""So many threads that were given up may stand still in this process; each holds its encoder's memory, some 90 MB for 1920 x 1080."""

_lost: set[EncoderThread] = set()


def too_many_lost() -> bool:
    """Is it time to do without such encoders?"""
    return len(_lost) >= MOST_LOST


class EncoderThread:
    """A thread that lives until end(), and does not keep the process from ending."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future, Callable[..., object], tuple] | None] = queue.SimpleQueue()
        self._given_up = False
        threading.Thread(target=self._serve, name="encoder", daemon=True).start()

    def call(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Its result, or what it raises. Raises TimeoutError when it takes longer than STALL_SECONDS, and at once for every later call,
        which is still made should that one ever return. A function that holds the interpreter meanwhile cannot be given up."""
        answer: Future[Any] = Future()
        self._calls.put((answer, function, arguments))
        try:
            return answer.result(0 if self._given_up else STALL_SECONDS)
        except TimeoutError:
            if not answer.done():
                self._given_up = True
                _lost.add(self)
            raise
        finally:
            del answer, function, arguments  # else an error that is raised holds them, and they it

    def end(self) -> None:
        """The thread ends after what it was asked to do before."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            answer, function, arguments = call
            try:
                answer.set_result(function(*arguments))
            except BaseException as error:  # noqa: BLE001 - handed to whoever asked
                answer.set_exception(error)
            del call, answer, function, arguments  # it must not keep them while it waits
        _lost.discard(self)
