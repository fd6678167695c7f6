"""Span parts: what is done with a span, in three pieces: SpanDecode, SpanCompute, SpanEncode.

Each is an iterator's work and knows nothing of threads, queues or processes: pipeline/span_job.py runs the three in one process,
workers/stream.py in three, maybe on three nodes. Facts about the work are complete when a part's iterator has ended.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import torch

from pipeline import frame_files, frame_stats
from pipeline.choice import Choice
from pipeline.cuda_engine import CudaEngine
from pipeline.decode import DecodedFrame, DecodeReport, decode_span
from pipeline.drive_files import lent_frames
from pipeline.encode import SpanEncoder
from pipeline.encoder_choice import proxy_encoder
from pipeline.engine import Engine, PackedFrame
from pipeline.errors import ConversionError
from pipeline.frame_stats import FrameStats
from pipeline.hardware import GPU, choose_decoder, encoder_used
from pipeline.lanes import Lanes, lanes_that_fit
from pipeline.light import LightLevels
from pipeline.mask import MaskWriter
from pipeline.proxy import proxy_in
from pipeline.source import open_source
from pipeline.span_work import SpanWork
from pipeline.work_budget import Spending

Item = TypeVar("Item")
Planes = tuple[torch.Tensor, ...]


@dataclass
class DecodeFacts:
    """repeated: numbers of owned frames that stand for damaged ones; unexpected_frames: see DecodeReport; choices: how, and why so"""

    repeated: list[int] = field(default_factory=list)
    unexpected_frames: int = 0
    choices: list[Choice] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class ComputeFacts:
    """redone: frames that were redone in float32; choices: how the GPU ran, and why so; seconds: of one lane, waiting left out"""

    redone: int = 0
    choices: list[Choice] = field(default_factory=list)
    seconds: float = 0.0


class SpanDecode:
    """Decoded frames of a span, those for its temporal stage included. Iterate once; see decode_span for what is raised."""

    def __init__(self, work: SpanWork) -> None:
        self.work = work
        self.facts = DecodeFacts()

    def __iter__(self) -> Iterator[DecodedFrame]:
        work, facts = self.work, self.facts
        report = DecodeReport()
        frames = decode_span(
            Path(work.plan.source),
            work.track.stream_index,
            work.index,
            work.span,
            deinterlace=work.track.deinterlace,
            strict=work.plan.strict,
            decoder=self._choose_decoder(),
            report=report,
        )
        busy = _Clock()
        frames = busy.time(itertools.chain(self._lent("before"), frames, self._lent("after")))
        for number, frame in enumerate(frames, work.first_frame):
            if frame.repeated and number in work.owned:
                facts.repeated.append(number)
            yield frame
        facts.seconds = busy.seconds
        facts.unexpected_frames = report.unexpected_frames
        if report.no_nvdec:
            facts.choices.append(Choice("decoder in the end", "software", report.no_nvdec))

    def _lent(self, side: str) -> Iterator[DecodedFrame]:
        """Frames of the neighbouring file before or after the track, where it lends this span some."""
        lent = self.work.lent
        return lent_frames(*lent[side], self.work.track.deinterlace) if side in lent else iter(())

    def _choose_decoder(self) -> str:
        """The decoder to ask for; what comes of the wish for NVDEC is told in the span's line."""
        plan, track = self.work.plan, self.work.track
        if plan.decoder == "software":
            return "software"
        with open_source(Path(plan.source)) as file:
            codec = file.streams[track.stream_index].codec_context.codec.name
        size = (track.width, track.height)
        choice = choose_decoder(plan.decoder, plan.device, codec, track.layout, size, track.deinterlace)
        self.facts.choices.append(choice)
        return choice.taken


