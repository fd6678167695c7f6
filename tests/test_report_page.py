"""reporting: one page that needs nothing else, with the right frames of both files, against FFmpeg and a browser's rules."""

from __future__ import annotations

import base64
import dataclasses
import re
import subprocess
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import torch

from pipeline import frame_stats
from pipeline.color import ColorSpec, PixelLayout, unpack_hdr
from pipeline.errors import ConversionError, InputError
from pipeline.index import build_index
from reporting import charts, pictures
from reporting.facts import OverlayFound, ReportFacts, StreamKept, TrackFacts
from reporting.page import page, write_report
from tests.clips import make_clip

VOID = {"meta", "img", "image", "path", "polyline", "circle", "br"}
FRAMES, WIDTH, HEIGHT = 12, 96, 64


def rows(frames: int = FRAMES) -> np.ndarray:
    """Frame 2 is the darkest, 5 flickers, 9 is the brightest, 7 the most restored."""
    table = np.zeros(frames, frame_stats.TABLE)
    table["frame"] = np.arange(frames)
    table["fall_nits"] = np.linspace(50, 60, frames)
    table["fall_nits"][2], table["fall_nits"][5], table["fall_nits"][9] = 49, 58, 61
    table["max_cll_nits"] = 400
    table["max_scl_nits"] = 400
    table["percentiles_nits"] = np.linspace(1, 390, len(frame_stats.PERCENTILES))
    table["restored_share"] = 0.01
    table["restored_share"][7] = 0.2
    table["histogram"][:, 20:50] = 200
    return table


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> ReportFacts:
    folder = tmp_path_factory.mktemp("report")
    source, result = folder / '<b>drive & "co".mp4', folder / "hdr.mp4"
    make_clip(source, frames=FRAMES, width=WIDTH, height=HEIGHT)
    make_clip(
        result,
        "libx265",
        frames=FRAMES,
        width=WIDTH,
        height=HEIGHT,
        pix_fmt="yuv420p10le",
        options={"x265-params": "log-level=none"},
    )
    track = TrackFacts(
        source_stream=0,
        result_stream=0,
        source_index=build_index(source, 0),
        width=WIDTH,
        height=HEIGHT,
        rate=Fraction(25),
        rotation_degrees=0,
        sample_aspect_ratio=None,
        layout=PixelLayout("420", 8),
        color=ColorSpec("bt709", "limited", "bt1886", "bt709", "left"),
        deinterlace=False,
        stats=rows(),
        overlays=(OverlayFound(4, 6, 40, 10, "a line of text"),),
    )
    return ReportFacts(
        source=source,
        result=result,
        transfer="pq",
        white_nits=203.0,
        peak_nits=1000.0,
        restores_highlights=True,
        made_with=(("checkpoint", "tiny"),),
        tracks=(track,),
        streams=(StreamKept("stream 1", "data (gpmd)", "kept", "packet for packet"),),
        warnings=("a <warning> & more",),
        timings=(("decode", 1.5), ("compute", 30.0)),
        files_beside=(("hdr.mask.mp4", "where the network worked"),),
    )


@pytest.fixture(scope="module")
def text(facts: ReportFacts) -> str:
    return page(facts)


