"""Live sources: real HTTP servers on loopback that stream at a camera's pace, hang, break off and come back; RTSP by FFmpeg's own muxer.

No camera is attached to the machines that run these tests, so of cameras only the refusals are tried.
"""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from pipeline.errors import InputError
from pipeline.probe import probe, read_color
from preview import live, live_reader
from preview.live import is_live, open_live, shown
from tests.clips import make_clip
from tests.processes import descendants, stat_fields
from tests.rtsp import RtspServer

FPS = 25
PATIENCE = 120.0


class Camera(http.server.BaseHTTPRequestHandler):
    """Streams a clip for ever at its own pace; `server.mood` is "stream", "hang" (falls silent), "mute" (never says a word), "drop" (breaks off),
    "refuse", or "file" (all at once, with an end)."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.server.mood == "refuse":
            self.send_error(404)
            return
        if self.server.mood == "mute":
            self._hang()
            return
        self.send_response(200)
        self.send_header("Content-Type", self.server.kind)
        if self.server.mood == "file":
            self.send_header("Content-Length", str(len(self.server.data)))
        self.end_headers()
        if self.server.mood == "file":
            self.wfile.write(self.server.data)
            return
        packet_seconds = self.server.seconds / (len(self.server.data) / 1316)
        place, begin, sent = 0, time.monotonic(), 0
        with suppress(BrokenPipeError, ConnectionResetError):
            while not self.server.over.is_set():
                if self.server.mood == "hang":
                    self._hang()
                    return
                if self.server.mood == "drop":
                    return
                self.wfile.write(self.server.data[place : place + 1316])
                place = (place + 1316) % len(self.server.data)
                sent += 1
                time.sleep(max(0.0, begin + sent * packet_seconds - time.monotonic()))

    def _hang(self) -> None:
        while not self.server.over.is_set() and self.server.mood in ("hang", "mute"):
            time.sleep(0.02)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of MPEG-TS, BT.601 by its tags."""
    return make_clip(
        tmp_path_factory.mktemp("live") / "drive.ts",
        frames=2 * FPS,
        width=160,
        height=90,
        gop=5,
        bframes=0,
        tags={"color_primaries": 6, "color_trc": 6, "colorspace": 6, "color_range": 1},
    )


@pytest.fixture
def camera(clip: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads, server.mood, server.asked, server.kind = True, "stream", [], "video/mp2t"
    server.data, server.seconds, server.over = clip.read_bytes(), 2.0, threading.Event()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.address = f"http://user:secret@127.0.0.1:{server.server_port}/cam?key=hidden"
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def wait_until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "FIRST_PICTURE_SECONDS", PATIENCE)


def pictures_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as file:
        return [torch.from_dlpack(frame.planes[0]).numpy().copy() for frame in file.decode(video=0)]


def test_what_is_live() -> None:
    for address in (
        "/dev/video0",
        "/dev/video12",
        "/dev/v4l/by-id/usb-cam",
        "rtsp://a/b",
        "RTSPS://a",
        "http://a:80/x.ts",
        "https://a",
    ):
        assert is_live(address), address
    for address in (
        "/dev/null",
        "/dev/video",
        "drive.mp4",
        "file:///etc/passwd",
        "ftp://a/b",
        "udp://1.2.3.4:5",
        "httpx://a",
    ):
        assert not is_live(address), address
        with pytest.raises(InputError, match="not a live source"):
            open_live(address)
    assert shown("rtsp://user:secret@cam:554/one?token=x") == "rtsp://cam:554/one"


def test_frames_are_the_streams_own_and_numbers_rise(camera: http.server.ThreadingHTTPServer, clip: Path) -> None:
    wanted = pictures_of(clip)
    with open_live(camera.address) as source:
        assert (source.width, source.height, source.layout.chroma, source.layout.bit_depth) == (160, 90, "420", 8)
        assert source.color == read_color(probe(clip).video_streams[0])[0]
        assert source.rate == FPS
        after = -1
        for _ in range(10):
            frame = source.newest(after, wait_seconds=PATIENCE)
            assert frame.pts > after
            after = frame.pts
            assert any(np.array_equal(frame.planes[0].numpy(), picture) for picture in wanted)
            assert [tuple(plane.shape) for plane in frame.planes] == [(90, 160), (45, 80), (45, 80)]
        assert source.note == ""


def test_a_slow_taker_gets_the_newest_frame_and_no_queue(camera: http.server.ThreadingHTTPServer) -> None:
    with open_live(camera.address) as source:
        first = source.newest(wait_seconds=PATIENCE)
        wait_until(lambda: source._read > first.pts + 6)  # meanwhile nobody takes any
        read = source._read
        assert source.newest(first.pts).pts >= read - 1, "the frames between were dropped, and counted"
        wait_until(lambda: time.monotonic() - source.newest().came < 0.5)


