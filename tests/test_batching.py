"""Batches through a ring: every frame once and in order whatever the batch and wherever memory runs out, and who gets which GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import load_config, result_settings
from pipeline.batching import Batcher, DeviceMemoryError, choose_batch_frames
from pipeline.errors import InputError
from workers.cluster import Cluster
from workers.placement import gpu_share, worker_count
from workers.span_worker import describe_error


@dataclass
class FakeDevice:
    """Keeps batches in its slots, runs out of memory at the calls named in `full_at`, and never has room above `room_frames`.

    A result is (frame, number that it was submitted as, frames of its network call).
    """

    slots: int = 3
    compute_frames: int = 1
    full_at: frozenset[int] = frozenset()
    room_frames: int = 1 << 30
    calls: int = 0
    reserved: int = 0
    busy: dict[int, list[tuple]] = field(default_factory=dict)
    most_busy: int = 0
    batches: list[int] = field(default_factory=list)

    def _call(self) -> None:
        self.calls += 1
        if self.calls - 1 in self.full_at or self.reserved > self.room_frames:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nMore words.")

    def reserve(self, batch_frames: int) -> None:
        assert not self.busy, "slots were made anew under way"
        self.reserved = batch_frames
        self._call()

    def submit(self, slot: int, frames: list[int], first: int) -> None:
        assert slot not in self.busy and 0 <= slot < self.slots, "a slot was used twice at a time"
        assert 0 < len(frames) <= self.reserved
        self._call()
        step = self.compute_frames
        groups = [tuple(frames[place // step * step : place // step * step + step]) for place in range(len(frames))]
        self.busy[slot] = [(frame, first + place, groups[place]) for place, frame in enumerate(frames)]
        self.most_busy = max(self.most_busy, len(self.busy))
        self.batches.append(len(frames))

    def collect(self, slot: int) -> list[tuple]:
        self._call()
        return self.busy.pop(slot)

    def abandon(self) -> None:
        self.busy.clear()
        self.reserved = 0


def want(frames: int, first: int, compute_frames: int) -> list[tuple]:
    numbers = list(range(frames))
    groups = [tuple(numbers[place // compute_frames * compute_frames :][:compute_frames]) for place in range(frames)]
    return [(number, first + number, groups[number]) for number in numbers]


@given(
    frames=st.integers(0, 60),
    first=st.integers(0, 1000),
    slots=st.integers(1, 5),
    compute_frames=st.integers(1, 4),
    multiple=st.integers(1, 8),
    full_at=st.frozensets(st.integers(0, 60), max_size=3),
)
def test_every_frame_comes_out_once_and_in_order_with_the_same_neighbours(
    frames: int, first: int, slots: int, compute_frames: int, multiple: int, full_at: frozenset[int]
) -> None:
    device = FakeDevice(slots, compute_frames, full_at)
    batcher = Batcher(device, compute_frames * multiple, compute_frames)
    out = []
    try:
        for result in batcher.run(iter(range(frames)), first):
            out.append(result)
    except DeviceMemoryError:
        assert batcher.batch_frames == compute_frames, "given up before the smallest batch"
        assert out == want(frames, first, compute_frames)[: len(out)]
    else:
        assert out == want(frames, first, compute_frames)
    assert not device.busy
    assert all(size % compute_frames == 0 for size in device.batches[:-1] if not full_at)


@given(st.integers(1, 64), st.integers(1, 4), st.integers(1, 64))
def test_the_batch_is_halved_until_it_fits_and_stays_so(frames: int, compute_frames: int, room: int) -> None:
    device = FakeDevice(compute_frames=compute_frames, room_frames=max(room, compute_frames))
    batcher = Batcher(device, 16 * compute_frames, compute_frames)
    assert list(batcher.run(range(frames), 0)) == want(frames, 0, compute_frames)
    size, halved = 16 * compute_frames, 0
    while size > device.room_frames:
        size, halved = max(compute_frames, size // 2 // compute_frames * compute_frames), halved + 1
    assert (batcher.batch_frames, batcher.halved) == (size, halved)
    calls = device.calls
    assert list(batcher.run(range(frames), 0)) == want(frames, 0, compute_frames)
    assert batcher.halved == halved and device.calls > calls


def test_no_room_for_the_smallest_batch_is_told_and_may_be_tried_again() -> None:
    with pytest.raises(
        DeviceMemoryError, match=r"no memory for 2 frame.*Tried to allocate 20\.00 MiB.*tile_budget"
    ) as told:
        list(Batcher(FakeDevice(compute_frames=2, room_frames=1), 8, 2).run(range(9), 0))
    assert "More words" not in str(told.value)
    assert describe_error(told.value).retry


def test_all_slots_are_used_and_no_more_is_read_than_they_hold() -> None:
    device, read = FakeDevice(slots=3), []

    def source() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    results = Batcher(device, 4, 1).run(source(), 0)
    next(results)
    assert device.most_busy == 3
    assert len(read) <= 4 * (3 + 1)
    results.close()
    assert not device.busy


def test_an_error_of_the_source_goes_through_and_leaves_nothing_behind() -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        raise KeyError("decoder")

    device = FakeDevice()
    with pytest.raises(KeyError, match="decoder"):
        list(Batcher(device, 2, 1).run(source(), 0))
    assert not device.busy


def test_a_batch_that_is_no_multiple_of_the_compute_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="no multiple"):
        Batcher(FakeDevice(), 3, 2)


@given(
    st.integers(1, 8),
    st.integers(0, 32),
    st.integers(1, 6),
    st.integers(0, 1 << 38),
    st.integers(0, 1 << 36),
    st.integers(1, 1 << 28),
)
def test_the_batch_chosen_fits_the_memory(
    compute: int, most: int, slots: int, free: int, network: int, frame: int
) -> None:
    choice = choose_batch_frames(
        compute_frames=compute,
        most_frames=most,
        slots=slots,
        free_bytes=free,
        network_bytes=network,
        frame_bytes=frame,
    )
    frames = int(choice.taken)
    assert frames % compute == 0 and compute <= frames <= max(most, compute)
    if frames > compute or "too little" not in choice.reason:
        assert network + slots * frames * frame <= free
    assert str(choice).startswith(f"frames a batch: {frames} (")


def make_cluster(gpus: float, *, local: bool = True) -> Cluster:
    return Cluster("127.0.0.1:1", local, Path("/nowhere") if local else None, 8, gpus, 0.0)


@pytest.mark.parametrize(
    ("words", "gpus", "device", "workers", "share"),
    [
        ([], 1, "cuda", 1, 1.0),
        ([], 4, "cuda", 4, 1.0),
        (["workers.per_gpu=3"], 2, "cuda", 6, 0.3333),
        (["workers.per_gpu=2", "workers.count=2"], 2, "cuda", 2, 1.0),
        (["workers.per_gpu=2", "workers.count=3"], 2, "cuda", 3, 0.5),
        (["workers.per_gpu=7"], 1, "cuda", 7, 0.1428),
        (["workers.per_gpu=3"], 0, "cpu", 1, None),
        (["workers.count=5"], 0, "cpu", 5, None),
    ],
)
def test_workers_are_placed_on_gpus(
    words: list[str], gpus: int, device: str, workers: int, share: float | None
) -> None:
    count = worker_count(load_config(None, None, words), make_cluster(gpus), device)
    assert count == workers
    if share is not None:
        assert gpu_share(count, gpus) == share
        assert share * -(-count // gpus) <= 1


def test_more_workers_than_places_are_refused_at_home_and_wait_on_a_cluster() -> None:
    config = load_config(None, None, ["workers.count=3"])
    with pytest.raises(InputError, match=r"2 GPU.*legal: 0 to 2"):
        worker_count(config, make_cluster(2), "cuda")
    assert worker_count(config, make_cluster(2, local=False), "cuda") == 3


def test_workers_per_gpu_decide_no_byte() -> None:
    one, three = (load_config(None, None, [f"workers.per_gpu={number}"]) for number in (1, 3))
    assert result_settings(one) == result_settings(three)
    with pytest.raises(InputError, match="out of range"):
        load_config(None, None, ["workers.per_gpu=0"])