class Reader(HTMLParser):
    """Every tag is closed in order; every address is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        assert tag in VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


def test_the_page_needs_nothing_from_anywhere(text: str) -> None:
    reader = read(text)
    assert reader.addresses
    assert all(address.startswith("data:image/") for address in reader.addresses)
    assert not {"script", "link", "iframe", "object", "embed", "form"} & set(reader.tags)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style is not None
    assert not re.search(r"url\(|@import", style[1])
    outside = re.sub(r'(src|href)="data:[^"]*"', "", text)
    assert not re.search(r"https?:|//[a-z]", outside)
    assert "default-src 'none'" in text


def test_the_page_fits_narrow_screens_and_both_themes(text: str) -> None:
    assert '<meta name="viewport" content="width=device-width,initial-scale=1">' in text
    assert "prefers-color-scheme:dark" in text
    assert "color-scheme:light dark" in text


def test_names_and_warnings_cannot_become_markup(text: str) -> None:
    reader = read(text)
    assert "b" in reader.tags  # the page's own figures
    assert "<b>drive" not in text
    assert "<warning>" not in text
    words = " ".join(reader.words)
    assert '<b>drive & "co".mp4' in words
    assert "a <warning> & more" in words


def test_everything_asked_for_is_there(text: str) -> None:
    words = " ".join(read(text).words)
    for phrase in ("Before and after", "MaxCLL", "MaxFALL", "Waveform", "Histogram", "What was restored", "a line of text",
                   "gpmd", "packet for packet", "Where the time went", "30.0 s", "hdr.mask.mp4", "What the words mean"):  # fmt: skip
        assert phrase in words
    for title in ("Darkest: frame 2", "Most flicker: frame 5", "Most restored: frame 7", "Brightest: frame 9"):
        assert title in words
    assert text.count("<img ") == 4 * 4 + 1


def test_charts_are_well_formed_and_stay_inside(text: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 4 * 2 + 3
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.get("aria-label")
        for line in root.iter("polyline"):
            points = np.array([[float(value) for value in pair.split(",")] for pair in line.get("points", "").split()])
            assert points[:, 0].min() >= charts.LEFT - 0.1
            assert points[:, 0].max() <= charts.WIDTH - charts.RIGHT + 0.1
            assert points[:, 1].min() >= charts.TOP - 0.1
            assert points[:, 1].max() <= charts.HEIGHT - charts.BOTTOM + 0.1


def test_it_is_published_whole_and_the_same_each_time(facts: ReportFacts, text: str, tmp_path: Path) -> None:
    target = tmp_path / "hdr.report.html"
    assert write_report(target, facts) == target
    assert target.read_text(encoding="utf-8") == text
    assert [path.name for path in tmp_path.iterdir()] == ["hdr.report.html"]


@pytest.mark.parametrize("name", ["pq", "hlg"])
def test_the_frames_shown_are_the_ones_that_ffmpeg_counts(facts: ReportFacts, name: str) -> None:
    facts = dataclasses.replace(facts, transfer=name)
    (track,) = facts.tracks
    index = build_index(facts.result, 0)
    for frame in (0, 5, 11):
        planes = [torch.from_numpy(plane.copy()) for plane in raw(facts.result, frame, "yuv420p10le", np.dtype("<u2"))]
        wanted = unpack_hdr(*(plane[None] for plane in planes), name)[0].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(pictures.result_light(facts, track, index, frame), wanted)
        luma = raw(facts.source, frame, "yuv420p", np.dtype("u1"))[0]
        light = pictures.source_light(facts, track, frame) / 203
        signal = np.sign(light) * np.abs(light) ** (1 / 2.4)
        codes = 16 + 219 * signal @ np.array((0.2126, 0.7152, 0.0722))
        within = signal.max(axis=2) < 1.08  # no display shows more (color.TOP_SIGNAL)
        assert within.mean() > 0.8
        assert np.abs(codes - luma)[within].max() < 0.01


def test_what_odd_sizes_are_padded_with_is_not_shown(facts: ReportFacts) -> None:
    (track,) = facts.tracks
    odd = dataclasses.replace(track, width=WIDTH - 1, height=HEIGHT - 1)
    index = build_index(facts.result, 0)
    whole, cropped = (pictures.result_light(facts, one, index, 3) for one in (track, odd))
    np.testing.assert_array_equal(cropped, whole[:-1, :-1])


def raw(path: Path, frame: int, pix_fmt: str, kind: np.dtype) -> list[np.ndarray]:
    """Planes of one frame by FFmpeg's own program."""
    command = ["ffmpeg", "-v", "error", "-i", path, "-vf", f"select=eq(n\\,{frame})", "-frames:v", "1"]
    data = subprocess.run(
        [*command, "-f", "rawvideo", "-pix_fmt", pix_fmt, "-"], check=True, capture_output=True
    ).stdout
    values = np.frombuffer(data, kind)
    luma, quarter = WIDTH * HEIGHT, WIDTH * HEIGHT // 4
    parts = values[:luma], values[luma : luma + quarter], values[luma + quarter :]
    return [part.reshape(HEIGHT // down, -1) for part, down in zip(parts, (1, 2, 2), strict=True)]


def shown(uri: str) -> np.ndarray:
    """A data URI as (H, W, 3 or 4) BGR."""
    data = np.frombuffer(base64.b64decode(uri.split(",", 1)[1]), np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED)


def test_pictures_are_upright_and_their_pixels_square(facts: ReportFacts) -> None:
    (track,) = facts.tracks
    index = build_index(facts.result, 0)
    plain = dataclasses.replace(track, overlays=(OverlayFound(0, 0, 20, 8, "corner"),))
    assert shown(pictures.overlay_picture(facts, plain, 0)).shape[:2] == (HEIGHT, WIDTH)
    wide = dataclasses.replace(plain, sample_aspect_ratio=Fraction(3, 2))
    assert shown(pictures.overlay_picture(facts, wide, 0)).shape[:2] == (HEIGHT, WIDTH * 3 // 2)
    turned = dataclasses.replace(wide, rotation_degrees=90)
    assert shown(pictures.overlay_picture(facts, turned, 0)).shape[:2] == (WIDTH * 3 // 2, HEIGHT)
    assert len(index.frame_pts) == FRAMES


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_turning_goes_the_way_that_ffmpeg_turns(facts: ReportFacts, tmp_path: Path, degrees: int) -> None:
    import av

    turned = tmp_path / "turned.mp4"
    with av.open(str(facts.source)) as source, av.open(str(turned), "w") as out:
        copy = out.add_stream_from_template(source.streams.video[0])
        copy.set_display_rotation(degrees)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
    with av.open(str(turned)) as file:
        rotation = next(file.decode(video=0)).rotation
    still = tmp_path / "still.png"
    subprocess.run(["ffmpeg", "-v", "error", "-i", turned, "-frames:v", "1", still], check=True)
    wanted = cv2.imread(str(still)).astype(float)
    (track,) = facts.tracks
    track = dataclasses.replace(track, rotation_degrees=rotation, stats=rows(), overlays=())
    found = shown(pictures.overlay_picture(facts, track, 0)).astype(float)
    assert found.shape == wanted.shape
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.95
    assert np.corrcoef(np.rot90(found, 2).ravel(), wanted.ravel())[0, 1] < 0.9


def test_telling_frames_come_once_each_and_only_if_there_is_something_to_tell() -> None:
    found = {one.frame: one.reasons for one in pictures.telling_frames(rows())}
    assert found == {2: ("darkest",), 5: ("most flicker",), 7: ("most restored",), 9: ("brightest",)}
    still = rows()[:1]
    still["restored_share"] = 0
    (only,) = pictures.telling_frames(still)
    assert only.reasons == ("darkest", "brightest")


def test_a_waveform_shows_each_column_at_its_brightness() -> None:
    nits = np.tile(np.array([0.0, 1000.0], np.float32).repeat(64), (10, 1))
    image = shown(pictures.waveform_png(nits, 1000.0))
    wide, high = pictures.WAVEFORM_PX
    assert image.shape == (high, wide, 4)
    opaque = image[..., 3] > 0
    assert opaque[-1, : wide // 2 - 2 : 2].all()
    assert opaque[0, wide // 2 :: 2].all()
    assert not opaque[1:-1].any()


def test_long_videos_keep_their_peaks_in_few_points() -> None:
    values = np.ones(100_000)
    values[54_321] = 900
    line = charts.Series("x", values, "a", True)
    drawing = charts.over_time("x", np.arange(100_000) / 25, [line], charts.nits_scale(900))
    points = re.search(r'points="([^"]*)"', drawing)
    assert points is not None
    pairs = points[1].split()
    assert len(pairs) == charts.MOST_POINTS
    assert len({pair.split(",")[1] for pair in pairs}) == 2
    assert "1:00:00" in drawing


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0, "0.0 s"), (59.94, "59.9 s"), (245.2, "4:05"), (3723.0, "1:02:03")]
)
def test_times_are_written_as_people_do(seconds: float, words: str) -> None:
    assert charts.clock(seconds, True) == words


def test_a_single_black_frame_that_nothing_restored_makes_a_page(facts: ReportFacts) -> None:
    (track,) = facts.tracks
    drawing = charts.over_time("x", np.zeros(1), [charts.Series("x", np.zeros(1), "a", False)], charts.share_scale(0))
    assert "<circle" in drawing
    black = np.zeros(FRAMES, frame_stats.TABLE)
    black["frame"] = np.arange(FRAMES)
    plain = dataclasses.replace(track, stats=black, overlays=())
    text = page(
        dataclasses.replace(facts, tracks=(plain,), restores_highlights=False, streams=(), warnings=(), timings=())
    )
    words = " ".join(read(text).words)
    assert "None was found" in words
    assert "What was restored" not in words


def test_what_does_not_fit_is_refused(facts: ReportFacts) -> None:
    (track,) = facts.tracks
    with pytest.raises(ConversionError, match="no frame statistics"):
        page(dataclasses.replace(facts, tracks=()))
    short = dataclasses.replace(track, stats=rows()[:5])
    with pytest.raises(InputError, match=r"has 12 frames and 5 were converted"):
        page(dataclasses.replace(facts, tracks=(short,)))
