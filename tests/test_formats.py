"""Every kind of input that the project promises to read, converted end to end and judged from outside: times, tags, copies, picture."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from configs.schema import load_config
from pipeline.color import bt2020_to_bt709, unpack_hdr
from pipeline.convert import convert
from pipeline.errors import ConversionError, InputError
from pipeline.file_report import FileReport
from pipeline.planes import frame_planes
from pipeline.verify import read_provenance, verify
from tests import oracles

COVER = av.stream.Disposition.attached_pic
MEAN_TOLERANCE = 1.5
SHORT_SPANS = ["span.target_seconds=0.6", "span.min_seconds=0.3", "output.preset=ultrafast", "output.crf=6"]
WIDTH, HEIGHT = 96, 72
PALETTE = np.array(
    [(190, 90, 90), (90, 180, 95), (90, 100, 190), (200, 190, 100), (180, 110, 180), (100, 180, 190),
     (225, 225, 225), (150, 150, 150), (100, 100, 100), (180, 140, 120), (110, 140, 180), (80, 80, 80)],
    np.uint8,
)  # fmt: skip
"""R'G'B' of the patches: every frame shows them in another order, so no frame can be taken for its neighbour."""

TO_BT709 = {
    "bt709": np.eye(3),
    "bt601-525": np.array(
        [[0.939542, 0.050181, 0.010277], [0.017772, 0.965793, 0.016435], [-0.001622, -0.004370, 1.005991]]
    ),
    "bt601-625": np.array([[1.044043, -0.044043, 0.0], [0.0, 1.0, 0.0], [0.0, 0.011793, 0.988207]]),
}
"""Linear light of other primaries to BT.709's, as published (BT.2087, SMPTE RP 177), independent of pipeline.color."""


@dataclass(frozen=True)
class Case:
    """One kind of input.

    make: writes the source into a folder and returns its path
    matrix, range, primaries: what the codes mean; patches: size of the patches in the coded picture (x, y)
    times: expected seconds of the frames where ffprobe cannot say (no clock); else None
    streams: (number among the source's videos, number among the output's) of each that is converted
    model: the network; without one a case takes half the time
    """

    name: str
    make: Callable[[Path], Path]
    output: str = "out.mp4"
    words: Sequence[str] = ()
    matrix: str = "bt601"
    range: str = "tv"
    primaries: str = "bt601-525"
    times: Sequence[Fraction] | None = None
    streams: Sequence[tuple[int, int]] = ((0, 0),)
    tolerance: float = 7.0
    model: str = "neutral"
    long: bool = False
    said: str = ""
    extra: Callable[[Path, Path, FileReport], None] = field(default=lambda source, output, report: None)


