"""Proxies: size, colour against formulas written out here, times and sound as the source's, the same bytes whatever happens."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Config, load_config
from pipeline import encode, span_job, span_parts
from pipeline.color import OutputSpec
from pipeline.convert import convert
from pipeline.encoder_choice import proxy_encoder
from pipeline.errors import ConversionError, InputError
from pipeline.proxy import Proxy, make_proxy, proxy_in, proxy_size, resize, tone_mapped
from tests import oracles
from tests.clips import make_clip
from tests.joinery import ffmpeg

Array = np.ndarray
ROOT = Path(__file__).resolve().parents[1]
WORDS = ["model=neutral", "temporal.radius=0", "span.target_seconds=0.6", "span.min_seconds=0.3"]
BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
)  # BT.2407-0, 2.2
PQ = OutputSpec("pq", 203.0, 1000.0)


def config(*words: str) -> Config:
    return load_config("dashcam", None, [*WORDS, *words])


def light(*shape: int, top: float = 5.0) -> torch.Tensor:
    """Smooth light from dark to far above white."""
    coarse = torch.rand((1, 3, 5, 7), generator=torch.Generator().manual_seed(5)) ** 2 * top
    return torch.nn.functional.interpolate(coarse, size=shape, mode="bilinear")[0]


@given(st.integers(2, 8000), st.integers(2, 8000), st.integers(64, 7680))
def test_sizes_are_even_and_small_and_keep_the_shape(width: int, height: int, most: int) -> None:
    wide, tall = proxy_size(width, height, most)
    assert wide % 2 == tall % 2 == 0 and 2 <= wide <= min(width, most) and tall <= max(height, 2)
    assert tall == 2 or abs(tall - height * wide / width) <= 1.001 + height / width


def test_names_go_there_and_back() -> None:
    assert proxy_in(["mask", Proxy("hlg", 640).name, "stats"]) == Proxy("hlg", 640)
    assert proxy_in(["mask", "stats"]) is None


@pytest.mark.parametrize("size", [(45, 64), (40, 63), (31, 90), (45, 127), (7, 11)])
def test_resize_agrees_with_torchs_antialiased_one(size: tuple[int, int]) -> None:
    picture = torch.rand((3, 45, 127), generator=torch.Generator().manual_seed(1))
    wanted = torch.nn.functional.interpolate(picture[None], size=size, mode="bilinear", antialias=True)[0]
    assert (resize(picture, *size) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["sdr", "hlg"])
def test_bits_do_not_depend_on_torchs_threads(kind: str) -> None:
    picture, threads, made = light(270, 480), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            made.append(make_proxy(picture, Proxy(kind, 300), PQ, 7))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for planes in made[1:] for one, other in zip(made[0], planes, strict=True))


@pytest.mark.parametrize("kind", ["sdr", "hlg"])
@pytest.mark.parametrize("size", [(64, 96), (128, 192), (74, 100)])
def test_an_encoder_writes_the_same_bytes_each_time(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    """Whatever lies in memory that was freed: x264's macroblock tree read it, and took other decisions each time."""
    height, width = size
    base, chance = light(height, width + 12), torch.Generator().manual_seed(4)
    grain = [0.05 * torch.rand((3, height, width), generator=chance) for _ in range(12)]
    pictures = [base[:, :, number : number + width] + one for number, one in enumerate(grain)]
    frames = [make_proxy(picture, Proxy(kind, 1280), PQ, number) for number, picture in enumerate(pictures)]
    shape = {"width": width, "height": height, "time_base": Fraction(1, 12800), "rate": Fraction(25)}
    found = set()
    for turn in range(8):
        torch.rand(turn * 1000 + 1)
        path = tmp_path / "piece.mp4"
        more = {"sample_aspect_ratio": None, "transfer": kind, "threads": 1 + turn % 3}
        with encode.SpanEncoder(path, proxy_encoder(kind), **shape, **more) as encoder:
            for number, planes in enumerate(frames):
                encoder.write(*planes, 512 * number, 512)
        found.add(path.read_bytes())
    assert len(found) == 1


