"""Sequence: numbered picture files as one video file, so that all that follows works on a video.

The files' bytes become the packets of a QuickTime file: nothing is decoded or coded anew, and each picture has its exact time. Matroska would
round times to milliseconds.
"""

from __future__ import annotations

import errno
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import Flags
from av.error import FFmpegError

from pipeline.encode import publish
from pipeline.errors import ConversionError, InputError
from pipeline.heartbeat import beat

CITYSCAPES_FPS = Fraction(17)
"""Frame rate of leftImg8bit_sequence (Cordts et al., CVPR 2016, section 2.1)."""
CODECS = {".png": "png", ".jpg": "mjpeg", ".jpeg": "mjpeg"}
"""Suffixes of pictures in lower case -> FFmpeg's name of the codec."""
CITYSCAPES_NAME = re.compile(r"(?P<clip>[A-Za-z][\w-]*_\d{6})_(?P<number>\d{6})_(?P<camera>[a-z]+)Img8bit", re.ASCII)
"""Stem of a Cityscapes picture: city, sequence and frame, and which camera."""
NUMBERED_NAME = re.compile(r"(?P<clip>.*?)(?P<number>\d{1,18})", re.ASCII)
MAX_FPS = 1000

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_COLORS = {0: "grey", 2: "RGB", 3: "a palette", 4: "grey with transparency", 6: "RGB with transparency"}
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers SOF0 to SOF15 (ITU-T T.81, Table B.1)."""
JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})


@dataclass(frozen=True)
class Run:
    """Pictures that follow each other without a gap.

    name: the first picture's, without suffix; files: in order of their numbers, at least one
    kind: "cityscapes" or "numbered"; fps: the data set's own frame rate, None when nothing is known
    """

    name: str
    files: tuple[Path, ...]
    kind: str
    fps: Fraction | None

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(file.stat().st_size for file in self.files)

    def rate(self, asked: Fraction | None) -> Fraction:
        """Frames per second: what was asked for, else the data set's own. Raises InputError when neither is there, or it is not legal."""
        fps = asked or self.fps
        if fps is None:
            raise InputError(
                f"{self.files[0]}: numbered pictures have no timestamps; say their frame rate, for example --fps 20 or --fps 30000/1001."
            )
        if not 0 < fps <= MAX_FPS:
            raise InputError(f"--fps {fps}: legal: above 0, at most {MAX_FPS}.")
        return fps


@dataclass(frozen=True)
class _Shape:
    """What must be the same for all pictures of a run. form: colours, and for JPEG the subsampling as its header has it."""

    width: int
    height: int
    form: str

    def __str__(self) -> str:
        return f"{self.width}x{self.height} {self.form}"


def is_picture(path: Path) -> bool:
    """Is this, by its name, a picture of a sequence: numbered, or named as Cityscapes does?"""
    return path.suffix.lower() in CODECS and _place(path) is not None


def group_runs(files: Iterable[Path]) -> list[Run]:
    """Pictures -> runs, sorted by folder and name. Files that are no numbered picture by their name are passed over.

    A run lies in one folder, has one codec and one name but for the number; a missing number ends it.
    """
    clips: dict[tuple[Path, str, str, str, str], list[tuple[int, Path]]] = defaultdict(list)
    for file in files:
        if is_picture(file):
            kind, clip, rest, number = _place(file)
            clips[file.parent, clip, rest, CODECS[file.suffix.lower()], kind].append((number, file))
    runs = []
    for (*_, kind), pictures in sorted(clips.items()):
        pictures.sort()
        first = 0
        for end in range(1, len(pictures) + 1):
            if end == len(pictures) or pictures[end][0] != pictures[end - 1][0] + 1:
                chosen = tuple(file for _, file in pictures[first:end])
                runs.append(Run(chosen[0].stem, chosen, kind, CITYSCAPES_FPS if kind == "cityscapes" else None))
                first = end
    return runs


def find_runs(folder: Path) -> list[Run]:
    """All runs in a folder and the folders below it, hidden ones left out. Raises InputError when there is none."""
    files = (path for path in Path(folder).rglob("*") if not _is_hidden(path.relative_to(folder)) and path.is_file())
    runs = group_runs(files)
    if not runs:
        raise InputError(
            f"{folder}: no numbered picture there; legal names end in a number, such as 000001.png or frame_1.jpg, or are Cityscapes' own."
        )
    return runs


def run_of(picture: Path) -> Run:
    """The run in its folder that a picture belongs to."""
    return next(run for run in group_runs(picture.parent.iterdir()) if picture in run.files)