def painted(frames: int, width: int, height: int, still: bool) -> np.ndarray:
    """(frames, height, width, 3) uint8: patches of the palette; still: the same in all frames."""
    y, x = np.mgrid[:height, :width]
    place = (y * 3 // height) * 4 + x * 4 // width
    return np.stack([PALETTE[(place + (0 if still else number * 5)) % 12] for number in range(frames)])


def ffmpeg(*words: object, pipe: bytes = b"") -> bytes:
    """Run Debian's ffmpeg; its output."""
    command = ["ffmpeg", "-v", "error", "-nostdin" if not pipe else "-y", "-y", *map(str, words)]
    run = subprocess.run(command, input=pipe or None, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode()[-2000:]
    return run.stdout


def coded(
    name: str,
    *codec: object,
    frames: int = 22,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    fps: str = "25",
    pix: str = "yuv420p",
    matrix: str = "bt601",
    range: str = "tv",
    tags: bool | None = False,
    still: bool = False,
    vf: str = "",
    inputs: Sequence[object] = (),
) -> Callable[[Path], Path]:
    """A maker of one file: the painted frames, coded with these words of ffmpeg.

    tags: True: matrix and range are tagged; False: nothing is tagged; None: as ffmpeg likes
    """

    def make(folder: Path) -> Path:
        path = folder / name
        chain = f"scale=in_range=full:out_color_matrix={matrix}:out_range={range}:flags=accurate_rnd,format={pix}"
        space = {"bt601": "smpte170m", "bt709": "bt709"}[matrix]
        if tags is not None:
            said = (range, space, space, space) if tags else ("unspecified", "unknown", "unknown", "unknown")
            chain += ",setparams=range={}:color_primaries={}:color_trc={}:colorspace={}".format(*said)
        raw = painted(frames, *size, still).tobytes()
        head = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}", "-r", fps, "-i", "-"]
        ffmpeg(*head, *inputs, "-vf", chain + vf, *codec, "-threads", 1, path, pipe=raw)
        return path

    return make


X264 = ("-c:v", "libx264", "-crf", 10, "-preset", "veryfast", "-g", 8, "-bf", 2)
X265 = (
    "-c:v",
    "libx265",
    "-crf",
    10,
    "-preset",
    "ultrafast",
    "-x265-params",
    "log-level=none:keyint=8:bframes=2:pools=none",
)
MPEG4 = ("-c:v", "mpeg4", "-q:v", 2, "-g", 8)
MPEG2 = ("-c:v", "mpeg2video", "-q:v", 2, "-g", 8, "-bf", 2)
MJPEG = ("-c:v", "mjpeg", "-q:v", 2)
VP9 = ("-c:v", "libvpx-vp9", "-crf", 10, "-b:v", 0, "-cpu-used", 8, "-deadline", "realtime", "-g", 8)
AV1 = ("-c:v", "libsvtav1", "-crf", 10, "-preset", 12, "-g", 8)


def then(
    first: Callable[[Path], Path], name: str, *words: object, before: Sequence[object] = ()
) -> Callable[[Path], Path]:
    """A maker: what `first` made, put through ffmpeg again (stream copy unless the words say otherwise)."""

    def make(folder: Path) -> Path:
        path = folder / name
        ffmpeg(*before, "-i", first(folder), "-c", "copy", *words, path)
        return path

    return make


def per_second(count: int, fps: Fraction, start: Fraction = Fraction(0)) -> list[Fraction]:
    """Times of the frames of a constant rate."""
    return [start + number / fps for number in range(count)]


def source_rgb(path: Path, case: Case, number: int, size: tuple[int, int]) -> np.ndarray:
    """Frames of a source as FFmpeg decodes them with the matrix and range that we name: (F, H, W, 3) 0 to 255."""
    how = f"scale=in_color_matrix={case.matrix}:in_range={case.range}:out_range=full:flags=accurate_rnd+full_chroma_int"
    if case.matrix == "rgb":
        how = "null"
    raw = ffmpeg(
        "-noautorotate", "-i", path, "-map", f"0:V:{number}", "-vsync", "passthrough", "-copyts", "-vf", f"{how},format=rgb24", "-f", "rawvideo", "-"
    )  # fmt: skip
    return np.frombuffer(raw, np.uint8).reshape(-1, size[1], size[0], 3)


def output_rgb(path: Path, number: int, transfer: str) -> np.ndarray:
    """Frames of an output, back on an SDR display: nits / 203, inverse BT.1886: (F, H, W, 3) 0 to 255."""
    frames = []
    with av.open(str(path)) as container:
        stream = [one for one in container.streams.video if not one.disposition & COVER][number]
        for frame in container.decode(stream):
            assert frame.format.name == "yuv420p10le"
            planes = [plane[None] for plane in frame_planes(frame)]
            light = bt2020_to_bt709(unpack_hdr(*planes, transfer))[0] / 203
            frames.append((light.clamp(0, 1) ** (1 / 2.4) * 255).permute(1, 2, 0).numpy())
    return np.stack(frames)


def patch_means(pictures: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(F, 3, 4, 3): mean colour of the inner part of every patch."""
    width, height = size
    rows = []
    for row in range(3):
        y0, y1 = row * height // 3, (row + 1) * height // 3
        my = (y1 - y0) // 4
        line = []
        for column in range(4):
            x0, x1 = column * width // 4, (column + 1) * width // 4
            mx = (x1 - x0) // 4
            line.append(pictures[:, y0 + my : y1 - my, x0 + mx : x1 - mx].astype(np.float64).mean((1, 2)))
        rows.append(np.stack(line, 1))
    return np.stack(rows, 1)


def check_picture(source: Path, output: Path, case: Case, place: int, number: int) -> None:
    """The HDR picture, shown on an SDR display again, is the source's: every patch of every frame."""
    facts = oracles.ffprobe(source, "-select_streams", f"V:{number}", "-show_streams")["streams"][0]
    size = facts["width"], facts["height"]
    theirs = source_rgb(source, case, number, size)
    ours = output_rgb(output, place, "hlg" if "output.transfer=hlg" in case.words else "pq")
    assert len(ours) == len(theirs)
    assert 0 <= ours.shape[2] - size[0] <= 1
    assert 0 <= ours.shape[1] - size[1] <= 1
    want = (patch_means(theirs, size) / 255) ** 2.4 @ TO_BT709[case.primaries].T
    want = np.clip(want, 0, 1) ** (1 / 2.4) * 255
    got = patch_means(ours[:, : size[1], : size[0]], size)
    off = np.abs(got - want)
    assert off.mean() <= MEAN_TOLERANCE and off.max() <= case.tolerance, (
        f"patch off by {off.max():.1f} (mean {off.mean():.2f}) at {np.unravel_index(off.argmax(), off.shape)}"
    )


def check_times(source: Path, output: Path, case: Case, place: int, number: int) -> None:
    """As many frames as the source shows, each at its time; Matroska: the nearest millisecond."""
    want = list(case.times) if case.times is not None else oracles.frame_times(source, f"V:{number}")
    got = oracles.frame_times(output, f"V:{place}")
    shift = Fraction(read_provenance(output).facts["shift_seconds"])
    assert len(got) == len(want)
    assert (shift > 0) == (shift != 0)
    slack = Fraction(1, 2000) if output.suffix == ".mkv" else 0
    assert all(abs(ours - theirs - shift) <= slack for ours, theirs in zip(got, want, strict=True)), (got, want)


def check_tags(output: Path, case: Case, place: int) -> None:
    """HDR10 (or HLG) as ffprobe sees it."""
    facts = oracles.ffprobe(
        output, "-select_streams", f"V:{place}", "-show_streams", "-show_frames", "-read_intervals", "%+#1"
    )
    stream, frame = facts["streams"][0], facts["frames"][0]
    transfer = "arib-std-b67" if "output.transfer=hlg" in case.words else "smpte2084"
    keys = ("pix_fmt", "color_primaries", "color_transfer", "color_space", "color_range", "chroma_location")
    assert [stream[key] for key in keys] == ["yuv420p10le", "bt2020", transfer, "bt2020nc", "tv", "topleft"]
    found = {one["side_data_type"] for one in frame.get("side_data_list", [])}
    wanted = {"Mastering display metadata", "Content light level metadata"}
    assert wanted <= found if transfer == "smpte2084" else not wanted & found


def check_geometry(source: Path, output: Path, place: int, number: int) -> None:
    """Sample aspect ratio and rotation as in the source."""

    def told(path: Path, which: int) -> tuple[str, int]:
        stream = oracles.ffprobe(path, "-select_streams", f"V:{which}", "-show_streams")["streams"][0]
        turned = [one["rotation"] for one in stream.get("side_data_list", []) if "rotation" in one]
        ratio = stream.get("sample_aspect_ratio", "0:1")
        return "1:1" if ratio == "0:1" else ratio, turned[0] if turned else 0

    assert told(source, number) == told(output, place)


def check_copies(source: Path, output: Path, report: FileReport) -> None:
    """Every stream that is reported as copied is in the output, packet for packet."""
    copied = [one["stream"] for one in report.streams if one["action"] == "copy"]
    shift = Fraction(read_provenance(output).facts["shift_seconds"])
    slack = Fraction(1, 1000) if output.suffix == ".mkv" else Fraction(1, 40000)
    with av.open(str(output)) as container:
        places = [one.index for one in container.streams if one.type != "attachment" and not one.disposition & COVER]
    held = [oracles.packets(output, place) for place in places]
    for stream in copied:
        theirs = oracles.packets(source, stream)
        same = [ours for ours in held if [one[1] for one in ours] == [one[1] for one in theirs]]
        assert same, f"stream {stream} is not in the output"
        assert any(all(abs(a[0] - b[0] - shift) <= slack for a, b in zip(ours, theirs, strict=True)) for ours in same)


def run_case(case: Case, folder: Path) -> tuple[Path, Path, FileReport]:
    """Convert and judge."""
    source = case.make(folder)
    made = folder / "made"
    made.mkdir()
    output = made / case.output
    words = [word for word in SHORT_SPANS if not ("codec=av1" in str(case.words) and "preset" in word)]
    report = convert(source, output, load_config("dashcam", None, [*words, f"model={case.model}", *case.words]))
    assert report.status == "done"
    for number, place in case.streams:
        check_times(source, output, case, place, number)
        check_tags(output, case, place)
        check_geometry(source, output, place, number)
        check_picture(source, output, case, place, number)
    check_copies(source, output, report)
    full = verify(source, output, full=True)
    assert full.ok, [f"{check.name}: {check.detail}" for check in full.checks if not check.ok]
    if case.said:
        assert any(case.said in warning for warning in report.warnings), report.warnings
    assert not list(made.glob("*.work"))
    case.extra(source, output, report)
    return source, output, report


def short(seed: Callable[[Path], Path], frames: int, name: str) -> Callable[[Path], Path]:
    """A maker: the first frames of a clip, coded again without loss of order (for one- and two-frame videos)."""
    return then(seed, name, "-frames:v", frames)


def many_streams(name: str, subtitle: str) -> Callable[[Path], Path]:
    """A maker: video, two kinds of sound, subtitles and chapters."""

    def make(folder: Path) -> Path:
        (folder / "s.srt").write_text(
            "1\n00:00:00,100 --> 00:00:00,500\nHello\n\n2\n00:00:00,600 --> 00:00:00,800\nGrüße\n"
        )
        (folder / "c.txt").write_text(
            ";FFMETADATA1\ntitle=A drive\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=400\ntitle=One\n"
            "[CHAPTER]\nTIMEBASE=1/1000\nSTART=400\nEND=880\ntitle=Two\n"
        )
        video = coded("v.mp4", *X264)(folder)
        path = folder / name
        tones = [
            word
            for hertz in (440, 660)
            for word in ("-f", "lavfi", "-i", f"sine={hertz}:duration=0.88:sample_rate=48000")
        ]
        maps = [word for number in range(4) for word in ("-map", number)]
        ffmpeg(
            "-i", video, *tones, "-i", folder / "s.srt", "-i", folder / "c.txt", *maps, "-map_metadata", 4, "-c:v", "copy",
            "-c:a:0", "aac", "-c:a:1", "ac3", "-c:s", subtitle, "-metadata:s:a:1", "language=deu", path,
        )  # fmt: skip
        return path

    return make


def has_streams(*kinds: str, chapters: int = 0) -> Callable[[Path, Path, FileReport], None]:
    """A check: these kinds of streams are in the output, in this order, and so many chapters."""

    def check(source: Path, output: Path, report: FileReport) -> None:
        facts = oracles.ffprobe(output, "-show_streams", "-show_chapters")
        found = [one["codec_type"] for one in facts["streams"]]
        assert found == list(kinds), found
        assert len(facts["chapters"]) == chapters

    return check


def with_cover(name: str) -> Callable[[Path], Path]:
    """A maker: a video with cover art."""

    def make(folder: Path) -> Path:
        video = coded("v.mp4", *X264)(folder)
        ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x64:d=0.04", "-frames:v", 1, folder / "c.jpg")
        path = folder / name
        ffmpeg(
            "-i",
            video,
            "-i",
            folder / "c.jpg",
            "-map",
            0,
            "-map",
            1,
            "-c",
            "copy",
            "-disposition:v:1",
            "attached_pic",
            path,
        )
        return path

    return make


def two_videos(name: str) -> Callable[[Path], Path]:
    """A maker: two video streams of different size, rate and codec."""

    def make(folder: Path) -> Path:
        first = coded("a.mp4", *X264)(folder)
        second = coded("b.mkv", *MJPEG, size=(128, 96), fps="30", frames=20, pix="yuvj420p", range="pc", tags=None)(
            folder
        )
        path = folder / name
        ffmpeg("-i", first, "-i", second, "-map", 0, "-map", 1, "-c", "copy", path)
        return path

    return make


def vfr(name: str, *codec: object) -> Callable[[Path], Path]:
    """A maker: frames at uneven times."""
    uneven = ",settb=1/90000,setpts='N*3600+mod(N,3)*701'"
    return coded(name, *codec, "-enc_time_base", "1/90000", "-vsync", "passthrough", vf=uneven)


def named(name: str) -> Callable[[Path], Path]:
    """A maker: an ordinary clip under another name."""

    def make(folder: Path) -> Path:
        return coded("plain.mp4", *X264, frames=6)(folder).rename(folder / name)

    return make


H264 = coded("a.mp4", *X264)
H264_TAGGED = {"matrix": "bt709", "tags": True}
ODD = {"size": (85, 71)}
RATE_30 = Fraction(30000, 1001)

CASES = [
    # codec and container
    Case("h264 mp4 untagged", H264),
    Case("h264 mp4 bt709", coded("a.mp4", *X264, **H264_TAGGED), matrix="bt709", primaries="bt709"),
    Case("h264 mp4 untagged 720 lines", coded("a.mp4", *X264, matrix="bt709", size=(96, 720), frames=8), matrix="bt709", primaries="bt709", long=True),
    Case("h264 untagged 576 lines", coded("a.mp4", *X264, size=(96, 576), frames=8), primaries="bt601-625", long=True),
    Case("h264 mov", coded("a.mov", *X264), "out.mov"),
    Case("h264 mkv to mp4", coded("a.mkv", *X264), long=True),
    Case("h264 mp4 to mkv", H264, "out.mkv"),
    Case("h264 mp4 29.97 to mkv", coded("a.mp4", *X264, fps="30000/1001"), "out.mkv", said="rounded to the nearest"),
    Case("h264 ts", coded("a.ts", *X264)),
    Case("h264 ts to mkv", coded("a.ts", *X264), "out.mkv", long=True),
    Case("h264 avi", coded("a.avi", *X264), times=per_second(22, Fraction(25)), long=True),
    Case("h264 avi no b-frames", coded("a.avi", *X264, "-bf", 0), times=per_second(22, Fraction(25)), long=True),
    Case("h264 flv", coded("a.flv", *X264), long=True),
    Case("raw h264", coded("a.h264", *X264), words=["input.fps=25"], times=per_second(22, Fraction(25))),
    Case("raw hevc", coded("a.hevc", *X265), words=["input.fps=30000/1001"], times=per_second(22, RATE_30)),
    Case("hevc mp4", coded("a.mp4", *X265)),
    Case("hevc mkv", coded("a.mkv", *X265), "out.mkv", long=True),
    Case("hevc ts", coded("a.ts", *X265), long=True),
    Case("mpeg4 mp4", coded("a.mp4", *MPEG4), long=True),
    Case("mpeg4 mp4 b-frames", coded("a.mp4", *MPEG4, "-bf", 2), long=True),
    Case("mpeg4 avi", coded("a.avi", *MPEG4)),
    Case("mpeg4 avi b-frames", coded("a.avi", *MPEG4, "-bf", 2), times=per_second(22, Fraction(25)), long=True),
    Case("mpeg2 ts", coded("a.ts", *MPEG2)),
    Case("mpeg2 mpg", coded("a.mpg", *MPEG2), times=per_second(22, Fraction(25), Fraction(54, 100)), long=True),
    Case("mpeg2 mkv", coded("a.mkv", *MPEG2), long=True),
    Case("mjpeg avi", coded("a.avi", *MJPEG, pix="yuvj420p", range="pc", tags=None), range="pc", primaries="bt709"),
    Case("mjpeg mov 4:2:2", coded("a.mov", *MJPEG, pix="yuvj422p", range="pc", tags=None), range="pc", primaries="bt709"),
    Case("mjpeg mkv 4:4:4", coded("a.mkv", *MJPEG, pix="yuvj444p", range="pc", tags=None), range="pc", primaries="bt709", long=True),
    Case("vp9 webm", coded("a.webm", *VP9)),
    Case("vp9 webm 4:4:4", coded("a.webm", *VP9, pix="yuv444p"), long=True),
    Case("vp9 mp4", coded("a.mp4", *VP9), long=True),
    Case("av1 mp4", coded("a.mp4", *AV1)),
    Case("av1 mkv", coded("a.mkv", *AV1), "out.mkv", long=True),
    Case("av1 webm", coded("a.webm", *AV1), long=True),
    Case("prores mov", coded("a.mov", "-c:v", "prores_ks", pix="yuv422p10le", **H264_TAGGED), "out.mov", matrix="bt709", primaries="bt709"),
    Case("h264 rgb mp4", coded("a.mp4", "-c:v", "libx264rgb", "-crf", 4, pix="gbrp", range="pc", tags=None), matrix="rgb", primaries="bt709"),
    Case("wmv2 asf", coded("a.wmv", "-c:v", "wmv2", "-q:v", 2), long=True),
    # sampling, depth and range
    Case("h264 4:2:2", coded("a.mp4", *X264, pix="yuv422p"), long=True),
    Case("h264 4:4:4", coded("a.mp4", *X264, pix="yuv444p")),
    Case("h264 gray", coded("a.mp4", *X264, pix="gray", tags=None), model="tiny"),
    Case("ffv1 gray", coded("a.mkv", "-c:v", "ffv1", pix="gray", range="pc", tags=None), range="pc", long=True),
    Case("h264 full range", coded("a.mp4", *X264, range="pc", tags=True), range="pc"),
    Case("h264 full range yuvj", coded("a.mp4", *X264, pix="yuvj420p", range="pc", tags=None), range="pc", long=True),
    Case("h264 10-bit", coded("a.mp4", *X264, pix="yuv420p10le", **H264_TAGGED), matrix="bt709", primaries="bt709", model="tiny"),
    Case("hevc 10-bit 4:2:2", coded("a.mp4", *X265, pix="yuv422p10le"), long=True),
    Case("hevc 12-bit", coded("a.mp4", *X265, pix="yuv420p12le"), long=True),
    Case("range given", coded("a.mp4", *X264, range="pc"), words=["input.range=full"], range="pc"),
    Case("matrix given", coded("a.mp4", *X264, matrix="bt709"), words=["input.matrix=bt709"], matrix="bt709", primaries="bt709", long=True),
    # time
    Case("vfr mp4", vfr("a.mp4", *X264, "-video_track_timescale", 90000)),
    Case("vfr mp4 to mkv", vfr("a.mp4", *X264, "-video_track_timescale", 90000), "out.mkv", said="rounded to the nearest", long=True),
    Case("vfr mkv", vfr("a.mkv", *X264), "out.mkv"),
    Case("start at 12.3 s mkv", then(H264, "b.mkv", "-output_ts_offset", 12.3), "out.mkv", long=True),
    Case("start at 12.3 s mkv to mp4", then(H264, "b.mkv", "-output_ts_offset", 12.3)),
    Case("start at 12.3 s ts", then(H264, "b.ts", "-output_ts_offset", 12.3)),
    Case("start at 12.3 s mp4", then(H264, "b.mp4", "-output_ts_offset", 12.3), long=True),
    Case("negative start mp4", then(H264, "b.mp4", "-output_ts_offset", -0.1, "-avoid_negative_ts", "disabled")),
    Case("negative start mkv", then(H264, "b.mkv", "-output_ts_offset", -0.1, "-avoid_negative_ts", "disabled"), times=per_second(22, Fraction(25), Fraction(-18, 100))),
    Case("edit list mid GOP", then(H264, "b.mp4", before=["-ss", 0.2])),
    Case("edit list mid GOP mov to mkv", then(H264, "b.mov", before=["-ss", 0.2]), "out.mkv", long=True),
    Case("one keyframe", coded("a.mp4", *X264, "-g", 1000, "-sc_threshold", 0, frames=50)),
    Case("open gop h264", coded("a.mp4", *X264, "-x264-params", "open-gop=1:keyint=8:bframes=3:scenecut=0", frames=40, still=False)),
    Case("open gop hevc mkv", coded("a.mkv", *X265[:-1], "log-level=none:keyint=8:bframes=3:open-gop=1:scenecut=0", frames=40)),
    Case("one frame", coded("a.mp4", *X264, frames=1), model="tiny"),
    Case("two frames", coded("a.mp4", *X264, frames=2)),
    Case("one frame mkv", coded("a.mkv", *X264, frames=1), "out.mkv", long=True),
    Case("one frame ts", coded("a.ts", *X264, frames=1), long=True),
    Case("two frames avi mjpeg", coded("a.avi", *MJPEG, pix="yuvj420p", range="pc", tags=None, frames=2), range="pc", primaries="bt709", long=True),
    Case("half a frame a second", coded("a.mp4", *X264, fps="1/2", frames=5), long=True),
    Case("240 fps", coded("a.mp4", *X264, fps="240", frames=60), tolerance=12, long=True),
    # geometry
    Case("rotation 90", then(H264, "b.mp4", "-metadata:s:v", "rotate=90"), model="tiny"),
    Case("rotation 180 mov", then(H264, "b.mov", "-metadata:s:v", "rotate=180"), "out.mov", long=True),
    Case("rotation 270 mp4 to mov", then(H264, "b.mp4", "-metadata:s:v", "rotate=270"), "out.mov", long=True),
    Case("sar 4:3", coded("a.mp4", *X264, vf=",setsar=4/3")),
    Case("sar 4:3 mkv", coded("a.mkv", *X264, vf=",setsar=4/3"), "out.mkv", long=True),
    Case("sar 4:3 av1 out", coded("a.mp4", *X264, vf=",setsar=4/3"), words=["output.codec=av1", "output.preset=6"], long=True),
    Case("odd h264 4:4:4", coded("a.mp4", *X264, pix="yuv444p", **ODD), said="odd", model="tiny"),
    Case("odd vp9", coded("a.webm", *VP9, **ODD), "out.mkv", model="tiny"),
    Case("odd mjpeg", coded("a.avi", *MJPEG, pix="yuvj420p", range="pc", tags=None, **ODD), "out.mov", range="pc", primaries="bt709", model="tiny", long=True),
    Case("odd mpeg4", coded("a.avi", *MPEG4, **ODD), model="tiny", long=True),
    Case("odd width h264 4:2:2", coded("a.mp4", *X264, pix="yuv422p", size=(86, 71)), model="tiny", long=True),
    Case("interlaced h264", coded("a.mp4", *X264, "-flags", "+ilme+ildct", vf=",setfield=tff", still=True, tags=True), model="tiny"),
    Case("interlaced mpeg2 ts bff", coded("a.ts", *MPEG2, "-flags", "+ilme+ildct", "-top", 0, vf=",setfield=bff", still=True)),
    # streams
    Case("all kinds of streams mkv", many_streams("m.mkv", "srt"), "out.mkv", extra=has_streams("video", "audio", "audio", "subtitle", chapters=2), long=True),
    Case("all kinds of streams mp4", many_streams("m.mp4", "mov_text"), extra=has_streams("video", "audio", "audio", "subtitle", "data", chapters=2)),
    Case("all kinds of streams mkv to mp4", many_streams("m.mkv", "srt"), long=True),
    Case("all kinds of streams mp4 to mkv", many_streams("m.mp4", "mov_text"), "out.mkv", long=True),
    Case("cover art mp4", with_cover("c.mp4"), extra=has_streams("video", "video")),
    Case("cover art mp4 to mkv", with_cover("c.mp4"), "out.mkv", extra=has_streams("video", "video"), long=True),
    Case("cover art mkv to mp4", with_cover("c.mkv"), extra=has_streams("video", "video"), long=True),
    Case("second of two videos", two_videos("t.mkv"), "out.mkv", words=["input.video=1"], streams=[(1, 1)], range="pc", primaries="bt709", long=True),
    Case("timecode mov", coded("a.mov", *X264, "-timecode", "01:00:00:00"), "out.mov", extra=has_streams("video", "data")),
    # outputs
    Case("av1 out mp4", H264, words=["output.codec=av1", "output.preset=6"]),
    Case("av1 out mkv", H264, "out.mkv", words=["output.codec=av1", "output.preset=6"], long=True),
    Case("hlg out", H264, words=["output.transfer=hlg"], model="tiny"),
    Case("hlg av1 mkv", H264, "out.mkv", words=["output.transfer=hlg", "output.codec=av1", "output.preset=6"], long=True),
    Case("mp4 to mov", H264, "out.mov", long=True),
    # names
    Case("odd name", named("Fahrt 100% 'Süd' \"x\" #1; $HOME & [a]*?.mp4"), "Aus gabe %d 'ü' \"y\" #; &.mp4"),
    Case("name like an option", named("-i.mp4"), "-y.mp4", long=True),
    Case("long name", named("n" * 230 + ".mp4"), "m" * 230 + ".mp4"),
]  # fmt: skip


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=[pytest.mark.long] if case.long else []) for case in CASES]
)
def test_every_kind_of_input(case: Case, tmp_path: Path) -> None:
    run_case(case, tmp_path)


