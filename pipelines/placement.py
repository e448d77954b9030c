"""Sets what each task's pod gets: memory, CPUs and GPUs, retries, timeouts, volumes, secrets and labels.

Memory comes from the plan's counts for the parameters at hand (`dubmill plan`); cores and timeouts are chosen here.
"""

from __future__ import annotations

from dataclasses import dataclass

from kfp import dsl, kubernetes

from components import GPU_IMAGE, IMAGE
from dubmill.cluster.jobs import GPU, JobSpec
from dubmill.config.params import Params
from dubmill.plan.architecture import load_architecture
from dubmill.plan.host import HostNeeds, host_needs

WORK_FOLDER, MODELS_FOLDER = "/work", "/models"
GIT_SECRET, GIT_FOLDER = "dubmill-git", "/etc/dubmill-git"  # keys ssh-key (a deploy key) and known_hosts
HOUR = 3600


@dataclass(frozen=True)
class Placement:
    """What the task of one step gets, apart from memory."""

    cores: int  # for each GPU that it uses
    timeout_hours: int  # of one attempt
    uses_gpu: bool = False
    uses_all_gpus: bool = False  # one process for each GPU of the node
    uses_work: bool = False  # mounts the volume where drafts and large artifacts are kept
    uses_registry: bool = False
    publishes: bool = False  # writes what the endpoint serves
    is_cached: bool = True
    has_shards: bool = False  # several pods can make them
    uses_data_repository: bool = False


# The results of register and promote depend on the state of the registry, which KFP's cache key does not contain.
PLACEMENTS = {
    "backbone": Placement(1, 12, uses_work=True),
    "prompts": Placement(1, 6),
    "synthesize": Placement(4, 96, uses_gpu=True, uses_work=True, has_shards=True),
    "inpaint": Placement(4, 96, uses_gpu=True, uses_work=True, has_shards=True),
    "gate": Placement(4, 48, uses_work=True),
    "encode": Placement(4, 24, uses_gpu=True, uses_work=True),
    "train": Placement(8, 168, uses_gpu=True, uses_all_gpus=True, uses_work=True),
    "dub": Placement(4, 48, uses_gpu=True, uses_work=True, has_shards=True),
    "evaluate": Placement(4, 24, uses_work=True),
    "register": Placement(1, 2, uses_registry=True, is_cached=False),
    "promote": Placement(2, 4, uses_registry=True, uses_work=True, publishes=True, is_cached=False),
    # Tasks of the pipeline that are no steps.
    "settings": Placement(1, 1),
    "changes": Placement(1, 1, uses_registry=True, is_cached=False, uses_data_repository=True),
    "snapshot": Placement(1, 24, is_cached=False, uses_work=True, uses_data_repository=True),
    "data-version": Placement(1, 24, uses_work=True, uses_data_repository=True),
    "notify": Placement(1, 1, is_cached=False),
}
SMALL_MEMORY_GIB = 2  # of a task that is no step

# Secrets are optional: a pod starts without them. Each maps the keys of a Secret to environment variables.
SECRETS = {
    "dubmill-hub": {"token": "HF_TOKEN"},
    "dubmill-llm": {"api-key": "OPENAI_API_KEY"},
    "dubmill-mlflow": {
        "username": "MLFLOW_TRACKING_USERNAME",
        "password": "MLFLOW_TRACKING_PASSWORD",
        "token": "MLFLOW_TRACKING_TOKEN",
    },
    "dubmill-webhook": {"url": "DUBMILL_WEBHOOK"},
    "dubmill-s3": {"access-key": "AWS_ACCESS_KEY_ID", "secret-key": "AWS_SECRET_ACCESS_KEY"},
}


