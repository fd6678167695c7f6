"""CudaEngine: the engine with upload, network and download side by side, and frames in batches.

**The bytes do not depend on the batch.** cuDNN and cuBLAS choose kernels, and with them the order of sums, by the shapes they get, so a
frame computed beside another may differ in its last bits from the frame alone. So the network never sees the batch: it gets
COMPUTE_FRAMES frames at a time, always that many, and a batch is several such calls in a row (pipeline/batching.py). With a compute
batch of one frame, no frame even meets another. A CUDA graph makes the calls cheap, so little is lost: from 720p on one frame has
enough pixels to fill a GPU. When memory runs out the batch is halved, down to one compute batch; that shape never changes.

**The GPU does not wait for Python.** Nothing on the way asks the GPU for an answer. A stage whose `forward` does (reconstruct looks for
frames that are not finite) offers `attempt(frames (N, 3, H, W)) -> (frames, (N,) bool on the device, whether each is good)` beside it:
the flags come down with the frame, and a frame that is not good goes through `forward` then. A stage without it asks for nothing.

**Frames may stay.** Where NVENC takes frames from GPU memory, Y, U and V are copied there, to memory of their own, and only the flag,
the sum of the luma codes and, where colour is fused, the light's histogram come down.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from models.deform_conv import choose_backend
from models.model import PRECISIONS
from pipeline import color, fused_color, fused_light, light
from pipeline.batching import Batcher, DeviceMemoryError, choose_batch_frames
from pipeline.choice import Choice, first_line
from pipeline.cuda_graph import Graphed
from pipeline.cuda_streams import CudaStreams, DeformWatch, Streams, compute_stream
from pipeline.engine import Engine, PackedFrame, luma_sum, mean_luma
from pipeline.ring import Planes, Ring, Sizes, Work

COMPUTE_FRAMES = 1
"""Frames that the network gets at a time. Another number may give other last bits: it is part of the arithmetic, not a setting."""

PLANES = 3
MOST_BATCH_FRAMES = 8
PINNED_BYTES = 1 << 29
"""Of pinned host memory that the ring may take; it cannot be swapped out."""


class CudaEngine:
    """Runs an Engine's work on its GPU, many frames on their way at once.

    threads: helpers that copy frames out and measure them
    compute_frames: see COMPUTE_FRAMES; batch_frames: 0 = by free memory; overlap, graphs: False for comparison. Of these four only
        compute_frames can change bytes
    make_streams: (whether the network must run on the default stream) -> streams; tests put others in
    """

    def __init__(
        self,
        engine: Engine,
        *,
        threads: int = 4,
        compute_frames: int = COMPUTE_FRAMES,
        batch_frames: int = 0,
        overlap: bool = True,
        graphs: bool = True,
        make_streams: Callable[[bool], Streams] | None = None,
    ) -> None:
        self._engine = engine
        self.device = _with_index(engine.device)
        self._compute_frames, self._batch_frames, self._graphs = compute_frames, batch_frames, graphs
        self._make_streams = make_streams or (
            lambda on_default: CudaStreams(self.device, compute_on_default=on_default, overlap=overlap)
        )
        self._helpers = ThreadPoolExecutor(max(1, threads), "finish", torch.set_num_threads, (1,))
        self._colour = fused_color.backend(self.device)
        if engine.out.chroma != "420":
            self._colour = fused_color.Backend("torch", f"there are no kernels for {engine.out.chroma}")
        self._fused = self._colour.name == "triton"
        self._sizes: Sizes = ()
        self._stay = False
        self._batcher: Batcher | None = None
        self._ring: Ring[PackedFrame] | None = None
        self._graph: Graphed | None = None
        self._choices: tuple[Choice, ...] = ()
        self._redone = 0

    @property
    def redone_frames(self) -> int:
        """Frames whose network output was not finite and that were redone in float32, since the engine was made."""
        return self._redone

    @property
    def choices(self) -> tuple[Choice, ...]:
        """How it runs and why, for people; empty before the first frame."""
        batcher = self._batcher
        if batcher is None or not batcher.halved:
            return self._choices
        memory = Choice(
            "batch after running out of memory", str(batcher.batch_frames), f"halved {batcher.halved} times"
        )
        return (*self._choices, memory)

    def stream(self, frames: Iterable[Planes], first_frame: int, stay: bool = False) -> Iterator[PackedFrame]:
        """Decoded planes of consecutive frames -> packed frames, in order. The iterator is read ahead by some batches.

        frames: planes as pipeline.decode gives them, on the host or on this GPU, all of one shape
        first_frame: number of the first one within the track (dither)
        stay: Y, U and V stay on the GPU; they are complete, and nothing else writes to them
        Raises DeviceMemoryError (transient) when the GPU has no memory for one compute batch.
        """
        source = iter(frames)
        head = next(source, None)
        if head is None:
            return
        sizes = tuple((tuple(plane.shape), plane.dtype) for plane in head)
        if self._batcher is None or (sizes, stay) != (self._sizes, self._stay):
            self._stay = stay
            self._batcher = self._prepare(head, sizes)
        yield from self._batcher.run(itertools.chain([head], source), first_frame)

    def close(self) -> None:
        """Give its memory back; it cannot be used any more. Nothing may be on its way."""
        self._release()
        self._helpers.shutdown()

    def _prepare(self, head: Planes, sizes: Sizes) -> Batcher:
        """Run the first frame once, on the default stream, and decide everything that depends on what then happens."""
        self._release()
        planes = tuple(plane.to(self.device).expand(self._compute_frames, *plane.shape) for plane in head)
        numbers = torch.arange(self._compute_frames, device=self.device)
        try:
            with DeformWatch() as watch:
                outputs = self.packed(planes, numbers, 0)
            stream = compute_stream(watch.seen)
            streams = self._make_streams(stream.taken == "default")
            streams.synchronize()
            made = tuple((tuple(output.shape[1:]), output.dtype) for output in outputs)
            del outputs
            graph = self._choose_graph(stream, streams, planes, numbers)
            ring = Ring(
                streams,
                sizes,
                made,
                self._compute_frames,
                Work(self._compute, self._finish, self._redo),
                self._helpers,
                PLANES if self._stay else 0,
            )
            network_bytes = self._compute_frames * self._engine.frame_bytes(*head[0].shape)
            batch = self._choose_batch(ring, streams, network_bytes)
        except torch.cuda.OutOfMemoryError as error:
            self._release()
            raise DeviceMemoryError(
                f"the GPU has no memory for {self._compute_frames} frame(s) of {tuple(head[0].shape)[::-1]} "
                f"({first_line(error)}); use a smaller reconstruct.tile_budget_bytes or fewer workers.per_gpu."
            ) from error
        colour = Choice("colour", self._colour.name, self._colour.reason)
        backend = choose_backend(self.device, PRECISIONS[self._engine.precision], False)
        deform = Choice("deformable convolution", backend.backend, backend.reason)
        self._choices, self._sizes, self._ring = (colour, deform, stream, graph, batch), sizes, ring
        return Batcher(ring, int(batch.taken), self._compute_frames)

    def _choose_graph(self, stream: Choice, streams: Streams, planes: Planes, numbers: Tensor) -> Choice:
        """Record the network's graph where that can be; `taken` is "recorded" or "eager". The bits are the same."""
        if not self._graphs:
            return Choice("CUDA graph", "eager", "switched off")
        if not isinstance(streams, CudaStreams):
            return Choice("CUDA graph", "eager", f"a {self.device.type} has no graphs")
        if stream.taken == "default":
            return Choice("CUDA graph", "eager", "the default stream cannot be recorded")
        if not self._fused:
            return Choice("CUDA graph", "eager", "colour by torch uploads small tables on the way")
        trouble = ""
        try:
            self._graph = Graphed(
                lambda *inputs: self.packed(inputs[:-1], inputs[-1], 0), (*planes, numbers), streams.compute
            )
        except RuntimeError as error:  # torch.cuda.OutOfMemoryError is one
            trouble = first_line(error)
        if trouble:
            streams.synchronize()
            streams.forget()
            return Choice("CUDA graph", "eager", f"recording failed: {trouble}")
        return Choice("CUDA graph", "recorded", "one launch for each compute batch")

    def _choose_batch(self, ring: Ring[PackedFrame], streams: Streams, network_bytes: int) -> Choice:
        if self._batch_frames:
            return Choice("frames a batch", str(self._batch_frames), "asked for")
        return choose_batch_frames(
            compute_frames=self._compute_frames,
            most_frames=min(MOST_BATCH_FRAMES, PINNED_BYTES // (ring.slots * ring.frame_bytes)),
            slots=ring.slots,
            free_bytes=streams.free_bytes(),
            network_bytes=network_bytes,
            frame_bytes=ring.frame_bytes,
        )

    def _release(self) -> None:
        """Free all that belongs to a shape."""
        if self._ring is not None:
            self._ring.abandon()
        self._ring = self._graph = self._batcher = None

    def _compute(self, planes: Planes, numbers: Tensor, first: int) -> Planes:
        return self.packed(planes, numbers, first) if self._graph is None else self._graph(*planes, numbers)

    def packed(self, planes: Planes, numbers: Tensor, first: int) -> Planes:
        """A compute batch on the current stream, all of it on the device; nothing waits.

        planes: (n, H, W) each; numbers: (n,) int64 of the frames within the track; first: the first of them
        Returns y, u, v, (n,) bool whether all is finite, (n,) float64 sums of the codes of y and, where colour is fused, the light's
        histogram (fused_light).
        """
        engine = self._engine
        with torch.inference_mode():
            frames = self._unpack(planes)
            finite = torch.ones(len(numbers), dtype=torch.bool, device=frames.device)
            for stage in engine.stages:
                if hasattr(stage, "attempt"):
                    frames, good = stage.attempt(frames)
                    finite = finite & good
                else:
                    frames = stage(frames)
            packed = self._pack(frames, numbers, first)
            counts = (fused_light.histogram(*packed, engine.out.transfer),) if self._fused else ()
            return (*packed, finite, luma_sum(packed[0]), *counts)

    def _unpack(self, planes: Planes) -> Tensor:
        unpack = fused_color.unpack if self._fused else color.unpack
        return unpack(planes, self._engine.layout, self._engine.color)

    def _pack(self, frames: Tensor, numbers: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
        if self._fused:
            return fused_color.pack(frames, self._engine.out, numbers)
        return color.pack(
            frames, self._engine.out, torch.arange(first, first + len(numbers))
        )  # it reads them on the host

    def _finish(self, outputs: Planes) -> PackedFrame | None:
        """One frame's outputs -> its own copy with its light: the encoder reads frames in place, long after."""
        y, u, v, finite, total, *counts = outputs
        if not bool(finite):
            return None
        if not self._stay:
            y, u, v = (plane.clone() for plane in (y, u, v))
        if counts:
            levels = fused_light.levels(counts[0][None])[0]
        else:
            levels = light.measure(y[None], u[None], v[None], self._engine.out.transfer)[0]
        return PackedFrame(y, u, v, levels, float(total) / y.numel())

    def _redo(self, planes: Planes, first: int, place: int) -> PackedFrame:
        """A frame that was not finite, by the stages themselves, which redo it in float32."""
        self._redone += 1
        numbers = torch.arange(first, first + self._compute_frames, device=planes[0].device)
        with torch.inference_mode():
            frames = self._unpack(planes)
            for stage in self._engine.stages:
                frames = stage(frames)
            packed = self._pack(frames, numbers, first)
            y, u, v = (plane[place].cpu() for plane in packed)
            levels = light.measure(y[None], u[None], v[None], self._engine.out.transfer)[0]
        luma = mean_luma(y)
        if self._stay:
            y, u, v = (plane[place].clone() for plane in packed)
        return PackedFrame(y, u, v, levels, luma)


def _with_index(device: torch.device) -> torch.device:
    """cuda -> cuda:0, or whichever is current."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