def test_all_videos_of_a_file(tmp_path: Path) -> None:
    source = two_videos("t.mkv")(tmp_path)
    output = tmp_path / "out.mkv"
    convert(source, output, load_config("dashcam", None, [*SHORT_SPANS, "model=neutral", "input.video=all"]))
    first = Case("first", H264)
    second = Case("second", H264, range="pc", primaries="bt709")
    for number, case in enumerate((first, second)):
        check_times(source, output, case, number, number)
        check_tags(output, case, number)
        check_picture(source, output, case, number, number)
    assert verify(source, output, full=True).ok


@pytest.mark.parametrize("size", [(16, 16), (48, 64)])
def test_a_very_small_picture_is_refused_for_hevc_before_any_work_and_works_as_av1(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    source = coded("a.mp4", *X264, size=size, still=True)(tmp_path)
    output = tmp_path / "out.mp4"
    with pytest.raises(InputError, match=f"{size[0]}x{size[1]}.*output.codec=av1"):
        convert(source, output, load_config("dashcam", None, SHORT_SPANS))
    assert not output.exists()
    words = [*SHORT_SPANS[:2], "model=neutral", "output.codec=av1", "output.preset=6"]
    try:
        report = convert(source, output, load_config("dashcam", None, words))
    except (InputError, ConversionError) as error:
        assert f"{size[0]}x{size[1]}" in str(error)  # SVT-AV1's own limit is 64 pixels in either direction
        assert not output.exists()
    else:
        assert report.frames == 22


def test_a_name_too_long_is_refused_in_one_sentence(tmp_path: Path) -> None:
    source = coded("a.mp4", *X264, frames=2)(tmp_path)
    with pytest.raises(InputError, match="File name too long"):
        convert(source, tmp_path / ("m" * 251 + ".mp4"), load_config("dashcam", None, SHORT_SPANS))


def flipped(data: bytes, seed: int) -> bytes:
    """1 to 40 bytes changed at places that follow from the seed."""
    chance = random.Random(seed)
    changed = bytearray(data)
    for _ in range(chance.choice((1, 3, 10, 40))):
        changed[chance.randrange(len(changed))] ^= chance.randrange(1, 256)
    return bytes(changed)


def check_bad(source: Path, words: Sequence[str] = ()) -> str:
    """Either one sentence that names the file, or an output that passes verify; never anything else. Says which."""
    output = source.with_name(f"{source.stem}_out.{'mkv' if source.suffix == '.mkv' else 'mp4'}")
    try:
        convert(source, output, load_config("dashcam", None, [*SHORT_SPANS, "model=neutral", *words]))
    except (InputError, ConversionError) as error:
        assert source.name in str(error) or output.name in str(error)
        assert not output.exists()
        return str(error)
    report = verify(source, output)
    assert report.ok, [f"{check.name}: {check.detail}" for check in report.checks if not check.ok]
    return ""


BAD = {
    "mp4": many_streams("a.mp4", "mov_text"),
    "faststart": then(many_streams("m.mp4", "mov_text"), "b.mp4", "-map", 0, "-map", "-0:d", "-movflags", "+faststart"),
    "mkv": many_streams("a.mkv", "srt"),
    "ts": coded("a.ts", *X264),
    "avi": coded("a.avi", *MPEG4),
}
NEVER_SAID = {"ts"}
"""A transport stream says nowhere how long it is."""


@pytest.mark.parametrize(
    ("kind", "step"),
    [("mp4", 5), ("mkv", 10), ("faststart", 10), *(pytest.param(kind, 5, marks=pytest.mark.long) for kind in BAD)],
)
def test_files_cut_anywhere(kind: str, step: int, tmp_path: Path) -> None:
    """Every `step` % of the file: a sentence, and with --salvage a sentence or a verified output."""
    whole = BAD[kind](tmp_path)
    data = whole.read_bytes()
    for part in range(5, 100, step):
        source = tmp_path / f"cut{part}{whole.suffix}"
        source.write_bytes(data[: len(data) * part // 100])
        said = check_bad(source)
        if kind not in NEVER_SAID and part <= 60:
            assert said
        if "--salvage" in said:
            assert check_bad(source, ["input.salvage=true"]) == ""


@pytest.mark.parametrize(
    ("kind", "count"), [("mkv", 10), *(pytest.param(kind, 20, marks=pytest.mark.long) for kind in BAD)]
)
def test_files_with_flipped_bytes(kind: str, count: int, tmp_path: Path) -> None:
    whole = BAD[kind](tmp_path)
    data = whole.read_bytes()
    for seed in range(count):
        source = tmp_path / f"flip{seed}{whole.suffix}"
        source.write_bytes(flipped(data, seed))
        check_bad(source)