@dataclass(frozen=True)
class Target:
    """Where a compiled pipeline is to run."""

    has_gpu: bool
    train_gpus: int  # of one node, for the task `train`
    tracking_uri: str  # empty: as set in the task's own environment
    models_claim: str  # volume claim that the endpoint reads; empty: none
    work_claim: str  # volume claim for drafts and large artifacts, mounted by all tasks that read them; empty: none
    num_retries: int
    code: str  # digest of the library, part of KFP's cache key: new code never gets old results
    is_cluster: bool = True
    num_shards: int = 1  # pods that share the work of synthesize, inpaint and dub; 1: the task itself
    train_nodes: int = 1  # that train together, with Kubeflow Trainer; 1: the task itself
    queue: str = ""  # LocalQueue of Kueue for these pods; empty: Kueue is not used
    priority: str = ""  # WorkloadPriorityClass of Kueue
    endpoint: str = ""  # namespace/name of the InferenceService that a promotion rolls; empty: none
    gitops: str = ""  # REPOSITORY#BRANCH whose commits change the InferenceService; empty: the API is called
    data_repository: str = ""  # git repository of the data versions; empty: pairs are not versioned
    data_branch: str = "main"  # of it
    data_remote: str = ""  # DVC remote of a repository that has none yet, such as s3://bucket/folder


def needs_gpu(params: Params) -> bool:
    """Returns whether the backbone of `params` is meant for a GPU; the embedded one runs on a CPU."""
    return load_architecture(params.backbone.architecture).dtype == "bfloat16"


def requests(params: Params, target: Target) -> dict[str, HostNeeds]:
    """Returns the memory that each step's task requests."""
    architecture = load_architecture(params.backbone.architecture)
    return host_needs(params, architecture, has_gpu=target.has_gpu, num_train_gpus=target.train_gpus)


def place(task: dsl.PipelineTask, step: str, *, params: Params, target: Target, memory_gib: int) -> dsl.PipelineTask:
    """Sets everything that the task of `step` needs where it will run; returns the task."""
    placement = PLACEMENTS[step]
    num_gpus = (target.train_gpus if placement.uses_all_gpus else int(placement.uses_gpu)) if target.has_gpu else 0
    cores = placement.cores * max(1, num_gpus) if target.has_gpu else 1
    if num_pods := _num_pods(step, target):  # the task itself only starts them, waits and seals
        spec = JobSpec(
            num_pods=num_pods,
            image=GPU_IMAGE if num_gpus else IMAGE,
            cores=cores,
            memory_gib=memory_gib,
            num_gpus=num_gpus,
            claim=target.work_claim,
            folder=WORK_FOLDER,
            queue=target.queue,
            priority=target.priority,
            code=target.code,
        )
        task.set_env_variable("DUBMILL_TRAINING" if step == "train" else "DUBMILL_SHARDS", spec.to_json())
        num_gpus, cores, memory_gib = 0, 1, SMALL_MEMORY_GIB
    task.set_cpu_request(str(cores)).set_memory_request(f"{memory_gib}Gi").set_memory_limit(f"{memory_gib}Gi")
    task.set_caching_options(enable_caching=placement.is_cached)
    task.set_env_variable("DUBMILL_CODE", target.code)
    if num_gpus:
        _use_gpus(task, num_gpus)
    if target.is_cluster:
        _use_cluster(task, step, params, target)
        _use_network(task, step, params, target)
    return kubernetes.set_security_context(task, run_as_non_root=True)


def _num_pods(step: str, target: Target) -> int:
    """Returns how many pods of their own do the work of a task; 0: none, it does the work itself."""
    if not target.is_cluster or not target.work_claim:
        return 0
    wanted = target.train_nodes if step == "train" else target.num_shards if PLACEMENTS[step].has_shards else 1
    return wanted if wanted > 1 else 0


