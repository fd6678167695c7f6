"""One span, from packets to a checked span file: decode, compute and encode overlapped in three threads of one process.

The span file is the checkpoint. It gets its final name only when it is complete, decodes, and is on disk. What decides its bytes
is in plan.json and the index beside it; doing a span twice gives the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import torch

from pipeline import frame_files, frame_stats
from pipeline.choice import Choice
from pipeline.cuda_engine import CudaEngine
from pipeline.decode import DecodedFrame, DecodeReport, decode_span
from pipeline.drive_files import lent_frames
from pipeline.encode import SpanEncoder, check_span, publish
from pipeline.encoder_choice import proxy_encoder
from pipeline.engine import Engine, PackedFrame
from pipeline.engine_maker import engine_for
from pipeline.errors import ConversionError, SunvisorError
from pipeline.frame_stats import FrameStats
from pipeline.hardware import GPU, choose_decoder, encoder_memory, encoder_used
from pipeline.index import VideoIndex
from pipeline.lanes import Lanes, lanes_that_fit
from pipeline.light import LightLevels
from pipeline.mask import SUFFIX, MaskWriter
from pipeline.neighbour import SIDES, Neighbour
from pipeline.plan import Plan, Track, kinds_beside, lenders, span_key
from pipeline.proxy import proxy_in
from pipeline.source import open_source
from pipeline.span import Span

PLAN_NAME = "plan.json"
QUEUE_FRAMES = 4
ENDINGS = {"mask": SUFFIX, "stats": ".stats.npy"} | {kind: f".{kind}.zip" for kind in frame_files.ENDINGS}

Item = TypeVar("Item")


class SpanStopped(SunvisorError):
    """The span was told to stop before it was done; nothing of it remains."""


def index_name(track: int) -> str:
    """File name of a track's index in the work folder."""
    return f"index_{track}.npz"


def lent_name(track: int, side: str) -> str:
    """File name of the index of a neighbour in a drive. side: "before" or "after"."""
    return f"index_{track}_{side}.npz"


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
    folder = Path(workdir)
    plan, index = _load(folder, index_name(track))
    job = plan.tracks[track]
    piece = job.spans[span]
    lent = {
        side: (one, _load(folder, lent_name(track, side))[1])
        for side, one in zip(SIDES, lenders(job, piece), strict=True)
        if one is not None
    }
    key = span_key(plan, job, piece, index)
    final = folder / f"span_{track}_{span:05d}_{key[:16]}.{plan.encoder.span_container}"
    proxy = proxy_in(plan.extras)
    endings = ENDINGS if proxy is None else ENDINGS | {proxy.name: f".{proxy.name}.mp4"}
    beside = {kind: final.with_suffix(endings[kind]) for kind in sorted(kinds_beside(plan.extras))}
    partial, *partials = (one.with_name(f".{one.name}.{os.getpid()}.part") for one in (final, *beside.values()))
    engine = engine_for(plan, track, threads)
    started = time.monotonic()
    try:
        with no_space_named(folder):
            work = _SpanWork(plan, job, piece, index, lent, engine, threads, on_frames, should_stop)
            work.run(partial, dict(zip(beside, partials, strict=True)))
            check_span(partial, work.relative_pts, work.mean_luma, threads=threads)
            if proxy is not None:
                check_span(partials[[*beside].index(proxy.name)], work.relative_pts, work.proxy_luma, threads=threads)
            for one, place in zip([*partials, partial], [*beside.values(), final], strict=True):
                publish(one, place)
    finally:
        for one in (partial, *partials):
            one.unlink(missing_ok=True)
    levels = functools.reduce(lambda left, right: left | right, work.levels)
    on_gpu = {"engine": list(map(str, work.choices))} if work.choices else {}
    return on_gpu | {
        "key": key,
        "track": track,
        "span": span,
        "file": final.name,
        "bytes": final.stat().st_size,
        "beside": {kind: {"file": one.name, "bytes": one.stat().st_size} for kind, one in beside.items()},
        "frames": piece.frames,
        "repeated": work.repeated,
        "unexpected_frames": work.decode_report.unexpected_frames,
        "redone_in_float32": work.redone,
        "levels": asdict(levels),
        "seconds": {
            "decode": round(work.busy["decode"], 3),
            "compute": round(sum(work.lane_seconds) / work.lanes, 3),
            "encode": round(work.busy["encode"], 3),
            "wall": round(time.monotonic() - started, 3),
        },
    }


