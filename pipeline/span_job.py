"""One span, from packets to a checked span file: decode, compute and encode overlapped in three threads of one process.

The span file is the checkpoint. It gets its final name only when it is complete, decodes, and is on disk. What decides its bytes
is in plan.json and the index beside it; doing a span twice gives the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch

from pipeline.cuda_engine import CudaEngine
from pipeline.decode import DecodedFrame
from pipeline.encode import check_span, publish
from pipeline.engine import PackedFrame
from pipeline.engine_maker import engine_for
from pipeline.errors import ConversionError, SunvisorError
from pipeline.hardware import encoder_memory
from pipeline.proxy import proxy_in
from pipeline.span_parts import ComputeFacts, DecodeFacts, SpanCompute, SpanDecode, SpanEncode
from pipeline.span_work import load_work, partial_name

QUEUE_FRAMES = 4

Item = TypeVar("Item")


class SpanStopped(SunvisorError):
    """The span was told to stop before it was done; nothing of it remains."""


def run_span(
    workdir: str,
    track: int,
    span: int,
    *,
    threads: int,
    on_frames: Callable[[int], None],
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Convert one span and return its ledger line.

    workdir: folder with plan.json and the indices
    threads: cores that the encoder and torch may use (never in the bytes)
    on_frames: told how many frames have been computed so far
    should_stop: asked for every frame; true raises SpanStopped
    Raises InputError or ConversionError; on any error no span file is left.
    """
    started = time.monotonic()
    work = load_work(Path(workdir), track, span)
    engine = engine_for(work.plan, track, threads)
    memory = encoder_memory(work.plan.encoder) if isinstance(engine, CudaEngine) else None
    decode, encode = SpanDecode(work), SpanEncode(work, threads)
    compute = SpanCompute(work, engine, threads)
    overlapped = _Overlapped(on_frames, should_stop, f"span {span} was stopped")
    write_span(
        encode,
        lambda path, beside: overlapped.run(
            decode, lambda planes: compute.run(planes, memory), lambda frames: encode.write(frames, path, beside)
        ),
    )
    return span_line(decode.facts, compute.facts, encode, time.monotonic() - started)


def write_span(encode: SpanEncode, write: Callable[[Path, dict[str, Path]], None]) -> None:
    """Have a span written under temporary names, check it, and give it and what goes beside it their final names.

    write: is told the temporary names as SpanEncode.write wants them. On any error nothing of the span is left.
    """
    work = encode.work
    partial, partials = partial_name(work.file), {kind: partial_name(final) for kind, final in work.beside.items()}
    try:
        with no_space_named(work.folder):
            write(partial, partials)
            check_span(partial, work.relative_pts, encode.mean_luma, threads=encode.threads)
            if (proxy := proxy_in(partials)) is not None:
                check_span(partials[proxy.name], work.relative_pts, encode.proxy_luma, threads=encode.threads)
            for kind, final in work.beside.items():
                publish(partials[kind], final)
            publish(partial, work.file)
    finally:
        for one in (partial, *partials.values()):
            with contextlib.suppress(OSError):  # a disk that has become read-only: why the span failed matters more
                one.unlink(missing_ok=True)


def span_line(decoded: DecodeFacts, computed: ComputeFacts, encode: SpanEncode, wall_seconds: float) -> dict[str, Any]:
    """The ledger line of a span that is written."""
    work = encode.work
    levels = functools.reduce(lambda left, right: left | right, encode.levels)
    choices = [*decoded.choices, *computed.choices]
    on_gpu = {"engine": list(map(str, choices))} if choices else {}
    return on_gpu | {
        "key": work.key,
        "track": work.number,
        "span": work.span.number,
        "file": work.file.name,
        "bytes": work.file.stat().st_size,
        "beside": {kind: {"file": one.name, "bytes": one.stat().st_size} for kind, one in work.beside.items()},
        "frames": work.span.frames,
        "repeated": decoded.repeated,
        "unexpected_frames": decoded.unexpected_frames,
        "redone_in_float32": computed.redone,
        "levels": asdict(levels),
        "seconds": {
            "decode": round(decoded.seconds, 3),
            "compute": round(computed.seconds, 3),
            "encode": round(encode.seconds, 3),
            "wall": round(wall_seconds, 3),
        },
    }


class _Overlapped:
    """Decode and encode in threads of their own, compute in the caller's, joined by short queues."""

    def __init__(self, on_frames: Callable[[int], None], should_stop: Callable[[], bool], stopped: str) -> None:
        self._on_frames, self._should_stop, self._stopped = on_frames, should_stop, stopped
        self._stop = threading.Event()
        self._errors: list[BaseException] = []

    def run(
        self,
        decode: SpanDecode,
        compute: Callable[[Iterator[tuple[torch.Tensor, ...]]], Iterator[PackedFrame]],
        encode: Callable[[Iterator[PackedFrame]], None],
    ) -> None:
        """The first error of any thread is raised here, once all have ended."""
        decoded: queue.Queue[DecodedFrame | None] = queue.Queue(QUEUE_FRAMES)
        packed: queue.Queue[PackedFrame | None] = queue.Queue(QUEUE_FRAMES)
        helpers = [
            threading.Thread(target=self._guard, args=(self._hand_on, iter(decode), decoded), name="decode"),
            threading.Thread(target=self._guard, args=(encode, self._taken(packed)), name="encode"),
        ]
        for thread in helpers:
            thread.start()
        self._guard(self._hand_on, compute(self._planes(decoded)), packed, self._on_frames)
        for thread in helpers:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _guard(self, work: Callable[..., None], *args: object) -> None:
        try:
            work(*args)
        except BaseException as error:  # noqa: BLE001 - carried to the caller of run()
            self._errors.append(error)
            self._stop.set()

    def _hand_on(
        self, items: Iterator[Item], out: queue.Queue[Item | None], on_count: Callable[[int], None] | None = None
    ) -> None:
        """Put every item, then None, into a queue."""
        with contextlib.closing(items):
            for count, item in enumerate(items, 1):
                self._put(out, item)
                if on_count is not None:
                    on_count(count)
        self._put(out, None)

    def _planes(self, source: queue.Queue[DecodedFrame | None]) -> Iterator[tuple[torch.Tensor, ...]]:
        """Planes of the decoded frames as they come. Raises SpanStopped when the span shall end."""
        for frame in self._taken(source):
            if self._should_stop():
                raise SpanStopped(self._stopped)
            yield frame.planes

    def _taken(self, source: queue.Queue[Item | None]) -> Iterator[Item]:
        while (item := self._get(source)) is not None:
            yield item

    def _put(self, target: queue.Queue[Item], item: Item) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                target.put(item, timeout=0.1)
                return
        raise SpanStopped("another part of the span failed")

    def _get(self, source: queue.Queue[Item]) -> Item:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Empty):
                return source.get(timeout=0.1)
        raise SpanStopped("another part of the span failed")


@contextlib.contextmanager
def no_space_named(folder: Path) -> Iterator[None]:
    """A disk that is full, or has become read-only, is told as such, with the folder's name."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ConversionError(
                f"{folder}: no space left on the disk; free some and run the same command again, finished spans are kept."
            ) from error
        if error.errno == errno.EROFS:
            raise ConversionError(
                f"{folder}: cannot be written any more ({error.strerror}); see to the disk and run the same command again, finished spans "
                "are kept."
            ) from error
        raise
