"""`--dry-run`, `inspect` and `verify` outlive what a hostile file does to the process that reads it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import run_pipeline
from tests.processes import stat_fields

DIED = "the process in which it was {} died (killed by SIGSEGV); the file is damaged, or memory is short."


@pytest.fixture(autouse=True)
def _acted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("commands.check.INSPECT_FILE", "tests.fatal_work:inspect_file")
    monkeypatch.setattr("commands.check.VERIFY_FILE", "tests.fatal_work:verify_file")
    monkeypatch.setattr("workers.batch.FORESEE_FILE", "tests.fatal_work:foresee_file")
    monkeypatch.setattr("workers.batch.this_machine", lambda config: None)


def make_files(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.write_bytes(b"video")
    return paths


def test_a_dry_run_goes_on_after_a_file_that_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = make_files(tmp_path, "bad.mp4", "die.mp4", "slow.mp4", "z.mp4")
    code = run_pipeline.main(["convert", *map(str, files), "--output", str(tmp_path / "out"), "--dry-run", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert code == 1
    assert told["plans"] == [{"source": str(files[2])}, {"source": str(files[3])}], "in the order given"
    assert [(one["status"], one["exit_code"], one["error"]) for one in told["files"]] == [
        ("refused", 2, f"{files[0]}: no video."),
        ("failed", 1, f"{files[1]}: {DIED.format('looked at')}"),
    ]
    assert sorted(tmp_path.iterdir()) == sorted(files), "a dry run writes nothing"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["inspect", "die.mp4"], 1, f"die.mp4: {DIED.format('looked at')}"),
        (["inspect", "bad.mp4"], 2, "bad.mp4: no video."),
        (["inspect", "bug.mp4"], 1, "bug.mp4: could not be looked at (IndexError: list index out of range)."),
        (["inspect", "fine.mp4"], 0, ""),
        (["verify", "die.mp4", "fine.mp4"], 1, f"fine.mp4: {DIED.format('compared with its source')}"),
        (["verify", "fine.mp4", "die.mp4"], 0, ""),
    ],
)
def test_one_sentence_and_the_right_exit_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(run_pipeline.__file__).parent))
    assert run_pipeline.main([*words, "--json"]) == code
    said = capsys.readouterr()
    facts = json.loads(said.out)
    if told:
        assert f"error: {told}" in said.err.splitlines()
        assert facts == {"error": told, "exit_code": code}
    else:
        assert "error" not in facts and not said.err
    assert ("Traceback" in said.err) == (words[1] == "bug.mp4")


def test_ctrl_c_ends_both_processes_and_the_waiting_one_is_light(tmp_path: Path) -> None:
    (path,) = make_files(tmp_path, "hang.mp4")
    code = (
        "import signal, sys, commands.check, run_pipeline; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a shell's job ignores it
        "commands.check.INSPECT_FILE = 'tests.fatal_work:inspect_file'; "
        f"code = run_pipeline.main(['inspect', {str(path)!r}]); heavy = {{'torch', 'av', 'numpy'}} & set(sys.modules); "
        "sys.exit(code if not heavy else f'{heavy} imported')"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        until = time.monotonic() + 240
        while path.read_bytes() == b"video" or not path.read_text():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=240)
    finally:
        process.kill()
    assert (process.returncode, said) == (130, "interrupted\n")
    until = time.monotonic() + 60
    while stat_fields(int(path.read_text()))[:1] not in ([], ["Z"]):
        assert time.monotonic() < until, "the working process is still there"
        time.sleep(0.05)