class _SpanWork:
    """The three threads of one span and what they find."""

    def __init__(
        self,
        plan: Plan,
        track: Track,
        span: Span,
        index: VideoIndex,
        lent: dict[str, tuple[Neighbour, VideoIndex]],
        engine: Engine | CudaEngine,
        threads: int,
        on_frames: Callable[[int], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self.plan, self.track, self.span, self.index, self.engine = plan, track, span, index, engine
        self.lent = lent
        self.threads, self.on_frames, self.should_stop = threads, on_frames, should_stop
        self.levels: list[LightLevels] = []
        self.stats: list[FrameStats] = []
        self.mean_luma: list[float] = []
        self.proxy_luma: list[float] = []
        self.repeated: list[int] = []
        self.redone = 0
        self.decode_report = DecodeReport()
        self.busy = {"decode": 0.0, "encode": 0.0, "waiting": 0.0}
        self.lane_seconds: list[float] = []
        self.lanes = 1 if isinstance(engine, CudaEngine) else lanes_that_fit(engine, track.height, track.width, threads)
        self.choices: list[Choice] = []
        self._owned = range(span.first_frame, span.first_frame + span.frames)
        self._first = span.first_frame - span.lead_in - (lent["before"][0].span.frames if "before" in lent else 0)
        owned = slice(self._owned.start, self._owned.stop)
        self.relative_pts = [int(pts - span.first_pts) * track.ticks for pts in index.frame_pts[owned]]
        self.durations = [int(ticks) * track.ticks for ticks in index.frame_duration[owned]]
        self._stop = threading.Event()
        self._errors: list[BaseException] = []

    def run(self, path: Path, beside: dict[str, Path]) -> None:
        """Do the span. beside: where what goes with it is written, by kind. The first error of any thread is raised here, once all have
        ended."""
        decoded: queue.Queue[DecodedFrame | None] = queue.Queue(QUEUE_FRAMES)
        packed: queue.Queue[PackedFrame | None] = queue.Queue(QUEUE_FRAMES)
        helpers = [
            threading.Thread(target=self._guard, args=(self._decode, decoded), name="decode"),
            threading.Thread(target=self._guard, args=(self._encode, packed, path, beside), name="encode"),
        ]
        for thread in helpers:
            thread.start()
        self._guard(self._compute, decoded, packed)
        for thread in helpers:
            thread.join()
        if self._errors:
            raise self._errors[0]
        if len(self.levels) != self.span.frames:
            raise ConversionError(
                f"{self.plan.source}: span {self.span.number} gave {len(self.levels)} frames instead of {self.span.frames}."
            )
        if "stats" in beside:
            frame_stats.save(beside["stats"], frame_stats.table(self.span.first_frame, self.stats))

    def _guard(self, work: Callable[..., None], *args: object) -> None:
        try:
            work(*args)
        except BaseException as error:  # noqa: BLE001 - carried to the caller of run()
            self._errors.append(error)
            self._stop.set()

    def _decode(self, out: queue.Queue[DecodedFrame | None]) -> None:
        decoder = self._choose_decoder()
        frames = decode_span(
            Path(self.plan.source),
            self.track.stream_index,
            self.index,
            self.span,
            deinterlace=self.track.deinterlace,
            strict=self.plan.strict,
            decoder=decoder,
            report=self.decode_report,
        )
        for frame in self._timed("decode", itertools.chain(self._lent("before"), frames, self._lent("after"))):
            self._put(out, frame)
        if self.decode_report.no_nvdec:
            self.choices.append(Choice("decoder in the end", "software", self.decode_report.no_nvdec))
        self._put(out, None)

    def _lent(self, side: str) -> Iterator[DecodedFrame]:
        """Frames of the neighbouring file before or after the track, where it lends this span some."""
        return lent_frames(*self.lent[side], self.track.deinterlace) if side in self.lent else iter(())

    def _choose_decoder(self) -> str:
        """The decoder to ask for; what comes of the wish for NVDEC is told in the span's line."""
        if self.plan.decoder == "software":
            return "software"
        with open_source(Path(self.plan.source)) as file:
            codec = file.streams[self.track.stream_index].codec_context.codec.name
        size = (self.track.width, self.track.height)
        choice = choose_decoder(
            self.plan.decoder, self.plan.device, codec, self.track.layout, size, self.track.deinterlace
        )
        self.choices.append(choice)
        return choice.taken

    def _compute(self, source: queue.Queue[DecodedFrame | None], out: queue.Queue[PackedFrame | None]) -> None:
        before = self.engine.redone_frames
        frames = self._planes(source)
        if isinstance(self.engine, CudaEngine):
            self._compute_on_gpu(self.engine, frames, out)
        else:
            self._compute_in_lanes(self.engine, frames, out)
        self.redone = self.engine.redone_frames - before
        self._put(out, None)

    def _planes(self, source: queue.Queue[DecodedFrame | None]) -> Iterator[tuple[torch.Tensor, ...]]:
        """Planes of the decoded frames as they come. Raises SpanStopped when the span shall end."""
        number = self._first
        while (frame := self._get(source)) is not None:
            if self.should_stop():
                raise SpanStopped(f"span {self.span.number} was stopped")
            if frame.repeated and number in self._owned:
                self.repeated.append(number)
            number += 1
            yield frame.planes

    def _compute_on_gpu(
        self, engine: CudaEngine, frames: Iterator[tuple[torch.Tensor, ...]], out: queue.Queue[PackedFrame | None]
    ) -> None:
        """The engine reads ahead and overlaps by itself. Its seconds are those in which it waited for nobody here."""
        started = time.monotonic()
        memory = encoder_memory(self.plan.encoder)
        packed = engine.stream(self._timed("waiting", frames), self.span.first_frame, stay=memory.taken == GPU)
        with contextlib.closing(packed):
            for frame in packed:
                handed = time.monotonic()
                self._hand_on([frame], out)
                self.busy["waiting"] += time.monotonic() - handed
        self.lane_seconds.append(time.monotonic() - started - self.busy["waiting"])
        self.choices += [*engine.choices, encoder_used(self.plan.encoder), memory]

    def _compute_in_lanes(
        self, engine: Engine, frames: Iterator[tuple[torch.Tensor, ...]], out: queue.Queue[PackedFrame | None]
    ) -> None:
        lanes = Lanes(engine, self.lanes, max(1, self.threads // self.lanes))
        for frame in lanes.run(frames, self._first, self._owned):
            self._hand_on([frame], out)
        self.lane_seconds += lanes.seconds
        self.choices += engine.choices if self.plan.device == "cuda" else ()

    def _hand_on(self, frames: list[PackedFrame], out: queue.Queue[PackedFrame | None]) -> None:
        for frame in frames:
            self.levels.append(frame.levels)
            if frame.stats is not None:
                self.stats.append(frame.stats)
            self.mean_luma.append(frame.mean_luma)
            self._put(out, frame)
        self.on_frames(len(self.levels))

    def _encode(self, source: queue.Queue[PackedFrame | None], path: Path, beside: dict[str, Path]) -> None:
        frame = self._get(source)
        if frame is None:
            return
        height, width = frame.y.shape
        shape = {"width": width, "height": height, "time_base": Fraction(1, self.track.time_base_den)}
        with contextlib.ExitStack() as files:
            encoder = files.enter_context(
                SpanEncoder(
                    path,
                    self.plan.encoder,
                    **shape,
                    rate=self.track.rate,
                    sample_aspect_ratio=self.track.sample_aspect_ratio,
                    transfer=self.plan.out.transfer,
                    threads=self.threads,
                    on_gpu=frame.y.is_cuda,
                )
            )
            masks = pictures = proxies = None
            if "mask" in beside:
                masks = files.enter_context(MaskWriter(beside["mask"], **shape, rate=self.track.rate))
            for kind in beside.keys() & frame_files.ENDINGS.keys():
                nits = {"white_nits": self.plan.out.white_nits, "peak_nits": self.plan.out.peak_nits}
                pictures = files.enter_context(frame_files.FrameWriter(beside[kind], kind, **nits))
            if (proxy := proxy_in(beside)) is not None:
                wanted = {"width": frame.proxy[0].shape[1], "height": frame.proxy[0].shape[0]}
                proxies = files.enter_context(
                    SpanEncoder(
                        beside[proxy.name],
                        proxy_encoder(proxy.kind),
                        **shape | wanted,
                        rate=self.track.rate,
                        sample_aspect_ratio=self.track.sample_aspect_ratio,
                        transfer=proxy.kind,
                        threads=self.threads,
                    )
                )
            for pts, duration in zip(self.relative_pts, self.durations, strict=True):
                if frame is None:
                    return
                started = time.monotonic()
                encoder.write(frame.y, frame.u, frame.v, pts, duration)
                if masks is not None:
                    masks.write(frame.mask, pts, duration)
                if pictures is not None:
                    pictures.write(frame.linear)
                if proxies is not None:
                    proxies.write(*frame.proxy, pts, duration)
                    self.proxy_luma.append(float(frame.proxy[0].float().mean()))
                self.busy["encode"] += time.monotonic() - started
                frame = self._get(source)

    def _timed(self, stage: str, items: Iterator[Item]) -> Iterator[Item]:
        while True:
            started = time.monotonic()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.busy[stage] += time.monotonic() - started
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
    """A full disk is told as such, with the folder's name."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ConversionError(
                f"{folder}: no space left on the disk; free some and run the same command again, finished spans are kept."
            ) from error
        raise


def _load(folder: Path, index: str) -> tuple[Plan, VideoIndex]:
    stamp = (folder / PLAN_NAME).stat().st_mtime_ns
    return _load_plan(folder, stamp), _load_index(folder, index, stamp)


@functools.lru_cache(maxsize=4)
def _load_plan(folder: Path, stamp: int) -> Plan:
    return Plan.from_json((folder / PLAN_NAME).read_text())


@functools.lru_cache(maxsize=4)
def _load_index(folder: Path, name: str, stamp: int) -> VideoIndex:
    return VideoIndex.load(folder / name)
