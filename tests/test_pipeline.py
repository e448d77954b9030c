"""The pipeline as Kubeflow sees it, and as it runs here: few tasks, small YAML, GPUs only where they are due."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from components import GPU_IMAGE, IMAGE
from dubmill.config.params import Params, load
from dubmill.errors import ServiceUnavailableError
from pipelines.dubbing import NAME, Target, build, compile_to

ROOT = Path(__file__).parent.parent
PARAMS = load(ROOT / "params.yaml")
CLUSTER = Target(
    has_gpu=True,
    train_gpus=4,
    tracking_uri="http://mlflow:5000",
    models_claim="models",
    work_claim="work",
    num_retries=2,
    code="c0de",
)
LAPTOP = Target(
    has_gpu=False, train_gpus=1, tracking_uri="", models_claim="", work_claim="", num_retries=0, code="c0de"
)
GPU_WORDS = {"synthesize", "inpaint", "encode", "train", "dub"}
WORDS = set(Params.model_fields)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Both targets' YAML: the pipeline spec and the platform spec of each, and its path."""
    folder, made = tmp_path_factory.mktemp("compiled"), {}
    for name, target in (("cluster", CLUSTER), ("laptop", LAPTOP)):
        compile_to(folder / f"{name}.yaml", PARAMS, target)
        made[name] = (*yaml.safe_load_all((folder / f"{name}.yaml").read_text()), folder / f"{name}.yaml")
    return made


def containers(spec: dict) -> dict[str, dict]:
    """Each task's container."""
    return {name.removeprefix("exec-"): one["container"] for name, one in spec["deploymentSpec"]["executors"].items()}


def test_it_has_few_tasks_and_its_yaml_is_small(compiled):
    spec, _, path = compiled["cluster"]
    assert set(spec["root"]["dag"]["tasks"]) == WORDS
    assert len(WORDS) <= 12
    assert path.stat().st_size <= 300_000


def test_gpus_are_asked_for_where_they_are_due_and_nowhere_else(compiled):
    spec, platform, *_ = compiled["cluster"]
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for word, container in containers(spec).items():
        place = executors[f"exec-{word}"]
        wants_gpu = "accelerator" in container["resources"]
        assert wants_gpu == (word in GPU_WORDS), word
        assert ("tolerations" in place) == ("nodeSelector" in place) == wants_gpu
        assert container["image"] == (GPU_IMAGE if wants_gpu else IMAGE)


def test_without_gpus_nothing_asks_for_one(compiled):
    spec, platform, path = compiled["laptop"]
    assert "nvidia" not in path.read_text()
    assert {container["image"] for container in containers(spec).values()} == {IMAGE}
    assert "tolerations" not in json.dumps(platform)


def test_every_pod_states_its_needs_and_runs_as_nobody(compiled):
    spec, platform, *_ = compiled["cluster"]
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for word, container in containers(spec).items():
        assert {"resourceCpuRequest", "resourceMemoryRequest", "resourceMemoryLimit"} <= set(container["resources"])
        assert executors[f"exec-{word}"]["securityContext"]["runAsNonRoot"] is True


def test_only_what_the_registry_decides_is_never_cached_and_new_code_is_never_answered_by_old_results(compiled):
    spec, *_ = compiled["cluster"]
    tasks = spec["root"]["dag"]["tasks"]
    assert {w for w, task in tasks.items() if not task["cachingOptions"].get("enableCache")} == {"register", "promote"}
    for container in containers(spec).values():
        assert {"name": "DUBMILL_CODE", "value": "c0de"} in container["env"]


def test_the_registry_is_known_to_the_tasks_that_use_it_and_the_volume_to_the_one_that_publishes(compiled):
    spec, platform, *_ = compiled["cluster"]
    named = {w for w, c in containers(spec).items() if any(e["name"] == "MLFLOW_TRACKING_URI" for e in c["env"])}
    assert named == {"register", "promote"}
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    mounts = {n: [m["mountPath"] for m in place["pvcMount"]] for n, place in executors.items() if "pvcMount" in place}
    assert {name for name, paths in mounts.items() if "/models" in paths} == {"exec-promote"}


def test_training_asks_for_as_many_gpus_as_told_and_what_is_half_done_outlives_its_pod(compiled):
    spec, platform, *_ = compiled["cluster"]
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    asked = containers(spec)
    counts = {w: asked[w]["resources"]["accelerator"]["resourceCount"] for w in GPU_WORDS}
    assert counts == {word: "4" if word == "train" else "1" for word in GPU_WORDS}
    assert asked["train"]["resources"]["resourceMemoryRequest"] == "256Gi"
    (shared,) = executors["exec-train"]["emptyDirMounts"]
    assert (shared["mountPath"], shared["medium"]) == ("/dev/shm", "Memory")
    lasting = {word for word in WORDS if {"name": "DUBMILL_WORK", "value": "/work"} in asked[word]["env"]}
    assert lasting == {"synthesize", "inpaint", "train", "dub"}
    assert all("/work" in str(executors[f"exec-{word}"]["pvcMount"]) for word in lasting)