def wrap(run: Run, fps: Fraction, target: Path) -> Path:
    """Write the pictures of a run as the packets of a QuickTime file, picture k at k / fps seconds exactly; returns target.

    target: .mov; it appears whole or not at all, and has the same bytes each time
    Raises InputError, naming the picture, when one cannot be read or is damaged, has not 8 bits a channel, or differs in size or
    colours from the first; ConversionError when the file cannot be made; OSError (ENOSPC) when the disk is full.
    """
    codec = CODECS[run.files[0].suffix.lower()]
    data, shape = _checked(run.files[0], codec)
    base = Fraction(fps.denominator, fps.numerator)
    ticks = str(fps.numerator)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    options = {"video_track_timescale": ticks, "movie_timescale": ticks}
    try:
        with av.open(str(partial), "w", format="mov", options=options) as out:
            out.flags |= Flags.bitexact.value
            stream = out.add_mux_stream(codec, rate=fps, width=shape.width, height=shape.height)
            stream.time_base = Fraction(1, fps.numerator)
            for number, file in enumerate(run.files):
                if number:
                    data, its_shape = _checked(file, codec)
                    if its_shape != shape:
                        raise InputError(
                            f"{file}: is {its_shape}, but {run.files[0]} is {shape}; pictures of one sequence must be alike: sort them into folders."
                        )
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.is_keyframe = stream, stream.time_base, True
                packet.pts = packet.dts = number * base.numerator
                packet.duration = base.numerator
                out.mux_one(packet)
                beat()
        publish(partial, target)
    except FFmpegError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, os.strerror(error.errno), str(target)) from error
        raise ConversionError(f"{target}: the pictures of {run.name} cannot be put into one file ({error}).") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _place(path: Path) -> tuple[str, str, str, int] | None:
    """Kind, what comes before and after the number in the name, and the number; None when the name has none."""
    if found := CITYSCAPES_NAME.fullmatch(path.stem):
        return "cityscapes", found["clip"], found["camera"], int(found["number"])
    if found := NUMBERED_NAME.fullmatch(path.stem):
        return "numbered", found["clip"], "", int(found["number"])
    return None


def _is_hidden(inside: Path) -> bool:
    return any(part.startswith(".") for part in inside.parts)


def _checked(file: Path, codec: str) -> tuple[bytes, _Shape]:
    """A picture's bytes and shape. Raises InputError when it cannot be read, is damaged or is of a kind that is not converted."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}).") from error
    try:
        return data, (_png_shape if codec == "png" else _jpeg_shape)(file, data)
    except (IndexError, ValueError) as error:
        name = "PNG" if codec == "png" else "JPEG"
        raise InputError(f"{file}: this is not a whole {name} picture; copy it again or take it out.") from error


def _png_shape(file: Path, data: bytes) -> _Shape:
    """Every chunk's checksum is tested (ISO/IEC 15948 clause 5.3). Raises ValueError when the file is damaged or cut."""
    if not data.startswith(PNG_SIGNATURE):
        raise ValueError("no PNG signature")
    at, kind, seen = len(PNG_SIGNATURE), b"", set()
    while kind != b"IEND":
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(data) or zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(
            data[end : end + 4], "big"
        ):
            raise ValueError("a chunk is cut or damaged")
        seen.add(kind)
        at = end + 4
    if data[12:16] != b"IHDR" or b"IDAT" not in seen:
        raise ValueError("no picture in it")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    bits, color = data[24], PNG_COLORS.get(data[25], "unknown colours")
    if b"tRNS" in seen:
        color = f"{color.removesuffix(' with transparency')} with transparency"
    if bits != 8 or color not in ("grey", "RGB"):
        raise InputError(
            f"{file}: is a PNG of {color} at {bits} bits; legal are grey and RGB at 8 bits without transparency, as a camera's SDR picture is."
        )
    return _Shape(width, height, f"{color} PNG")


def _jpeg_shape(file: Path, data: bytes) -> _Shape:
    """Segments up to the first scan, and the end marker after it (ITU-T T.81, Annex B). Raises ValueError or IndexError when cut."""
    if not data.startswith(b"\xff\xd8"):
        raise ValueError("no JPEG signature")
    at, shape = 2, None
    while (marker := data[at + 1]) != 0xDA:
        if data[at] != 0xFF:
            raise ValueError("no marker where one must be")
        if marker == 0xFF or marker in JPEG_BARE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in JPEG_FRAMES:
            bits, parts = data[at + 4], data[at + 9]
            if bits != 8 or parts not in (1, 3):
                raise InputError(
                    f"{file}: is a JPEG of {parts} colours at {bits} bits; legal are grey and three colours at 8 bits."
                )
            height, width = (int.from_bytes(data[at + place : at + place + 2], "big") for place in (5, 7))
            sampling = " ".join(f"{byte >> 4}x{byte & 15}" for byte in data[at + 11 : at + 10 + 3 * parts : 3])
            shape = _Shape(width, height, f"JPEG, sampled {sampling}")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if shape is None or data.find(b"\xff\xd9", at) < 0:
        raise ValueError("no frame header, or no end")
    return shape
