"""Small synthetic clips for tests, written with PyAV. Content is procedural, so two calls give the same pictures."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.container import Flags

from pipeline.encoder_choice import X265_SMALL_PICTURE
from pipeline.engine import PackedFrame, mean_luma
from pipeline.light import LightLevels
from pipeline.priority import usual_priority

REAL_CLIPS = Path("/work/shared/data/clips")
REAL_FRAMES = {
    "highway_960x540.mp4": 221,
    "highway_shadows_1280x720.mp4": 38,
    "highway_concrete_1280x720.mp4": 160,
    "gopro_gpmd_854x480.mp4": 48,
    "park_street_1920x1080.mp4": 171,
}


def picture(number: int, width: int, height: int, pix_fmt: str = "yuv420p") -> av.VideoFrame:
    """Frame `number` of a moving pattern: every frame differs from every other one. Any planar or gray pixel format."""
    frame = av.VideoFrame(width, height, pix_fmt)
    wide = 2 if "le" in pix_fmt else 1
    bits = int("".join(ch for ch in pix_fmt.rsplit("p", 1)[-1] if ch.isdigit()) or 8) if wide == 2 else 8
    if pix_fmt.startswith("gray") and wide == 2:
        bits = int(pix_fmt[4:-2])
    top = (1 << bits) - 1
    for which, plane in enumerate(frame.planes):
        columns = plane.line_size // wide
        y, x = np.mgrid[: plane.height, :columns]
        if which == 0:
            value = (x * 3 + y * 2 + number * 7) % 160 / 255 + 0.2
            value[(x // 6 + y // 5 + number) % 7 == 0] = 0.8
        else:
            value = 0.5 + 0.2 * np.sin((x + y * which + number * 2) / 9)
        codes = np.clip(np.rint(value * top), 0, top).astype(np.uint16 if wide == 2 else np.uint8)
        plane.update(codes.tobytes())
    return frame


def bright_picture(number: int, width: int, height: int, pix_fmt: str = "yuv420p") -> av.VideoFrame:
    """`picture` with what a camera clips: a white sky over the upper third, and a lamp that moves. 8-bit planar YUV."""
    frame = picture(number, width, height, pix_fmt)
    for which, plane in enumerate(frame.planes):
        codes = np.frombuffer(plane, np.uint8).reshape(plane.height, -1).copy()
        y, x = np.mgrid[: plane.height, : codes.shape[1]]
        y, x = y / plane.height, x / plane.width
        lamp = (x - (number % 40) / 40) ** 2 + ((y - 0.7) * height / width) ** 2 < 0.06**2
        codes[(y < 0.33) | lamp] = 235 if which == 0 else 128
        plane.update(codes.tobytes())
    return frame


def make_clip(
    path: Path,
    codec: str = "libx264",
    *,
    frames: int = 24,
    width: int = 64,
    height: int = 48,
    pix_fmt: str = "yuv420p",
    fps: int | Fraction = 25,
    gop: int = 8,
    bframes: int = 2,
    options: dict[str, str] | None = None,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    start: int = 0,
    audio: bool = False,
    container: str | None = None,
    container_options: dict[str, str] | None = None,
    tags: dict[str, int] | None = None,
    rotation: int = 0,
    interlaced: bool = False,
    sample_aspect_ratio: Fraction | None = None,
    metadata: dict[str, str] | None = None,
    paint: Callable[[int, int, int, str], av.VideoFrame] = picture,
) -> Path:
    """Write a clip and return its path.

    pts: one tick per frame in `time_base` (default 1/fps), for VFR; start: ticks added to all
    tags: codec context attributes, e.g. {"color_primaries": 1, "color_trc": 1, "colorspace": 1, "color_range": 2}
    paint: draws a frame, as `picture` does
    audio: add an AAC track of the same length; container: FFmpeg muxer name when the suffix does not say it
    """
    rate = Fraction(fps)
    time_base = time_base or 1 / rate
    with usual_priority(), av.open(str(path), "w", format=container, options=container_options or {}) as out:
        if Path(path).suffix in {".mkv", ".webm"}:
            out.flags |= Flags.bitexact.value  # its identifiers are drawn by chance otherwise
        out.metadata.update(metadata or {})
        stream = out.add_stream(codec, rate=rate, time_base=time_base)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = time_base
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        if sample_aspect_ratio is not None:
            stream.codec_context.sample_aspect_ratio = sample_aspect_ratio
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        stream.options = _encoder_options(codec, gop, bframes, interlaced) | (options or {})
        sound = out.add_stream("aac", rate=48000, layout="mono") if audio else None
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            frame = paint(number, width, height, pix_fmt)
            if interlaced:
                weave(frame, paint(number + 1, width, height, pix_fmt))
            frame.pts = (pts[number] if pts is not None else number) + start
            frame.time_base = time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:
            for packet in _tone(sound, float(frames / rate)):
                out.mux(packet)
    return Path(path)


def _encoder_options(codec: str, gop: int, bframes: int, interlaced: bool) -> dict[str, str]:
    if codec == "libx264":
        params = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={bframes}:b-adapt=0:threads=1:mbtree=0"
        return {"preset": "veryfast", "x264-params": params + (":interlaced=1" if interlaced else "")}
    if codec == "libx265":
        params = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={bframes}:b-adapt=0"
        return {
            "preset": "ultrafast",
            "x265-params": params + ":pools=none:frame-threads=1:log-level=none:info=0" + X265_SMALL_PICTURE,
        }
    if codec == "libvpx-vp9":
        return {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}
    if codec == "libsvtav1":
        return {"preset": "12", "svtav1-params": f"lp=1:keyint={gop}"}
    if codec in {"mpeg4", "mpeg2video"}:
        return {"bf": str(bframes), "qscale": "4"} | ({"flags": "+ilme+ildct"} if interlaced else {})
    return {}


def weave(top: av.VideoFrame, bottom: av.VideoFrame) -> None:
    """Replace the odd lines of `top` by those of `bottom`: two moments in one frame."""
    for first, second in zip(top.planes, bottom.planes, strict=True):
        lines = np.frombuffer(first, np.uint8).reshape(first.height, -1).copy()
        lines[1::2] = np.frombuffer(second, np.uint8).reshape(first.height, -1)[1::2]
        first.update(lines.tobytes())


def _tone(stream: av.AudioStream, seconds: float) -> Iterator[av.Packet]:
    for number in range(int(seconds * 48000) // 1024 + 1):
        at = (np.arange(1024) + number * 1024) / 48000
        frame = av.AudioFrame.from_ndarray(np.sin(2 * np.pi * 440 * at).astype(np.float32)[None] * 0.2, "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, number * 1024, Fraction(1, 48000)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def remux(source: Path, path: Path, *, container: str | None = None, offset: int = 0, first_packet: int = 0) -> Path:
    """Copy the video packets to another container; offset: ticks of the source added; first_packet: leave out those before."""
    with av.open(str(source)) as inp, av.open(str(path), "w", format=container) as out:
        video = inp.streams.video[0]
        stream = out.add_stream_from_template(video, opaque=True)
        number = -1
        for packet in inp.demux(video):
            number += 1
            if packet.size and number >= first_packet:
                packet.stream = stream
                packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                out.mux(packet)
    return Path(path)


def damage_packets(source: Path, path: Path, numbers: Sequence[int], seed: int = 0, flips: int = 12) -> Path:
    """Flip bytes within the given video packets, in place in the file (mp4 and other containers with byte positions)."""
    data = bytearray(Path(source).read_bytes())
    chance = random.Random(seed)
    with av.open(str(source)) as inp:
        for number, packet in enumerate(inp.demux(inp.streams.video[0])):
            if number in numbers:
                at = data.find(bytes(packet))
                assert at >= 0, "packet bytes are not found in the file"
                for _ in range(flips):
                    data[at + chance.randrange(packet.size // 3, packet.size)] ^= 0xFF
    Path(path).write_bytes(data)
    return Path(path)


def cut(source: Path, path: Path, part: float) -> Path:
    """The first `part` (0..1) of a file's bytes."""
    data = Path(source).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * part)])
    return Path(path)


