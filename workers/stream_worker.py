"""StreamWorker: converts one span at a time with its three parts in three processes, each where its resource is.

The worker itself encodes. It starts one actor that computes and one that decodes, and owns them: they end when it does, however it ends.
Frames come to it as a stream out of the one that computes, which takes them out of the one that decodes (workers/chunks.py). The
functions are those of the fused topology (pipeline/span_parts.py), and so are the bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from pipeline.choice import Choice
from pipeline.encoder_choice import HARDWARE
from pipeline.engine_maker import engine_for
from pipeline.errors import InputError
from pipeline.hardware import HOST
from pipeline.span_job import SpanStopped, span_line, write_span
from pipeline.span_parts import SpanCompute, SpanDecode, SpanEncode
from pipeline.span_work import SpanWork, load_work
from workers.actors import CONTROL
from workers.chunks import STREAM, Incoming, sent
from workers.pulse import Pulse, be_watched, own_pulse
from workers.span_worker import SpanOutcome, SpanTask, SpanWorker, WorkerInfo, describe_error, load_entry, who_is_here

ENCODE, COMPUTE, DECODE = range(3)
"""Places of the parts' bundles in the placement group."""


class Part:
    """What the actors beside the worker have in common."""

    def __init__(self) -> None:
        be_watched()

    def pulse(self) -> Pulse:
        """Whether anything moves here; answered while it works."""
        return own_pulse()


class DecodePart(Part):
    """The actor that decodes."""

    def hello(self) -> WorkerInfo:
        """Do the heavy imports and say who this is."""
        return who_is_here("", time.monotonic())

    def decode(self, task: SpanTask) -> Iterator[Any]:
        """A stream of the planes of a span's frames, and its DecodeFacts."""
        facts: list[Any] = []

        def frames() -> Iterator[Any]:
            part = SpanDecode(_work(task))
            facts.append(part.facts)
            for frame in part:
                yield frame.planes

        yield from sent(frames(), lambda: facts[0])


class ComputePart(Part):
    """The actor that computes.

    numerics: see SpanWorker; threads: of torch inside this process
    """

    def __init__(self, numerics: str, threads: int) -> None:
        super().__init__()
        self._numerics, self._threads = numerics, threads

    def hello(self) -> WorkerInfo:
        """Do the heavy imports and say who this is."""
        began = time.monotonic()
        torch.set_num_threads(self._threads)
        return who_is_here(load_entry(self._numerics)(), began)

    def compute(self, task: SpanTask, decoder: Any) -> Iterator[Any]:  # noqa: ANN401 - a Ray actor
        """A stream of a span's packed frames, and (DecodeFacts, ComputeFacts). decoder: a DecodePart."""
        parts: list[Any] = []

        def frames() -> Iterator[Any]:
            work = _work(task)
            part = SpanCompute(work, engine_for(work.plan, task.track, self._threads), self._threads)
            incoming = Incoming("decoding", decoder.decode.options(**STREAM).remote(task))
            parts.extend([incoming, part])
            memory = (
                Choice("frames to the encoder", HOST, "another process encodes") if work.plan.device == "cuda" else None
            )
            yield from part.run(iter(incoming), memory)

        yield from sent(frames(), lambda: (parts[0].facts, parts[1].facts), lambda: not parts or parts[0].over)


