"""Frame files: each frame of the result as a picture file of its own, for people who compute with frames instead of watching them.

    png16     16-bit RGB, linear light, BT.709 primaries: code 65535 = peak_nits, so light = code / 65535, as `datasets.cityscapes` reads
              leftImg16bit. SDR white lies at 65535 * white_nits / peak_nits.
    png16pq   16-bit RGB, PQ, BT.2020 primaries, full range: what viewers show rightly
    exr       half float RGB, linear light, BT.709 primaries, 1.0 = SDR white; the attribute whiteLuminance says how many nits that is

PNGs say which they are in a cICP chunk (PNG, third edition, 11.3.2.6). A span keeps its pictures in one zip file, stored as they are, until
the conversion is complete; then `unpack_frames` writes them out. The bytes depend on the frame and the settings alone.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from pipeline.color import PRIMARIES, primaries_matrix
from pipeline.errors import ConversionError, InputError
from pipeline.heartbeat import beat
from pipeline.on_disk import sync
from pipeline.transfer import PQ_ENCODE

ENDINGS = {"png16": ".png", "png16pq": ".png", "exr": ".exr"}
"""What `output.frames` may be beside "none" -> the ending of such a file."""
SUFFIX = ".frames.zip"
FULL_SCALE_16 = 65535
LARGEST_HALF = 65504.0
EXR_BLOCK_ROWS = 16
"""Rows that OpenEXR's ZIP compression takes at a time; the file has an offset for each such block."""
DOS_EPOCH = (1980, 1, 1, 0, 0, 0)
BT709, LINEAR, BT2020, PQ, FULL_RANGE = 1, 8, 9, 16, 2
"""Code points of H.273 for primaries and transfer; the last is FFmpeg's AVCOL_RANGE_JPEG."""


def frame_paths(output: Path, count: int, kind: str) -> tuple[Path, ...]:
    """drive_hdr.mp4 -> drive_hdr_frames/000000.png and on: where the frames of a source that is no sequence of pictures go."""
    folder = output.with_name(f"{output.stem}_frames")
    return tuple(folder / f"{number:06d}{ENDINGS[kind]}" for number in range(count))


def refuse_frames(targets: Sequence[Path], *, overwrite: bool) -> None:
    """Raise InputError when there are files already where frames would go, and they may not be replaced."""
    there = [] if overwrite else [path for path in targets if path.exists()]
    if there:
        raise InputError(
            f"{there[0]}: there is a file already ({len(there)} of {len(targets)} frames); name another --output, or --overwrite replaces it."
        )


class FrameWriter:
    """Writes the frames of a span as pictures into one zip file. A context manager; when the block raises, no file is left at `path`.

    kind: a key of ENDINGS; white_nits, peak_nits: cd/m2 of light 1.0 and of the brightest light, as in OutputSpec
    Raises ConversionError when FFmpeg does not encode a picture, OSError (ENOSPC) when the disk is full.
    """

    def __init__(self, path: Path, kind: str, *, white_nits: float, peak_nits: float) -> None:
        self.path, self.kind, self.white_nits, self.peak_nits = path, kind, white_nits, peak_nits
        self.frames = 0
        self._zip = zipfile.ZipFile(path, "w")

    def write(self, linear: Tensor) -> None:
        """linear: (3, H, W) float32 on the CPU, graded and not yet packed: linear light, BT.709 primaries, 1.0 = SDR white."""
        try:
            data = encode_frame(linear, self.kind, white_nits=self.white_nits, peak_nits=self.peak_nits)
        except ConversionError as error:
            raise ConversionError(
                f"{self.path}: frame {self.frames} cannot be written as {self.kind} ({error})."
            ) from error
        name = f"{self.frames:06d}{ENDINGS[self.kind]}"
        self._zip.writestr(zipfile.ZipInfo(name, DOS_EPOCH), data)
        self.frames += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        done = False
        try:
            self._zip.close()
            done = kind is None
        finally:
            if not done:
                self.path.unlink(missing_ok=True)


def encode_frame(linear: Tensor, kind: str, *, white_nits: float, peak_nits: float) -> bytes:
    """One picture file. Arguments as FrameWriter's. Values are rounded to the nearest, ties to even.

    What a picture cannot hold is clipped: png16 and png16pq hold no negative light and none above peak_nits, a half float nothing beyond
    65504. NaN becomes black. Raises ConversionError when FFmpeg does not take the picture.
    """
    light = linear.to(torch.float32).nan_to_num(nan=0.0)
    if kind == "exr":
        halves = light.clamp(-LARGEST_HALF, LARGEST_HALF).half().float().numpy()
        options = {"format": "half", "compression": "zip16"}  # rounded here, as FFmpeg would cut the last bits off
        data = _encoded("exr", "gbrpf32le", [halves[1], halves[2], halves[0]], options, BT709, LINEAR)
        return _with_attributes(data, light.shape[1], white_nits)
    if kind == "png16":
        codes = light.double().mul_(white_nits / peak_nits).clamp_(0, 1)
        tags = (BT709, LINEAR)
    else:
        codes, tags = _pq_bt2020(light, white_nits, peak_nits).double(), (BT2020, PQ)
    pixels = codes.mul_(FULL_SCALE_16).round_().permute(1, 2, 0).numpy().astype(">u2")
    return _encoded("png", "rgb48be", [pixels], {"compression_level": "1", "pred": "sub"}, *tags)


