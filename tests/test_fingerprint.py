"""Outputs that are done are recognised by content and settings, in two MiB of reading, and by all of it when asked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from configs.schema import Config, load_config
from pipeline import fingerprint as fingerprints
from pipeline import planning
from pipeline.convert import convert, start
from pipeline.errors import InputError
from pipeline.file_report import FileReport
from pipeline.fingerprint import fingerprint
from pipeline.machine import this_machine
from tests.clips import make_clip
from tests.test_sequence import pixels, write

END = 2000
"""Stands in for a MiB, as the clips are small."""


def settings(*words: str) -> Config:
    return load_config("dashcam", None, ["model=neutral", "output.preset=ultrafast", *words])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source and its output."""
    folder = tmp_path_factory.mktemp("made")
    make_clip(folder / "drive.mp4", frames=16, width=64, height=48, gop=4, audio=True, options={"crf": "4"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprints, "END_BYTES", END)
        convert(folder / "drive.mp4", folder / "out.mp4", settings())
    return folder


@pytest.fixture
def done(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same anew, and what is read of the source counted."""
    for name in ("drive.mp4", "out.mp4"):
        shutil.copy(made / name, tmp_path / name)
    monkeypatch.setattr(fingerprints, "END_BYTES", END)
    return tmp_path


def no_plan(*_: object, **__: object) -> None:
    raise AssertionError("the source is read through")


def test_a_done_file_is_recognised_without_reading_it_through(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "make_plan", no_plan)
    report = start(done / "drive.mp4", done / "out.mp4", settings())
    assert isinstance(report, FileReport)
    assert (report.status, report.frames) == ("already done", 16)
    moved = done / "elsewhere"
    moved.mkdir()
    (done / "drive.mp4").rename(moved / "renamed.mp4")
    (done / "out.mp4").rename(moved / "also.mp4")
    assert start(moved / "renamed.mp4", moved / "also.mp4", settings()).status == "already done"
    assert sorted(path.name for path in moved.iterdir()) == ["also.mp4", "renamed.mp4"]


def test_what_decides_bytes_is_part_of_it(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other settings, models, arithmetic or containers, or a file that is longer or has other ends: looked at in full."""
    monkeypatch.setattr(planning, "make_plan", no_plan)
    source, output = done / "drive.mp4", done / "out.mp4"
    machine = this_machine(settings())
    ours = fingerprint(source, output, settings(), machine)
    others = [
        fingerprint(source, output, settings("grade.peak_nits=600"), machine),
        fingerprint(source, done / "out.mkv", settings(), machine),
        fingerprint(source, output, settings(), this_machine(settings("model=tiny"))),
    ]
    assert len({one.key for one in [ours, *others]}) == 4
    assert {one.ends for one in others} == {ours.ends}
    with pytest.raises(AssertionError, match="read through"):
        start(source, output, settings("grade.peak_nits=600"))
    data = source.read_bytes()
    for changed in (data + b"\0", b"\1" + data[1:], data[:-1] + b"\1"):
        source.write_bytes(changed)
        with pytest.raises(AssertionError, match="read through"):
            start(source, output, settings())


def test_a_change_in_the_middle_is_caught_by_paranoid_alone(done: Path) -> None:
    """The limit that is documented."""
    source, output = done / "drive.mp4", done / "out.mp4"
    data = bytearray(source.read_bytes())
    assert len(data) > 3 * END
    at = data.index(b"mdat") + 8
    at = max(at, END) + 500
    data[at] ^= 1
    source.write_bytes(data)
    assert start(source, output, settings()).status == "already done"
    with pytest.raises(InputError, match="made from another source or with other settings"):
        start(source, output, settings(), paranoid=True)


def test_paranoid_finds_what_is_the_same(done: Path) -> None:
    assert start(done / "drive.mp4", done / "out.mp4", settings(), paranoid=True).status == "already done"


def test_something_asked_for_beside_it_is_missing(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "make_plan", no_plan)
    with pytest.raises(AssertionError, match="read through"):
        start(done / "drive.mp4", done / "out.mp4", settings("extras.mask=true"))
    (done / "out.mask.mp4").touch()
    assert start(done / "drive.mp4", done / "out.mp4", settings("extras.mask=true")).status == "already done"


def test_neighbours_in_a_drive_are_part_of_it(tmp_path: Path) -> None:
    names = [f"20240131_1200{second:02d}_F.mp4" for second in (0, 2)]
    for name in names:
        make_clip(tmp_path / name, frames=40, gop=40, fps=20, width=64, height=48)
    machine, joined = this_machine(settings()), settings("drive.join=true")

    def keys() -> list[str]:
        return [fingerprint(tmp_path / names[0], tmp_path / "o.mp4", one, machine).key for one in (settings(), joined)]

    before = keys()
    make_clip(tmp_path / names[1], frames=40, gop=40, fps=20, width=64, height=48, options={"crf": "40"})
    after = keys()
    assert before[0] == after[0] and before[1] != after[1]
    (tmp_path / names[1]).unlink()
    assert keys()[1] not in (before[1], after[1])


def test_pictures_are_known_by_all_sizes_and_both_ends(tmp_path: Path) -> None:
    from pipeline.sequence import run_of

    for number in range(4):
        write(tmp_path / "in" / f"f_{number:04d}.png", pixels(number))
    first = tmp_path / "in" / "f_0000.png"
    machine = this_machine(settings())

    def ends(fps: int = 20) -> str:
        run = run_of(first)
        return fingerprint(first, tmp_path / "o.mp4", settings(f"input.fps={fps}"), machine, run).key

    ours = ends()
    assert ends() == ours != ends(25)
    last = tmp_path / "in" / "f_0003.png"
    last.write_bytes(last.read_bytes()[:-1] + b"\1")
    assert ends() != ours
    last.unlink()
    assert ends() != ours
