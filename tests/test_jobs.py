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