def unpack_frames(span_files: Sequence[Path], targets: Sequence[Path]) -> None:
    """Write every picture of the spans, in order, to its target, and make the folders for them.

    A target appears whole or not at all, and all are on the disk when this returns.
    Raises ConversionError when a span's file is damaged or the counts differ; then no more targets are written.
    """
    names = iter(targets)
    written = 0
    for file in span_files:
        try:
            with zipfile.ZipFile(file) as pictures:
                for member in pictures.infolist():
                    target = next(names, None)
                    written += 1
                    if target is None:
                        break
                    _write(target, pictures.read(member))
        except (zipfile.BadZipFile, EOFError) as error:
            raise ConversionError(f"{file}: the frames of this span cannot be read ({error}); run again.") from error
    if written != len(targets):
        raise ConversionError(f"{span_files[-1]}: the spans hold {written} frames where {len(targets)} are wanted.")
    for folder in {target.parent for target in targets}:
        sync(folder)


def _pq_bt2020(light: Tensor, white_nits: float, peak_nits: float) -> Tensor:
    """(3, H, W) of the working space -> PQ signals of BT.2020, 0 to 1, new tensor. Neutral light stays exactly neutral, as in pack."""
    channels = []
    for index, row in enumerate(primaries_matrix("bt709", "bt2020")):
        mixed = light[index].clone()
        for other in range(3):
            if other != index:
                mixed += (light[other] - light[index]) * row[other]
        channels.append(mixed)
    nits = torch.stack(channels).mul_(white_nits).clamp_(0, peak_nits)
    return PQ_ENCODE.apply_(nits)


def _encoded(
    codec: str, pix_fmt: str, planes: list[np.ndarray], options: dict[str, str], primaries: int, transfer: int
) -> bytes:
    """One picture by FFmpeg, on one thread. planes: arrays (H, W) or (H, W, 3), of the pixel format's own numbers.

    Raises ConversionError when FFmpeg does not take the picture.
    """
    import av  # the engine knows the kinds of this module, and needs no FFmpeg

    height, width = planes[0].shape[:2]
    context = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt, context.time_base = width, height, pix_fmt, Fraction(1, 25)
    context.options, context.thread_count, context.sample_aspect_ratio = options, 1, Fraction(1)
    frame = av.VideoFrame(width, height, pix_fmt)
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.ascontiguousarray(values).view(np.uint8).reshape(height, -1)
        np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)[:, : rows.shape[1]] = rows
    frame.pts = 0
    for thing in (context, frame):
        thing.color_primaries, thing.color_trc, thing.color_range = primaries, transfer, FULL_RANGE
    try:
        return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
    except av.FFmpegError as error:
        raise ConversionError(f"FFmpeg's {codec} does not take {width}x{height}: {error}") from error


def _with_attributes(data: bytes, height: int, white_nits: float) -> bytes:
    """An OpenEXR file with two standard attributes more: chromaticities (BT.709, D65) and whiteLuminance (cd/m2 of R = G = B = 1).

    FFmpeg cannot write them. They go before the others, and the offsets of the blocks of rows, which follow the header, move with them
    (OpenEXR File Layout: "Header", "Offset Tables").
    """
    numbers = [value for point in (*PRIMARIES["bt709"], (0.3127, 0.3290)) for value in point]
    extra = _attribute(b"chromaticities", b"chromaticities", struct.pack("<8f", *numbers))
    extra += _attribute(b"whiteLuminance", b"float", struct.pack("<f", white_nits))
    at = 8
    while data[at]:
        at = data.index(b"\0", data.index(b"\0", at) + 1) + 1
        at += 4 + int.from_bytes(data[at : at + 4], "little")
    at += 1
    blocks = -(-height // EXR_BLOCK_ROWS)
    offsets = np.frombuffer(data, "<u8", blocks, at) + np.uint64(len(extra))
    table = offsets.astype("<u8").tobytes()
    return data[:8] + extra + data[8:at] + table + data[at + len(table) :]


def _attribute(name: bytes, kind: bytes, value: bytes) -> bytes:
    return name + b"\0" + kind + b"\0" + struct.pack("<i", len(value)) + value


def _write(target: Path, data: bytes) -> None:
    """Write a file under another name, put it on the disk, and give it its own."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        beat()
    finally:
        partial.unlink(missing_ok=True)
