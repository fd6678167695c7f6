"""Sidecars: the streams that an output container cannot hold, each saved in a file beside the output."""

from __future__ import annotations

import contextlib
import json
from fractions import Fraction
from pathlib import Path

import av
from av.container import Flags
from av.stream import Stream

from pipeline.encode import publish
from pipeline.errors import ConversionError
from pipeline.source import open_source
from pipeline.streams import CopyPlan, add_copy, clone_packet, demux_streams

MUXERS = {".mka": "matroska", ".mks": "matroska", ".mkv": "matroska", ".mov": "mov", ".mp4": "mp4", ".wma": "asf"}


def write_sidecars(
    source: Path, copies: list[CopyPlan], output: Path, shift_seconds: Fraction = Fraction(0)
) -> list[Path]:
    """Save every stream that the output could not hold beside it, named OUTPUT's stem plus `CopyPlan.where`. One pass.

    Audio and subtitles become Matroska or mp4 files, attachments plain files; the rest raw packets back to back in a .bin, with
    stream facts and one [pts, dts, size] a packet in a .json. Times are the source's; `shift_seconds` (what `assemble` added to
    all times of the output) is added in Matroska and mp4 sidecars and told in the .json.
    Each file appears under its name only when complete and on disk. Returns the paths.
    Raises ConversionError naming stream and time when reading or writing fails.
    """
    planned = {plan.stream: plan for plan in copies if plan.action == "sidecar"}
    if not planned:
        return []
    with open_source(source) as opened, contextlib.ExitStack() as files:
        writers: dict[int, _RawSidecar | _MuxedSidecar] = {}
        finished: list[Path] = []
        for index, plan in planned.items():
            stream, path = opened.streams[index], output.with_name(output.stem + plan.where)
            if stream.type == "attachment":
                partial = path.with_name(path.name + ".part")
                partial.write_bytes(stream.data)
                publish(partial, path)
                finished.append(path)
                continue
            kind = _RawSidecar if path.suffix == ".bin" else _MuxedSidecar
            writers[index] = files.enter_context(contextlib.closing(kind(path, stream, plan, shift_seconds)))
        for packet in demux_streams(opened, set(writers)):
            writers[packet.stream_index].write(packet)
        for writer in writers.values():
            finished += writer.finish()
    return finished


class _MuxedSidecar:
    """One stream in a container of its own."""

    def __init__(self, path: Path, stream: Stream, plan: CopyPlan, shift_seconds: Fraction) -> None:
        self.path, self.plan, self.shift_seconds = path, plan, shift_seconds
        self.partial = path.with_name(path.name + ".part")
        self.out = av.open(str(self.partial), "w", format=MUXERS[path.suffix])
        self.out.flags |= Flags.bitexact.value
        self.copy = add_copy(self.out, stream)

    def write(self, packet: av.Packet) -> None:
        shift = round(self.shift_seconds / packet.time_base)
        clone = clone_packet(packet)
        clone.pts = None if packet.pts is None else packet.pts + shift
        clone.dts = clone.pts if packet.dts is None else packet.dts + shift
        clone.stream = self.copy
        try:
            self.out.mux_one(clone)
        except av.FFmpegError as error:
            seconds = float((clone.pts or 0) * packet.time_base)
            raise ConversionError(
                f"{self.path}: stream {self.plan.stream} ({self.plan.codec}) cannot be saved at {seconds:.3f} s ({error})."
            ) from error

    def finish(self) -> list[Path]:
        self.out.close()
        publish(self.partial, self.path)
        return [self.path]

    def close(self) -> None:
        self.out.close()
        self.partial.unlink(missing_ok=True)


class _RawSidecar:
    """Raw packets, and a .json that says where each ends and when it is."""

    def __init__(self, path: Path, stream: Stream, plan: CopyPlan, shift_seconds: Fraction) -> None:
        self.path, self.notes = path, path.with_suffix(".json")
        self.partials = [one.with_name(one.name + ".part") for one in (self.path, self.notes)]
        self.data, self.text = self.partials[0].open("wb"), self.partials[1].open("w", encoding="utf-8")
        extradata = stream.codec_context.extradata if stream.codec_context is not None else None
        facts = {
            "stream": plan.stream,
            "kind": plan.kind,
            "codec": plan.codec,
            "time_base": str(stream.time_base),
            "shift_seconds": str(shift_seconds),
            "tags": dict(stream.metadata),
            "extradata_hex": (extradata or b"").hex(),
        }
        self.text.write(json.dumps(facts, indent=1)[:-2] + ',\n "packets": [')
        self.between = "\n  "

    def write(self, packet: av.Packet) -> None:
        self.data.write(bytes(packet))
        entry = {"pts": packet.pts, "dts": packet.dts, "size": packet.size}
        self.text.write(self.between + json.dumps(entry))
        self.between = ",\n  "

    def finish(self) -> list[Path]:
        self.text.write("\n ]\n}\n")
        self.data.close()
        self.text.close()
        finals = [self.path, self.notes]
        for one, final in zip(self.partials, finals, strict=True):
            publish(one, final)
        return finals

    def close(self) -> None:
        self.data.close()
        self.text.close()
        for one in self.partials:
            one.unlink(missing_ok=True)
