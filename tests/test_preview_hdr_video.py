"""HDR video for the browser: judged by ffprobe, by FFmpeg's decoders, and by Chromium's Media Source Extensions."""

from __future__ import annotations

import http.server
import json
import threading
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from pipeline.boxes import read_boxes
from pipeline.errors import ConversionError, InputError
from preview.hdr_video import DELAY_FRAMES, FRAGMENT_FRAMES, KEY_FRAMES, EncoderStalled, Fragment, HdrVideo
from tests import oracles
from tests.browser import CHROMIUM, FLAGS, PATIENCE_MS
from tests.clips import packed

PAGE = """<!doctype html><video id="v" muted></video><script>
async function play(codec, pieces) {
  const video = document.getElementById("v"), source = new MediaSource();
  video.src = URL.createObjectURL(source);
  await new Promise(done => source.addEventListener("sourceopen", done, {once: true}));
  const buffer = source.addSourceBuffer(`video/mp4; codecs="${codec}"`);
  for (const name of pieces) {
    const data = await (await fetch(name)).arrayBuffer();
    await new Promise((done, failed) => {
      buffer.addEventListener("updateend", done, {once: true});
      buffer.addEventListener("error", failed, {once: true});
      buffer.appendBuffer(data);
    });
  }
  source.endOfStream();
  const ranges = [...Array(video.buffered.length).keys()].map(i => [video.buffered.start(i), video.buffered.end(i)]);
  video.currentTime = ranges[0][0];
  const ended = new Promise((done, failed) => {
    video.addEventListener("ended", done, {once: true});
    video.addEventListener("error", () => failed(video.error.message), {once: true});
  });
  await video.play();
  await ended;
  const quality = video.getVideoPlaybackQuality();
  return {width: video.videoWidth, height: video.videoHeight, ranges, frames: quality.totalVideoFrames};
}
</script>"""


def encoded(
    frames: int, times: list[float], width: int, height: int, **options: object
) -> tuple[HdrVideo, list[Fragment]]:
    """By a second encoder where the first stands still, as SVT-AV1 rarely does (preview/encoder_thread.py)."""
    try:
        return _encoded(frames, times, width, height, **options)
    except EncoderStalled as stalled:
        warnings.warn(str(stalled), stacklevel=1)
        return _encoded(frames, times, width, height, **options)


def _encoded(
    frames: int, times: list[float], width: int, height: int, **options: object
) -> tuple[HdrVideo, list[Fragment]]:
    video = HdrVideo(width, height, Fraction(25), **options)
    pieces = [piece for number in range(frames) for piece in video.write(packed(number, width, height), times[number])]
    return video, pieces + video.close()


def joined(pieces: list[Fragment], path: Path) -> Path:
    path.write_bytes(b"".join(piece.data for piece in pieces))
    return path


def uneven_times(frames: int, start: float = 0.0) -> list[float]:
    """Exact in ticks of 1/90000 s; every third frame is shown twice as long."""
    ticks = np.cumsum([0] + [7200 if number % 3 == 0 else 3600 for number in range(frames - 1)])
    return [start + int(tick) / 90_000 for tick in ticks]


@pytest.mark.parametrize(("codec", "transfer"), [("av1", "pq"), ("av1", "hlg"), ("hevc", "pq")])
def test_ffprobe_sees_every_frame_at_its_time_with_all_tags(tmp_path: Path, codec: str, transfer: str) -> None:
    times = uneven_times(21, start=3.0)
    _, pieces = encoded(21, times, 192, 108, codec=codec, transfer=transfer)
    path = joined(pieces, tmp_path / "all.mp4")
    stream = oracles.ffprobe(path, "-show_streams")["streams"][0]
    told = {
        "codec_name": codec,
        "pix_fmt": "yuv420p10le",
        "width": 192,
        "height": 108,
        "color_range": "tv",
        "color_space": "bt2020nc",
        "color_primaries": "bt2020",
        "color_transfer": {"pq": "smpte2084", "hlg": "arib-std-b67"}[transfer],
        "codec_tag_string": {"av1": "av01", "hevc": "hvc1"}[codec],
    }
    assert {key: stream[key] for key in told} == told
    assert [float(time) for time in oracles.frame_times(path)] == pytest.approx(times, abs=1e-9)
    boxes = read_boxes(pieces[0].data)
    assert (boxes.colour.primaries, boxes.colour.matrix, boxes.colour.full_range) == (9, 9, False)
    assert boxes.colour.transfer == {"pq": 16, "hlg": 18}[transfer]
    assert (boxes.mastering.peak_nits if boxes.mastering else None) == (1000 if transfer == "pq" else None)


@pytest.mark.parametrize("codec", ["av1", "hevc"])
def test_what_is_decoded_is_what_went_in(tmp_path: Path, codec: str) -> None:
    _, pieces = encoded(KEY_FRAMES + 3, uneven_times(KEY_FRAMES + 3), 320, 180, codec=codec)
    with av.open(str(joined(pieces, tmp_path / "all.mp4"))) as file:
        pictures = [frame.to_ndarray() for frame in file.decode(video=0)]
    assert len(pictures) == KEY_FRAMES + 3
    for number, picture in enumerate(pictures):
        wanted = packed(number, 320, 180).y.numpy().astype(np.float64)
        error = picture[:180].astype(np.float64) - wanted
        assert abs(error.mean()) < 2, number
        assert 10 * np.log10(1023**2 / (error**2).mean()) > 36, number


