"""The command line on bad input: one clear sentence, the right exit code, and the rest of a batch goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import run_pipeline
from tests import oracles
from tests.clips import cut, damage_packets, make_clip

pytestmark = pytest.mark.usefixtures("without_ray")

FAST = ["span.target_seconds=0.6", "span.min_seconds=0.3", "output.preset=ultrafast"]


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error (line breaks of the terminal width folded)."""
    try:
        code = run_pipeline.main([str(word) for word in words])
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, " ".join((captured.err + captured.out).split())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "drive.mp4", frames=40, audio=True)


def make_bad(kind: str, folder: Path, clip: Path) -> Path:
    """A file that cannot be converted."""
    path = folder / f"{kind}.mp4"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("This is a shopping list, not a video.\n" * 50)
    elif kind == "no_moov":
        cut(clip, path, 0.6)
    elif kind == "cut_mdat":
        whole = make_clip(folder / "front.mp4", frames=40, container_options={"movflags": "faststart"})
        cut(whole, path, 0.6)
    elif kind == "audio_only":
        make_audio(path)
    elif kind == "hdr":
        make_clip(
            path,
            "libx265",
            pix_fmt="yuv420p10le",
            frames=4,
            tags={"color_primaries": 9, "color_trc": 16, "colorspace": 9},
        )
    return path


def make_audio(path: Path) -> None:
    import av
    import numpy as np

    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=48000, layout="mono")
        for number in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 48000, number * 1024
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("empty", "is empty"),
        ("text", "text file, not a video"),
        ("no_moov", "moov"),
        ("cut_mdat", "--salvage"),
        ("audio_only", "only audio"),
        ("hdr", "--force"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, clip: Path, kind: str, told: str
) -> None:
    bad = make_bad(kind, tmp_path, clip)
    code, _, text = run(capsys, "convert", bad, "--output", tmp_path / "out.mp4")
    assert code == 2
    assert bad.name in text
    assert told in text
    assert "Traceback" not in text
    assert not (tmp_path / "out.mp4").exists()


def test_salvage_converts_what_is_readable_and_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, clip: Path
) -> None:
    bad = make_bad("cut_mdat", tmp_path, clip)
    code, out, _ = run(capsys, "convert", bad, "--output", tmp_path / "out.mp4", "--salvage", "--json", *FAST)
    report = json.loads(out)["files"][0]
    assert (code, report["status"]) == (0, "done")
    assert 0 < report["frames"] < 40
    assert any("missing" in warning for warning in report["warnings"])
    assert len(oracles.frame_times(tmp_path / "out.mp4")) == report["frames"]


def test_damaged_packets_are_concealed_counted_or_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, clip: Path
) -> None:
    bad = damage_packets(clip, tmp_path / "bad.mp4", [16, 17], flips=60)
    code, out, _ = run(capsys, "convert", bad, "--output", tmp_path / "out.mp4", "--json", *FAST)
    report = json.loads(out)["files"][0]
    assert (code, report["status"], report["frames"]) == (0, "done", 40)
    assert report["repeated_frames"] > 0
    assert oracles.frame_times(tmp_path / "out.mp4") == oracles.frame_times(clip)
    code, _, text = run(capsys, "convert", bad, "--output", tmp_path / "strict.mp4", "--strict", *FAST)
    assert code == 1 and "bad.mp4" in text
    assert not (tmp_path / "strict.mp4").exists()


def test_inspect_and_verify_refuse_the_same_way(capsys: pytest.CaptureFixture[str], tmp_path: Path, clip: Path) -> None:
    bad = make_bad("text", tmp_path, clip)
    for words in (["inspect", bad], ["verify", clip, bad], ["verify", bad, clip]):
        code, _, text = run(capsys, *words)
        assert code == 2 and bad.name in text, words


def test_output_equal_to_input(capsys: pytest.CaptureFixture[str], clip: Path) -> None:
    for more in ([], ["--dry-run"]):
        code, _, text = run(capsys, "convert", clip, "--output", clip, *more)
        assert code == 2 and "the source itself" in text


