"""Conversions from and to an object store, against a server that speaks S3. The judge is the same conversion from disk to disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from run_pipeline import main
from storage import store as stores
from storage.cell import storage_folder
from tests.clips import make_clip
from tests.here import stand_in
from tests.s3_server import ENVIRONMENT, Server, Wire, serving
from workers.remote_found import Stores
from workers.watch import Watch

ROOT = Path(__file__).resolve().parents[1]
QUICK = ["model=neutral", "stages=[reconstruct,grade]", "span.target_seconds=0.6", "span.min_seconds=0.3"]
QUICK += ["output.preset=ultrafast", "--progress", "none"]
PATIENCE_SECONDS = 240.0
GPX = '<?xml version="1.0"?><gpx version="1.1" creator="a camera"><trk/></gpx>'


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drives, one with a companion file, a file that is no video, and one in a work folder."""
    folder = tmp_path_factory.mktemp("card") / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "x.mp4.work").mkdir()
    make_clip(folder / "a.mp4", frames=20)
    (folder / "a.gpx").write_text(GPX)
    make_clip(folder / "sub" / "b b#1.mp4", frames=12, pts=None)
    (folder / "bad.mp4").write_bytes(b"\x00\x01no video" * 300)
    (folder / "x.mp4.work" / "c.mp4").write_bytes(b"half")
    return folder


@pytest.fixture(scope="module")
def local(tree: Path) -> dict[str, bytes]:
    """What converting the tree from disk to disk gives."""
    out = tree.parent / "hdr"
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch.setattr)
        assert main(["convert", str(tree), "-o", str(out), *QUICK]) == 2
    return files_of(out)


