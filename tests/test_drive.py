"""Drives: files that follow each other are found and no others, and a drive cut into files is smoothed as if it were uncut."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import pipeline.engine
from configs.schema import Config, load_config
from pipeline.convert import Conversion, convert, start
from pipeline.describe import describe, describe_text
from pipeline.drive import Drive, Heading, Picture, group_drives
from pipeline.drive_files import drive_of
from pipeline.drive_name import read_name
from pipeline.errors import ConversionError
from pipeline.file_report import FileReport
from pipeline.plan import Plan, span_key
from pipeline.planning import wrapped
from pipeline.prepare import Prepared, make_plan
from pipeline.report import plan_facts
from pipeline.sequence import group_runs
from pipeline.span_job import run_span
from pipeline.verify import read_provenance
from tests.clips import cut_clip, damage_packets, make_clip

NOON = datetime(2024, 1, 31, 12, tzinfo=UTC)
PICTURE = Picture("h264", 1920, 1080, "yuv420p", 30.0, (1, 1, 1, 1))

CLOCKS = {
    "20240131_123456.MP4": "20240131_123556.MP4",
    "2024-01-31_12-34-56.mp4": "2024-02-01_00-00-00.mp4",
    "2024_0131_123456_0001F.MP4": "2024_0131_123556_0003F.MP4",
    "20240131_123456_NF.mp4": "20240131_123556_NF.mp4",
    "2024-01-31_12-34-56-front.mp4": "2024-01-31_12-35-56-front.mp4",
    "NO20240131-123456-000123F.MP4": "NO20240131-123556-000124F.MP4",
    "REC_2024_01_31_12_34_56_F.MP4": "REC_2024_01_31_12_35_56_F.MP4",
    "20240131123456.ts": "20240131123556.ts",
}


@pytest.mark.parametrize(("name", "later"), CLOCKS.items())
def test_clocks_of_common_cameras(name: str, later: str) -> None:
    read, other = read_name(name), read_name(later)
    assert read.clock == datetime(2024, 1, 31, 12, 34, 56)
    assert read.camera == other.camera
    assert read.place < other.place


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2024_0131_123456_0001F.MP4", "2024_0131_123456_0002R.MP4"),
        ("20240131_123456_NF.mp4", "20240131_123456_NR.mp4"),
        ("2024-01-31_12-34-56-left_repeater.mp4", "2024-01-31_12-34-56-right_repeater.mp4"),
        ("cam1_20240131_123456.mp4", "cam2_20240131_123556.mp4"),
        ("20240131_123456.mp4", "20240131_123556_hdr.mp4"),
        ("GH010123.MP4", "GX020123.MP4"),
        ("20240131_123456.MP4", "20240131_123456.mp4"),
    ],
)
def test_other_cameras_and_other_kinds_of_files(one: str, other: str) -> None:
    assert read_name(one).camera != read_name(other).camera


def test_chapters_and_numbers() -> None:
    chapters = [read_name(name) for name in ("GOPR0123.MP4", "GP010123.MP4", "GP020123.MP4", "GOPR0124.MP4")]
    assert len({one.camera for one in chapters}) == 1
    assert [one.place for one in chapters] == [(123, 0), (123, 1), (123, 2), (124, 0)]
    assert read_name("GH020123.MP4").place == (123, 2)
    assert read_name("DJI_0042.MP4").place == (42,)
    assert not read_name("20240131123456_20240131123556.mp4").place, "two times: which one counts is unsure"
    assert not read_name("20241331_123456.mp4").place, "there is no month 13"
    assert not read_name("drive.mp4").place


def clip_name(at: datetime, camera: str = "F") -> str:
    return f"{at:%Y%m%d_%H%M%S}_{camera}.mp4"


def heading(name: str, seconds: float = 60.0, created: datetime | None = None, picture: Picture = PICTURE) -> Heading:
    return Heading(name, seconds, created, (picture,))


@st.composite
def recordings(draw: st.DrawFn) -> tuple[list[list[str]], list[Heading]]:
    """Drives of two cameras with gaps of ten seconds and more between them: which files belong together, and their headings."""
    drives, files = [], []
    for camera in ("F", "R"):
        at = NOON + timedelta(seconds=draw(st.integers(0, 50)))
        for _ in range(draw(st.integers(0, 3))):
            names = []
            for _ in range(draw(st.integers(1, 4))):
                tenths = draw(st.integers(30, 1800))
                names.append(clip_name(at, camera))
                files.append(heading(names[-1], tenths / 10))
                at += timedelta(seconds=tenths / 10)
            drives.append(names)
            at += timedelta(seconds=draw(st.integers(10, 5000)))
    return drives, files


@given(recordings(), st.randoms(use_true_random=False))
def test_drives_are_found_whatever_the_order_of_files(
    made: tuple[list[list[str]], list[Heading]], chance: object
) -> None:
    wanted, files = made
    assert len({file.name for file in files}) == len(files)
    chance.shuffle(files)
    found = group_drives(files)
    assert sorted(list(drive.names) for drive in found) == sorted(wanted)


names = st.one_of(
    st.text("GHXP0123456789_-.mp4", min_size=1, max_size=24),
    st.integers(0, 5).map("GH{:02d}0001.MP4".format),
    st.integers(0, 300).map("DJI_{:04d}.MP4".format),
    st.integers(0, 400).map(lambda second: clip_name(NOON + timedelta(seconds=second))),
)
times = st.none() | st.integers(0, 400).map(lambda second: NOON + timedelta(seconds=second))
headings = st.lists(
    st.builds(heading, names, st.sampled_from([0.0, 0.5, 2.0, 60.0]), times),
    max_size=12,
    unique_by=lambda one: one.name,
)


@given(headings, st.randoms(use_true_random=False))
def test_each_file_is_in_exactly_one_drive(files: list[Heading], chance: object) -> None:
    found = group_drives(files)
    assert sorted(name for drive in found for name in drive.names) == sorted(file.name for file in files)
    assert all(drive.before and drive.after for drive in found), "why a drive ends is told"
    for drive in found:
        assert len({read_name(name).camera for name in drive.names}) == 1
        assert len({read_name(name).place for name in drive.names}) == len(drive.names)
    chance.shuffle(files)
    assert group_drives(files) == found


@given(headings, st.integers(1, 6))
def test_another_camera_changes_nothing(files: list[Heading], count: int) -> None:
    others = [heading(clip_name(NOON + timedelta(minutes=number), "rear")) for number in range(count)]
    assume(not {file.name for file in files} & {one.name for one in others})
    assert [drive for drive in group_drives([*others, *files]) if "rear" not in drive.names[0]] == list(
        group_drives(files)
    )


def alone(first: Heading, second: Heading) -> str:
    """Why two files are not one drive."""
    drives = group_drives([first, second])
    assert len(drives) == 2, drives
    assert drives[0].after == drives[1].before
    return drives[0].after


def test_what_is_unsure_is_not_joined_and_the_reason_is_told() -> None:
    one = heading(clip_name(NOON))
    name = clip_name(NOON + timedelta(seconds=60))
    assert len(group_drives([one, heading(name)])) == 1
    assert "starts 5.0 s after" in alone(one, heading(clip_name(NOON + timedelta(seconds=65))))
    assert "starts 30.0 s before" in alone(one, heading(clip_name(NOON + timedelta(seconds=30))))
    assert "1280x720" in alone(one, heading(name, picture=dataclasses.replace(PICTURE, width=1280, height=720)))
    assert "hevc" in alone(one, heading(name, picture=dataclasses.replace(PICTURE, codec="hevc")))
    assert "colours" in alone(one, heading(name, picture=dataclasses.replace(PICTURE, pix_fmt="yuvj420p")))
    assert "15 frames a second" in alone(one, heading(name, picture=dataclasses.replace(PICTURE, rate=15.0)))
    assert "2 video streams" in alone(one, Heading(name, 60, None, (PICTURE, PICTURE)))
    assert "cannot be read" in alone(one, Heading(name, 0, None, (), "the file is empty"))
    assert "too short" in alone(heading(clip_name(NOON), 0.5), heading(clip_name(NOON + timedelta(seconds=1))))
    dated = heading(clip_name(NOON), created=NOON)
    assert "disagree" in alone(dated, heading(name, created=NOON + timedelta(hours=2)))
    assert len(group_drives([dated, heading(name, created=NOON + timedelta(seconds=60))])) == 1
    twins = [
        heading("20240131_120000_0001.mp4"),
        heading("20240131_120000_0002.mp4"),
        heading("20240131_120100_0003.mp4"),
    ]
    assert len(group_drives(twins)) == 3


@pytest.mark.parametrize("writes", ["start", "end"])
def test_creation_times_of_the_start_or_of_the_end(writes: str) -> None:
    """Files of unlike lengths: only one reading makes them follow each other."""
    lengths, at, files = [60.0, 20.0, 45.0, 60.0, 10.0], NOON, []
    for number, seconds in enumerate(lengths):
        created = at + timedelta(seconds=seconds if writes == "end" else 0)
        files.append(heading(f"DJI_{number:04d}.MP4", seconds, created))
        at += timedelta(seconds=seconds)
    assert len(group_drives(files)) == 1
    assert "neither" in alone(heading("DJI_0001.MP4"), heading("DJI_0002.MP4"))


def test_chapters_follow_by_number() -> None:
    files = [heading(name, created=NOON) for name in ("GH010123.MP4", "GH020123.MP4", "GH010124.MP4", "GH040123.MP4")]
    drives = {drive.names: drive for drive in group_drives(files)}
    assert set(drives) == {("GH010123.MP4", "GH020123.MP4"), ("GH040123.MP4",), ("GH010124.MP4",)}
    assert "missing" in drives[("GH040123.MP4",)].before
    late = heading("GH020123.MP4", created=NOON + timedelta(hours=1))
    assert "disagree" in alone(files[0], late)


NAMES = ("20240131_120000_F.mp4", "20240131_120002_F.mp4", "20240131_120004_F.mp4")
FRAMES = 40


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds whose sky flickers between saturated and not, with B frames and closed groups of pictures."""
    folder = tmp_path_factory.mktemp("uncut")
    frames = FRAMES * len(NAMES)
    return make_clip(folder / "long.mp4", frames=frames, gop=FRAMES, fps=20, width=64, height=48, options={"crf": "14"})


