"""Ring: the slots through which batches of frames go up to a device, through the network and down again.

A slot's memory, pinned on the host and static on the device, is made once and used again for every batch that it holds. Three streams
work on three slots at a time: while the network runs on one, the next goes up and the one before comes down. Events order them; the
host waits only in `collect` and, in its helper threads, for what comes down.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from pipeline.cuda_streams import Event, Streams

SLOTS = 4
"""One that goes up, one in the network, one that comes down, and one whose frames are copied out and measured."""

Result = TypeVar("Result")
Planes = tuple[Tensor, ...]
Sizes = tuple[tuple[tuple[int, ...], torch.dtype], ...]
"""Of the tensors of one frame: shape and dtype of each."""


@dataclass(frozen=True)
class Work(Generic[Result]):
    """What is done with frames.

    compute: planes (n, h, w) and frame numbers (n,) int64, both on the device, and the first of these numbers -> outputs, (n, ...)
        each; n is the compute batch. Called with the compute stream current; must not keep the host waiting
    finish: one frame's outputs, on the host in memory that is used again, or on the device in the frame's own -> its result, or
        None when it must be done anew. Called in a helper thread
    redo: planes and first number as for compute, and which frame of them -> its result. May wait
    """

    compute: Callable[[Planes, Tensor, int], Planes]
    finish: Callable[[Planes], Result | None]
    redo: Callable[[Planes, int, int], Result]


@dataclass
class _Slot(Generic[Result]):
    """One batch's memory, and where it is. Every tensor is (batch, ...)."""

    host_in: Planes
    device_in: Planes
    host_numbers: Tensor
    device_numbers: Tensor
    device_out: Planes
    host_out: Planes
    staying: list[Planes] = field(default_factory=list)
    first: int = 0
    futures: list[Future[Result | None]] = field(default_factory=list)


class Ring(Generic[Result]):
    """A `pipeline.batching.Device` for frames of one shape.

    inputs, outputs: sizes of one frame's planes and outputs; compute_frames: the constant number of frames `work.compute` gets, the
    last one repeated where frames run out; helpers: where `work.finish` runs; stay: how many of the outputs, the first ones, are
    not brought down but copied on the device, to memory that belongs to the frame
    """

    slots = SLOTS

    def __init__(
        self,
        streams: Streams,
        inputs: Sizes,
        outputs: Sizes,
        compute_frames: int,
        work: Work[Result],
        helpers: Executor,
        stay: int = 0,
    ) -> None:
        self._streams, self._inputs, self._outputs = streams, inputs, outputs
        self._compute_frames, self._work, self._helpers, self._stay = compute_frames, work, helpers, stay
        self._ring: list[_Slot[Result]] = []
        self._batch_frames = 0

    @property
    def frame_bytes(self) -> int:
        """What a frame takes in a slot on the device, with its copy there where outputs stay; on the host it takes no more."""
        sizes = [*self._inputs, *self._outputs, *self._outputs[: self._stay], ((), torch.int64)]
        return sum(torch.Size(shape).numel() * dtype.itemsize for shape, dtype in sizes)

    def reserve(self, batch_frames: int) -> None:
        """Make the slots, or keep them where they have this size."""
        if batch_frames == self._batch_frames:
            return
        self.abandon()
        host, device = self._streams.host, self._streams.device
        numbers: Sizes = (((), torch.int64),)

        def make(kind: Callable[[tuple[int, ...], torch.dtype], Tensor], sizes: Sizes) -> Planes:
            return tuple(kind((batch_frames, *shape), dtype) for shape, dtype in sizes)

        self._ring = [
            _Slot(
                make(host, self._inputs),
                make(device, self._inputs),
                *make(host, numbers),
                *make(device, numbers),
                make(device, self._outputs),
                make(host, self._outputs[self._stay :]),
            )
            for _ in range(self.slots)
        ]
        self._batch_frames = batch_frames

    def submit(self, slot: int, frames: list[Planes], first: int) -> None:
        """Queue a batch: planes on the host or on the device, which the caller keeps until `collect`."""
        own = self._ring[slot]
        own.first, own.futures = first, []
        padded = -(-len(frames) // self._compute_frames) * self._compute_frames
        filled = [*frames, *[frames[-1]] * (padded - len(frames))]
        there = [place for place, planes in enumerate(filled) if planes[0].is_cuda]
        for place, planes in enumerate(filled):
            if place not in there:
                for target, plane in zip(own.host_in, planes, strict=True):
                    target[place].copy_(plane)
        own.host_numbers.copy_(torch.arange(first, first + self._batch_frames))

        def upload() -> None:
            own.device_numbers.copy_(own.host_numbers, non_blocking=True)
            if len(there) < padded:
                for target, source in zip(own.device_in, own.host_in, strict=True):
                    target[:padded].copy_(source[:padded], non_blocking=True)
            for place in there:
                for target, plane in zip(own.device_in, filled[place], strict=True):
                    target[place].copy_(plane, non_blocking=True)

        def compute() -> None:
            for start in range(0, padded, self._compute_frames):
                part = slice(start, start + self._compute_frames)
                planes = tuple(plane[part] for plane in own.device_in)
                outputs = self._work.compute(planes, own.device_numbers[part], first + start)
                for target, output in zip(own.device_out, outputs, strict=True):
                    target[part].copy_(output, non_blocking=True)

        def download() -> None:
            for target, source in zip(own.host_out, own.device_out[self._stay :], strict=True):
                target[: len(frames)].copy_(source[: len(frames)], non_blocking=True)
            staying = own.device_out[: self._stay]
            own.staying = [tuple(output[place].clone() for output in staying) for place in range(len(frames))]

        self._streams.launch("upload", upload)
        self._streams.wait("compute", self._streams.record("upload"))
        self._streams.launch("compute", compute)
        self._streams.wait("download", self._streams.record("compute"))
        self._streams.launch("download", download)
        done = self._streams.record("download")
        own.futures = [self._helpers.submit(self._finish, own, place, done) for place in range(len(frames))]

    def collect(self, slot: int) -> list[Result]:
        """Wait for a batch; frames that must be done anew are done here."""
        own = self._ring[slot]
        found = [future.result() for future in own.futures]
        own.staying = []
        return [self._redo(own, place) if one is None else one for place, one in enumerate(found)]

    def abandon(self) -> None:
        """Forget all batches and free the slots."""
        futures = [future for slot in self._ring for future in slot.futures]
        for future in futures:
            future.cancel()
        self._streams.synchronize()
        wait(futures)
        self._ring, self._batch_frames = [], 0
        self._streams.forget()

    def _finish(self, slot: _Slot[Result], place: int, done: Event) -> Result | None:
        done.synchronize()
        return self._work.finish((*slot.staying[place], *(output[place] for output in slot.host_out)))

    def _redo(self, slot: _Slot[Result], place: int) -> Result:
        start = place // self._compute_frames * self._compute_frames
        planes = tuple(plane[start : start + self._compute_frames] for plane in slot.device_in)
        results: list[Result] = []
        self._streams.launch(
            "compute", lambda: results.append(self._work.redo(planes, slot.first + start, place - start))
        )
        self._streams.record("compute").synchronize()
        return results[0]