def test_mid_tones_stay_highlights_fold_in_and_hue_is_kept() -> None:
    levels = torch.linspace(0, 6, 601)
    grey = tone_mapped(levels.expand(3, 1, 601), 5.0)[0, 0]
    assert torch.allclose(grey[:41], levels[:41])
    assert (grey.diff()[:500] > 0).all() and float(grey[500]) == pytest.approx(1.0, abs=1e-5)
    orange = torch.tensor([4.0, 2.0, 0.5])[:, None, None]
    folded = tone_mapped(orange, 5.0)
    assert torch.allclose(folded / folded[0], orange / orange[0]) and float(folded[0]) < 1
    assert tone_mapped(torch.full((3, 1, 1), float("nan")), 5.0).eq(0).all()


def pq_nits(codes: Array) -> Array:
    """SMPTE ST 2084 by its formula: signal -> nits."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    root = np.clip(codes, 0, 1) ** (1 / m2)
    return 10000 * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)


def hlg_nits(signal: Array) -> Array:
    """BT.2100 Table 5: signal (..., 3) -> nits of the 1000-nit display."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    signal = np.clip(signal, 0, 1)
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
    return 1000 * scene * luminance[..., None] ** 0.2


def rgb(path: Path, kr: float, kb: float, bits: int) -> list[Array]:
    """R', G', B' (H, W, 3) of every frame of a limited-range 4:2:0 video; chroma just repeated, for smooth pictures."""
    pictures, unit = [], 1 << (bits - 8)
    with av.open(str(path)) as file:
        for frame in file.decode(video=0):
            y, u, v = (torch.from_dlpack(plane).numpy().astype(np.float64) for plane in frame.planes)
            y = (y - 16 * unit) / (219 * unit)
            cb, cr = (np.kron((one - 128 * unit) / (224 * unit), np.ones((2, 2))) for one in (u, v))
            r, b = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
            pictures.append(np.stack([r, (y - kr * r - kb * b) / (1 - kr - kb), b], -1))
    return pictures


