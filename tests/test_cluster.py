"""A cluster of several nodes, simulated on this machine: nodes come, go and differ, and the bytes stay the same.

Every node is a raylet of its own with workers of its own (tests/ray_nodes.py); what a network and other machines add is not tested here.
"""

from __future__ import annotations

import ast
import contextlib
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.schema import load_config
from pipeline.convert import convert
from tests.clips import make_clip
from tests.processes import descendants, usual_environment
from tests.ray_nodes import RayNodes
from tests.test_reliability import SHORT
from tests.test_workers import wait_until_gone
from workers import cluster as clusters
from workers.cluster import ROOT, Cluster, runtime_env, versions
from workers.placement import Shape, shape_for, worker_count

PATIENCE_SECONDS = 300.0
JOB_LIMIT_BYTES = 100 * 2**20
WORDS = [*SHORT, "model=neutral", "extras.mask=true", "workers.threads=1"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some twelve spans."""
    return make_clip(tmp_path_factory.mktemp("clip") / "drive.mp4", frames=180, width=64, height=48, gop=40, audio=True)


@pytest.fixture(scope="module")
def expected(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of an undisturbed conversion without Ray, by file name."""
    folder = tmp_path_factory.mktemp("expected")
    convert(clip, folder / "o.mp4", load_config("dashcam", None, WORDS))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextlib.contextmanager
def nodes_of(*cpus: float) -> Iterator[RayNodes]:
    """A cluster, of which nothing is left afterwards."""
    with RayNodes(*cpus) as nodes:
        family = set(descendants(nodes.pid)) | {nodes.pid}
        yield nodes
        family |= set(descendants(nodes.pid))
    wait_until_gone(family, 180)  # an agent of a raylet that was killed may wait a minute for a GCS that is gone


def converting(nodes: RayNodes, clip: Path | str, output: Path | str, *words: str) -> subprocess.Popen[str]:
    """`run_pipeline.py convert` over a cluster."""
    command = ["convert", str(clip), "--output", str(output), "--address", nodes.address, "--json", *WORDS, *words]
    clean = usual_environment()
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run_pipeline.py"), *command],
        cwd=ROOT,
        env=clean | nodes.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until it holds; the process must not end before, and is ended when it takes too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert process.poll() is None, process.communicate()
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the run stands still: {process.communicate()}")
        time.sleep(0.02)


def finished(process: subprocess.Popen[str]) -> tuple[dict[str, Any], str]:
    """Its JSON and what it said."""
    try:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"the run does not end: {process.communicate()}")
    assert process.returncode == 0, (out, err)
    return json.loads(out), err


