"""The stream topology: the bytes of the fused one, whoever of its three processes dies; what is under way is bounded."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.schema import load_config, result_settings
from pipeline import span_parts
from pipeline.convert import Conversion, convert, start
from pipeline.engine import PackedFrame
from pipeline.engine_maker import engine_for
from pipeline.errors import ConversionError, InputError
from pipeline.light import LightLevels
from pipeline.span_job import span_line, write_span
from pipeline.span_work import load_work
from tests.clips import make_clip
from tests.processes import descendants, listening
from tests.test_reliability import SHORT, Run
from tests.test_workers import wait_until_gone
from workers.chunks import (
    CHUNK_BYTES,
    CHUNK_FRAMES,
    CHUNKS_WAITING,
    STREAM,
    Broken,
    Chunk,
    Ended,
    Incoming,
    as_arrays,
    as_tensors,
    sent,
)
from workers.cluster import connect
from workers.span_worker import PartFailed

WORDS = [*SHORT, "model=neutral", "temporal.radius=1", "extras.mask=true", "extras.hdr10plus=true"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some seven spans with sound."""
    return make_clip(tmp_path_factory.mktemp("clip") / "drive.mp4", frames=105, width=64, height=48, gop=40, audio=True)


@pytest.fixture(scope="module")
def expected(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of a conversion in one process, by file name."""
    folder = tmp_path_factory.mktemp("expected")
    convert(clip, folder / "o.mp4", load_config("dashcam", None, WORDS))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def parts_of(run: Run) -> dict[str, int]:
    """Name of each part of the run's worker -> its process."""
    found = {}
    for pid in descendants(run.process.pid):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        for name in ("DecodePart", "ComputePart", "StreamWorker"):
            if title.startswith(f"ray::{name}"):
                found[name] = pid
    return found


@pytest.mark.parametrize(
    "victims",
    [
        ("DecodePart",),
        pytest.param(("ComputePart", "StreamWorker"), marks=[pytest.mark.long, pytest.mark.timeout(1800)]),
    ],
)
def test_the_same_bytes_whichever_part_is_killed(
    clip: Path, expected: dict[str, bytes], tmp_path: Path, victims: tuple[str, ...]
) -> None:
    """A part is killed in the midst of a span, and the worker is made anew. Every port stays on loopback, and no process is left."""
    output = tmp_path / "o.mp4"
    run = Run(clip, output, [*WORDS, "workers.topology=stream", "workers.threads=1"], ("--workers", "1"))
    family: set[int] = set()
    try:
        for count, name in enumerate(victims, 1):
            assert run.wait_until(lambda count=count: run.lines() >= count)
            parts: dict[str, int] = {}

            def all_named() -> bool:  # Ray rewrites a title in place
                parts.update(parts_of(run))  # noqa: B023
                return set(parts) == {"DecodePart", "ComputePart", "StreamWorker"}  # noqa: B023

            assert run.wait_until(all_named)
            family |= set(descendants(run.process.pid)) | {run.process.pid}
            if count == 1:
                addresses = [address for address, _ in listening(set(family))]
                assert len(addresses) >= 5
                assert set(addresses) <= {
                    "0100007F",
                    "0000000000000000FFFF00000100007F",
                    "00000000000000000000000001000000",
                }
            assert run.wait_until(lambda: bool(run.parts()))
            os.kill(parts[name], signal.SIGKILL)
            wait_until_gone(set(parts.values()), 120)  # the others of its worker end with it
        family |= set(descendants(run.process.pid))
        report = run.finish()
    finally:
        run.process.kill()
        run.process.communicate()
    assert (
        report["spans_done"] >= 6 and report["spans_reused"] == 0 and run.stderr.count("is tried again") == len(victims)
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == expected
    wait_until_gone(family, 120)


@pytest.mark.long
def test_a_part_that_stands_still_is_noticed_and_all_of_its_worker_ends(
    clip: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    words = [*WORDS, "workers.topology=stream", "workers.threads=1", "workers.stall_seconds=10"]
    run = Run(clip, tmp_path / "o.mp4", words, ("--workers", "1"))
    try:
        assert run.wait_until(lambda: run.lines() >= 1 and bool(run.parts()))
        parts = parts_of(run)
        os.kill(parts["DecodePart"], signal.SIGSTOP)
        run.finish()
        wait_until_gone(set(parts.values()), 120)
    finally:
        run.process.kill()
        run.process.communicate()
    assert "stood still for 10 s at span" in run.stderr and "it was stopped (SIGSTOP" in run.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == expected


def test_the_topology_is_no_result_setting() -> None:
    fused, stream = (load_config(None, None, [f"workers.topology={one}"]) for one in ("fused", "stream"))
    assert result_settings(fused) == result_settings(stream)
    with pytest.raises(InputError, match="legal: fused, stream"):
        load_config(None, None, ["workers.topology=both"])


def over_a_wire(items: Iterator[object]) -> Iterator[object]:
    """What the object store does to frames: arrays come out read-only."""
    for item in items:
        if isinstance(item, Chunk):
            for frame in item.frames:
                for array in _arrays(frame):
                    array.setflags(write=False)
                yield as_tensors(frame)
        else:
            assert isinstance(item, Ended), item


def _arrays(item: object) -> Iterator[np.ndarray]:
    if isinstance(item, np.ndarray):
        yield item
    elif isinstance(item, tuple):
        for one in item:
            yield from _arrays(one)
    elif isinstance(item, PackedFrame):
        yield from _arrays(tuple(vars(item).values()))


def test_a_span_in_parts_is_the_span_of_one_process(clip: Path, tmp_path: Path) -> None:
    """Without Ray: the parts one after the other, chunks between them; pictures, mask and statistics beside."""
    config = load_config("dashcam", None, [*WORDS, "extras.frames=png16"])
    conversion = start(clip, tmp_path / "o.mp4", config, frames=tuple(tmp_path / f"{n}.png" for n in range(105)))
    assert isinstance(conversion, Conversion)
    made = []
    for threads in (1, 2):
        work = load_work(conversion.workdir, 0, 2)
        decode, encode = span_parts.SpanDecode(work), span_parts.SpanEncode(work, threads)
        compute = span_parts.SpanCompute(work, engine_for(work.plan, 0, threads), threads)
        planes = (frame.planes for frame in decode)
        if threads == 1:
            frames = compute.run(planes)
        else:
            frames = over_a_wire(sent(compute.run(over_a_wire(sent(planes, dict))), dict))
        write_span(encode, lambda path, beside, encode=encode, frames=frames: encode.write(frames, path, beside))
        line = span_line(decode.facts, compute.facts, encode, 0.0) | {"seconds": {}}
        files = [work.file, *work.beside.values()]
        made.append((line, [path.read_bytes() for path in files]))
        for path in files:
            path.unlink()
    assert set(work.beside) == {"mask", "stats", "png16"}
    assert made[0] == made[1]
    conversion.close()


@pytest.mark.parametrize(("change", "words"), [(-1, "frames instead of"), (1, "gave more than its")])
def test_a_stream_that_is_too_short_or_too_long_gives_no_span_file(
    clip: Path, tmp_path: Path, change: int, words: str
) -> None:
    conversion = start(clip, tmp_path / "o.mp4", load_config("dashcam", None, WORDS))
    assert isinstance(conversion, Conversion)
    encode = span_parts.SpanEncode(load_work(conversion.workdir, 0, 0), 1)
    plane = torch.full((48, 64), 100, dtype=torch.uint16)
    small = plane[::2, ::2].contiguous()
    packed = PackedFrame(
        plane, small, small, LightLevels(1.0, 1.0, 1.0, 1), 100.0, mask=torch.zeros(48, 64, dtype=torch.uint8)
    )
    frames = iter([packed] * (encode.work.span.frames + change))
    with pytest.raises(ConversionError, match=words):
        write_span(encode, lambda path, beside: encode.write(frames, path, beside))
    assert not list(conversion.workdir.glob("*span_*"))
    conversion.close()


@dataclass(frozen=True)
class Framed:
    """Something with tensors at some depth."""

    planes: tuple[torch.Tensor, ...]
    light: tuple[float, ...]
    beside: torch.Tensor | None = None


def test_frames_come_out_as_they_went_in_and_may_be_written_to() -> None:
    strided = torch.arange(48).to(torch.uint16).reshape(6, 8)[:, ::2]
    frame = Framed((strided, torch.ones(2, 3)), (0.5, 2.0))
    packed = as_arrays(frame)
    for array in packed.planes:
        array.setflags(write=False)
    back = as_tensors(packed)
    assert isinstance(back, Framed) and back.light == (0.5, 2.0) and back.beside is None
    for before, after in zip(frame.planes, back.planes, strict=True):
        assert torch.equal(before, after) and before.dtype == after.dtype
        after.zero_()  # the encoder reads in place: memory of its own, not Ray's


@pytest.mark.parametrize(
    ("bytes_each", "wanted"), [(10, [8, 8, 4]), (CHUNK_BYTES // 3, [3] * 6 + [2]), (CHUNK_BYTES * 2, [1] * 20)]
)
def test_chunks_are_bounded_in_frames_and_in_bytes(bytes_each: int, wanted: list[int]) -> None:
    frame = (torch.zeros(bytes_each + 1, dtype=torch.uint8),)
    *chunks, end = sent(iter([frame] * 20), lambda: "facts")
    assert [len(chunk.frames) for chunk in chunks] == wanted and max(wanted) <= CHUNK_FRAMES
    assert end == Ended("facts")


def test_a_stream_that_breaks_says_why_and_whether_its_source_is_done_with() -> None:
    def breaking() -> Iterator[tuple[torch.Tensor, ...]]:
        yield (torch.zeros(1),)
        raise InputError("the file is no video")

    for clean in (True, False):
        *chunks, end = sent(breaking(), dict, lambda clean=clean: clean)
        assert chunks == [] or len(chunks) == 1
        assert isinstance(end, Broken) and end.clean is clean
        assert end.error.user_error and not end.error.retry and "breaking" in end.error.traceback


class Producer:
    """Sends frames, and notes each before it goes."""

    def frames(self, log: str, count: int) -> Iterator[object]:
        """`count` frames, each a chunk of its own."""

        def made() -> Iterator[torch.Tensor]:
            for _ in range(count):
                with Path(log).open("a") as file:
                    file.write("x")
                yield torch.zeros(CHUNK_BYTES, dtype=torch.uint8)

        yield from sent(made(), lambda: "all")


def test_nobody_runs_ahead_of_who_takes_the_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real Ray: a sender whose frames are not taken stops at the bound; all arrive in the end."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    log, count = tmp_path / "made", 12
    with connect(slots=1, store_bytes=256 * 2**20):
        import ray

        producer = ray.remote(Producer).remote()
        incoming = Incoming("testing", producer.frames.options(**STREAM).remote(str(log), count))
        frames = iter(incoming)
        next(frames)
        deadline = time.monotonic() + 60
        while log.stat().st_size - 1 < CHUNKS_WAITING and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(3)
        ahead = log.stat().st_size - 1
        assert CHUNKS_WAITING <= ahead <= CHUNKS_WAITING + 1  # waiting, and one in the making
        assert sum(1 for _ in frames) == count - 1
        assert incoming.facts == "all" and incoming.over
        ray.kill(producer)
        lost = Incoming("testing", producer.frames.options(**STREAM).remote(str(log), count))
        with pytest.raises(PartFailed, match="testing part of a span was lost") as caught:
            list(lost)
        assert caught.value.error.retry and not lost.over