@pytest.fixture(scope="module")
def smooth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of slow colour, lossless, half of them above the knee once they are graded up."""
    path = tmp_path_factory.mktemp("smooth") / "smooth.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv444p"
        stream.options = {"qp": "0"}
        y, x = np.mgrid[:64, :96]
        for number in range(6):
            frame = av.VideoFrame(96, 64, "yuv444p")
            values = (30 + 1.9 * x + number, 128 + 20 * np.sin(y / 20), 128 + 20 * np.cos((x + y) / 30))
            for plane, value in zip(frame.planes, values, strict=True):
                rows = np.zeros((64, plane.line_size), np.uint8)
                rows[:, :96] = np.clip(value, 16, 235)
                plane.update(rows.tobytes())
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("width", [1280, 64])
def test_sdr_colour_is_the_results_light_tone_mapped(smooth: Path, tmp_path: Path, width: int) -> None:
    output = tmp_path / "o.mkv"
    words = ["output.codec=ffv1", "grade.exposure_stops=1.6", "extras.proxy=sdr", f"extras.proxy_width={width}"]
    report = convert(smooth, output, config(*words))
    assert report.beside == [str(tmp_path / "o.proxy.mp4")]
    results, proxies = rgb(output, 0.2627, 0.0593, 10), rgb(tmp_path / "o.proxy.mp4", 0.2126, 0.0722, 8)
    highest = 0.0
    for result, proxy in zip(results, proxies, strict=True):
        shown = np.maximum(pq_nits(result) @ BT2020_TO_BT709.T / 203, 0)
        largest = shown.max(-1, keepdims=True)
        above, full = (np.maximum(largest, 0.4) - 0.4) / 0.6, (1000 / 203 - 0.4) / 0.6
        folded = 0.4 + 0.6 * above * (1 + above / full**2) / (1 + above)
        shown = shown * np.where(largest > 0.4, folded / np.maximum(largest, 1e-9), 1)
        if width == 64:
            small = torch.from_numpy(shown).permute(2, 0, 1)[None]
            small = torch.nn.functional.interpolate(small, size=(42, 64), mode="bilinear", antialias=True)
            shown = small[0].permute(1, 2, 0).numpy()
        off = (np.clip(shown, 0, 1) ** (1 / 2.4) - np.clip(proxy, 0, 1)) * 219
        off = off[shown.min(-1) > 0.02]  # near black a code of gamma is little light
        assert np.abs(off).mean() < 2 and np.abs(off.mean(0)).max() < 1
        highest = max(highest, float(largest.max()))
    assert highest > 2


def test_hlg_shows_the_results_light(smooth: Path, tmp_path: Path) -> None:
    output = tmp_path / "o.mkv"
    convert(smooth, output, config("output.codec=ffv1", "grade.exposure_stops=1.6", "extras.proxy=hlg"))
    results, proxies = (rgb(path, 0.2627, 0.0593, 10) for path in (output, tmp_path / "o.proxy.mp4"))
    for result, proxy in zip(results, proxies, strict=True):
        nits, shown = pq_nits(result), hlg_nits(proxy)
        bright = nits > 5
        assert np.abs(shown[bright] / nits[bright] - 1).mean() < 0.03
        assert np.abs(shown - nits)[~bright].mean() < 0.3
    stream = oracles.ffprobe(tmp_path / "o.proxy.mp4", "-select_streams", "v", "-show_streams")["streams"][0]
    assert (stream["color_transfer"], stream["profile"], stream["codec_tag_string"]) == (
        "arib-std-b67",
        "Main 10",
        "hvc1",
    )
    assert oracles.mediainfo(tmp_path / "o.proxy.mp4")["transfer_characteristics"] == "HLG"


def test_a_peak_above_hlgs_is_folded_in_not_clipped() -> None:
    """Colours between 1000 nits and the result's peak keep their hue."""
    orange = torch.tensor([12.0, 6.0, 1.5])[:, None, None].expand(3, 8, 8)
    y, u, v = make_proxy(orange, Proxy("hlg", 64), OutputSpec("pq", 203.0, 4000.0), 0)
    signal = np.array([float(plane.float().mean()) for plane in (y, u, v)])
    luma, cb, cr = (signal[0] - 64) / 876, (signal[1] - 512) / 896, (signal[2] - 512) / 896
    red, blue = luma + 1.4746 * cr, luma + 1.8814 * cb
    green = (luma - 0.2627 * red - 0.0593 * blue) / 0.6780
    shown = BT2020_TO_BT709 @ hlg_nits(np.array([[red, green, blue]]))[0]
    assert shown[0] == pytest.approx(980, rel=0.05)
    assert shown / shown[0] == pytest.approx([1, 0.5, 0.125], abs=0.02)


@pytest.mark.parametrize("kind", ["sdr", "hlg"])
@pytest.mark.parametrize("rotation", [0, 90])
def test_times_sound_and_turn_are_the_sources(tmp_path: Path, kind: str, rotation: int) -> None:
    """Variable frame rate, several spans, seen by ffprobe and mediainfo."""
    pts = np.cumsum([0, *np.random.default_rng(2).integers(2000, 5000, 39)]).tolist()
    source = make_clip(
        tmp_path / "a.mp4",
        frames=40,
        width=130,
        height=96,
        gop=9,
        audio=True,
        pts=pts,
        time_base=Fraction(1, 90000),
        rotation=rotation,
        sample_aspect_ratio=Fraction(4, 3),
    )
    output, proxy = tmp_path / "o.mov", tmp_path / "o.proxy.mp4"
    report = convert(source, output, config(f"extras.proxy={kind}", "extras.proxy_width=100"))
    assert report.spans_done > 1 and str(proxy) in report.beside
    times = oracles.frame_times(source)
    assert len(times) == 40 and oracles.frame_times(proxy) == times == oracles.frame_times(output)
    assert oracles.packets(proxy, 1) == oracles.packets(source, 1)
    facts = oracles.ffprobe(proxy, "-show_streams", "-show_format")
    video, sound = facts["streams"]
    assert (video["width"], video["height"], video["sample_aspect_ratio"]) == (100, 74, "4:3")
    assert (video["codec_name"], video["pix_fmt"]) == {"sdr": ("h264", "yuv420p"), "hlg": ("hevc", "yuv420p10le")}[kind]
    assert sound["codec_name"] == "aac"
    seen = oracles.mediainfo(proxy)
    assert float(seen.get("Rotation", 0)) == float(oracles.mediainfo(source).get("Rotation", 0))
    assert seen["transfer_characteristics"] == {"sdr": "BT.709", "hlg": "HLG"}[kind]