def lines(output: Path) -> int:
    """How many spans are done."""
    try:
        return (output.with_name(f"{output.name}.work") / "ledger.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def assert_same(output: Path, expected: dict[str, bytes]) -> None:
    assert {path.name: path.read_bytes() for path in output.parent.iterdir() if path.is_file()} == expected


def test_a_node_killed_half_way_leaves_the_bytes_of_one_worker(
    clip: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """Three nodes with a worker each; then two, on which the workers go on."""
    output = tmp_path / "o.mp4"
    with nodes_of(1, 1, 1) as nodes:
        run = converting(nodes, clip, output)
        until(lambda: lines(output) >= 4, run)
        nodes.kill(1)
        report, _ = finished(run)
    assert report["workers"] == 3 and report["files"][0]["spans_done"] >= 11
    assert_same(output, expected)


@pytest.mark.long
def test_the_bytes_of_four_workers(clip: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    output = tmp_path / "o.mp4"
    with nodes_of(2, 2) as nodes:
        report, _ = finished(converting(nodes, clip, output))
    assert report["workers"] == 4
    assert_same(output, expected)


@pytest.mark.long
def test_a_stream_across_three_nodes_survives_one_of_them(
    clip: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """A part on each node, as none has room for two; when one is gone, the worker waits until another joins."""
    output = tmp_path / "o.mp4"
    with nodes_of(1, 1, 1) as nodes:
        run = converting(nodes, clip, output, "workers.topology=stream")
        until(lambda: lines(output) >= 3, run)
        nodes.kill(1)
        nodes.add(1)
        report, _ = finished(run)
    assert report["workers"] == 1 and report["files"][0]["spans_done"] >= 11
    assert_same(output, expected)


class Driver:
    """tests/cluster_driver.py under way."""

    def __init__(self, nodes: RayNodes, folder: Path, **job: object) -> None:
        clean = usual_environment()
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster_driver", nodes.address, str(folder), json.dumps({"max": 0} | job)],
            cwd=ROOT,
            env=clean | nodes.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def began(self) -> dict[str, dict[int, int]]:
        """Node -> spans begun there, each with the process that took it."""
        found: dict[str, dict[int, int]] = {}
        for path in self.folder.glob("began_*"):
            _, span, node, pid = path.name.split("_")
            found.setdefault(node, {})[int(span)] = int(pid)
        return found

    def go(self) -> tuple[dict[str, Any], str]:
        """Let the spans end."""
        (self.folder / "go").touch()
        return finished(self.process)


def test_the_pool_grows_when_a_node_joins_and_shrinks_when_it_leaves(tmp_path: Path) -> None:
    with nodes_of() as nodes:
        first = nodes.add(1)
        driver = Driver(nodes, tmp_path, classes=["plain"] * 5, size=1)
        until(lambda: set(driver.began()) == {first}, driver.process)
        second = nodes.add(1)
        until(lambda: set(driver.began()) == {first, second}, driver.process)
        ((victim, pid),) = driver.began()[first].items()
        nodes.kill(0)
        wait_until_gone({pid}, 120)
        report, _ = driver.go()
    assert report["ended"] == [second] * 5
    assert sorted(driver.began()[second]) == list(range(5)) and list(driver.began()[first]) == [victim]
    assert report["workers"] == 1


def test_spans_run_on_nodes_of_their_class_alone_and_other_versions_are_refused(tmp_path: Path) -> None:
    classes = ["class-a", "class-b", "class-b", "class-a", "class-c"]
    with nodes_of() as nodes:
        places = {name: nodes.add(1, **{name: 1}) for name in ("class-a", "class-b")}
        report, _ = Driver(nodes, tmp_path, classes=classes).go()
        other = Driver(nodes, tmp_path, classes=["class-a"], here=versions() | {"torch": "0.1"})
        refused, _ = other.go()
    *ended, (kind, message) = report["ended"]
    assert ended == [places[name] for name in classes[:4]]
    assert kind == "NumericsClass" and "class-c" in message and "the workers offer class-a, class-b" in message
    ((kind, message),) = refused["ended"]
    assert kind == "NoWorkers" and f"has other versions: torch {versions()['torch']} (here 0.1)" in message
    assert "install requirements.lock there" in message


def test_at_most_so_many_workers_and_no_more(tmp_path: Path) -> None:
    with nodes_of(4) as nodes:
        driver = Driver(nodes, tmp_path, classes=["plain"] * 6, max=2)
        until(lambda: sum(map(len, driver.began().values())) == 2, driver.process)
        time.sleep(5)  # longer than the pool takes to look at the cluster again
        assert sum(map(len, driver.began().values())) == 2
        assert driver.go()[0]["workers"] == 2


# --- what needs no cluster ----------------------------------------------------------------------------------------------


def a_cluster(*nodes: dict[str, float], local: bool = False) -> Cluster:
    total = {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
    return Cluster("10.0.0.1:6379", local, None, total["CPU"], total["GPU"], 0.0, nodes)


GPU_NODE, CPU_NODE = {"CPU": 8.0, "GPU": 2.0}, {"CPU": 32.0}


@pytest.mark.parametrize(
    ("words", "device", "nodes", "workers", "threads", "fitting"),
    [
        # Fused workers on GPU nodes get no more cores than these nodes have, however many other nodes have.
        ([], "cuda", [GPU_NODE, GPU_NODE, CPU_NODE], 4, 4, 4),
        (["workers.per_gpu=2"], "cuda", [GPU_NODE, CPU_NODE], 4, 2, 4),
        ([], "cpu", [CPU_NODE, {"CPU": 3.0}], 35, 1, 35),
        (["workers.threads=4"], "cpu", [CPU_NODE, {"CPU": 3.0}], 8, 4, 8),
        (["workers.count=3"], "cpu", [CPU_NODE, {"CPU": 16.0}], 3, 16, 3),
        (["workers.max=5"], "cpu", [CPU_NODE], 5, 1, 32),
        # Streams encode on the CPU nodes too.
        (["workers.topology=stream"], "cuda", [GPU_NODE, CPU_NODE, CPU_NODE], 2, 32, 2),
        (["workers.topology=stream", "workers.per_gpu=3"], "cuda", [GPU_NODE, CPU_NODE], 6, 4, 6),
        (["workers.topology=stream", "workers.threads=2"], "cpu", [{"CPU": 10.0}], 2, 2, 2),
    ],
)
def test_how_many_workers_and_threads_a_cluster_gets(
    words: list[str], device: str, nodes: list[dict[str, float]], workers: int, threads: int, fitting: int
) -> None:
    config, cluster = load_config(None, None, words), a_cluster(*nodes)
    count = worker_count(config, cluster, device)
    shape = shape_for(config, cluster, device, count, 1)
    assert (count, shape.threads) == (workers, threads)
    assert shape.fitting(nodes) >= min(count, fitting)


def test_only_what_fits_is_counted() -> None:
    one = Shape("stream", 3, ({"CPU": 3.0}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0}))
    assert one.fitting([]) == one.fitting([CPU_NODE]) == 0
    assert one.fitting([{"CPU": 5.0, "GPU": 1.0}]) == 1
    assert one.fitting([{"CPU": 4.0, "GPU": 1.0}]) == 0
    assert one.fitting([{"CPU": 1.0, "GPU": 1.0}, {"CPU": 2.0}, {"CPU": 3.0}]) == 1
    assert one.fitting([{"CPU": 2.0, "GPU": 2.0}, CPU_NODE]) == 2


def packed(root: Path, folder: Path, excludes: list[str]) -> zipfile.ZipFile:
    """The package that Ray makes of a working folder."""
    from ray._private.runtime_env.packaging import create_package

    target = folder / "package.zip"
    target.unlink(missing_ok=True)
    create_package(str(root), target, include_gitignore=True, excludes=excludes)
    return zipfile.ZipFile(target)


@pytest.mark.parametrize("excludes", [clusters.EXCLUDES, []], ids=["--address", "ray job submit"])
def test_what_travels_to_a_cluster(tmp_path: Path, excludes: list[str]) -> None:
    """Code and checkpoints, well below the limit of a submitted job; no history, environment, results or videos."""
    with packed(ROOT, tmp_path, excludes) as package:
        names = package.namelist()
    assert (tmp_path / "package.zip").stat().st_size < JOB_LIMIT_BYTES / 4
    assert {"run_pipeline.py", "pipeline/span_job.py", "workers/stream_worker.py", "configs/dashcam.yaml"} <= set(names)
    weights = {str(path.relative_to(ROOT)) for path in (ROOT / "models/weights").glob("*.safetensors")}
    assert len(weights) >= 3 and weights <= set(names)
    project = tmp_path / "project"
    kept = ["run_pipeline.py", "models/weights/a.safetensors"]
    left = [".git/config", ".venv/bin/python", "runs/x.bin", "a.mp4.work/plan.json", "drive.mp4", "tests/test_a.py"]
    for name in [*kept, *left]:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("x")
    for name in (".gitignore", ".rayignore"):
        (project / name).write_bytes((ROOT / name).read_bytes())
    with packed(project, tmp_path, excludes) as package:
        files = {name for name in package.namelist() if not name.endswith("/")}
    assert set(kept) <= files and not files & set(left)


def imported(names: set[str], module: str) -> set[str]:
    """Files of ours that a module's file needs, itself among them. names: all files of ours; module: such a file."""
    found, waiting = set(), [module]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(node, ast.Import):
                wanted = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom):
                wanted = [str(node.module), *(f"{node.module}.{one.name}" for one in node.names)]
            else:
                continue
            paths = [name.replace(".", "/") for name in wanted]
            waiting += [one for path in paths for one in (f"{path}.py", f"{path}/__init__.py") if one in names]
    return found


def test_all_that_workers_import_travels(tmp_path: Path) -> None:
    """Whatever a process of a cluster may be asked to do: spans, looks at files, joins with their report."""
    with packed(ROOT, tmp_path, clusters.EXCLUDES) as package:
        travels = set(package.namelist())
    rooms = [folder for folder in ROOT.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    ours = {str(path.relative_to(ROOT)) for room in rooms for path in room.rglob("*.py")}
    workers = {name for name in ours if name.startswith("workers/")}
    needed = set().union(*(imported(ours, name) for name in workers))
    assert {"reporting/page.py", "pipeline/span_job.py", "models/checkpoints.py"} <= needed
    assert needed <= travels, f"left at home: {sorted(needed - travels)}"


def test_a_submitted_job_keeps_its_own_folder_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = runtime_env()
    assert alone["working_dir"] == str(ROOT) and alone["env_vars"]["OMP_WAIT_POLICY"] == "PASSIVE"
    job = {"runtime_env": {"working_dir": "gcs://x.zip", "env_vars": {"OMP_WAIT_POLICY": "ACTIVE"}}}
    monkeypatch.setenv(clusters.JOB_CONFIG, json.dumps(job))
    inside = runtime_env()
    assert "working_dir" not in inside and "excludes" not in inside
    assert "OMP_WAIT_POLICY" not in inside["env_vars"] and "THP_MEM_ALLOC_ENABLE" in inside["env_vars"]


FOLDER = ROOT / "configs/cluster"


def test_the_kubernetes_files_hang_together() -> None:
    """Parsed and compared with each other; no Kubernetes is at hand to try them."""
    (cluster,) = yaml.safe_load_all((FOLDER / "kuberay_cluster.yaml").read_text())
    (job,) = yaml.safe_load_all((FOLDER / "kuberay_job.yaml").read_text())
    assert (cluster["kind"], job["kind"]) == ("RayCluster", "RayJob")
    assert cluster["apiVersion"] == job["apiVersion"] == "ray.io/v1"
    for spec in (cluster["spec"], job["spec"]["rayClusterSpec"]):
        assert spec["rayVersion"] == versions()["ray"]
        assert spec["authOptions"] == {"mode": "token"}
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        templates = [group["template"] for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]]
        for template in templates:
            pod = template["spec"]
            (container,) = pod["containers"]
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert mounts["videos"] == "/videos" and mounts["shm"] == "/dev/shm"
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            assert "persistentVolumeClaim" in volumes["videos"] and volumes["shm"]["emptyDir"]["medium"] == "Memory"
        for group in spec["workerGroupSpecs"]:
            assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    words = job["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "/app/run_pipeline.py", "convert"] and words[words.index("--address") + 1] == "auto"
    load_config("archive", None, [word for word in words if "=" in word])


@pytest.mark.parametrize(("name", "kind"), [("vm_local.yaml", "local"), ("vm_aws.yaml", "aws")])
def test_the_files_for_ray_up_pass_rays_own_check(name: str, kind: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((FOLDER / name).read_text())
    assert config["provider"]["type"] == kind
    validate_config(prepare_config(config))
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    begun = [line for line in starts if "ray start" in line]
    assert len(begun) == 2 and all("RAY_AUTH_MODE=token" in line for line in begun)
    assert "--num-cpus=0" in begun[0] and "$RAY_HEAD_IP" in begun[1]