def files_of(folder: Path) -> dict[str, bytes]:
    """Place -> content of all but the area's files."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".sunvisor" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


class Lab:
    """A bucket with the tree in it, a wire to the server, a storage folder."""

    def __init__(self, server: Server, tree: Path, bucket: str, folder: Path) -> None:
        self.server, self.tree, self.bucket, self.storage = server, tree, bucket, folder / "storage"
        self.wire = Wire(server.port)
        server.client.create_bucket(Bucket=bucket)
        for name, content in files_of(tree).items():
            server.client.put_object(Bucket=bucket, Key=f"in/{name}", Body=content)

    def url(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    def words(self, source: str, output: str, *more: str) -> list[str]:
        return [source, "-o", output, *QUICK, f"workers.storage_folder={self.storage}", *more]

    def convert(self, source: str, output: str, *more: str) -> int:
        return main(["convert", *self.words(source, output, *more)])

    def outputs(self, prefix: str = "hdr/") -> dict[str, bytes]:
        found = self.server.keys(self.bucket, prefix)
        return {key.removeprefix(prefix): data for key, data in found.items() if "/.sunvisor/" not in key}

    def left(self) -> list[str]:
        """What lies in cells."""
        return sorted(str(path.relative_to(self.storage)) for path in (self.storage / "cells").rglob("*"))


@pytest.fixture
def lab(
    server: Server, tree: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Lab]:
    lab = Lab(server, tree, f"b{abs(hash(request.node.name))}", tmp_path)
    stand_in(monkeypatch.setattr)
    for name, value in (ENVIRONMENT | {"AWS_ENDPOINT_URL": lab.wire.url}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(stores, "FIRST_PAUSE_SECONDS", 0.05)
    yield lab
    lab.wire.close()


def test_a_tree_goes_from_store_to_store_and_is_known_afterwards(
    lab: Lab, local: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    assert lab.convert(lab.url("in/"), lab.url("hdr/"), "--json") == 2
    facts = json.loads(capfd.readouterr().out)
    assert {one["source"]: one["status"] for one in facts["files"]} == {
        lab.url("in/a.mp4"): "done",
        lab.url("in/bad.mp4"): "refused",
        lab.url("in/sub/b b#1.mp4"): "done",
    }
    assert lab.url("hdr/a.mp4") in {one["output"] for one in facts["files"]}
    assert str(lab.storage) not in json.dumps(facts), "people are told where they said, not where it is worked on"
    assert lab.outputs() == local
    assert lab.left() == [] and lab.server.uploads(lab.bucket) == []
    report = lab.server.keys(lab.bucket, "hdr/.sunvisor/")["hdr/.sunvisor/report.json"].decode()
    assert lab.url("in/bad.mp4") in report and ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in report

    big = lab.server.client.get_object(Bucket=lab.bucket, Key="hdr/a.mp4")
    lab.wire.bytes_out, lab.wire.requests = 0, []
    assert lab.convert(lab.url("in/a.mp4"), lab.url("hdr/a.mp4"), "--json") == 0
    assert json.loads(capfd.readouterr().out)["files"][0]["status"] == "already done"
    gets = [one for one in lab.wire.requests if one.startswith("GET") and ".mp4" in one and "list-type" not in one]
    assert gets and not [one for one in lab.wire.requests if one.startswith(("PUT", "POST"))]
    assert lab.wire.bytes_out < big["ContentLength"] + len(files_of(lab.tree)["a.mp4"]) + 20_000
    assert lab.outputs() == local and lab.left() == []

    lab.wire.requests = []
    assert lab.convert(lab.url("in/a.mp4"), lab.url("hdr/a.mp4"), "--paranoid", "--json") == 0
    assert json.loads(capfd.readouterr().out)["files"][0]["status"] == "already done"
    assert lab.outputs() == local and lab.left() == []

    assert lab.convert(lab.url("in/a.mp4"), lab.url("hdr/a.mp4"), "grade.peak_nits=600") == 2
    assert "--overwrite replaces it" in capfd.readouterr().out
    assert lab.outputs() == local and lab.left() == []


def test_disks_and_stores_mix(lab: Lab, local: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    listed = tmp_path / "list.txt"
    listed.write_text(f"# two of them\n{lab.url('in/a.mp4')}\n{lab.url('in/sub/*.mp4')}\n")
    assert lab.convert(f"@{listed}", str(out)) == 0
    assert files_of(out) == {("b b#1.mp4" if "b b" in name else name): data for name, data in local.items()}
    assert lab.convert(str(lab.tree / "a.mp4"), lab.url("hdr/a.mp4")) == 0
    assert lab.outputs() == {name: data for name, data in local.items() if name.startswith("a.")}
    assert lab.left() == []


def test_companions_that_are_there_are_left_alone(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    lab.server.client.put_object(Bucket=lab.bucket, Key="hdr/a.gpx", Body=b"of the user")
    assert lab.convert(lab.url("in/a.mp4"), lab.url("hdr/a.mp4")) == 0
    assert lab.outputs()["a.gpx"] == b"of the user"
    assert "left alone" in lab.outputs()["a.streams.json"].decode()


def test_an_output_of_somebody_else_is_not_replaced(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    lab.server.client.put_object(Bucket=lab.bucket, Key="hdr/a.mp4", Body=b"of the user")
    lab.wire.requests = []
    assert lab.convert(lab.url("in/a.mp4"), lab.url("hdr/a.mp4")) == 2
    assert f"{lab.url('hdr/a.mp4')}: there is an object already, which Sunvisor did not make" in capfd.readouterr().out
    assert lab.outputs() == {"a.mp4": b"of the user"}
    assert not [one for one in lab.wire.requests if "GET" in one and "/in/a.mp4" in one], "refused without fetching"


@pytest.mark.parametrize("trouble", ["refuse", "stall"])
def test_a_store_that_is_away_for_a_while_is_waited_for(
    lab: Lab, local: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """At a request of each kind in one conversion, and long enough for a time-out where nothing answers."""
    monkeypatch.setattr("fsspec.config.conf", {"s3": {"config_kwargs": {"connect_timeout": 4, "read_timeout": 4}}})
    monkeypatch.setattr(stores, "REQUEST_SECONDS", 12.0)
    kinds = [
        "HEAD .*in/a.mp4",
        "GET .*list-type",
        "POST .*uploads",
        "GET .*in/a.mp4 ",
        "PUT .*partNumber",
        "POST .*uploadId",
    ]
    told: list[str] = []

    def after_two(text: str) -> None:
        told.append(text)
        if text and lab.wire.troubled >= 2:
            lab.wire.troubled = 0
            lab.wire.only = kinds.pop(0) if kinds else ""
            lab.wire.trouble = trouble if lab.wire.only else ""

    monkeypatch.setattr("storage.cell.Note.waiting", lambda _, text: after_two(text))
    monkeypatch.setattr(Stores, "_tell", lambda _, text: after_two(text))
    lab.wire.trouble, lab.wire.only = trouble, kinds.pop(0)
    assert lab.convert(lab.url("in/a.mp4"), lab.url("hdr/a.mp4")) == 0
    assert not kinds and not lab.wire.trouble, "every trouble was met"
    assert lab.outputs()["a.mp4"] == local["a.mp4"]
    assert any(one.startswith(f"waiting for {lab.url('in/a.mp4')} (") and "next try in" in one for one in told)
    assert lab.server.uploads(lab.bucket) == [] and lab.left() == []


def test_an_answer_that_breaks_off_is_asked_for_again(lab: Lab, local: dict[str, bytes]) -> None:
    lab.wire.only, lab.wire.cut = "GET .*in/a.mp4", 2
    assert lab.convert(lab.url("in/a.mp4"), lab.url("hdr/a.mp4")) == 0
    assert lab.wire.cut == 0
    assert lab.outputs()["a.mp4"] == local["a.mp4"]


def test_what_the_user_can_mend_is_said(
    lab: Lab, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(source: str, output: str, *more: str) -> str:
        assert lab.convert(source, output, *more) == 2
        told = capfd.readouterr()
        return told.out + told.err

    assert "there is no bucket 'no-such-bucket'" in said("s3://no-such-bucket/in/", lab.url("hdr/"))
    assert "there is no bucket 'no-such-bucket'" in said(lab.url("in/a.mp4"), "s3://no-such-bucket/a.mp4")
    assert "there is no such object" in said(lab.url("in/absent.mp4"), lab.url("hdr/"))
    assert "is the source itself" in said(lab.url("in/a.mp4"), lab.url("in/a.mp4"))
    assert "must hold no user or secret" in said("s3://key:hush@b/in/", lab.url("hdr/"))
    assert "several inputs need a folder" in said(lab.url("in/"), lab.url("all.mp4"))
    assert "--dry-run plans by reading whole sources" in said(lab.url("in/"), lab.url("hdr/"), "--dry-run")
    assert "drive.join reads a file's neighbours" in said(lab.url("in/a.mp4"), lab.url("hdr/"), "drive.join=true")
    assert "gcsfs; install it with" in said("gs://b/in/", lab.url("hdr/"))
    lab.wire.trouble, lab.wire.only = "deny", "POST .*uploads"
    assert "the store denies access" in said(lab.url("in/a.mp4"), lab.url("hdr/a.mp4"))
    lab.wire.only = ""
    assert "the store denies access" in said(lab.url("in/"), lab.url("hdr/"))
    lab.wire.heal()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    assert "credentials" in said(lab.url("in/"), lab.url("hdr/"))
    assert lab.outputs() == {} and lab.server.uploads(lab.bucket) == []
    for command in (
        ["inspect", lab.url("in/a.mp4")],
        ["verify", lab.url("in/a.mp4"), "x.mp4"],
        ["preview", lab.url("in/a.mp4")],
    ):
        assert main(command) == 2
        assert f"{lab.url('in/a.mp4')}: {command[0]} reads local files only" in capfd.readouterr().err


def test_a_store_that_stays_away_fails_the_file_alone(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    lab.wire.trouble, lab.wire.only = "refuse", "GET .*in/a.mp4"
    assert lab.convert(lab.url("in/"), lab.url("hdr/"), "workers.storage_retry_seconds=0.5", "--json") == 1
    files = {one["source"]: one for one in json.loads(capfd.readouterr().out)["files"]}
    assert files[lab.url("in/a.mp4")]["status"] == "failed"
    assert "run the same command again once it does" in files[lab.url("in/a.mp4")]["error"]
    assert files[lab.url("in/sub/b b#1.mp4")]["status"] == "done"


def test_killed_while_fetching_converting_and_publishing(lab: Lab, local: dict[str, bytes]) -> None:
    words = lab.words(lab.url("in/a.mp4"), lab.url("hdr/a.mp4"))

    def run(spans: int = 0) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.storage_run", str(spans), *words]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill_at(request: str, unless: Callable[[], bool] = lambda: False) -> None:
        lab.wire.trouble, lab.wire.only, lab.wire.troubled = "stall", request, 0
        process = run()
        until = time.monotonic() + PATIENCE_SECONDS
        while not lab.wire.troubled:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        lab.wire.heal()
        assert "a.mp4" not in lab.outputs()

    kill_at("DELETE .*uploadId")  # that ends the upload by which the place is tried
    assert lab.server.uploads(lab.bucket) == ["hdr/a.mp4"]
    kill_at("GET .*in/a.mp4")
    assert lab.server.uploads(lab.bucket) == []
    assert run(spans=1).wait(PATIENCE_SECONDS) == -signal.SIGKILL
    ledger = next((lab.storage / "cells").glob("*/out/a.mp4.work/ledger.jsonl")).read_text()
    assert ledger.count("\n") == 1
    lab.wire.requests = []
    kill_at("PUT .*hdr/a.mp4.*partNumber")
    assert not [one for one in lab.wire.requests if one.startswith("GET") and "/in/a.mp4" in one], "fetched once"
    assert lab.server.uploads(lab.bucket) == ["hdr/a.mp4"]
    assert run().wait(PATIENCE_SECONDS) == 0
    assert lab.outputs() == {name: data for name, data in local.items() if name.startswith("a.")}
    assert lab.server.uploads(lab.bucket) == [] and lab.left() == []


def test_status_and_watching(lab: Lab, capfd: pytest.CaptureFixture[str]) -> None:
    from storage.urls import parse_url
    from workers.jobs import find_jobs

    assert main(["status", lab.url("hdr/"), "--storage-folder", str(lab.storage)]) == 2
    assert lab.convert(lab.url("in/a.mp4"), lab.url("hdr/")) == 0
    assert main(["status", lab.url("hdr/"), "--storage-folder", str(lab.storage)]) == 0
    assert "1 done, 0 failed" in capfd.readouterr().out
    places = Stores(storage_folder(str(lab.storage)))
    find = lambda: find_jobs([lab.url("in/")], parse_url(lab.url("hdr/")), watching=True, stores=places)[0]  # noqa: E731
    now = [0.0]
    watch = Watch(find, 5.0, lambda: now[0], print)
    watch.rescan()
    assert watch.new_jobs() == []
    now[0] = 6.0
    watch.rescan()
    assert sorted(job.origin for job in watch.new_jobs()) == [
        lab.url(f"in/{name}") for name in ("a.mp4", "bad.mp4", "sub/b b#1.mp4")
    ]
    lab.server.client.put_object(Bucket=lab.bucket, Key="in/bad.mp4", Body=b"another")
    for now[0] in (7.0, 13.0):
        watch.rescan()
    assert [job.origin for job in watch.new_jobs()] == [lab.url("in/bad.mp4")]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_true_run_outlives_a_minute_without_a_store(lab: Lab, local: dict[str, bytes]) -> None:
    """On a Ray of its own, with the processes that it starts; the store is away while the source is fetched, then while the output is published."""
    command = [sys.executable, "run_pipeline.py", "convert", *lab.words(lab.url("in/"), lab.url("hdr/"))]
    command[command.index("none")] = "json"
    for request in ("GET .*in/a.mp4 ", "PUT .*hdr/a.mp4.*partNumber"):
        lab.wire.trouble, lab.wire.only, lab.wire.troubled = "refuse", request, 0
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        until = time.monotonic() + PATIENCE_SECONDS
        while not lab.wire.troubled:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        time.sleep(60)
        lab.wire.heal()
        said = process.communicate(timeout=PATIENCE_SECONDS)[1]
        assert process.returncode == 2, said  # for the file that is no video
        assert f"waiting for {lab.url('in/a.mp4' if 'GET' in request else 'hdr/a.mp4')} (" in said
        assert lab.outputs() == local and lab.left() == []
        lab.server.client.delete_object(Bucket=lab.bucket, Key="hdr/a.mp4")