SOURCE = ["-f", "lavfi", "-i", "testsrc=s=96x64:r=25:d=0.8", "-f", "lavfi", "-i", "sine=r=48000:d=0.8"]


def test_a_start_before_zero_moves_both_alike(tmp_path: Path) -> None:
    """A clock that wraps half a second in: FFmpeg counts the start down from the wrap, and mp4 cannot say it."""
    source, output = tmp_path / "a.ts", tmp_path / "o.mp4"
    late = ["-c:v", "libx264", "-c:a", "aac", "-muxdelay", "0", "-muxpreload", "0", "-output_ts_offset", "95443.3"]
    ffmpeg(*SOURCE, *late, source)
    report = convert(source, output, config("extras.proxy=sdr"))
    assert sum("before time 0" in warning for warning in report.warnings) == 1
    proxy = tmp_path / "o.proxy.mp4"
    assert oracles.frame_times(proxy) == oracles.frame_times(output)
    assert oracles.packets(proxy, 1) == oracles.packets(output, 1)


@pytest.mark.parametrize("second", [True, False])
def test_the_first_sound_that_mp4_takes_is_in_it(tmp_path: Path, second: bool) -> None:
    source, output = tmp_path / "a.mkv", tmp_path / "o.mkv"
    sounds = ["-map", "0", "-map", "1", "-c:a:0", "wmav2"] + (["-map", "1", "-c:a:1", "aac"] if second else [])
    ffmpeg(*SOURCE, *sounds, source)
    report = convert(source, output, config("extras.proxy=sdr"))
    kinds = [stream["codec_name"] for stream in oracles.ffprobe(tmp_path / "o.proxy.mp4", "-show_streams")["streams"]]
    assert kinds == (["h264", "aac"] if second else ["h264"])
    assert any("has no sound" in warning for warning in report.warnings) != second
    if second:
        wanted = [digest for _, digest in oracles.packets(source, 2)]
        assert [digest for _, digest in oracles.packets(tmp_path / "o.proxy.mp4", 1)] == wanted


def test_the_result_is_the_same_with_or_without_and_a_proxy_can_be_had_later(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=30, width=96, height=64, gop=13)
    output, proxy = tmp_path / "o.mp4", tmp_path / "o.proxy.mp4"
    convert(source, output, config())
    plain = output.read_bytes()
    assert not proxy.exists()
    assert convert(source, output, config("extras.proxy=sdr")).status == "done"
    first = proxy.read_bytes()
    assert output.read_bytes() == plain
    assert convert(source, output, config("extras.proxy=sdr")).status == "already done"
    for other in ("extras.proxy=hlg", "extras.proxy_width=64"):
        assert convert(source, output, config("extras.proxy=sdr", other)).status == "done", other
        assert proxy.read_bytes() != first
        assert output.read_bytes() == plain
    convert(source, output, config("grade.peak_nits=600", "extras.proxy=sdr"), overwrite=True)
    assert proxy.read_bytes() != first


