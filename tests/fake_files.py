"""Planning and joining without videos: a source is JSON that says how many frames its spans have, and what goes wrong with it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from fractions import Fraction
from pathlib import Path

from pipeline.color import ColorSpec, OutputSpec, PixelLayout
from pipeline.convert import Joining
from pipeline.encoder_choice import EncoderChoice
from pipeline.errors import ConversionError, InputError
from pipeline.file_report import FileReport
from pipeline.machine import Machine
from pipeline.plan import PLAN_VERSION, Plan, Track
from pipeline.planning import Asked, Planned
from pipeline.prepare import Prepared
from pipeline.probe import VideoInfo
from pipeline.span import Span
from workers.span_worker import SpanTask

CLASS = "fake-class"
CHOICE = EncoderChoice("hevc", "fake", 10, "fast", {}, "no reason")
MACHINE = Machine("cpu", CLASS, CHOICE, "fp32", "00", True)


def make_source(path: Path, spans: list[int], **wrong: str) -> Path:
    """A source whose spans have so many frames. wrong: plan= or join= "input", "failed", "bug" or "die"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"spans": spans} | wrong))
    return path


def plan(asked: Asked) -> Planned | FileReport:
    facts = json.loads(asked.source.read_text())
    _go_wrong(facts.get("plan"))
    if asked.output.exists():
        return FileReport(str(asked.source), str(asked.output), "already done", frames=sum(facts["spans"]))
    spans, first = [], 0
    for number, frames in enumerate(facts["spans"]):
        spans.append(Span(number, first, first + frames, first, frames, 0, 0, 0, 1))
        first += frames
    shape = (64, 48, PixelLayout("420", 8), ColorSpec("bt709", "limited", "bt1886", "bt709", "left"), {})
    track = Track(
        0,
        *shape,
        deinterlace=False,
        rate=Fraction(25),
        sample_aspect_ratio=None,
        rotation=0,
        time_base_den=25,
        ticks=1,
        frames=first,
        duration_seconds=first / 25,
        content_hash="",
        tile=0,
        spans=tuple(spans),
    )
    made = Plan(
        PLAN_VERSION,
        str(asked.source),
        1,
        str(asked.output),
        "mp4",
        "fake",
        "fake",
        "00",
        True,
        "cpu",
        "fp32",
        CLASS,
        (),
        False,
        OutputSpec("pq", 203.0, 1000.0),
        CHOICE,
        "00",
        (track,),
    )
    info = VideoInfo(asked.source, *[None] * (len(dataclasses.fields(VideoInfo)) - 1))
    prepared = Prepared(asked.source, asked.output, info, made, (), None, {}, {})
    keys = {(0, span.number): f"key {span.number} of {asked.source}" for span in spans}
    return Planned(prepared, keys, (0, 0), None)


def convert(task: SpanTask) -> dict:
    """A span's ledger line."""
    file = Path(task.workdir) / f"span_{task.span}"
    file.write_bytes(b"x")
    source = json.loads((Path(task.workdir) / "plan.json").read_text())["source"]
    key = f"key {task.span} of {source}"
    return {
        "key": key,
        "track": 0,
        "span": task.span,
        "file": file.name,
        "bytes": 1,
        "frames": task.frames,
    }


def join(joining: Joining) -> FileReport:
    prepared = joining.planned.prepared
    facts = json.loads(prepared.source.read_text())
    _go_wrong(facts.get("join"))
    assert sorted(joining.lines) == sorted(joining.planned.keys)
    prepared.output.write_text(f"{len(joining.lines)} spans")
    return FileReport(
        str(prepared.source),
        str(prepared.output),
        "done",
        frames=prepared.plan.frames,
        spans_done=len(joining.lines) - joining.reused,
        spans_reused=joining.reused,
    )


def _go_wrong(how: str | None) -> None:
    if how == "input":
        raise InputError("this is no video.")
    if how == "failed":
        raise ConversionError("it cannot be done.")
    if how == "bug":
        raise ZeroDivisionError("a bug")
    if how == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