def test_two_threads_share_it(camera: http.server.ThreadingHTTPServer) -> None:
    with open_live(camera.address) as source:
        seen: list[list[int]] = [[], []]

        def take(mine: list[int]) -> None:
            while len(mine) < 5:
                mine.append(source.newest(mine[-1] if mine else -1, wait_seconds=PATIENCE).pts)

        threads = [threading.Thread(target=take, args=(mine,)) for mine in seen]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(mine == sorted(set(mine)) for mine in seen)
    assert len(camera.asked) == 1, "one connection for all"


@pytest.mark.parametrize("mood", ["hang", "mute"])
def test_close_does_not_wait_for_a_peer_that_hangs(camera: http.server.ThreadingHTTPServer, mood: str) -> None:
    before = descendants(os.getpid())
    source = open_live(camera.address)
    source.newest(wait_seconds=PATIENCE)
    camera.mood = mood
    time.sleep(0.3)
    process = source._process
    assert process is not None
    source.close()
    assert process.wait(PATIENCE) == -signal.SIGKILL, "it is ended, and does not end by itself"
    wait_until(lambda: descendants(os.getpid()).keys() <= before.keys())
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("live ")])
    assert source.newest() is None
    source.close()


def test_it_connects_again_when_the_peer_breaks_off(camera: http.server.ThreadingHTTPServer) -> None:
    with open_live(camera.address) as source:
        number = source.newest(wait_seconds=PATIENCE).pts
        camera.mood = "drop"
        wait_until(lambda: source.note)
        assert "connecting again in" in source.note
        assert f"http://127.0.0.1:{camera.server_port}/cam: " in source.note
        assert "secret" not in source.note and "hidden" not in source.note
        camera.mood = "refuse"
        wait_until(lambda: "404" in source.note)
        number = max(number, source.newest().pts)
        camera.mood = "stream"
        wait_until(lambda: source.newest(number) is not None)
        assert source.note == "" and not source.stale
        assert len(camera.asked) >= 3


