"""From words on the command line to files: folders, globs, mirrored trees, names that clash."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import InputError
from workers.jobs import find_jobs


@pytest.fixture
def card(tmp_path: Path) -> Path:
    root = tmp_path / "card"
    for name in ("a.mp4", "day 2/b.MOV", "day 2/notes.txt", "day 2/c.avi", "old.mp4.work/span_0.mp4", ".hidden.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_a_folder_is_mirrored_and_other_files_are_named(card: Path, tmp_path: Path) -> None:
    jobs, skipped = find_jobs([str(card)], tmp_path / "out")
    assert {
        (job.source.relative_to(card).as_posix(), job.output.relative_to(tmp_path / "out").as_posix()) for job in jobs
    } == {
        ("a.mp4", "a.mp4"),
        ("day 2/b.MOV", "day 2/b.mp4"),
        ("day 2/c.avi", "day 2/c.mp4"),
    }
    assert [path.name for path in skipped] == ["notes.txt"]


def test_an_output_folder_inside_the_input_is_no_input(card: Path) -> None:
    out = card / "hdr"
    out.mkdir()
    (out / "a.mp4").write_bytes(b"x")
    jobs, _ = find_jobs([str(card)], out)
    assert all(not job.source.is_relative_to(out) for job in jobs)


def test_one_file_goes_to_the_named_file_or_into_a_folder(card: Path, tmp_path: Path) -> None:
    source = str(card / "a.mp4")
    assert find_jobs([source], tmp_path / "x.mkv")[0][0].output == tmp_path / "x.mkv"
    assert find_jobs([source], tmp_path)[0][0].output == tmp_path / "a.mp4"
    assert find_jobs([source], tmp_path / "new")[0][0].output == tmp_path / "new" / "a.mp4"


def test_a_glob_finds_files_and_the_container_names_them(card: Path, tmp_path: Path) -> None:
    jobs, _ = find_jobs([str(card / "*" / "*.[Ma][Ov][Vi]")], tmp_path / "out", "mkv")
    assert sorted(job.output.name for job in jobs) == ["b.mkv", "c.mkv"]


def test_sources_of_one_name_keep_their_endings(tmp_path: Path) -> None:
    for name in ("x.avi", "x.mov"):
        (tmp_path / name).write_bytes(b"x")
    jobs, _ = find_jobs([str(tmp_path / "x.avi"), str(tmp_path / "x.mov")], tmp_path / "out")
    assert [job.output.name for job in jobs] == ["x.avi.mp4", "x.mov.mp4"]


def test_what_cannot_be_is_told(card: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        find_jobs([str(tmp_path / "absent.mp4")], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no video file there"):
        find_jobs([str(tmp_path / "empty")], tmp_path / "out")
    target = tmp_path / "one.mp4"
    target.write_bytes(b"x")
    with pytest.raises(InputError, match="several inputs need a folder"):
        find_jobs([str(card)], target)
    with pytest.raises(InputError, match="two inputs of the same name"):
        find_jobs([str(card / "a.mp4"), str(card / "a.mp4")], tmp_path / "out")


def test_a_glob_over_folders_is_mirrored_from_its_first_wildcard(tmp_path: Path) -> None:
    for name in ("trip1", "trip2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "DASH1.mp4").write_bytes(b"x")
    jobs, _ = find_jobs([str(tmp_path / "trip*" / "*.mp4")], tmp_path / "out")
    assert [job.output.relative_to(tmp_path / "out").as_posix() for job in jobs] == [
        "trip1/DASH1.mp4",
        "trip2/DASH1.mp4",
    ]


def test_an_output_of_unknown_kind_is_refused(card: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must end in one of \.mp4"):
        find_jobs([str(card / "a.mp4")], tmp_path / "out.avi")


def test_a_list_names_files_folders_and_globs_from_where_it_lies(card: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "deep"
    other.mkdir(parents=True)
    (other / "z.mp4").write_bytes(b"x")
    (other.parent / "y.mp4").write_bytes(b"x")
    words = tmp_path / "card" / "list.txt"
    lines = ["# the good ones", "", "a.mp4", "  day 2/c.avi  ", "../other/deep/z.mp4", str(other.parent / "y.mp4")]
    words.write_text("\ufeff" + "\r\n".join(lines) + "\n")
    jobs, _ = find_jobs([f"@{words}"], tmp_path / "out")
    assert {job.source.resolve(): job.output.relative_to(tmp_path / "out").as_posix() for job in jobs} == {
        card / "a.mp4": "a.mp4",
        card / "day 2" / "c.avi": "day 2/c.mp4",
        other / "z.mp4": "deep/z.mp4",
        other.parent / "y.mp4": "y.mp4",
    }
    words.write_text("day 2\na*.mp4\n")
    jobs, _ = find_jobs([f"@{words}"], tmp_path / "out")
    assert sorted(job.output.name for job in jobs) == ["a.mp4", "b.mp4", "c.mp4"]
    words.write_text("a.mp4\n")
    assert find_jobs([f"@{words}"], tmp_path / "x.mkv")[0][0].output == tmp_path / "x.mkv"


def test_a_list_that_names_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"@.*list\.txt: this list cannot be read \(No such file"):
        find_jobs([f"@{tmp_path / 'list.txt'}"], tmp_path / "out")
    (tmp_path / "list.txt").write_text("# nothing\n")
    with pytest.raises(InputError, match="names no file"):
        find_jobs([f"@{tmp_path / 'list.txt'}"], tmp_path / "out")
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="no text in UTF-8"):
        find_jobs([f"@{tmp_path / 'list.txt'}"], tmp_path / "out")
    (tmp_path / "list.txt").write_text("absent.mp4\n")
    with pytest.raises(InputError, match=r"absent\.mp4: no such file"):
        find_jobs([f"@{tmp_path / 'list.txt'}"], tmp_path / "out")


def test_a_folder_that_is_watched_may_be_empty_and_needs_a_folder_for_results(card: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert find_jobs([str(tmp_path / "empty"), str(tmp_path / "*.mp4")], tmp_path / "out", watching=True) == ([], [])
    with pytest.raises(InputError, match="--watch needs a folder"):
        find_jobs([str(card)], tmp_path / "o.mp4", watching=True)
    with pytest.raises(InputError, match="no such file or folder"):
        find_jobs([str(tmp_path / "absent")], tmp_path / "out", watching=True)
    (job,), _ = find_jobs([str(card / "a.mp4")], tmp_path / "out", watching=True)
    assert job.output == tmp_path / "out" / "a.mp4"


CITY = "{tree}/val/ulm/ulm_{sequence:06d}_{frame:06d}_{name}"


@pytest.fixture
def city(tmp_path: Path) -> Path:
    """A Cityscapes-like root: two cameras, and the trees that are not to be touched."""
    root = tmp_path / "cityscapes"
    for sequence, frame in ((0, 0), (0, 1), (0, 2), (1, 7)):
        for tree, ending in (
            ("leftImg8bit_sequence", "leftImg8bit.png"),
            ("rightImg8bit_sequence", "rightImg8bit.png"),
            ("disparity_sequence", "disparity.png"),
            ("gtFine", "gtFine_labelIds.png"),
            ("gtCoarse", "gtCoarse_polygons.json"),
            ("camera", "camera.json"),
            ("vehicle_sequence", "vehicle.json"),
            ("timestamp_sequence", "timestamp.txt"),
        ):
            path = root / CITY.format(tree=tree, sequence=sequence, frame=frame, name=ending)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    (root / "disparity_sequence" / "0001.png").write_bytes(b"x")
    (root / "README").write_bytes(b"x")
    return root


def test_a_cityscapes_root_gives_one_video_a_run_and_leaves_labels_alone(city: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs, skipped = find_jobs([str(city)], out)
    assert {job.output.relative_to(out).as_posix(): len(job.run.files) for job in jobs} == {
        "leftImg8bit_sequence/val/ulm/ulm_000000_000000_leftImg8bit.mp4": 3,
        "leftImg8bit_sequence/val/ulm/ulm_000001_000007_leftImg8bit.mp4": 1,
        "rightImg8bit_sequence/val/ulm/ulm_000000_000000_rightImg8bit.mp4": 3,
        "rightImg8bit_sequence/val/ulm/ulm_000001_000007_rightImg8bit.mp4": 1,
    }
    assert all(job.source == job.run.files[0] and job.frames == () and job.source_bytes for job in jobs)
    assert [path.relative_to(city).as_posix() for path in skipped] == [
        "README",
        "camera",
        "disparity_sequence",
        "gtCoarse",
        "gtFine",
        "timestamp_sequence",
        "vehicle_sequence",
    ]


@pytest.mark.parametrize(("frames", "ending"), [("png16", "png"), ("exr", "exr")])
def test_frames_of_cityscapes_have_the_same_names_with_16bit(
    city: Path, tmp_path: Path, frames: str, ending: str
) -> None:
    out = tmp_path / "out"
    jobs, _ = find_jobs([str(city)], out, "auto", frames)
    sources = sorted(path for path in city.rglob("*Img8bit.png"))
    wanted = {
        path.relative_to(city).as_posix().replace("Img8bit", "Img16bit").replace(".png", f".{ending}")
        for path in sources
    }
    assert {path.relative_to(out).as_posix() for job in jobs for path in job.frames} == wanted and len(wanted) == 8
    assert all(job.output.is_relative_to(out / "video" / job.source.parts[-4]) for job in jobs)
    for job in jobs:
        assert [path.stem.replace("16bit", "8bit") for path in job.frames] == [path.stem for path in job.run.files]


def test_a_part_of_a_tree_is_mirrored_below_itself(city: Path, tmp_path: Path) -> None:
    jobs, skipped = find_jobs([str(city / "leftImg8bit_sequence" / "val")], tmp_path / "out", "mkv", "png16")
    assert jobs[0].output == tmp_path / "out/video/ulm/ulm_000000_000000_leftImg8bit.mkv"
    assert jobs[0].frames[0] == tmp_path / "out/ulm/ulm_000000_000000_leftImg16bit.png"
    assert not skipped


def numbered(folder: Path, count: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"img_{number:04d}.jpg").write_bytes(b"x")
    return folder


def test_a_folder_of_numbered_pictures_is_a_run(tmp_path: Path) -> None:
    folder = numbered(tmp_path / "in" / "trip")
    (job,), _ = find_jobs([str(tmp_path / "in")], tmp_path / "out")
    assert job.output == tmp_path / "out/trip/img_0000.mp4" and len(job.run.files) == 3
    (job,), _ = find_jobs([str(folder)], tmp_path / "trip.mov", "auto", "exr")
    assert job.output == tmp_path / "trip.mov"
    assert [path.relative_to(tmp_path).as_posix() for path in job.frames][-1] == "trip_frames/img_0002.exr"
    by_glob, _ = find_jobs([str(folder / "*.jpg")], tmp_path / "trip.mov")
    by_words, _ = find_jobs([str(path) for path in sorted(folder.iterdir())], tmp_path / "trip.mov")
    assert by_glob[0].run == by_words[0].run == job.run


def test_snapshots_beside_videos_are_left_alone(card: Path, tmp_path: Path) -> None:
    numbered(card / "photos")
    jobs, skipped = find_jobs([str(card)], tmp_path / "out")
    assert len(jobs) == 3 and all(job.run is None for job in jobs)
    assert sum(path.suffix == ".jpg" for path in skipped) == 3
    jobs, _ = find_jobs([str(card / "a.mp4"), str(card / "photos")], tmp_path / "out", "auto", "png16")
    assert [job.output.relative_to(tmp_path / "out").as_posix() for job in jobs] == ["a.mp4", "video/img_0000.mp4"]


def test_no_result_is_written_over_a_source_or_another_result(tmp_path: Path) -> None:
    folder = numbered(tmp_path / "in")
    for path in list(folder.iterdir()):
        path.with_suffix(".png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"in/img_0000\.png: a result would be written over its source"):
        find_jobs([str(folder)], folder, "auto", "png16")
    with pytest.raises(InputError, match=r"out/img_0000\.png: two pictures would be written here"):
        find_jobs([str(folder)], tmp_path / "out", "auto", "png16")
    jobs, _ = find_jobs([str(folder)], tmp_path / "out")
    assert sorted(job.output.name for job in jobs) == ["img_0000.jpg.mp4", "img_0000.png.mp4"]
