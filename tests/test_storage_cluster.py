"""An archive in an object store on a cluster: every node fetches, converts and publishes, and one of them is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.schema import load_config
from pipeline.convert import convert
from tests.clips import make_clip
from tests.s3_server import ENVIRONMENT, serving
from tests.test_cluster import WORDS, converting, finished, nodes_of, until

SOURCES = {"a.mp4": 90, "sub/b.mp4": 60}
"""Name -> frames."""


def test_a_store_to_a_store_over_three_nodes_of_which_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, expected = tmp_path / "storage", {}
    with serving() as server:
        for name, value in (ENVIRONMENT | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"}).items():
            monkeypatch.setenv(name, value)
        server.client.create_bucket(Bucket="archive")
        for name, frames in SOURCES.items():
            for folder in ("in", "out"):
                (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            clip = make_clip(tmp_path / "in" / name, frames=frames, width=64, height=48, gop=40, audio=True)
            convert(clip, tmp_path / "out" / name, load_config("dashcam", None, WORDS))
            server.client.put_object(Bucket="archive", Key=f"in/{name}", Body=clip.read_bytes())
        for path in (tmp_path / "out").rglob("*"):
            if path.is_file():
                expected[f"hdr/{path.relative_to(tmp_path / 'out')}"] = path.read_bytes()
        with nodes_of(1, 1, 1) as nodes:
            run = converting(nodes, "s3://archive/in/", "s3://archive/hdr/", f"workers.storage_folder={storage}")
            until(lambda: sum(one.read_bytes().count(b"\n") for one in storage.rglob("ledger.jsonl")) >= 3, run)
            nodes.kill(1)
            report, _ = finished(run)
        assert report["workers"] == 3 and [one["status"] for one in report["files"]] == ["done", "done"]
        delivered = server.keys("archive", "hdr/")
        assert {name for name in delivered if "/.sunvisor/" in name} == {
            "hdr/.sunvisor/report.json",
            "hdr/.sunvisor/report.txt",
        }
        assert {name: data for name, data in delivered.items() if "/.sunvisor/" not in name} == expected
        assert server.uploads("archive") == []
        assert not [path for path in storage.rglob("*") if path.suffix == ".mp4"]
