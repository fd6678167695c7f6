"""CUDA streams, events and memory as the engine needs them, behind a protocol that tests can stand in for.

Three streams: "upload", "compute" and "download". Work on one runs in the order of its launches; between them only `record` and `wait`
make an order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.choice import Choice

STREAMS = ("upload", "compute", "download")


class Event(Protocol):
    """A mark on a stream."""

    def synchronize(self) -> None:
        """Make the calling thread wait until the stream has come so far. Any thread may."""


class Streams(Protocol):
    """What the engine asks of a device. Sizes are shapes; memory is uninitialised."""

    def launch(self, stream: str, work: Callable[[], None]) -> None:
        """Queue the operations of `work` on a stream."""

    def record(self, stream: str) -> Event:
        """Mark the place behind everything launched on a stream so far."""

    def wait(self, stream: str, event: Event) -> None:
        """Let what is launched on a stream from now on begin after the event."""

    def synchronize(self) -> None:
        """Make the calling thread wait until all streams are idle."""

    def host(self, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of the host that the device copies from and to by itself (pinned)."""

    def device(self, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of the device, good for all streams."""

    def free_bytes(self) -> int:
        """What could be allocated on the device now."""

    def forget(self) -> None:
        """Give cached memory back, once nothing uses it."""


class CudaStreams:
    """The real ones.

    device: with its index; compute_on_default: see `compute_stream`; overlap: False puts all work on one stream, for comparison
    """

    def __init__(self, device: torch.device, *, compute_on_default: bool, overlap: bool = True) -> None:
        self._device = device
        compute = torch.cuda.default_stream(device) if compute_on_default else torch.cuda.Stream(device)
        self._streams = {name: torch.cuda.Stream(device) if overlap else compute for name in STREAMS}
        self._streams["compute"] = compute

    @property
    def compute(self) -> torch.cuda.Stream:
        """The stream of the network."""
        return self._streams["compute"]

    def launch(self, stream: str, work: Callable[[], None]) -> None:
        """See Streams."""
        with torch.cuda.stream(self._streams[stream]):
            work()

    def record(self, stream: str) -> torch.cuda.Event:
        """See Streams. Who waits for the event sleeps; it would take a core from the encoder otherwise."""
        event = torch.cuda.Event(blocking=True)
        event.record(self._streams[stream])
        return event

    def wait(self, stream: str, event: torch.cuda.Event) -> None:
        """See Streams."""
        self._streams[stream].wait_event(event)

    def synchronize(self) -> None:
        """See Streams."""
        torch.cuda.synchronize(self._device)

    def host(self, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """See Streams."""
        return torch.empty(size, dtype=dtype, pin_memory=True)

    def device(self, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """See Streams. Waits, because the allocator hands out memory that only its own stream's order makes free."""
        memory = torch.empty(size, dtype=dtype, device=self._device)
        torch.cuda.current_stream(self._device).synchronize()
        return memory

    def free_bytes(self) -> int:
        """See Streams: what the driver has left, and what PyTorch keeps but does not use."""
        free = torch.cuda.mem_get_info(self._device)[0]
        return free + torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)

    def forget(self) -> None:
        """See Streams."""
        torch.cuda.empty_cache()


class DeformWatch(TorchDispatchMode):
    """Sees whether torchvision's deformable convolution is called inside the `with` block (`seen`)."""

    seen = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204 - PyTorch's signature
        """Pass every operation on, and look at its name."""
        self.seen |= func.name().startswith("torchvision::deform_conv2d")
        return func(*args, **(kwargs or {}))


def compute_stream(torchvision_serves: bool) -> Choice:
    """Where the network runs: `taken` is "side" or "default".

    torchvision's deformable kernel was launched on the default stream whatever stream was current (pytorch/vision issue 9513; its
    mend, pull request 9522, came after July 2026 and no version number tells of it). PyTorch's own streams do not wait for the
    default one, so beside it the kernel would race with its neighbours. On the default stream itself everything is in order.
    """
    if torchvision_serves:
        return Choice(
            "compute stream",
            "default",
            "torchvision's deformable convolution serves, and may launch there alone (pytorch/vision issue 9513)",
        )
    return Choice("compute stream", "side", "no torchvision kernel in the network")