def _use_gpus(task: dsl.PipelineTask, num_gpus: int) -> None:
    task.set_container_image(GPU_IMAGE)
    task.set_accelerator_type(GPU).set_accelerator_limit(num_gpus)
    kubernetes.add_node_selector(task, f"{GPU}.present", "true")
    kubernetes.add_toleration(task, key=GPU, operator="Exists", effect="NoSchedule")
    if num_gpus > 1:  # NCCL's processes communicate through shared memory, of which a pod has 64 MiB by default
        kubernetes.empty_dir_mount(
            task, volume_name="shared-memory", mount_path="/dev/shm", medium="Memory", size_limit="8Gi"
        )


def _use_cluster(task: dsl.PipelineTask, step: str, params: Params, target: Target) -> None:
    """Sets timeout, retries, volumes and where MLflow and the data versions are."""
    placement = PLACEMENTS[step]
    timeout_seconds = placement.timeout_hours * HOUR
    kubernetes.set_timeout(task, timeout_seconds)
    if target.num_retries:
        # Argo stops retrying, and ends attempts, when this time has passed since the first one began (default: one hour).
        window_seconds = (target.num_retries + 1) * timeout_seconds + HOUR
        task.set_retry(
            num_retries=target.num_retries,
            backoff_duration="30s",
            backoff_factor=2.0,
            backoff_max_duration=f"{window_seconds}s",
        )
    kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")
    if _uses_mlflow(step) and target.tracking_uri:
        task.set_env_variable("MLFLOW_TRACKING_URI", target.tracking_uri)
        if step == "train":  # as the values were when this was compiled: an input would make it part of the cache's key
            task.set_env_variable("DUBMILL_EXPERIMENT", params.register.experiment)
    if placement.uses_work and target.work_claim:
        kubernetes.mount_pvc(task, pvc_name=target.work_claim, mount_path=WORK_FOLDER)
        task.set_env_variable("DUBMILL_WORK", WORK_FOLDER)
    if _uses_git(step, target):
        kubernetes.use_secret_as_volume(task, GIT_SECRET, mount_path=GIT_FOLDER, optional=True)
        task.set_env_variable("DUBMILL_GIT_KEY", f"{GIT_FOLDER}/ssh-key")
    if placement.uses_data_repository and target.data_remote:
        task.set_env_variable("DUBMILL_DVC_REMOTE", target.data_remote)
    if placement.publishes and target.models_claim:
        kubernetes.mount_pvc(task, pvc_name=target.models_claim, mount_path=MODELS_FOLDER)
        task.set_env_variable("DUBMILL_MODELS", MODELS_FOLDER)
        if target.endpoint:
            task.set_env_variable("DUBMILL_ENDPOINT", target.endpoint)
            if target.gitops:
                task.set_env_variable("DUBMILL_GITOPS", target.gitops)


def _uses_mlflow(step: str) -> bool:
    return PLACEMENTS[step].uses_registry or step in ("notify", "train")


def _uses_git(step: str, target: Target) -> bool:
    placement = PLACEMENTS[step]
    return placement.uses_data_repository or (placement.publishes and bool(target.gitops))


def _use_network(task: dsl.PipelineTask, step: str, params: Params, target: Target) -> None:
    """Gives a task the secrets of the services that it calls, and the label that lets it reach the internet."""
    placement = PLACEMENTS[step]
    secrets = ["dubmill-mlflow"] if _uses_mlflow(step) else []
    if placement.uses_registry or placement.uses_data_repository:
        secrets.append("dubmill-s3")
    if step == "notify":
        secrets.append("dubmill-webhook")
    if step == "backbone" and params.backbone.source == "hub":
        secrets.append("dubmill-hub")
    if step == "prompts" and params.prompts.source == "llm":
        secrets.append("dubmill-llm")
    for name in secrets:
        kubernetes.use_secret_as_env(task, name, SECRETS[name], optional=True)
    calls_out = {"dubmill-hub", "dubmill-llm", "dubmill-webhook"} & set(secrets)
    if _uses_git(step, target) or calls_out:  # the network policy lets only labelled pods out
        kubernetes.add_pod_label(task, "dubmill/downloads", "true")
