"""The line from prompts to a release as eleven tasks: calls and resources, nothing else."""

# KFP reads the annotations themselves, so they must not be postponed to strings here.

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from kfp import compiler, dsl, kubernetes
from kfp.dsl.graph_component import GraphComponent

from components import GPU_IMAGE
from components.backbone.component import backbone as backbone_component
from components.dub.component import dub as dub_component
from components.encode.component import encode as encode_component
from components.evaluate.component import evaluate as evaluate_component
from components.gate.component import gate as gate_component
from components.inpaint.component import inpaint as inpaint_component
from components.promote.component import promote as promote_component
from components.prompts.component import prompts as prompts_component
from components.register.component import register as register_component
from components.synthesize.component import synthesize as synthesize_component
from components.train.component import train as train_component
from dubmill.config.params import Params

NAME = "dubmill-dubbing"
GPU = "nvidia.com/gpu"


class Outputs(NamedTuple):
    """What a run leaves behind."""

    backbone: dsl.Model
    report: dsl.Dataset
    release: dsl.Model


@dataclass(frozen=True)
class Needs:
    """What the pod of one task asks for."""

    cpu: int
    memory_gib: int
    gpu: bool = False
    many_gpus: bool = False  # it runs a process for each GPU, and these numbers are for one
    lasting: bool = False  # its draft, half done, is worth more than its pod
    registry: bool = False  # it logs to MLflow
    publishes: bool = False  # it writes what the endpoint serves
    cached: bool = True


NEEDS = {
    backbone_component: Needs(1, 4),
    prompts_component: Needs(1, 1),
    synthesize_component: Needs(4, 32, gpu=True, lasting=True),
    inpaint_component: Needs(4, 32, gpu=True, lasting=True),
    gate_component: Needs(4, 8),
    encode_component: Needs(4, 32, gpu=True),
    train_component: Needs(8, 64, gpu=True, many_gpus=True, lasting=True),
    dub_component: Needs(4, 32, gpu=True, lasting=True),
    evaluate_component: Needs(4, 8),
    # What these two do depends on what the registry holds by then, which KFP's cache key cannot know.
    register_component: Needs(1, 2, registry=True, cached=False),
    promote_component: Needs(2, 8, registry=True, publishes=True, cached=False),
}
SMALL, SMALL_LIMIT = Needs(1, 2), "6Gi"  # what any task of the nano backbone asks for, without a GPU


@dataclass(frozen=True)
class Target:
    """Where a compiled pipeline is to run."""

    has_gpu: bool
    train_gpus: int  # of one node, for the task `train`
    tracking_uri: str  # empty: the task's own environment says
    models_claim: str  # volume claim that the endpoint reads; empty: none
    work_claim: str  # volume claim where tasks keep what is not done yet, for a task tried again; empty: none
    num_retries: int
    code: str  # digest of the library: part of KFP's cache key, so that new code is never answered by old results


