"""One video end to end, in this process: what comes out, judged from outside, and what a stop in between leaves."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from torch import Tensor

from configs.schema import Config, load_config
from pipeline import convert as conversions
from pipeline.convert import convert, start
from pipeline.encode import SpanEncoder
from pipeline.errors import InputError
from pipeline.file_report import FileReport
from pipeline.machine import auto_checkpoint
from pipeline.span_job import run_span
from pipeline.verify import read_provenance, verify
from tests import oracles
from tests.clips import make_clip
from tests.hdr10plus_rules import judge

SHORT_SPANS = ["span.target_seconds=0.6", "span.min_seconds=0.3", "output.preset=ultrafast"]
NEUTRAL = "model=neutral"
"""Where no network is needed: half the time."""


def settings(*words: str) -> Config:
    """The dashcam profile with spans short enough for tiny clips."""
    return load_config("dashcam", None, [*SHORT_SPANS, *words])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds with sound, a GOP longer than a span, times that are not even."""
    times = [number * 3600 + (number % 3) * 311 for number in range(50)]
    folder = tmp_path_factory.mktemp("clip")
    return make_clip(folder / "drive.mp4", frames=50, gop=40, pts=times, time_base=Fraction(1, 90000), audio=True)


@pytest.fixture(scope="module")
def converted(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FileReport, Path]:
    output = tmp_path_factory.mktemp("out") / "drive_hdr.mp4"
    return convert(clip, output, settings()), output


def test_every_frame_comes_out_once_at_its_own_time(clip: Path, converted: tuple[FileReport, Path]) -> None:
    report, output = converted
    assert (report.status, report.frames) == ("done", 50)
    assert report.spans_done >= 3
    assert oracles.frame_times(output) == oracles.frame_times(clip)


def test_ffprobe_and_mediainfo_call_it_hdr10(converted: tuple[FileReport, Path]) -> None:
    report, output = converted
    stream = oracles.ffprobe(output, "-show_streams", "-select_streams", "v:0")["streams"][0]
    assert stream["codec_tag_string"] == "hvc1"
    assert stream["pix_fmt"] == "yuv420p10le"
    tags = [
        stream[key] for key in ("color_primaries", "color_transfer", "color_space", "color_range", "chroma_location")
    ]
    assert tags == ["bt2020", "smpte2084", "bt2020nc", "tv", "topleft"]
    facts = oracles.mediainfo(output)
    assert "SMPTE ST 2086" in facts["HDR_Format"]
    assert facts["MaxCLL"].split()[0] == str(report.max_cll_nits)
    assert facts["MaxFALL"].split()[0] == str(report.max_fall_nits)


def test_the_sound_is_the_sources_packet_for_packet(clip: Path, converted: tuple[FileReport, Path]) -> None:
    assert oracles.packets(converted[1], 1) == oracles.packets(clip, 1)


def test_a_full_verify_agrees(clip: Path, converted: tuple[FileReport, Path]) -> None:
    report = verify(clip, converted[1], full=True)
    assert report.ok, [check for check in report.checks if not check.ok]


def test_the_work_folder_is_gone_and_provenance_is_in_the_file(converted: tuple[FileReport, Path]) -> None:
    output = converted[1]
    assert [path.name for path in output.parent.iterdir()] == [output.name]
    facts = read_provenance(output).facts
    assert facts["model"] == auto_checkpoint("cpu") == "tiny"
    assert facts["tracks"][0]["frames"] == 50


def test_doing_it_again_changes_nothing(clip: Path, converted: tuple[FileReport, Path]) -> None:
    before = converted[1].read_bytes()
    again = convert(clip, converted[1], settings())
    assert again.status == "already done"
    assert converted[1].read_bytes() == before


