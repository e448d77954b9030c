"""The pipeline as Kubeflow sees it, and as it runs here: few tasks, small YAML, GPUs only where they are due."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from google.protobuf import json_format

from components import GPU_IMAGE, IMAGE
from dubmill import __version__
from dubmill.config.form import form_fields, sections
from dubmill.config.params import STEPS, Params, load
from dubmill.errors import InvalidParamsError
from pipelines.dubbing import VARIANTS, build, compile_to
from pipelines.placement import PLACEMENTS, SECRETS, Target, requests
from pipelines.traffic import store_bytes, tasks_of

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
    has_gpu=False,
    train_gpus=1,
    tracking_uri="",
    models_claim="",
    work_claim="",
    num_retries=0,
    code="c0de",
    is_cluster=False,
)
NANO_CLUSTER = dataclasses.replace(CLUSTER, has_gpu=False, train_gpus=1)
VERSIONED = dataclasses.replace(NANO_CLUSTER, data_repository="git@git.example.com:team/data.git")
LTX2 = load(ROOT / "params.yaml", Path("jdi-19b"))
GOLDEN = ROOT / "tests" / "golden"
GPU_WORDS = {"synthesize", "inpaint", "encode", "train", "dub"}
WORDS = set(STEPS)
AROUND = {"settings", "notify"}  # tasks of every pipeline on a cluster that are no steps


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
    assert set(tasks_of(spec)) == WORDS | AROUND
    assert len(tasks_of(spec)) <= 13
    assert path.stat().st_size <= 300_000


def test_gpus_are_requested_where_they_are_needed_and_nowhere_else(compiled):
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
    uncached = {w for w, task in tasks_of(spec).items() if not task["cachingOptions"].get("enableCache")}
    assert uncached == {"register", "promote", "notify"}
    for container in containers(spec).values():
        assert {"name": "DUBMILL_CODE", "value": "c0de"} in container["env"]


def test_the_registry_is_known_to_the_tasks_that_use_it_and_the_volume_to_the_one_that_publishes(compiled):
    spec, platform, *_ = compiled["cluster"]
    named = {w for w, c in containers(spec).items() if any(e["name"] == "MLFLOW_TRACKING_URI" for e in c["env"])}
    assert named == {"train", "register", "promote", "notify"}
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    mounts = {n: [m["mountPath"] for m in place["pvcMount"]] for n, place in executors.items() if "pvcMount" in place}
    assert {name for name, paths in mounts.items() if "/models" in paths} == {"exec-promote"}


def test_training_requests_the_given_gpus_and_keeps_unfinished_work_when_its_pod_is_lost(compiled):
    spec, platform, *_ = compiled["cluster"]
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    asked = containers(spec)
    counts = {w: asked[w]["resources"]["accelerator"]["resourceCount"] for w in GPU_WORDS}
    assert counts == {word: "4" if word == "train" else "1" for word in GPU_WORDS}
    expected_gib = requests(PARAMS, CLUSTER)["train"].memory_gib
    assert asked["train"]["resources"]["resourceMemoryRequest"] == f"{expected_gib}Gi"
    (shared,) = executors["exec-train"]["emptyDirMounts"]
    assert (shared["mountPath"], shared["medium"]) == ("/dev/shm", "Memory")
    lasting = {word for word in WORDS if {"name": "DUBMILL_WORK", "value": "/work"} in asked[word]["env"]}
    assert lasting == WORDS - {"prompts", "register"}
    assert all("/work" in str(executors[f"exec-{word}"]["pvcMount"]) for word in lasting)


@pytest.mark.parametrize("preset", ["jdi-19b", "dubit-2.3"])
def test_a_run_of_ltx2_moves_at_most_60_gb_through_the_object_store(preset):
    params = load(ROOT / "params.yaml", Path(preset))
    shared = store_bytes(params, CLUSTER)
    assert sum(shared.values()) < 60e9
    assert {name for name, size in shared.items() if size} == {"train", "dub", "evaluate", "register", "promote"}
    assert sum(store_bytes(params, dataclasses.replace(CLUSTER, work_claim="")).values()) > 1e12


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_task_that_reads_what_stays_on_the_volume_mounts_it(variant):
    spec, found = (
        json_format.MessageToDict(build(PARAMS, VERSIONED, variant).pipeline_spec),
        places(PARAMS, VERSIONED, variant),
    )
    for name, task in tasks_of(spec).items():
        read = [one["taskOutputArtifact"] for one in task.get("inputs", {}).get("artifacts", {}).values()]
        if any(
            one["outputArtifactKey"] in ("backbone", "clips", "pairs", "accepted", "latents", "dubs") for one in read
        ):
            assert "/work" in str(found[name]["pvcMount"]), name


def test_a_failed_task_is_tried_again_on_a_cluster_and_not_on_a_laptop(compiled):
    retried = {name: tasks_of(spec)["train"].get("retryPolicy") for name, (spec, *_) in compiled.items()}
    assert retried["cluster"]["maxRetryCount"] == 2
    assert retried["laptop"] is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_pipelines_form_is_short_and_typed_and_explains_each_input(variant):
    spec = json_format.MessageToDict(build(PARAMS, CLUSTER, variant).pipeline_spec)
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    assert len(inputs) <= 17
    assert not [name for name, one in inputs.items() if not one.get("description")]
    assert [name for name, one in inputs.items() if one["parameterType"] == "STRUCT"] == ["advanced"]


def test_the_form_and_its_advanced_part_are_the_whole_params(compiled):
    spec, *_ = compiled["cluster"]
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    given = {name: one["defaultValue"] for name, one in inputs.items()}
    assert Params.model_validate(sections(given)) == PARAMS
    changed = sections(given | {"lora_rank": 3, "languages": ["en", "fr"]})
    assert changed["train"]["rank"] == 3
    assert changed["prompts"]["languages"] == ["en", "fr"]


def test_a_value_that_is_an_input_of_its_own_is_refused_in_the_advanced_part():
    given = {name: field.value for name, field in form_fields(PARAMS).items()}
    twice = {**given["advanced"], "train": {**given["advanced"]["train"], "rank": 4}}
    with pytest.raises(InvalidParamsError, match=r"train\.rank is the input lora_rank"):
        sections(given | {"advanced": twice})
    with pytest.raises(InvalidParamsError, match=r"train\.rank.*many"):
        sections(given | {"lora_rank": "many"})


def test_every_task_leaves_something_to_look_at_and_only_built_in_types_travel(compiled):
    spec, *_ = compiled["cluster"]
    for name in tasks_of(spec):
        component = spec["components"][f"comp-{name}"]
        outputs = {
            key: one["artifactType"]["schemaTitle"] for key, one in component["outputDefinitions"]["artifacts"].items()
        }
        assert "system.Markdown" in outputs.values(), name
        assert set(outputs.values()) <= {
            f"system.{kind}" for kind in ("Dataset", "Model", "Metrics", "HTML", "Markdown")
        }


def places(params: Params, target: Target = CLUSTER, variant: str = "full") -> dict[str, dict]:
    """What the platform part of the compiled pipeline says of each task."""
    platform = json_format.MessageToDict(build(params, target, variant).platform_spec)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): place for name, place in executors.items()}


def with_section(word: str, **values: object) -> Params:
    return PARAMS.model_copy(update={word: getattr(PARAMS, word).model_copy(update=values)})


@pytest.mark.parametrize(
    ("params", "word"),
    [(with_section("backbone", source="hub"), "backbone"), (with_section("prompts", source="llm"), "prompts")],
    ids=["hub", "llm"],
)
def test_a_task_that_calls_a_service_outside_gets_its_secret_and_the_label_of_the_network_policy(params, word):
    plain, calling = places(PARAMS), places(params)
    assert [name for name, place in plain.items() if "dubmill/downloads" in str(place)] == ["notify"]
    assert {name for name, place in calling.items() if "dubmill/downloads" in str(place)} == {word, "notify"}
    (secret,) = calling[word]["secretAsEnv"]
    assert secret["optional"] is True
    assert SECRETS[secret["secretName"]] == {one["secretKey"]: one["envVar"] for one in secret["keyToEnv"]}


def test_secrets_are_named_and_never_hold_a_value():
    text = json.dumps(places(with_section("backbone", source="hub")))
    for name in SECRETS:
        assert (f'"{name}"' in text) is (name != "dubmill-llm")
    registry = {name for name, place in places(PARAMS).items() if "dubmill-mlflow" in str(place)}
    assert registry == {"train", "register", "promote", "notify"}


@pytest.mark.parametrize("params", [PARAMS, LTX2], ids=["nano", "ltx-2"])
def test_a_pod_requests_the_memory_that_the_plan_counts(params, tmp_path):
    compile_to(tmp_path / "p.yaml", params, CLUSTER)
    spec = next(yaml.safe_load_all((tmp_path / "p.yaml").read_text()))
    needs, found = requests(params, CLUSTER), containers(spec)
    for word, container in ((word, found[word]) for word in STEPS):
        resources = container["resources"]
        assert resources["resourceMemoryRequest"] == resources["resourceMemoryLimit"] == f"{needs[word].memory_gib}Gi"


def test_a_long_task_may_be_retried_until_its_last_attempt_has_timed_out(compiled):
    """Argo counts `maxDuration` from the start of the first attempt; KFP's default of an hour forbade every later retry."""
    spec, platform, *_ = compiled["cluster"]
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for word, task in tasks_of(spec).items():
        timeout_seconds = int(executors[f"exec-{word}"]["activeDeadlineSeconds"])
        window_seconds = int(task["retryPolicy"]["backoffMaxDuration"].removesuffix("s"))
        assert timeout_seconds == PLACEMENTS[word].timeout_hours * 3600
        assert window_seconds > (task["retryPolicy"]["maxRetryCount"] + 1) * timeout_seconds