@pytest.mark.parametrize("codec", ["av1", "hevc"])
def test_a_fragment_comes_out_one_frame_after_its_last(codec: str) -> None:
    video, times = HdrVideo(128, 72, Fraction(25), codec=codec), uneven_times(14)
    seen = 0
    for number, time in enumerate(times):
        pieces = video.write(packed(number, 128, 72), time)
        assert [piece.init for piece in pieces if piece.init] == ([True] if number == 0 else [])
        for piece in pieces:
            if not piece.init:
                assert piece.first_frame == seen
                assert piece.seconds == pytest.approx(times[seen])
                assert piece.duration_seconds == pytest.approx(times[seen + FRAGMENT_FRAMES] - times[seen])
                seen += FRAGMENT_FRAMES
        assert seen == max(0, number + 1 - DELAY_FRAMES) // FRAGMENT_FRAMES * FRAGMENT_FRAMES
    rest = video.close()
    assert sum(piece.data.count(b"moof") for piece in rest) == len(times) - seen
    assert rest[-1].seconds + rest[-1].duration_seconds == pytest.approx(times[-1] + 1 / 25)
    assert video.close() == []


def test_key_frames_begin_fragments(tmp_path: Path) -> None:
    frames = 2 * KEY_FRAMES + 1
    _, pieces = encoded(frames, uneven_times(frames), 64, 48)
    facts = oracles.ffprobe(joined(pieces, tmp_path / "all.mp4"), "-show_entries", "packet=flags")["packets"]
    keys = [number for number, packet in enumerate(facts) if "K" in packet["flags"]]
    assert keys == [0, KEY_FRAMES, 2 * KEY_FRAMES]
    assert set(keys) <= {piece.first_frame for piece in pieces}
    # The second group alone, after the initialisation segment, decodes: what a seek in the buffer relies on.
    late = [pieces[0], *(piece for piece in pieces[1:] if piece.first_frame >= KEY_FRAMES)]
    assert len(oracles.frame_times(joined(late, tmp_path / "late.mp4"))) == KEY_FRAMES + 1


@pytest.mark.parametrize(("width", "height"), [(97, 55), (96, 55), (641, 361), (16, 16)])
def test_odd_and_small_sizes(tmp_path: Path, width: int, height: int) -> None:
    _, pieces = encoded(6, uneven_times(6), width, height)
    path = joined(pieces, tmp_path / "odd.mp4")
    assert len(oracles.frame_times(path)) == 6
    clap = read_boxes(pieces[0].data).clap
    if width % 2 or height % 2:
        assert (clap.width, clap.height) == (width, height)
    else:
        assert clap is None


def test_what_cannot_be_is_told() -> None:
    for words in (
        {"codec": "vp9"},
        {"transfer": "sdr"},
        {"width": 0},
        {"rate": Fraction(0)},
        {"codec": "hevc", "width": 32},
    ):
        with pytest.raises(InputError, match="HDR video of"):
            HdrVideo(**({"width": 64, "height": 48, "rate": Fraction(25)} | words))
    with HdrVideo(64, 48, Fraction(25)) as video:
        video.write(packed(0, 64, 48), 0.5)
        with pytest.raises(ConversionError, match="does not come after"):
            video.write(packed(1, 64, 48), 0.5)
        with pytest.raises(ConversionError, match="luma rows"):
            video.write(packed(1, 66, 48), 0.6)
    with pytest.raises(ConversionError, match="closed"):
        video.write(packed(1, 64, 48), 0.6)


class _Files(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder that is served on loopback, and its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: _Files(*args, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(("width", "height"), [pytest.param(320, 180, marks=pytest.mark.long), (321, 181)])
def test_chromium_plays_it_by_media_source_extensions(site: tuple[Path, str], width: int, height: int) -> None:
    folder, address = site
    times = uneven_times(KEY_FRAMES + 10, start=2.0)
    video, pieces = encoded(len(times), times, width, height)
    names = [f"piece{number}" for number in range(len(pieces))]
    for name, piece in zip(names, pieces, strict=True):
        (folder / name).write_bytes(piece.data)
    (folder / "index.html").write_text(PAGE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=180_000)
        try:
            page = browser.new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.goto(f"{address}/index.html")
            mime = f'video/mp4; codecs="{video.codec_string}"'
            assert page.evaluate("mime => MediaSource.isTypeSupported(mime)", mime), mime
            seen = page.evaluate(f"play({json.dumps(video.codec_string)}, {json.dumps(names)})")
        finally:
            browser.close()
    assert (seen["width"], seen["height"]) in {(width, height), (width + width % 2, height + height % 2)}
    assert len(seen["ranges"]) == 1, "no gap between the fragments"
    assert seen["ranges"][0] == pytest.approx([times[0], times[-1] + 1 / 25], abs=1e-3)
    assert seen["frames"] == len(times)


@pytest.mark.parametrize(
    ("codec", "shape", "wanted"),
    [
        ("av1", (640, 360), "av01.0.01M.10.0.112.09.16.09.0"),
        ("hevc", (640, 360), "hvc1.2.4.L63.90"),
    ],
)
def test_codec_string(codec: str, shape: tuple[int, int], wanted: str) -> None:
    """AV1 level 2.1 ("01") is for up to 704x396 at 30 frames a second, HEVC level 2.1 (63) for 640x360 at 30."""
    with HdrVideo(*shape, Fraction(25), codec=codec) as video:
        assert video.codec_string == wanted
