"""Batching: frames from an iterator through a ring of slots on a device, and out again one by one and in order.

Plain Python: what a device does is behind `Device`, so that all this is tested without one.

A *batch* is what one slot holds: frames that go up, through and down together. It may be any multiple of the *compute batch*, the
constant number of frames that the network sees at a time. Batches begin on multiples of it, counted from the first frame, so the same
frames share a network call whatever the batch is and whatever halved it: the bytes cannot depend on the batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

import torch

from pipeline.choice import Choice, first_line
from pipeline.errors import ConversionError
from pipeline.heartbeat import beat

MEMORY_SHARE = 0.8
"""Of the free memory, what the choice of a batch may count on: allocators leave gaps, and other workers may share the device."""

Frame = TypeVar("Frame", contravariant=True)
Result = TypeVar("Result", covariant=True)


class DeviceMemoryError(ConversionError):
    """The device has not even memory for the smallest batch. Another attempt may succeed: others may use the same device."""

    transient = True


class Device(Protocol[Frame, Result]):
    """A device with a ring of slots. Every method but `abandon` may raise torch.cuda.OutOfMemoryError.

    slots: how many batches may be on their way at once, at least 1
    """

    slots: int

    def reserve(self, batch_frames: int) -> None:
        """Make every slot large enough for so many frames; nothing is on its way. Free where they are so already."""

    def submit(self, slot: int, frames: list[Frame], first: int) -> None:
        """Queue a batch and return at once. first: number of its first frame within the track."""

    def collect(self, slot: int) -> list[Result]:
        """Wait for the slot's batch: one result a frame, in order. The slot is free afterwards."""

    def abandon(self) -> None:
        """Wait until the device is idle, forget what is on its way, and free the slots' memory."""


def choose_batch_frames(
    *,
    compute_frames: int,
    most_frames: int,
    slots: int,
    free_bytes: int,
    network_bytes: int,
    frame_bytes: int,
) -> Choice:
    """How many frames a slot holds: as many compute batches as fit into the free memory beside the network, `most_frames` at most.

    network_bytes: working memory of one compute batch; frame_bytes: what a frame takes in a slot, both on the device.
    `taken` is the number in decimal digits, a multiple of compute_frames and at least that; too little room is not refused here, because
    the estimate of the network is a rough one.
    """
    most = max(compute_frames, most_frames // compute_frames * compute_frames)
    room_bytes = int(free_bytes * MEMORY_SHARE) - network_bytes
    fitting = max(0, room_bytes) // (slots * frame_bytes) // compute_frames * compute_frames
    frames = min(most, max(compute_frames, fitting))
    reason = f"{slots} slots of it, the network about {network_bytes / 1e6:.0f} MB, {free_bytes / 1e6:.0f} MB free"
    if fitting < compute_frames:
        reason += ", which may be too little"
    return Choice("frames a batch", str(frames), reason)


class Batcher:
    """Sends frames through a device. Keep it for all spans of one shape: what memory taught it about the batch holds on.

    batch_frames: frames a batch to begin with; compute_frames: see the module
    halved: how often the batch was halved since
    Raises ValueError when batch_frames is no positive multiple of compute_frames.
    """

    def __init__(self, device: Device[Frame, Result], batch_frames: int, compute_frames: int) -> None:
        if compute_frames < 1 or batch_frames < 1 or batch_frames % compute_frames:
            raise ValueError(f"a batch of {batch_frames} frames is no multiple of the compute batch, {compute_frames}")
        self._device = device
        self._compute_frames = compute_frames
        self.batch_frames = batch_frames
        self.halved = 0

    def run(self, frames: Iterable[Frame], first: int) -> Iterator[Result]:
        """Yield the result of every frame, once and in order. first: number of the first frame within the track.

        When the device is out of memory, everything on its way is given up, the batch halved, and what was given up done again. Raises
        DeviceMemoryError when the smallest batch does not fit; whatever else the device or the iterator raises goes through. On any
        end, that of a closed generator too, nothing is left on the device's way.
        """
        source = iter(frames)
        again: deque[Frame] = deque()
        flying: deque[tuple[int, list[Frame]]] = deque()
        free: deque[int] = deque()
        next_up: list[Frame] = []
        number, reserved = first, False
        try:
            while True:
                beat()
                next_up = next_up or self._take(again, source)
                if not next_up and not flying:
                    return
                results: list[Result] = []
                full = ""
                try:
                    if not reserved:
                        self._device.reserve(self.batch_frames)
                        free, reserved = deque(range(self._device.slots)), True
                    if next_up and free:
                        self._device.submit(free[0], next_up, number)
                        flying.append((free.popleft(), next_up))
                        number += len(next_up)
                        next_up = []
                    else:
                        results = self._device.collect(flying[0][0])
                        free.append(flying.popleft()[0])
                except torch.cuda.OutOfMemoryError as error:
                    full = first_line(error)
                if full:  # out here the error is gone, and with it what its traceback held on the device
                    lost = [frame for _, batch in flying for frame in batch]
                    again.extendleft(reversed([*lost, *next_up]))
                    number -= len(lost)
                    flying.clear()
                    next_up, reserved = [], False
                    self._device.abandon()
                    self._halve(full)
                yield from results
        finally:
            if flying or next_up:  # the second: submitting it failed half-way, or the caller wants no more
                self._device.abandon()

    def _take(self, again: deque[Frame], source: Iterator[Frame]) -> list[Frame]:
        """The next batch: first what has to be done again, then the source; shorter only at its end."""
        batch: list[Frame] = []
        while len(batch) < self.batch_frames:
            if again:
                batch.append(again.popleft())
                continue
            try:
                batch.append(next(source))
            except StopIteration:
                break
        return batch

    def _halve(self, full: str) -> None:
        if self.batch_frames == self._compute_frames:
            raise DeviceMemoryError(
                f"the GPU has no memory for {self.batch_frames} frame(s) at a time ({full}); "
                "use a smaller reconstruct.tile_budget_bytes, fewer workers.per_gpu, or a GPU that nobody else uses."
            )
        half = self.batch_frames // 2 // self._compute_frames * self._compute_frames
        self.batch_frames = max(self._compute_frames, half)
        self.halved += 1