def cut_clip(clip: Path, paths: list[Path], frames: int) -> list[Path]:
    """Cut a clip whose keyframes are `frames` apart into files, without touching a packet."""
    with av.open(str(clip)) as source:
        stream = source.streams.video[0]
        packets = [packet for packet in source.demux(stream) if packet.size]
        for number, path in enumerate(paths):
            begin = number * frames
            offset = packets[begin].pts
            assert packets[begin].is_keyframe
            with av.open(str(path), "w") as out:
                copy = out.add_stream_from_template(stream, opaque=True)
                for packet in packets[begin : begin + frames]:
                    packet.stream = copy
                    packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
                    out.mux(packet)
    return paths


def packed(number: int, width: int, height: int) -> PackedFrame:
    """A moving gradient with a bright square, its planes padded to even sizes as `color.pack` does."""
    rows, columns = height + height % 2, width + width % 2
    y, x = np.mgrid[:rows, :columns]
    luma = 350 + 150 * np.sin((x + number * 3) / 20) + 80 * np.cos((y - number) / 11)
    luma[rows // 4 : rows // 2, columns // 4 : columns // 2] = 700 + number % 40
    u = 512 + 60 * np.sin((x[::2, ::2] + number) / 30)
    v = 512 + 60 * np.cos((y[::2, ::2] + number) / 30)
    planes = [torch.from_numpy(plane.astype(np.uint16)) for plane in (luma, u, v)]
    return PackedFrame(*planes, LightLevels(1, 1, 1, 1), mean_luma(planes[0]))
