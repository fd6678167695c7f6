"""Ledger and lock: what a kill at any byte leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.ledger import Ledger, WorkLock


def _line(folder: Path, number: int) -> dict:
    file = folder / f"span_{number}.mp4"
    file.write_bytes(b"x" * (10 + number))
    return {"key": f"key{number}", "file": file.name, "bytes": 10 + number, "track": 0, "span": number, "frames": 5}


def test_lines_come_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    lines = [_line(tmp_path, number) for number in range(3)]
    for line in lines:
        ledger.append(line)
    assert ledger.finished() == {line["key"]: line for line in lines}


def test_a_span_file_that_vanished_or_shrank_is_not_finished(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for number in range(3):
        ledger.append(_line(tmp_path, number))
    (tmp_path / "span_0.mp4").unlink()
    (tmp_path / "span_1.mp4").write_bytes(b"short")
    assert set(ledger.finished()) == {"key2"}


@given(st.data())
def test_a_ledger_cut_at_any_byte_keeps_whole_lines_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    ledger = Ledger(folder)
    for number in range(3):
        ledger.append(_line(folder, number))
    content = ledger.path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    ledger.path.write_bytes(content[:cut])
    whole = [json.loads(line)["key"] for line in content[:cut].split(b"\n") if _is_json(line)]
    assert list(ledger.finished()) == whole
    ledger.append(_line(folder, 7))
    assert list(ledger.finished()) == [*whole, "key7"]


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def test_two_drivers_cannot_share_a_work_folder(tmp_path: Path) -> None:
    with WorkLock(tmp_path), pytest.raises(InputError, match="another Sunvisor is working on this output"):
        WorkLock(tmp_path)
    WorkLock(tmp_path).release()
