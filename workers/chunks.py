"""Chunks: frames on their way from one actor to the next, through Ray's shared memory.

A stream is a generator of an actor's. Ray stops it when CHUNKS_WAITING of its chunks have not been taken, so what is under way is bounded
in frames and in bytes. Chunks carry arrays, which Ray lays into shared memory without pickling them; they come out read-only, and are
copied once, so that the memory is free again at once. After the last chunk comes either Ended or Broken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch

from pipeline.span_job import SpanStopped
from workers.span_worker import PartFailed, SpanError, describe_error

CHUNK_FRAMES = 8
CHUNK_BYTES = 16 * 2**20
"""A chunk is full when it holds that many frames, or that many bytes."""
CHUNKS_WAITING = 2
POLL_SECONDS = 0.5

STREAM = {"num_returns": "streaming", "_generator_backpressure_num_objects": CHUNKS_WAITING}
"""Options of a call that returns a stream."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive frames, numpy arrays in the place of tensors."""

    frames: tuple[Any, ...]


@dataclass(frozen=True)
class Ended:
    """All frames have come. facts: what the sender has to say of the work, such as a DecodeFacts."""

    facts: Any


@dataclass(frozen=True)
class Broken:
    """No more frames will come. clean: nothing of this attempt is left running before the sender; it can do another span."""

    error: SpanError
    clean: bool


def sent(
    frames: Iterator[Any], facts: Callable[[], Any], is_clean: Callable[[], bool] = lambda: True
) -> Iterator[Chunk | Ended | Broken]:
    """Frames as a stream. facts: asked after the last one; is_clean: asked when `frames` raises. Raises nothing itself."""
    try:
        held: list[Any] = []
        size = 0
        for frame in frames:
            held.append(as_arrays(frame))
            size += _bytes(held[-1])
            if len(held) == CHUNK_FRAMES or size >= CHUNK_BYTES:
                yield Chunk(tuple(held))
                held, size = [], 0
        if held:
            yield Chunk(tuple(held))
        yield Ended(facts())
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the reader raises it, with its traceback
        yield Broken(describe_error(error), is_clean())


class Incoming:
    """Frames out of a stream. Iterate once.

    who: the sender, for messages; should_stop: asked while nothing comes
    facts: what the sender said at the end, None before; over: the stream came to an end, a good one or not
    Raises PartFailed: what the sender raised, or that it died; SpanStopped.
    """

    def __init__(self, who: str, stream: Any, should_stop: Callable[[], bool] = lambda: False) -> None:  # noqa: ANN401 - Ray's
        self._who, self._stream, self._should_stop = who, stream, should_stop
        self.facts: Any = None
        self.over = False

    def __iter__(self) -> Iterator[Any]:
        while not isinstance(item := self._next(), Ended):
            if isinstance(item, Broken):
                self.over = item.clean
                raise PartFailed(item.error)
            yield from map(as_tensors, item.frames)
        self.facts, self.over = item.facts, True

    def _next(self) -> Chunk | Ended | Broken:
        try:
            while not ray.wait([self._stream], timeout=POLL_SECONDS)[0]:
                if self._should_stop():
                    raise SpanStopped("the span was stopped")
            return ray.get(next(self._stream))
        except (ray.exceptions.RayError, StopIteration) as error:
            lines = " ".join(str(error).split())[:600] or "its stream ended early"
            message = f"The {self._who} part of a span was lost: {lines}"
            raise PartFailed(SpanError("WorkerDied", message, "", user_error=False, retry=True)) from error


def as_arrays(item: Any) -> Any:  # noqa: ANN401 - frames of any make
    """The same with arrays for tensors, at any depth of tuples and dataclasses; nothing is copied that lies in one piece on the CPU."""
    return _mapped(item, torch.Tensor, lambda tensor: np.ascontiguousarray(tensor.cpu().numpy()))


def as_tensors(item: Any) -> Any:  # noqa: ANN401 - frames of any make
    """The other way round; every array is copied."""
    return _mapped(item, np.ndarray, lambda array: torch.from_numpy(array.copy()))


def _mapped(item: Any, kind: type, change: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - frames of any make
    if isinstance(item, kind):
        return change(item)
    if isinstance(item, tuple):
        return tuple(_mapped(one, kind, change) for one in item)
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        fields = {one.name: getattr(item, one.name) for one in dataclasses.fields(item)}
        changed = {name: _mapped(one, kind, change) for name, one in fields.items()}
        return (
            item if all(changed[name] is one for name, one in fields.items()) else dataclasses.replace(item, **changed)
        )
    return item


def _bytes(item: Any) -> int:  # noqa: ANN401 - frames of any make
    if isinstance(item, np.ndarray):
        return item.nbytes
    if isinstance(item, tuple):
        return sum(map(_bytes, item))
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return sum(_bytes(getattr(item, one.name)) for one in dataclasses.fields(item))
    return 0