class StreamWorker(SpanWorker):
    """Encodes, and has the rest done.

    numerics: "pipeline.engine:numerics_class", called where frames are computed
    threads: of the encoder, and of torch where frames are computed
    group: Ray's placement group with a bundle for each part; bundles: what each books
    """

    def __init__(self, numerics: str, threads: int, group: Any, bundles: tuple[dict[str, float], ...]) -> None:  # noqa: ANN401 - Ray's
        super().__init__("", numerics, threads)
        self._group, self._bundles = group, bundles
        self._decoder: Any = None
        self._computer: Any = None
        self._asked: dict[int, Any] = {}
        self._parts: dict[int, Pulse] = {}

    def hello(self) -> WorkerInfo:
        """Start the other parts and say who this is, with the numerics class of the one that computes.

        Where a part has other versions than this one, the answer is that part's. Raises whatever imports raise.
        """
        began = time.monotonic()
        self._decoder = self._start(DecodePart, DECODE)
        self._computer = self._start(ComputePart, COMPUTE, self._numerics, self._threads)
        decoder, computer = ray.get([self._decoder.hello.remote(), self._computer.hello.remote()])
        own = who_is_here(computer.numerics_class, began)
        return next((part for part in (decoder, computer) if part.versions != own.versions), own)

    def pulse(self) -> Pulse:
        """Its own and what the other parts answered last: one of them may be busy while this waits for it."""
        for place, part in ((DECODE, self._decoder), (COMPUTE, self._computer)):
            asked = self._asked.get(place)
            if asked is not None and ray.wait([asked], timeout=0)[0]:
                del self._asked[place]
                with contextlib.suppress(ray.exceptions.RayError):  # it is dead, and run() says so
                    self._parts[place] = ray.get(asked)
            if part is not None and place not in self._asked:
                self._asked[place] = part.pulse.options(concurrency_group="control").remote()
        every = [super().pulse(), *(one for _, one in sorted(self._parts.items()))]
        beats = tuple(beat for one in every for beat in one.beats)
        processes = tuple(process for one in every for process in one.processes)
        return dataclasses.replace(every[0], beats=beats, processes=processes)

    def run(self, task: SpanTask) -> SpanOutcome:
        """Convert one span. Every error comes back as a value; `worn` where a part is dead or may still be busy with it."""
        began = time.monotonic()
        self._progress = (task.key, 0)
        clean: list[Callable[[], bool]] = []
        try:
            result = self._convert(task, clean)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - returned to the pool with its traceback, never lost
            stopped = self._stop.is_set()
            told = describe_error(error)
            worn = told.worn or (bool(clean) and not clean[0]())
            return SpanOutcome(None, None if stopped else told, stopped, time.monotonic() - began, worn=worn)
        return SpanOutcome(result, None, False, time.monotonic() - began)

    def _convert(self, task: SpanTask, clean: list[Callable[[], bool]]) -> dict[str, Any]:
        """clean: gets the question whether the other parts are done with this span, once they have begun it."""
        started = time.monotonic()
        self._check_folder(task)
        work = _work(task)
        if work.plan.encoder.encoder in HARDWARE.values():
            raise InputError(
                f"workers.topology=stream encodes on CPUs, and the plan names {work.plan.encoder.encoder}: use "
                "workers.topology=fused where GPUs encode, or name a software encoder in output.encoder."
            )
        encode = SpanEncode(work, self._threads)
        incoming = Incoming(
            "computing", self._computer.compute.options(**STREAM).remote(task, self._decoder), self._stop.is_set
        )
        clean.append(lambda: incoming.over)
        write_span(encode, lambda path, beside: encode.write(self._counted(incoming), path, beside))
        decoded, computed = incoming.facts
        return span_line(decoded, computed, encode, time.monotonic() - started)

    def _counted(self, frames: Incoming) -> Iterator[Any]:
        """The frames as they come; progress and the wish to stop are seen to."""
        for count, frame in enumerate(frames, 1):
            if self._stop.is_set():
                raise SpanStopped("the span was stopped")
            yield frame
            self._count_frames(count)

    def _start(self, part: type, place: int, *args: object) -> Any:  # noqa: ANN401 - a Ray actor
        bundle = self._bundles[place]
        options = {
            "num_cpus": bundle["CPU"],
            "num_gpus": bundle.get("GPU", 0),
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self._group, place)
        return ray.remote(concurrency_groups=CONTROL)(part).options(**options).remote(*args)


def _work(task: SpanTask) -> SpanWork:
    return load_work(Path(task.workdir), task.track, task.span)
