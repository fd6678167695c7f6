"""A work folder that grows past what was foreseen stops its file with a sentence; what is done is kept."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path

import pytest

from configs.schema import load_config
from pipeline import work_budget
from pipeline.convert import Conversion, convert, start
from pipeline.errors import ConversionError
from pipeline.prepare import disk_need_bytes, work_folder
from pipeline.span_job import run_span
from pipeline.work_budget import check_work, folder_bytes, reserve_bytes
from tests.clips import make_clip

WORDS = ["model=neutral", "span.target_seconds=0.6", "span.min_seconds=0.3", "output.preset=ultrafast"]


def do(conversion: Conversion, place: tuple[int, int]) -> None:
    line = run_span(str(conversion.workdir), *place, threads=1, on_frames=lambda _: None, should_stop=lambda: False)
    conversion.span_done(line)


def test_a_file_that_outgrows_its_prediction_is_stopped_and_goes_on_later(tmp_path: Path) -> None:
    source, output = make_clip(tmp_path / "clip.mp4", frames=45), tmp_path / "out" / "o.mp4"
    conversion = start(source, output, load_config("dashcam", None, WORDS))
    assert isinstance(conversion, Conversion)
    limit = conversion.plan.work_limit_bytes
    assert limit == 3 * disk_need_bytes(conversion.prepared)
    first, second, *_ = conversion.pending
    do(conversion, first)
    stray = conversion.workdir / "runaway"
    stray.write_bytes(b"")
    with stray.open("ab") as file:
        file.truncate(limit)
    with pytest.raises(ConversionError, match=r"o\.mp4\.work: has grown to \d+ MB, past its limit of \d+ MB") as told:
        do(conversion, second)
    assert "raise workers.work_limit" in str(told.value) and not hasattr(told.value, "transient")
    conversion.close()
    assert not output.exists()
    report = convert(source, output, load_config("dashcam", None, [*WORDS, "workers.work_limit=0"]))
    assert (report.status, report.spans_reused) == ("done", 1)
    convert(source, tmp_path / "fresh.mp4", load_config("dashcam", None, WORDS))
    assert output.read_bytes() == (tmp_path / "fresh.mp4").read_bytes()
    assert not work_folder(output).exists()


def test_a_span_that_outgrows_it_alone_is_stopped_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lossless, some 56 KB a frame. The rest of the span is not written, and nothing of it is left."""
    source, output = make_clip(tmp_path / "clip.mp4", frames=15, width=480, height=272), tmp_path / "o.mkv"
    words = [*WORDS[:-1], "output.codec=ffv1", "overlay.find=false", "temporal.radius=0"]
    conversion = start(source, output, load_config("dashcam", None, words))
    assert isinstance(conversion, Conversion)
    limit = 300_000
    plan = dataclasses.replace(conversion.plan, work_limit_bytes=limit)
    (conversion.workdir / "plan.json").write_text(plan.to_json())
    sizes: list[int] = []
    ask = work_budget.Spending.ask

    def seen(self: work_budget.Spending) -> None:
        sizes.append(folder_bytes(conversion.workdir))
        ask(self)

    monkeypatch.setattr(work_budget.Spending, "ask", seen)
    before = sorted(conversion.workdir.iterdir())
    with pytest.raises(ConversionError, match=r"o\.mkv\.work: has grown to \d+ MB, past its limit") as told:
        do(conversion, conversion.pending[0])
    assert not hasattr(told.value, "transient")
    assert 3 < len(sizes) < 15 and sizes[-2] <= limit < sizes[-1] < 2 * limit
    assert sorted(conversion.workdir.iterdir()) == before
    conversion.close()


def test_the_reserve_of_a_disk_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 1 << 30
    for total, free, stops in ((1000 * gib, gib, False), (1000 * gib, 900_000_000, True), (gib, gib // 50, False)):
        disk = types.SimpleNamespace(f_frsize=4096, f_blocks=total // 4096, f_bavail=free // 4096)
        monkeypatch.setattr(work_budget.os, "statvfs", lambda _, told=disk: told)
        if stops:
            with pytest.raises(
                ConversionError, match="no space left on the disk but a reserve: 900 MB are free and 1000 MB"
            ):
                check_work(tmp_path, 0)
        else:
            check_work(tmp_path, 0)
    assert reserve_bytes(64 << 20) == round((64 << 20) / 100)


def test_what_counts_as_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(10))
    (tmp_path / "b").write_bytes(bytes(5))
    (tmp_path / "link").symlink_to("/dev/null")
    (tmp_path / "below").mkdir()
    assert folder_bytes(tmp_path) == 15
    check_work(tmp_path, 15)
    with pytest.raises(ConversionError):
        check_work(tmp_path, 14)