STAND_IN = r"""
import os, signal, sys, time
def stop(number, frame):
    os.write(1, f"stopped by {signal.Signals(number).name}\n".encode())
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
os.write(1, b"started\n")
time.sleep(60)
"""


def test_sigterm_to_a_tasks_shell_reaches_python(compiled, tmp_path):
    """The compiled command runs under `sh`, as in the pod, with a stand-in for KFP's executor that waits for the signal."""
    spec, *_ = compiled["cluster"]
    package = tmp_path / "kfp" / "dsl"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "executor_main.py").write_text(STAND_IN)
    (tmp_path / "python3").symlink_to(sys.executable)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(tmp_path)}
    command = [*containers(spec)["train"]["command"], *containers(spec)["train"]["args"]]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "stopped by SIGTERM\n"
        assert process.wait(timeout=30) == 75
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def outline(path: Path) -> str:
    """The compiled pipeline without what other tests hold: components' sources, params' values, the project's version."""
    spec, platform = yaml.safe_load_all(path.read_text())
    for executor in spec["deploymentSpec"]["executors"].values():
        executor["container"]["command"] = executor["container"]["command"][:-1]
        executor["container"]["image"] = executor["container"]["image"].replace(__version__, "VERSION")
    for value in spec["root"]["inputDefinitions"]["parameters"].values():
        del value["defaultValue"]
    return yaml.safe_dump_all([spec, platform], width=120)