def test_a_failed_task_is_tried_again_on_a_cluster_and_not_on_a_laptop(compiled):
    retried = {name: spec["root"]["dag"]["tasks"]["train"].get("retryPolicy") for name, (spec, *_) in compiled.items()}
    assert retried["cluster"]["maxRetryCount"] == 2
    assert retried["laptop"] is None


def test_its_inputs_are_the_sections_with_their_values_and_a_sentence_each(compiled):
    spec, *_ = compiled["cluster"]
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    given = {word: one["defaultValue"] for word, one in inputs.items()}
    assert Params.model_validate(given) == PARAMS
    assert not [word for word, one in inputs.items() if not one.get("description")]
    assert {one["parameterType"] for one in inputs.values()} == {"STRUCT"}


def test_every_task_leaves_something_to_look_at_and_only_built_in_types_travel(compiled):
    spec, *_ = compiled["cluster"]
    for name, component in spec["components"].items():
        outputs = {
            key: one["artifactType"]["schemaTitle"] for key, one in component["outputDefinitions"]["artifacts"].items()
        }
        assert "system.Markdown" in outputs.values(), name
        assert set(outputs.values()) <= {
            f"system.{kind}" for kind in ("Dataset", "Model", "Metrics", "HTML", "Markdown")
        }


def test_downloads_are_labelled_for_the_network_policy():
    hub = PARAMS.backbone.model_copy(update={"source": "hub"})
    platform = build(PARAMS.model_copy(update={"backbone": hub}), CLUSTER).platform_spec
    assert "dubmill/downloads" in str(platform)
    assert "dubmill/downloads" not in str(build(PARAMS, CLUSTER).platform_spec)


def run_pipelines(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`python -m pipelines` in the project's folder."""
    command = [sys.executable, "-m", "pipelines", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_compiling_takes_less_than_a_second(tmp_path):
    """In a process of its own: KFP's look at the sources is slower where thousands of modules are loaded."""
    done = run_pipelines("compile", "--out", tmp_path / "p.yaml")
    assert float(re.search(r"([\d.]+) s$", done.stdout.strip())[1]) < 1


def test_compile_takes_a_partial_file_of_params_as_an_overlay(tmp_path):
    (tmp_path / "few.yaml").write_text("train: {rank: 3}")
    done = run_pipelines("compile", "--no-gpu", "--params", tmp_path / "few.yaml", "--out", tmp_path / "p.yaml")
    assert re.search(r"11 tasks, \d+ KiB", done.stdout), done.stderr
    spec = next(yaml.safe_load_all((tmp_path / "p.yaml").read_text()))
    assert spec["root"]["inputDefinitions"]["parameters"]["train"]["defaultValue"]["rank"] == 3


def test_a_local_run_tells_each_task_its_seconds_and_ends_with_the_failing_steps_own_sentence(tmp_path):
    (tmp_path / "none.yaml").write_text("prompts: {languages: [en, xx]}")
    asked = ("run", "--out", tmp_path / "kfp", "--work", tmp_path / "work", "--overlay", tmp_path / "none.yaml")
    done = run_pipelines(*asked)
    assert done.returncode == 2
    assert re.search(r"prompts +failed +[\d.]+ s|backbone +failed", done.stdout)
    assert "xx" in done.stderr or "weights" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_unreachable_cluster_is_one_sentence():
    done = run_pipelines("submit", "--host", "http://127.0.0.1:9")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "does not answer" in done.stderr


class FakeKubeflow(http.server.BaseHTTPRequestHandler):
    """As much of the KFP API as starting a run takes; a fake at the process edge."""

    seen: list[tuple[str, str, bytes]] = []

    def do_GET(self) -> None:
        """Health, and lists without entries."""
        self._answer({})

    def do_POST(self) -> None:
        """Whatever is made gets an id."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append((self.command, self.path.split("?")[0], body))
        ids = {"pipeline_id": "p1", "pipeline_version_id": "v1", "experiment_id": "e1", "run_id": "r1"}
        self._answer(ids | {"display_name": "x"})

    def _answer(self, told: dict) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())

    def log_message(self, *_: object) -> None:
        """Silence."""


def test_submitting_uploads_the_pipeline_and_starts_a_run(tmp_path):
    from pipelines.cluster import start

    compile_to(tmp_path / "p.yaml", PARAMS, CLUSTER)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeKubeflow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        host = f"http://127.0.0.1:{server.server_port}"
        page = start(
            tmp_path / "p.yaml", host=host, namespace="", experiment="dubmill", account="runner", version="abc"
        )
    finally:
        server.shutdown()
    paths = [path for _, path, _ in FakeKubeflow.seen]
    assert page == f"{host}/#/runs/details/r1"
    assert any(path.endswith("/pipelines/upload") for path in paths)
    assert any(path.endswith("/runs") for path in paths)
    assert any(NAME.encode() in body for _, path, body in FakeKubeflow.seen if "upload" in path)
    run = next(json.loads(body) for _, path, body in FakeKubeflow.seen if path.endswith("/runs"))
    assert run["service_account"] == "runner"


def test_a_host_that_is_no_address_is_one_sentence(tmp_path):
    from pipelines.cluster import start

    with pytest.raises(ServiceUnavailableError):
        start(tmp_path, host="not a url", namespace="", experiment="e", account="", version="v")
