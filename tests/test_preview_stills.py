"""Preview, paused: the frame that is shown is the one that `convert` hands to its encoder, bit for bit."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from configs.schema import load_config
from pipeline.convert import convert
from pipeline.encode import SpanEncoder
from preview.media import Media, Planned
from preview.pictures import Made, picture, png
from preview.sources import video_source
from preview.stills import Abandoned, Stills, owner
from tests.clips import cut_clip, damage_packets, make_clip
from tests.clips import picture as drawn

Planes = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
SHORT_SPANS = ["span.target_seconds=0.5", "span.min_seconds=0.25", "output.preset=ultrafast"]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[Planes]:
    """What SpanEncoder.write gets, in order: spans are done one after another."""
    frames: list[Planes] = []
    write = SpanEncoder.write

    def keep(self: SpanEncoder, y: torch.Tensor, u: torch.Tensor, v: torch.Tensor, pts: int, duration: int) -> None:
        frames.append((y.clone(), u.clone(), v.clone()))
        write(self, y, u, v, pts, duration)

    monkeypatch.setattr(SpanEncoder, "write", keep)
    return frames


def bright(frame: av.VideoFrame) -> None:
    """Saturate the middle, so that the network has something to restore."""
    luma = frame.planes[0]
    codes = np.frombuffer(luma, np.uint8).reshape(luma.height, -1).copy()
    codes[8:32, 16:48] = 254
    luma.update(codes.tobytes())


@pytest.fixture
def bright_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    def lit(number: int, width: int, height: int, pix_fmt: str = "yuv420p") -> av.VideoFrame:
        frame = drawn(number, width, height, pix_fmt)
        if not pix_fmt.endswith("le"):
            bright(frame)
        return frame

    monkeypatch.setattr("tests.clips.picture", lit)


def opened(source: Path, words: list[str], profile: str = "dashcam") -> tuple[Planned, Stills]:
    media = Media(video_source(source, source.parent))
    return media.plan(load_config(profile, None, words)), Stills()


def same(made: Made, planes: Planes) -> bool:
    shown = (made.packed.y, made.packed.u, made.packed.v)
    return all(torch.equal(one, other) for one, other in zip(shown, planes, strict=True))


def check(source: Path, words: list[str], encoded: list[Planes], numbers: list[int], least_spans: int = 1) -> Planned:
    """Convert, and compare some frames; those at the borders of spans are always among them."""
    words = [*SHORT_SPANS, *words]
    convert(source, source.with_name("out.mp4"), load_config("dashcam", None, words), threads=2)
    planned, stills = opened(source, words)
    assert planned.exact
    assert len(encoded) == planned.track.frames
    assert len(planned.track.spans) >= least_spans
    borders = [place for span in planned.track.spans[1:] for place in (span.first_frame - 1, span.first_frame)]
    for number in sorted({0, planned.track.frames - 1, *borders, *numbers}):
        assert same(stills.make(planned, number, lambda: True), encoded[number]), f"frame {number} differs"
    stills.close()
    return planned


@pytest.mark.usefixtures("bright_clips")
def test_frames_smoothed_over_time_at_borders_of_spans_are_those_of_convert(
    tmp_path: Path, encoded: list[Planes]
) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=44, gop=11, width=64, height=48)
    planned = check(source, ["temporal.radius=1", "span.target_seconds=1"], encoded, [5, 17], least_spans=2)
    assert planned.track.radius == 1
    assert "temporal" in planned.plan.stages


@pytest.mark.usefixtures("bright_clips")
def test_frames_of_variable_rate_are_those_of_convert(tmp_path: Path, encoded: list[Planes]) -> None:
    pts = [number * 40 + (number % 3) * 9 for number in range(20)]
    source = make_clip(tmp_path / "a.mkv", frames=20, pts=pts, time_base=Fraction(1, 1000))
    planned = check(source, ["temporal.radius=0"], encoded, [7])
    assert planned.seconds(4) == pytest.approx((pts[4] - pts[0]) / 1000)


def test_deinterlaced_frames_are_those_of_convert(tmp_path: Path, encoded: list[Planes]) -> None:
    source = make_clip(tmp_path / "a.ts", "mpeg2video", frames=16, interlaced=True, gop=8, bframes=0)
    planned = check(source, [], encoded, [3, 8], least_spans=2)
    assert planned.track.deinterlace


def test_frames_of_ten_bits_are_those_of_convert(tmp_path: Path, encoded: list[Planes]) -> None:
    source = make_clip(tmp_path / "a.mp4", "libx265", frames=10, pix_fmt="yuv420p10le")
    planned = check(source, [], encoded, [4])
    assert planned.track.layout.bit_depth == 10


@pytest.mark.usefixtures("bright_clips")
def test_frames_of_odd_size_are_those_of_convert(tmp_path: Path, encoded: list[Planes]) -> None:
    source = make_clip(tmp_path / "a.mkv", "ffv1", frames=8, width=71, height=49)
    planned = check(source, ["reconstruct.scale=0.5"], encoded, [3])
    assert (planned.track.width, planned.track.height) == (71, 49)
    _, stills = opened(source, SHORT_SPANS)
    rgb = picture(stills.make(planned, 3, lambda: True), "hdr")
    assert rgb.shape == (49, 71, 3)


def test_frames_with_burnt_in_text_are_those_of_convert(tmp_path: Path, encoded: list[Planes]) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=12, width=96, height=64)
    planned = check(source, ["overlay.boxes=[[8,8,40,16]]"], encoded, [6])
    assert planned.track.overlays


def test_damaged_frames_are_those_of_convert(tmp_path: Path, encoded: list[Planes]) -> None:
    whole = make_clip(tmp_path / "whole.mp4", frames=40, gop=10, width=96, height=64, bframes=0)
    source = damage_packets(whole, tmp_path / "a.mp4", [10, 14, 25], seed=3)
    check(source, ["temporal.radius=0"], encoded, list(range(8, 30)))


def test_what_is_kept_changes_no_bit(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=12)
    media, stills = Media(video_source(source, tmp_path)), Stills()
    first = media.plan(load_config("dashcam", None, ["temporal.radius=1"]))
    second = media.plan(load_config("dashcam", None, ["temporal.radius=1", "grade.exposure_stops=1.25"]))
    before = stills.make(first, 5, lambda: True)
    assert stills.at_hand(second, 5), "grade knobs need no network"
    turned = stills.make(second, 5, lambda: True)
    fresh = Stills().make(second, 5, lambda: True)
    assert same(turned, (fresh.packed.y, fresh.packed.u, fresh.packed.v))
    assert not same(turned, (before.packed.y, before.packed.u, before.packed.v))
    again = stills.make(first, 5, lambda: True)
    assert same(again, (before.packed.y, before.packed.u, before.packed.v))
    assert not stills.at_hand(media.plan(load_config("dashcam", None, ["temporal.radius=2"])), 5)


def test_frames_at_the_ends_of_a_drives_file_are_those_of_convert(tmp_path: Path, encoded: list[Planes]) -> None:
    """Three files of two seconds, whose sky flickers between saturated and not."""
    names = [f"20240131_12000{second}_F.mp4" for second in (0, 2, 4)]
    shape = {"gop": 40, "fps": 20, "width": 64, "height": 48, "options": {"crf": "14"}}
    whole = make_clip(tmp_path / "whole.mp4", frames=120, **shape)
    files = cut_clip(whole, [tmp_path / name for name in names], 40)
    words = ["temporal.radius=2", "drive.join=true", "span.target_seconds=6"]
    planned = check(files[1], words, encoded, [1, 12, 38])
    place = planned.track.drive
    assert not (place.no_before or place.no_after), place
    assert place.before.span.frames == place.after.span.frames == 2
    alone, stills = opened(files[1], [*SHORT_SPANS, "temporal.radius=2", "span.target_seconds=6"])
    assert alone.track.drive is None
    assert not same(stills.make(alone, 0, lambda: True), encoded[0]), "what the file before lends is seen"
    stills.close()


def test_a_frame_that_nobody_waits_for_is_abandoned(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=12)
    planned, stills = opened(source, ["temporal.radius=1"])
    with pytest.raises(Abandoned):
        stills.make(planned, 5, lambda: False)
    assert stills.make(planned, 5, lambda: True).number == 5


def test_an_exact_picture_is_made_of_the_planes_alone(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=6)
    planned, stills = opened(source, [])
    made = stills.make(planned, 2, lambda: True)
    like_it = Made(99, made.packed, made.restored, made.out)
    assert png(picture(like_it, "hdr", -1.5)) == png(picture(made, "hdr", -1.5))
    codes = np.frombuffer(png(picture(made, "hdr")), np.uint8)
    import cv2

    assert np.array_equal(cv2.imdecode(codes, cv2.IMREAD_COLOR)[..., ::-1], picture(made, "hdr"))


def test_a_plan_without_a_look_says_that_it_is_not_exact(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=12)
    media, config = Media(video_source(source, tmp_path)), load_config("dashcam")
    assert not media.plan(config, quick=True).exact
    exact = media.plan(config)
    assert exact.exact
    assert media.plan(config, quick=True).plan == exact.plan
    assert media.plan(load_config("preview"), quick=True).exact, "nothing is looked for there"


def test_the_owner_of_a_frame_is_its_span(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "a.mp4", frames=40, gop=10)
    planned, _ = opened(source, SHORT_SPANS)
    for span in planned.track.spans:
        assert owner(planned, span.first_frame) is span
        assert owner(planned, span.first_frame + span.frames - 1) is span