@pytest.mark.parametrize("kind", [pytest.param("sdr", marks=pytest.mark.long), "hlg"])
def test_threads_and_a_stop_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Stopped while a span's proxy is checked, and just after the result is published."""
    source = make_clip(tmp_path / "a.mp4", frames=40, width=144, height=96, gop=13, audio=True)
    words = config(f"extras.proxy={kind}", "extras.proxy_width=100")
    folders = [tmp_path / name for name in ("one", "four", "stopped", "late")]
    convert(source, folders[0] / "o.mp4", words)
    convert(source, folders[1] / "o.mp4", words, threads=4)
    calls = []

    def dying(path: Path, *args: object, **options: object) -> None:
        calls.append(path)
        if len(calls) == 4:
            raise KeyboardInterrupt
        encode.check_span(path, *args, **options)

    monkeypatch.setattr(span_job, "check_span", dying)
    with pytest.raises(KeyboardInterrupt):
        convert(source, folders[2] / "o.mp4", words)
    monkeypatch.undo()
    assert convert(source, folders[2] / "o.mp4", words).spans_reused == 1
    monkeypatch.setattr("pipeline.extras.write_proxy", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        convert(source, folders[3] / "o.mp4", words)
    monkeypatch.undo()
    report = convert(source, folders[3] / "o.mp4", words)
    assert (report.status, report.spans_done) == ("done", 0)
    for name in ("o.mp4", "o.proxy.mp4"):
        assert len(set(oracles.digest([folder / name for folder in folders]))) == 1, name
    assert sorted(path.name for path in folders[3].iterdir()) == ["o.mp4", "o.proxy.mp4"]


KILLED = """
import os, signal, sys
from pathlib import Path
from configs.schema import load_config
from pipeline import convert as conversions, extras, proxy_file, span_job

def die(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def killed(output, moment):
    if moment == "joined":
        extras.write_proxy = die
    elif moment == "joining":
        proxy_file.publish = die
    else:
        real, seen = span_job.publish, []
        def publish(*args):
            seen.append(args)
            if len(seen) == int(moment):
                die()
            real(*args)
        span_job.publish = publish
    conversions.convert(source, output, load_config("dashcam", None, words))

source, folder, moments, words = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(), sys.argv[4:]
for moment in moments:
    child = os.fork()
    if child == 0:
        killed(folder / moment / "o.mov", moment)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (moment, status)
"""


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """SIGKILL before a second span's proxy is published, between it and its video, when the result is there, and in the join."""
    source = make_clip(tmp_path / "a.mp4", frames=40, width=96, height=64, gop=13, audio=True)
    words = [*WORDS, "output.codec=prores", "extras.proxy=sdr"]
    wanted = tmp_path / "undisturbed"
    convert(source, wanted / "o.mov", load_config("dashcam", None, words))
    moments = ("3", "4", "joined", "joining")
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path), " ".join(moments), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for moment in moments:
        output = tmp_path / moment / "o.mov"
        report = convert(source, output, load_config("dashcam", None, words))
        assert report.status == "done" and report.spans_reused >= 1
        for name in ("o.mov", "o.proxy.mp4"):
            assert (output.parent / name).read_bytes() == (wanted / name).read_bytes(), (moment, name)
        assert sorted(path.name for path in output.parent.iterdir()) == ["o.mov", "o.proxy.mp4"]


def test_a_piece_that_decodes_to_something_else_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the encoder was given and what decodes are compared for the proxy too."""

    class Dimming(encode.SpanEncoder):
        def write(self, y: torch.Tensor, u: torch.Tensor, v: torch.Tensor, pts: int, duration: int) -> None:
            super().write(y // 2 if self.choice.codec == "h264" else y, u, v, pts, duration)

    source = make_clip(tmp_path / "a.mp4", frames=8, width=96, height=64)
    monkeypatch.setattr(span_parts, "SpanEncoder", Dimming)
    with pytest.raises(ConversionError, match=r"proxy_sdr_1280.*frame 0 has mean luma"):
        convert(source, tmp_path / "o.mp4", config("extras.proxy=sdr"))
    assert not (tmp_path / "o.mp4").exists()


def test_a_picture_too_narrow_for_hlg_is_refused(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=8, width=48, height=64)
    with pytest.raises(InputError, match="legal: none, sdr"):
        convert(source, tmp_path / "o.mkv", config("output.codec=ffv1", "extras.proxy=hlg"))
    convert(source, tmp_path / "o.mkv", config("output.codec=ffv1", "extras.proxy=sdr"))
    assert len(oracles.frame_times(tmp_path / "o.proxy.mp4")) == 8