@pytest.mark.parametrize(
    ("name", "variant", "params", "target"),
    [
        ("nano", "full", PARAMS, NANO_CLUSTER),
        ("ltx-2", "full", LTX2, CLUSTER),
        ("nano-data", "data", PARAMS, VERSIONED),
        ("nano-train", "train", PARAMS, VERSIONED),
        ("nano-recurring", "recurring", PARAMS, VERSIONED),
    ],
    ids=["nano", "ltx-2", "data", "train", "recurring"],
)
def test_the_compiled_pipeline_is_the_golden_one(name, variant, params, target, tmp_path):
    """Every change of the graph is seen in review; GOLDEN=write pytest tests/test_pipeline.py -k golden writes it anew."""
    compile_to(tmp_path / "p.yaml", params, target, variant)
    golden, found = GOLDEN / f"{name}.yaml", outline(tmp_path / "p.yaml")
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(found)
    assert found == golden.read_text()


def test_the_other_pipelines_hold_their_part_of_the_steps():
    found = {name: set(places(PARAMS, VERSIONED, name)) for name in VARIANTS}
    data, model = {"prompts", "synthesize", "inpaint", "gate"}, {"encode", "train", "dub", "evaluate"}
    assert found["full"] == WORDS | AROUND | {"snapshot"}
    assert found["data"] == data | AROUND | {"backbone", "snapshot"}
    assert found["train"] == model | AROUND | {"backbone", "changes", "data-version", "register", "promote"}
    assert found["recurring"] == found["train"]


def test_a_recurring_run_does_nothing_unless_something_is_new():
    spec = json_format.MessageToDict(build(PARAMS, VERSIONED, "recurring").pipeline_spec)
    (steps,) = (one["dag"]["tasks"] for name, one in spec["components"].items() if name.startswith("comp-exit-handler"))
    (condition,) = set(steps) - {"settings", "changes"}
    assert "is_new'] == true" in steps[condition]["triggerPolicy"]["condition"]


def test_the_version_of_the_data_reaches_the_registry(compiled):
    for variant, producer in (("full", "snapshot"), ("train", "changes")):
        spec = json_format.MessageToDict(build(PARAMS, VERSIONED, variant).pipeline_spec)
        revision = tasks_of(spec)["register"]["inputs"]["parameters"]["data_revision"]
        assert revision["taskOutputParameter"]["producerTask"] == producer
    spec, *_ = compiled["cluster"]
    assert tasks_of(spec)["register"]["inputs"]["parameters"]["data_revision"] == {"runtimeValue": {"constant": ""}}