def build(params: Params, target: Target) -> GraphComponent:
    """The pipeline, its inputs' defaults taken from `params`."""
    values = params.model_dump(mode="json")

    def task(component: Any, **inputs: Any) -> dsl.PipelineTask:  # noqa: ANN401 (KFP components have no public type)
        return _place(component(**inputs), NEEDS[component], target)

    @dsl.pipeline(name=NAME, description="Grow, gate, train, measure, register and release a dubbing adapter.")
    def dubbing(
        backbone: dict = values["backbone"],
        prompts: dict = values["prompts"],
        synthesize: dict = values["synthesize"],
        inpaint: dict = values["inpaint"],
        gate: dict = values["gate"],
        encode: dict = values["encode"],
        train: dict = values["train"],
        dub: dict = values["dub"],
        evaluate: dict = values["evaluate"],
        register: dict = values["register"],
        promote: dict = values["promote"],
    ) -> Outputs:
        """From prompts to a release. Each input is one section of params.yaml; `dubmill params` tells every value.

        Args:
            backbone: which joint audio-video diffusion model to use (source, repo, revision, licence)
            prompts: what the synthetic speakers are and say (source, counts, languages, seed)
            synthesize: size and sampling of the clips whose speaker changes language half-way
            inpaint: how each half is re-voiced into the other language (pair source, mask, sampling)
            gate: the strict and warning thresholds of every quality gate, and the least accepted share
            encode: how pairs become latents (batch size, face margin)
            train: the LoRA and its optimiser (rank, steps, learning rate, schedule, seed)
            dub: how held-out clips are dubbed, and by which methods
            evaluate: intervals and showcase of the report
            register: MLflow experiment and model name
            promote: when a challenger becomes champion (metrics to improve, regressions, floors)
        """
        made = task(backbone_component, params=backbone)
        if params.backbone.source == "hub":  # the network policy lets only labelled pods out
            kubernetes.add_pod_label(made, "dubmill/downloads", "true")
        base = made.outputs["backbone"]
        asked = task(prompts_component, params=prompts).outputs["prompts"]
        clips = task(synthesize_component, backbone=base, prompts=asked, params=synthesize).outputs["clips"]
        raw = task(inpaint_component, backbone=base, clips=clips, params=inpaint).outputs["pairs"]
        pairs = task(gate_component, backbone=base, pairs=raw, params=gate).outputs["accepted"]
        latents = task(encode_component, backbone=base, pairs=pairs, params=encode).outputs["latents"]
        adapter = task(train_component, backbone=base, latents=latents, params=train).outputs["adapter"]
        dubs = task(dub_component, backbone=base, adapter=adapter, pairs=pairs, params=dub).outputs["dubs"]
        judged = {"backbone": base, "dubs": dubs, "pairs": pairs, "adapter": adapter}
        report = task(evaluate_component, **judged, params=evaluate).outputs["report"]
        version = task(register_component, adapter=adapter, report=report, params=register).outputs["registered"]
        proven = {"backbone": base, "adapter": adapter, "report": report, "pairs": pairs, "registered": version}
        release = task(promote_component, **proven, register_params=register, params=promote).outputs["release"]
        return Outputs(backbone=base, report=report, release=release)

    return dubbing


def compile_to(path: Path, params: Params, target: Target) -> None:
    """Write the pipeline as YAML that Kubeflow takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(build(params, target), str(path))


def _place(task: dsl.PipelineTask, needs: Needs, target: Target) -> dsl.PipelineTask:
    """Ask for what the task needs where it will run; Pod Security restricted is met by KFP's own drops and this user."""
    asked = needs if target.has_gpu else SMALL
    num_gpus = target.train_gpus if asked.many_gpus else int(asked.gpu)
    memory = f"{asked.memory_gib * max(1, num_gpus)}Gi"
    task.set_cpu_request(str(asked.cpu * max(1, num_gpus)))
    task.set_memory_request(memory).set_memory_limit(memory if target.has_gpu else SMALL_LIMIT)
    task.set_caching_options(enable_caching=needs.cached)
    task.set_env_variable("DUBMILL_CODE", target.code)
    if target.num_retries:
        task.set_retry(num_retries=target.num_retries, backoff_duration="30s", backoff_factor=2.0)
    if needs.registry and target.tracking_uri:
        task.set_env_variable("MLFLOW_TRACKING_URI", target.tracking_uri)
    if num_gpus:
        task.set_container_image(GPU_IMAGE)
        task.set_accelerator_type(GPU).set_accelerator_limit(num_gpus)
        kubernetes.add_node_selector(task, f"{GPU}.present", "true")
        kubernetes.add_toleration(task, key=GPU, operator="Exists", effect="NoSchedule")
    if num_gpus > 1:  # NCCL's processes talk through shared memory, of which a pod has 64 MiB by itself
        kubernetes.empty_dir_mount(
            task, volume_name="shared-memory", mount_path="/dev/shm", medium="Memory", size_limit="8Gi"
        )
    if needs.lasting and target.work_claim:
        kubernetes.mount_pvc(task, pvc_name=target.work_claim, mount_path="/work")
        task.set_env_variable("DUBMILL_WORK", "/work")
    if needs.publishes and target.models_claim:
        kubernetes.mount_pvc(task, pvc_name=target.models_claim, mount_path="/models")
        task.set_env_variable("DUBMILL_MODELS", "/models")
    return kubernetes.set_security_context(task, run_as_non_root=True)