class SpanCompute:
    """Decoded planes -> packed frames of the span's own numbers, in order.

    engine: engine_maker.engine_for of the span's plan; threads: cores to compute with (never in the bytes)
    """

    def __init__(self, work: SpanWork, engine: Engine | CudaEngine, threads: int) -> None:
        self.work, self.engine, self.threads = work, engine, threads
        self.facts = ComputeFacts()

    def run(self, planes: Iterator[Planes], memory: Choice | None = None) -> Iterator[PackedFrame]:
        """planes: of every frame that SpanDecode gives. memory: hardware.encoder_memory, where a CudaEngine may leave frames on the GPU."""
        before = self.engine.redone_frames
        if isinstance(self.engine, CudaEngine):
            yield from self._on_gpu(self.engine, planes, memory)
        else:
            yield from self._in_lanes(self.engine, planes)
        self.facts.redone = self.engine.redone_frames - before

    def _on_gpu(self, engine: CudaEngine, planes: Iterator[Planes], memory: Choice | None) -> Iterator[PackedFrame]:
        """The engine reads ahead and overlaps by itself. Its seconds are those in which it waited for nobody here."""
        waited = _Clock()
        started = time.monotonic()
        stay = memory is not None and memory.taken == GPU
        with contextlib.closing(engine.stream(waited.time(planes), self.work.span.first_frame, stay=stay)) as packed:
            for frame in packed:
                handed = time.monotonic()
                yield frame
                waited.seconds += time.monotonic() - handed
        self.facts.seconds = time.monotonic() - started - waited.seconds
        self.facts.choices += [*engine.choices, encoder_used(self.work.plan.encoder), *([memory] if memory else [])]

    def _in_lanes(self, engine: Engine, planes: Iterator[Planes]) -> Iterator[PackedFrame]:
        track = self.work.track
        count = lanes_that_fit(engine, track.height, track.width, self.threads)
        lanes = Lanes(engine, count, max(1, self.threads // count))
        yield from lanes.run(planes, self.work.first_frame, self.work.owned)
        self.facts.seconds = sum(lanes.seconds) / count
        self.facts.choices += engine.choices if self.work.plan.device == "cuda" else ()


class SpanEncode:
    """Packed frames -> the span file and what goes beside it, under the names given.

    threads: cores that the encoder may use (never in the bytes)
    levels, mean_luma, proxy_luma: of every frame written; seconds: waiting for frames left out
    """

    def __init__(self, work: SpanWork, threads: int) -> None:
        self.work, self.threads = work, threads
        self.levels: list[LightLevels] = []
        self.mean_luma: list[float] = []
        self.proxy_luma: list[float] = []
        self.seconds = 0.0
        self._stats: list[FrameStats] = []

    def write(self, frames: Iterator[PackedFrame], path: Path, beside: dict[str, Path]) -> None:
        """beside: where what goes with it is written, by kind. Raises ConversionError when there are too few frames or too many, and
        whatever the encoder or `frames` raises; then no file is left that was open."""
        spending = Spending(self.work.folder, self.work.plan.work_limit_bytes, (path, *beside.values()))
        self._write(frames, path, beside, spending)
        span = self.work.span
        if len(self.levels) != span.frames:
            raise ConversionError(
                f"{self.work.plan.source}: span {span.number} gave {len(self.levels)} frames instead of {span.frames}."
            )
        if "stats" in beside:
            frame_stats.save(beside["stats"], frame_stats.table(span.first_frame, self._stats))

    def _write(self, frames: Iterator[PackedFrame], path: Path, beside: dict[str, Path], spending: Spending) -> None:
        frame = next(frames, None)
        if frame is None:
            return
        plan, track = self.work.plan, self.work.track
        height, width = frame.y.shape
        shape = {"width": width, "height": height, "time_base": Fraction(1, track.time_base_den)}
        with contextlib.ExitStack() as files:
            encoder = files.enter_context(
                SpanEncoder(
                    path,
                    plan.encoder,
                    **shape,
                    rate=track.rate,
                    sample_aspect_ratio=track.sample_aspect_ratio,
                    transfer=plan.out.transfer,
                    threads=self.threads,
                    on_gpu=frame.y.is_cuda,
                )
            )
            masks = pictures = proxies = None
            if "mask" in beside:
                masks = files.enter_context(MaskWriter(beside["mask"], **shape, rate=track.rate))
            for kind in beside.keys() & frame_files.ENDINGS.keys():
                nits = {"white_nits": plan.out.white_nits, "peak_nits": plan.out.peak_nits}
                pictures = files.enter_context(frame_files.FrameWriter(beside[kind], kind, **nits))
            if (proxy := proxy_in(beside)) is not None:
                wanted = {"width": frame.proxy[0].shape[1], "height": frame.proxy[0].shape[0]}
                proxies = files.enter_context(
                    SpanEncoder(
                        beside[proxy.name],
                        proxy_encoder(proxy.kind),
                        **shape | wanted,
                        rate=track.rate,
                        sample_aspect_ratio=track.sample_aspect_ratio,
                        transfer=proxy.kind,
                        threads=self.threads,
                    )
                )
            for pts, duration in zip(self.work.relative_pts, self.work.durations, strict=True):
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
                self._note(frame)
                spending.ask()
                self.seconds += time.monotonic() - started
                frame = next(frames, None)
            if frame is not None:
                raise ConversionError(
                    f"{plan.source}: span {self.work.span.number} gave more than its {self.work.span.frames} frames."
                )

    def _note(self, frame: PackedFrame) -> None:
        self.levels.append(frame.levels)
        self.mean_luma.append(frame.mean_luma)
        if frame.stats is not None:
            self._stats.append(frame.stats)


class _Clock:
    """Adds up the seconds that an iterator takes to give its items."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def time(self, items: Iterator[Item]) -> Iterator[Item]:
        while True:
            started = time.monotonic()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.seconds += time.monotonic() - started
            yield item