@pytest.fixture
def drive(uncut: Path, tmp_path: Path) -> list[Path]:
    (tmp_path / "card").mkdir()
    return cut_clip(uncut, [tmp_path / "card" / name for name in NAMES], FRAMES)


def settings(*words: str) -> Config:
    """Frame by frame nothing that looks at the whole file; spans as long as the files."""
    plain = ["overlay.find=false", "denoise.strength=0", "output.preset=ultrafast", "temporal.radius=2"]
    return load_config("dashcam", None, [*plain, "span.target_seconds=6", *words])


def light_of(clip: Path, output: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Light of all frames of a conversion, before it is dithered."""
    light: dict[int, bytes] = {}
    pack = pipeline.engine.pack

    def noting(frames: Tensor, out: object, numbers: Tensor) -> object:
        (light[int(numbers[0])],) = (frame.numpy().tobytes() for frame in frames)
        return pack(frames, out, numbers)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.engine, "pack", noting)
        assert convert(clip, output, config, overwrite=True).status == "done"
    return [light[number] for number in sorted(light)]


SHORT_SPANS = ["span.target_seconds=1", "span.min_seconds=0.8", "temporal.radius=1"]
"""Two spans a file."""


@pytest.mark.parametrize(("words", "radius"), [pytest.param([], 2, marks=pytest.mark.long), (SHORT_SPANS, 1)])
def test_files_of_a_drive_are_smoothed_as_the_uncut_drive(
    words: list[str], radius: int, uncut: Path, drive: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit; without joining, only the frames at the borders differ."""
    whole = light_of(uncut, tmp_path / "whole.mp4", settings(*words), monkeypatch)
    assert len(whole) == FRAMES * len(drive)
    config, plain = settings("drive.join=true", *words), settings(*words)
    joined = [one for path in drive for one in light_of(path, tmp_path / "one.mp4", config, monkeypatch)]
    assert joined == whole
    alone = light_of(drive[1], tmp_path / "one.mp4", plain, monkeypatch)
    differ = {number for number in range(FRAMES) if alone[number] != whole[FRAMES + number]}
    assert differ and differ <= {*range(radius), *range(FRAMES - radius, FRAMES)}


def test_only_spans_at_the_ends_depend_on_neighbours(drive: list[Path], tmp_path: Path) -> None:
    config = settings("drive.join=true", *SHORT_SPANS)
    prepared = [make_plan(drive[1], tmp_path / "o.mp4", config)]
    drive[0].unlink()
    prepared.append(make_plan(drive[1], tmp_path / "o.mp4", config))
    drive[2].unlink()
    prepared.append(make_plan(drive[1], tmp_path / "o.mp4", config))
    (one, last), (other, same), (again, changed) = map(keys, prepared)
    assert one != other == again
    assert last == same != changed
    assert len({each.plan.identity() for each in prepared}) == 3


def keys(prepared: Prepared) -> list[str]:
    track = prepared.plan.tracks[0]
    return [span_key(prepared.plan, track, span, prepared.indices[0]) for span in track.spans]


def test_a_plan_names_its_neighbours_and_is_read_back(drive: list[Path], tmp_path: Path) -> None:
    prepared = make_plan(drive[1], tmp_path / "o.mp4", settings("drive.join=true"))
    place = prepared.plan.tracks[0].drive
    assert (place.number, place.files) == (2, 3)
    assert [place.before.name, place.after.name] == [drive[0].name, drive[2].name]
    assert not prepared.plan.warnings
    told = plan_facts(prepared)["tracks"][0]["drive"]
    assert told == f"file 2 of 3 of a drive; smoothing reads 2 frames of {NAMES[0]} and 2 frames of {NAMES[2]}"
    assert Plan.from_json(prepared.plan.to_json()) == prepared.plan
    assert make_plan(drive[1], tmp_path / "o.mp4", settings()).plan.tracks[0].drive is None


def test_a_neighbour_elsewhere_changes_no_identity(drive: list[Path], tmp_path: Path) -> None:
    config = settings("drive.join=true")
    here = make_plan(drive[1], tmp_path / "o.mp4", config)
    moved = tmp_path / "copy"
    shutil.copytree(drive[0].parent, moved)
    there = make_plan(moved / drive[1].name, tmp_path / "o.mp4", config)
    assert (here.plan.identity(), keys(here)) == (there.plan.identity(), keys(there))


@pytest.fixture
def converted(drive: list[Path], tmp_path: Path) -> Iterator[tuple[list[Path], FileReport, Path]]:
    output = tmp_path / "o.mp4"
    yield drive, convert(drive[0], output, settings("drive.join=true", "extras.evidence=true", "model=neutral")), output


def test_a_missing_neighbour_is_recorded_and_its_coming_means_redo(
    converted: tuple[list[Path], FileReport, Path],
) -> None:
    drive, report, output = converted
    none = "no file of this camera comes right before it"
    assert f"drive: previous file: none ({none}), next file: {NAMES[1]}" in report.warnings
    found = read_provenance(output).facts["tracks"][0]["drive"]
    assert found["previous file"] == {"none": none}
    assert (found["next file"]["name"], found["next file"]["frames"]) == (NAMES[1], 2)
    assert '"drive"' in output.with_name("o.evidence.json").read_text()
    config = settings("drive.join=true", "extras.evidence=true", "model=neutral")
    assert convert(drive[0], output, config).status == "already done"
    drive[1].unlink()
    again = convert(drive[0], output, config, overwrite=True)
    assert (again.status, again.spans_reused) == ("done", 0)
    assert any("next file: none" in warning for warning in again.warnings)


def test_a_damaged_neighbour_lends_nothing(drive: list[Path], tmp_path: Path) -> None:
    whole = drive[1].rename(tmp_path / "whole.mp4")
    damage_packets(whole, drive[1], range(FRAMES // 2), flips=200)
    report = convert(drive[0], tmp_path / "o.mp4", settings("drive.join=true", "model=neutral"))
    assert report.status == "done"
    assert any(
        f"next file: none ({NAMES[1]} lends nothing: its first frames are damaged)" in one for one in report.warnings
    )


def test_a_neighbour_that_cannot_be_read_is_none(drive: list[Path], tmp_path: Path) -> None:
    drive[1].write_bytes(drive[1].read_bytes()[:2000])
    place = make_plan(drive[0], tmp_path / "o.mp4", settings("drive.join=true")).plan.tracks[0].drive
    assert place.after is None
    assert NAMES[1] in place.no_after and "cannot be read" in place.no_after
    assert str(drive[0].parent) not in place.no_after


def test_a_neighbour_with_other_colours_lends_nothing(drive: list[Path], tmp_path: Path) -> None:
    """The header does not say so, the bitstream's first frame does: files are compared as they are read."""
    tags = {"color_primaries": 1, "color_trc": 1, "colorspace": 1, "color_range": 2}
    make_clip(drive[1], frames=FRAMES, gop=FRAMES, fps=20, width=64, height=48, tags=tags)
    place = make_plan(drive[0], tmp_path / "o.mp4", settings("drive.join=true")).plan.tracks[0].drive
    assert place.after is None and "colours" in place.no_after


def test_a_neighbour_that_changes_while_converting_is_an_error(drive: list[Path], tmp_path: Path) -> None:
    conversion = start(drive[0], tmp_path / "o.mp4", settings("drive.join=true"))
    assert isinstance(conversion, Conversion)
    make_clip(drive[1], frames=FRAMES, gop=FRAMES, fps=20, width=64, height=48, options={"crf": "30"})
    with pytest.raises(ConversionError, match=f"{NAMES[1]}: packet 0 is not the one that was indexed"):
        run_span(str(conversion.workdir), 0, 0, threads=1, on_frames=lambda frames: None, should_stop=lambda: False)
    conversion.close()


def test_nothing_is_read_where_nothing_is_smoothed(drive: list[Path], tmp_path: Path) -> None:
    prepared = make_plan(drive[1], tmp_path / "o.mp4", settings("drive.join=true", "temporal.radius=0"))
    assert prepared.plan.tracks[0].drive is None
    assert any(warning.startswith("drive.join: nothing is smoothed") for warning in prepared.plan.warnings)


def test_pictures_have_no_drive(tmp_path: Path) -> None:
    files = [tmp_path / f"frame_{number:04d}.png" for number in range(3)]
    for file in files:
        cv2.imwrite(str(file), np.zeros((48, 64, 3), np.uint8))
    (run,) = group_runs(files)
    _, config = wrapped(run, tmp_path, settings("drive.join=true", "input.fps=20"))
    assert not config.drive.join


def test_inspect_names_the_drive(drive: list[Path]) -> None:
    facts = describe(drive[1])
    assert facts["drive"]["names"] == NAMES
    text = describe_text(facts)
    assert "drive: file 2 of 3" in text
    assert all(name in text for name in NAMES)


def test_a_folder_that_cannot_be_listed(drive: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    why = "its folder cannot be listed (Permission denied)"
    assert drive_of(drive[1]) == Drive((NAMES[1],), why, why)


def test_files_far_away_are_not_opened(drive: list[Path]) -> None:
    """By their names they cannot be of this drive."""
    (drive[0].parent / "20240130_120000_F.mp4").write_bytes(b"")
    assert drive_of(drive[0]) == Drive(
        NAMES, "no file of this camera comes right before it", "no file of this camera comes right after it"
    )