def test_unwritable_output(capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder should be")
    code, _, text = run(capsys, "convert", clip, "--output", blocked / "out.mp4")
    assert code == 2 and "cannot be written" in text


def test_no_space_left(
    capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: os.terminal_size((0, 0)) and type("Usage", (), {"free": 1000})())
    code, _, text = run(capsys, "convert", clip, "--output", tmp_path / "out.mp4")
    assert code == 2 and "no space left" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--profile", "moon"], "legal: archive, cityscapes, dashcam"),
        (["grade.peek_nits=1"], "did you mean grade.peak_nits?"),
        (["--workers", "0"], "legal: 1 or more"),
        (["--video", "7"], "the file has 1 video streams"),
        (["--video", "last"], "legal: all, or the number"),
        (["--fps", "fast"], "not a frame rate"),
        (["model=absent"], "neutral"),
        (["--max-hours", "-1"], "legal: 0 or more"),
        (["--watch"], "--watch needs a folder for --output"),
        (["--watch", "--dry-run"], "do not go together"),
        (["precision=fp16"], "legal there: auto, fp32"),
    ],
)
def test_wrong_words_are_told_with_the_legal_ones(
    capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path, words: list[str], told: str
) -> None:
    code, _, text = run(capsys, "convert", clip, "--output", tmp_path / "out.mp4", *words)
    assert code == 2 and told in text, text


def test_dry_run_tells_everything_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path
) -> None:
    code, out, text = run(capsys, "convert", clip, "--output", tmp_path / "o.mp4", "--dry-run", "--json", *FAST)
    assert code == 0
    plan = json.loads(out)["plans"][0]
    assert plan["tracks"][0]["frames"] == 40
    assert set(plan["tracks"][0]["color"]) == {"matrix", "range", "transfer", "primaries", "chroma_location"}
    assert plan["restores_highlights"]
    assert list(tmp_path.iterdir()) == []
    code, _, text = run(capsys, "convert", clip, "--output", tmp_path / "o.mp4", "--dry-run")
    assert code == 0 and "tiny" in text
    code, _, text = run(capsys, "convert", clip, "--output", tmp_path / "o.mp4", "--dry-run", "model=neutral")
    assert code == 0
    for word in ("spans", "neutral", "libx265", "highlights are not restored", "BT.601"):
        assert word in text


def test_a_batch_goes_on_after_a_bad_file(capsys: pytest.CaptureFixture[str], clip: Path, tmp_path: Path) -> None:
    card = tmp_path / "card"
    (card / "day").mkdir(parents=True)
    (card / "day" / "good.mp4").write_bytes(clip.read_bytes())
    (card / "bad.mp4").write_text("no video")
    (card / "notes.txt").write_text("hello")
    code, out, _ = run(capsys, "convert", card, "--output", tmp_path / "out", "--json", "--workers", "2", *FAST)
    report = json.loads(out)
    assert code == 2
    assert [file["status"] for file in report["files"]] == ["refused", "done"]
    assert report["files"][1]["frames"] == 40
    assert (tmp_path / "out" / "day" / "good.mp4").exists()
    assert report["skipped"] == [str(card / "notes.txt")]
    kept = tmp_path / "out" / ".sunvisor"
    assert json.loads((kept / "report.json").read_text()) == report
    assert "bad.mp4: refused: " in (kept / "report.txt").read_text()
    code, out, _ = run(capsys, "status", tmp_path / "out", "--json")
    (driver,) = json.loads(out)["drivers"]
    assert (code, driver["state"], driver["exit_code"], driver["files"]["done"]) == (0, "finished", 2, 1)
    assert run(capsys, "pause", tmp_path / "out")[0] == 2  # no run is under way


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, text = run(capsys, "--help")
    assert code == 0 and "convert drive.mp4" in text
    code, _, text = run(capsys, "convert", "--help")
    assert code == 0 and "goes on where it stopped" in text
    for word in ("@drives.txt", "--watch", "--max-hours", "--paranoid", "3 stopped by --max-hours"):
        assert word in text
    code, _, text = run(capsys, "status", "--help")
    assert code == 0 and ".sunvisor" in text and "finishing (nothing new begins)" in text