def test_another_setting_is_refused_unless_overwrite(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.mp4"
    convert(clip, output, settings(NEUTRAL))
    with pytest.raises(InputError, match="--overwrite replaces it"):
        convert(clip, output, settings(NEUTRAL, "grade.peak_nits=900"))
    assert convert(clip, output, settings(NEUTRAL, "grade.peak_nits=900"), overwrite=True).status == "done"


def test_finished_spans_are_reused_and_the_bytes_are_the_same(
    clip: Path, converted: tuple[FileReport, Path], tmp_path: Path
) -> None:
    output = tmp_path / "resumed.mp4"
    conversion = start(clip, output, settings())
    assert not isinstance(conversion, FileReport)
    track, span = conversion.pending[-1]
    folder = str(conversion.workdir)
    conversion.span_done(run_span(folder, track, span, threads=1, on_frames=lambda _: None, should_stop=lambda: False))
    conversion.close()
    report = convert(clip, output, settings(), threads=2)
    assert report.spans_reused == 1
    assert output.read_bytes() == converted[1].read_bytes()


def test_a_changed_setting_reuses_no_span(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "a.mp4"
    first = start(clip, output, settings(NEUTRAL))
    assert not isinstance(first, FileReport)
    track, span = first.pending[0]
    first.span_done(
        run_span(str(first.workdir), track, span, threads=1, on_frames=lambda _: None, should_stop=lambda: False)
    )
    first.close()
    second = start(clip, output, settings(NEUTRAL, "grade.white_nits=200"))
    assert not isinstance(second, FileReport)
    assert second.reused == 0
    assert not list(second.workdir.glob("span_*"))
    second.close()


@pytest.mark.parametrize("name", ["a.mov", "a.mkv"])
def test_other_containers(clip: Path, tmp_path: Path, name: str) -> None:
    output = tmp_path / name
    report = convert(clip, output, settings(NEUTRAL))
    assert report.status == "done"
    tolerance = Fraction(1, 2000) if name.endswith("mkv") else Fraction(0)
    for ours, theirs in zip(oracles.frame_times(output), oracles.frame_times(clip), strict=True):
        assert abs(ours - theirs) <= tolerance
    assert "SMPTE ST 2086" in oracles.mediainfo(output)["HDR_Format"]


def test_hlg_has_no_mastering_display(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "hlg.mp4"
    convert(clip, output, settings(NEUTRAL, "output.transfer=hlg"))
    stream = oracles.ffprobe(output, "-show_streams", "-select_streams", "v:0")["streams"][0]
    assert stream["color_transfer"] == "arib-std-b67"
    assert "side_data_list" not in stream


def test_av1(clip: Path, tmp_path: Path) -> None:
    output = tmp_path / "av1.mp4"
    config = load_config("dashcam", None, [*SHORT_SPANS[:2], NEUTRAL, "output.codec=av1", "output.preset=12"])
    report = convert(clip, output, config)
    stream = oracles.ffprobe(output, "-show_streams", "-select_streams", "v:0")["streams"][0]
    assert (report.status, stream["codec_name"], stream["color_transfer"]) == ("done", "av1", "smpte2084")
    assert oracles.frame_times(output) == oracles.frame_times(clip)


def test_an_output_that_fails_its_checks_is_not_published(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture is right but the light tags are not: the file must not appear."""
    output = tmp_path / "a.mp4"
    real = conversions.assemble

    def lying(*args: object, **kwargs: object) -> object:
        kwargs["codec"], kwargs["mastering"], kwargs["light"] = "hevc", None, None
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(conversions, "assemble", lying)
    with pytest.raises(conversions.ConversionError, match="failed its checks and is not published"):
        convert(clip, output, settings(NEUTRAL))
    assert not output.exists()


def test_a_night_drive_whose_light_rounds_to_nothing(tmp_path: Path) -> None:
    """Black frames: MaxFALL is below half a nit, and 0 would mean "unknown"."""
    clip = tmp_path / "night.mp4"
    with av.open(str(clip), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 48
        for number in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((72, 64), 16 if number % 2 else 17, np.uint8), format="yuv420p")
            for plane in frame.planes[1:]:
                plane.update(bytes([128]) * plane.buffer_size)
            frame.pts = number
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    report = convert(clip, tmp_path / "hdr.mp4", settings())
    assert (report.status, report.max_fall_nits) == ("done", 1)
    assert verify(clip, tmp_path / "hdr.mp4", full=True).ok


def test_a_mask_goes_beside_the_same_video_frame_for_frame(
    clip: Path, converted: tuple[FileReport, Path], tmp_path: Path
) -> None:
    """Asked for or not, the video has the same bytes; a finished span without a mask is done again, and so is a file."""
    output = tmp_path / "drive_hdr.mp4"
    assert convert(clip, output, settings()).status == "done"
    report = convert(clip, output, settings("extras.mask=true", "workers.keep_work=true"))
    assert (report.status, report.spans_reused) == ("done", 0)
    assert output.read_bytes() == converted[1].read_bytes()
    mask = tmp_path / "drive_hdr.mask.mp4"
    assert oracles.frame_times(mask) == oracles.frame_times(output)
    assert len(np.unique(pictures(mask))) > 1
    assert convert(clip, output, settings("extras.mask=true")).status == "already done"
    convert(clip, tmp_path / "neutral.mp4", settings("extras.mask=true", "model=neutral"))
    assert not pictures(tmp_path / "neutral.mask.mp4").any()


def pictures(mask: Path) -> np.ndarray:
    with av.open(str(mask)) as file:
        return np.stack([frame.to_ndarray()[: frame.height] for frame in file.decode(video=0)])


def test_hdr10plus_has_an_entry_for_each_frame_in_order(tmp_path: Path) -> None:
    """Of several spans, whose statistics are joined; numbers, scenes and summary as hdr10plus_tool has them."""
    clip, output = make_clip(tmp_path / "drive.mp4", frames=50, gop=15, width=96, height=64), tmp_path / "o.mp4"
    words = ["extras.hdr10plus=true", "span.target_seconds=1", "span.min_seconds=0.8", "output.preset=ultrafast"]
    assert convert(clip, output, load_config("dashcam", None, words)).spans_done >= 2
    entries = judge((tmp_path / "o.hdr10plus.json").read_text(), 50)
    assert max(entry["LuminanceParameters"]["MaxScl"][1] for entry in entries) > 0


def handed_frames(
    clip: Path, folder: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[list[bytes]], int]:
    """What the encoder is handed, frame by frame over all spans, and how many spans there were."""
    handed: list[list[bytes]] = []
    write = SpanEncoder.write

    def noting(self: SpanEncoder, y: Tensor, u: Tensor, v: Tensor, pts: int, duration: int) -> None:
        handed.append([plane.numpy().tobytes() for plane in (y, u, v)])
        write(self, y, u, v, pts, duration)

    with monkeypatch.context() as patch:
        patch.setattr(SpanEncoder, "write", noting)
        report = convert(clip, folder / "o.mp4", config, overwrite=True)
    return handed, report.spans_done


def test_frames_around_span_borders_are_those_of_an_uncut_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Smoothing looks across the borders; a sky that flickers between saturated and not gives it something to do."""
    clip = make_clip(tmp_path / "drive.mp4", frames=50, gop=15, width=96, height=64, options={"crf": "14"})
    cut, uncut = ["span.target_seconds=1", "span.min_seconds=0.8"], ["span.target_seconds=5"]
    words = ["output.preset=ultrafast", "temporal.radius=1"]
    one, spans = handed_frames(clip, tmp_path, load_config("dashcam", None, [*words, *cut]), monkeypatch)
    assert spans >= 2
    whole, spans = handed_frames(clip, tmp_path, load_config("dashcam", None, [*words, *uncut]), monkeypatch)
    assert spans == 1
    assert one == whole
    without, _ = handed_frames(clip, tmp_path, load_config("dashcam", None, [*words, "temporal.radius=0"]), monkeypatch)
    assert without != whole
