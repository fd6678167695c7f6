"""Decompression bombs: a few hundred bytes that claim 16000 x 16000 pixels are refused by their header, in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs.schema import load_config
from pipeline import memory_need
from pipeline.convert import convert
from pipeline.describe import describe
from pipeline.errors import InputError
from pipeline.memory_need import BYTES_A_PIXEL, machine_bytes, refuse_too_large
from tests.bombs import SIDE, h264_bomb, png_bomb
from tests.clips import make_clip
from tests.oracles import ffprobe

ROOT = Path(__file__).resolve().parents[1]
MEMORY_BYTES = 16_000_000_000
"""The tests' machine, so that they mean the same on a larger one."""

PEAK_BYTES = 2_500_000_000
"""Torch and all; FFmpeg decodes a frame while it reads a raw stream's header, and a frame here is 0.4 GB."""

ATTEMPT = """
import json, sys
from pathlib import Path
from configs.schema import load_config
from pipeline.convert import start
from pipeline.errors import SunvisorError
from pipeline.sequence import run_of
from tests.hostile_worker import peak_bytes
source, output, memory = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
config = load_config("dashcam", None, ["model=neutral", "input.fps=25", f"workers.memory_bytes={memory}"])
try:
    start(source, output, config, run=run_of(source) if source.suffix == ".png" else None)
    told = "accepted"
except SunvisorError as error:
    told = f"{error.exit_code}: {error}"
print(json.dumps([told, peak_bytes()]))
"""


def bomb(kind: str, folder: Path) -> Path:
    """The file, or the first picture of a run of three."""
    if kind == "h264":
        return h264_bomb(folder / "bomb.h264", 12)
    pictures = [png_bomb(folder / f"bomb{number}.png") for number in range(3)]
    return pictures[0]


@pytest.mark.parametrize("kind", ["h264", "png"])
def test_a_bomb_is_refused_with_numbers_and_in_little_memory(tmp_path: Path, kind: str) -> None:
    source = bomb(kind, tmp_path)
    assert source.stat().st_size < 300_000
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPT, str(source), str(tmp_path / "out.mp4"), str(MEMORY_BYTES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    told, peak_bytes = json.loads(done.stdout)
    assert told.startswith("2: ") and "is 16000x16000; converting it takes at least 102 GB of memory" in told, told
    assert "and there are 16 GB" in told and "workers.memory_bytes" in told
    assert peak_bytes < PEAK_BYTES
    assert not list(tmp_path.glob("out.mp4*"))


def test_the_bombs_are_real_where_they_are_small(tmp_path: Path) -> None:
    """The same files at 256 x 256 are whole videos: what is refused above is their size and nothing else."""
    source = h264_bomb(tmp_path / "small.h264", 12, side=256)
    streams = ffprobe(source, "-show_streams", "-count_frames")["streams"]
    assert [(one["width"], one["height"], one["nb_read_frames"]) for one in streams] == [(256, 256, "12")]
    config = load_config("dashcam", None, ["model=neutral", "input.fps=25", "output.preset=ultrafast"])
    assert convert(source, tmp_path / "o.mp4", config).frames == 12
    stream = ffprobe(png_bomb(tmp_path / "small.png", side=256), "-show_streams")["streams"][0]
    assert (stream["width"], stream["height"]) == (256, 256)


def test_inspect_refuses_the_same_by_what_the_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_need, "machine_bytes", lambda: MEMORY_BYTES)
    with pytest.raises(InputError, match="converting it takes at least 102 GB"):
        describe(h264_bomb(tmp_path / "bomb.h264", 2))


def test_the_limit_is_the_memory_and_can_be_named(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=2, width=64, height=48)
    need = BYTES_A_PIXEL * 64 * 48
    refuse_too_large(clip, need)
    with pytest.raises(InputError, match="is 64x48"):
        refuse_too_large(clip, need - 1)
    assert BYTES_A_PIXEL * 7680 * 4320 < 16e9  # 8K goes through on a machine of 16 GB
    assert BYTES_A_PIXEL * SIDE * SIDE > 100e9


def test_what_the_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total = int(facts["MemTotal"].split()[0]) * 1024
    monkeypatch.setattr(memory_need, "CGROUP_LIMITS", (tmp_path / "none",))
    assert machine_bytes() == pytest.approx(total, rel=0.01)
    for text, wanted in (("max\n", total), ("123456789\n", 123456789)):
        (tmp_path / "limit").write_text(text)
        monkeypatch.setattr(memory_need, "CGROUP_LIMITS", (tmp_path / "none", tmp_path / "limit"))
        assert machine_bytes() == pytest.approx(wanted, rel=0.01)