def test_only_tasks_that_touch_the_repository_get_its_deploy_key():
    found = places(PARAMS, VERSIONED)
    assert [name for name, place in found.items() if "dubmill-git" in str(place)] == ["snapshot"]
    assert found["snapshot"]["secretAsVolume"][0]["optional"] is True
    assert "dubmill-git" not in json.dumps(places(PARAMS))


def test_a_notice_is_sent_whatever_happened(compiled):
    spec, *_ = compiled["cluster"]
    assert tasks_of(spec)["notify"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"


def test_a_cluster_without_gpus_is_not_given_a_backbone_that_needs_them(tmp_path):
    done = run_pipelines("compile", "--no-gpu", "--overlay", "jdi-19b", "--out", tmp_path / "p.yaml")
    assert done.returncode == 2
    assert "needs GPUs" in done.stderr
    assert not (tmp_path / "p.yaml").exists()


def test_gpus_are_requested_by_default_where_the_backbone_needs_them(tmp_path):
    for overlay, has_gpu in ((("--overlay", "jdi-19b"), True), ((), False)):
        assert run_pipelines("compile", *overlay, "--out", tmp_path / "p.yaml").returncode == 0
        assert ("nvidia.com/gpu" in (tmp_path / "p.yaml").read_text()) is has_gpu


def test_a_misspelt_metric_is_refused_before_anything_is_compiled(tmp_path):
    (tmp_path / "typo.yaml").write_text("promote: {min_shares: {words_rihgt: 0.5}}")
    done = run_pipelines("compile", "--overlay", tmp_path / "typo.yaml", "--out", tmp_path / "p.yaml")
    assert done.returncode == 2
    assert "words_rihgt" in done.stderr
    assert not (tmp_path / "p.yaml").exists()


def test_a_wrong_value_is_reported_with_the_overlay_that_sets_it(tmp_path):
    (tmp_path / "good.yaml").write_text("train: {rank: 3}")
    (tmp_path / "wrong.yaml").write_text("train: {rank: many}")
    overlays = ("--overlay", tmp_path / "good.yaml", "--overlay", tmp_path / "wrong.yaml")
    done = run_pipelines("compile", *overlays, "--out", tmp_path / "p.yaml")
    assert done.returncode == 2
    assert str(tmp_path / "wrong.yaml") in done.stderr
    assert "train.rank" in done.stderr


def run_pipelines(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`python -m pipelines` in the project's folder."""
    command = [sys.executable, "-m", "pipelines", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_compile_takes_a_partial_file_of_params_as_an_overlay(tmp_path):
    (tmp_path / "few.yaml").write_text("train: {rank: 3}")
    done = run_pipelines("compile", "--no-gpu", "--params", tmp_path / "few.yaml", "--out", tmp_path / "p.yaml")
    assert re.search(r"13 tasks, \d+ KiB", done.stdout), done.stderr
    spec = next(yaml.safe_load_all((tmp_path / "p.yaml").read_text()))
    assert spec["root"]["inputDefinitions"]["parameters"]["lora_rank"]["defaultValue"] == 3


def test_a_local_run_tells_each_task_its_seconds_and_ends_with_the_failing_steps_own_sentence(tmp_path):
    (tmp_path / "none.yaml").write_text("prompts: {languages: [en, xx]}")
    asked = ("run", "--out", tmp_path / "kfp", "--work", tmp_path / "work", "--overlay", tmp_path / "none.yaml")
    done = run_pipelines(*asked)
    assert done.returncode == 2
    assert re.search(r"prompts +failed +[\d.]+ s|backbone +failed", done.stdout)
    assert "xx" in done.stderr or "weights" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_only_the_promotion_knows_the_endpoint():
    spec = json_format.MessageToDict(build(PARAMS, dataclasses.replace(CLUSTER, endpoint="ns/dubmill")).pipeline_spec)
    named = {
        name
        for name, one in containers(spec).items()
        if {"name": "DUBMILL_ENDPOINT", "value": "ns/dubmill"} in one["env"]
    }
    assert named == {"promote"}


def test_the_settings_task_gives_every_section_that_it_declares(tmp_path):
    from components.settings.component import settings

    form = {name: field.value for name, field in form_fields(PARAMS).items()}
    found = settings.python_func(**form, summary=SimpleNamespace(path=tmp_path / "summary.md"))
    declared = {name for name, one in settings.component_spec.outputs.items() if one.type == "Dict"}
    assert set(found._fields) == declared
    assert Params.model_validate(found.all_params) == PARAMS
    assert found.train["rank"] == PARAMS.train.rank
    assert "lora" in (tmp_path / "summary.md").read_text().lower()