def test_a_connection_without_an_end_is_given_up(
    camera: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader's own time-outs, without the process."""
    monkeypatch.setattr(live_reader, "OPEN_SECONDS", 0.5)
    camera.mood = "mute"
    with Path(os.devnull).open("wb") as nowhere:
        assert "no answer within 0.5 s" in live_reader.read(camera.address, nowhere)
    monkeypatch.setattr(live_reader, "OPEN_SECONDS", 10)
    monkeypatch.setattr(live_reader, "SOCKET_SECONDS", 0.5)
    camera.mood = "stream"
    threading.Timer(3.0, lambda: setattr(camera, "mood", "hang")).start()
    with Path(os.devnull).open("wb") as nowhere:
        assert "nothing came for 0.5 s" in live_reader.read(camera.address, nowhere)


def test_a_stream_of_another_size_is_told_and_not_shown(
    camera: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    other = make_clip(tmp_path / "other.ts", frames=2 * FPS, width=128, height=96, gop=5, bframes=0)
    with open_live(camera.address) as source:
        source.newest(wait_seconds=PATIENCE)
        camera.mood = "drop"
        wait_until(lambda: source.note)
        last = source.newest().pts
        camera.data, camera.mood = other.read_bytes(), "stream"
        wait_until(lambda: "128x96" in source.note)
        assert "160x90" in source.note and source.stale
        assert source.newest(last) is None


def test_the_server_dies_and_its_readers_with_it(camera: http.server.ThreadingHTTPServer) -> None:
    code = "import sys, time; from preview.live import open_live; s = open_live(sys.argv[1]); print('open', flush=True); time.sleep(60)"
    driver = subprocess.Popen([sys.executable, "-c", code, camera.address], stdout=subprocess.PIPE)
    assert driver.stdout.readline() == b"open\n"
    children = descendants(driver.pid)
    assert children
    driver.kill()
    driver.wait()
    driver.stdout.close()
    wait_until(lambda: not any(descendant_lives(pid, start) for pid, start in children.items()))


def descendant_lives(pid: int, start: str) -> bool:
    fields = stat_fields(pid)
    return bool(fields) and fields[0] != "Z" and fields[19] == start


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("/dev/video987", "there is no such camera; cameras here:"),
        ("http:///x.ts", "names no host"),
        ("http://127.0.0.1:9/x.ts", "nobody listens there"),
        ("rtsp://127.0.0.1:9/x", "nobody listens there"),
    ],
)
def test_what_cannot_be_opened_is_one_sentence(address: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        open_live(address)
    assert str(caught.value).startswith(shown(address)) and str(caught.value).endswith(".")


def test_answers_that_are_no_video(camera: http.server.ThreadingHTTPServer) -> None:
    camera.mood = "refuse"
    with pytest.raises(InputError, match=r"127.0.0.1:\d+/cam: the server knows no such address \(404\)\."):
        open_live(camera.address)
    camera.mood, camera.data = "file", b"This is a shopping list. " * 2000
    with pytest.raises(InputError, match="no video"):
        open_live(camera.address)


def test_hdr_is_refused(camera: http.server.ThreadingHTTPServer, tmp_path: Path) -> None:
    tags = {"color_primaries": 9, "color_trc": 16, "colorspace": 9}
    hdr = make_clip(tmp_path / "hdr.ts", "libx265", pix_fmt="yuv420p10le", frames=FPS, tags=tags, bframes=0)
    camera.data = hdr.read_bytes()
    with pytest.raises(InputError, match=r"HDR already: its transfer is PQ"):
        open_live(camera.address)


def test_a_playlist_cannot_make_it_read_files(camera: http.server.ThreadingHTTPServer, clip: Path) -> None:
    """An HLS playlist that names a local file: only the network's protocols are open to it."""
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{clip}\n#EXT-X-ENDLIST\n"
    camera.data, camera.mood, camera.kind = playlist.encode(), "file", "application/vnd.apple.mpegurl"
    with pytest.raises(InputError):
        open_live(camera.address.replace("/cam", "/cam.m3u8"))


def test_a_recording_on_a_server_is_shown_at_its_own_speed(
    camera: http.server.ThreadingHTTPServer, tmp_path: Path
) -> None:
    clip = make_clip(tmp_path / "drive.mp4", frames=2 * FPS, container_options={"movflags": "faststart"})
    camera.data, camera.mood, camera.kind = clip.read_bytes(), "file", "video/mp4"
    with open_live(camera.address) as source:
        began = source.newest(wait_seconds=PATIENCE)
        wait_until(lambda: source.note)
        end = source.newest()
        assert "it has ended" in source.note
        assert end.pts == 2 * FPS - 1
        assert end.pts > began.pts, "not as fast as the network gives it"
        assert end.came - began.came > 0.5 * (end.pts - began.pts) / FPS, "not as fast as the network gives it"


def test_packed_pixels_of_cameras_become_planes_with_the_same_codes() -> None:
    """YUYV by hand, as cameras send it."""
    rows = np.random.default_rng(5).integers(0, 256, (4, 16), dtype=np.uint8)
    frame = av.VideoFrame(8, 4, "yuyv422")
    line = frame.planes[0].line_size
    frame.planes[0].update(np.pad(rows, ((0, 0), (0, line - 16))).tobytes())
    planes = frame.reformat(format=live_reader.UNPACKED["yuyv422"])
    y, u, v = (torch.from_dlpack(plane).numpy() for plane in planes.planes)
    assert np.array_equal(y, rows[:, 0::2]) and np.array_equal(u, rows[:, 1::4]) and np.array_equal(v, rows[:, 3::4])


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv422p10le", "nv12", "gbrp"])
def test_frames_cross_the_pipe_unchanged(pix_fmt: str) -> None:
    frame = av.VideoFrame(61, 33, pix_fmt)
    chance = np.random.default_rng(1)
    for plane in frame.planes:
        plane.update(chance.integers(0, 4, plane.buffer_size, dtype=np.uint8).tobytes())
    read_end, write_end = os.pipe()
    newest = live_reader.Newest()
    newest.put(7, frame)
    newest.end()
    with os.fdopen(write_end, "wb") as out:
        writer = threading.Thread(target=live_reader.write_frames, args=(out, newest))
        with os.fdopen(read_end, "rb") as pipe:
            writer.start()
            head, planes = live._read_message(pipe)
            writer.join()
    assert head["number"] == 7
    there = live.frame_planes(live._frame(head, planes))
    for sent, got in zip(live.frame_planes(frame), there, strict=True):
        assert torch.equal(sent.contiguous(), got.contiguous())


@pytest.mark.parametrize("hang", [False, True])
def test_rtsp(clip: Path, hang: bool) -> None:
    wanted = pictures_of(clip)
    with RtspServer(clip) as server:
        source = open_live(f"rtsp://127.0.0.1:{server.port}/cam")
        assert (source.width, source.height, source.rate) == (160, 90, FPS)
        after = -1
        for _ in range(5):
            frame = source.newest(after, wait_seconds=PATIENCE)
            after = frame.pts
            assert any(np.array_equal(frame.planes[0].numpy(), picture) for picture in wanted)
        server.hang = hang
        time.sleep(0.2)
        began = time.monotonic()
        source.close()
        assert time.monotonic() - began < 6.0
