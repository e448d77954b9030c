"""Counts the CPU memory and the disk that the task of each step takes at its peak, in bytes.

A GPU step reads the weights part by part into CPU memory, from where each part goes to the GPU; without a GPU they stay there,
in float32, with the activations. The disk is that of one task which copies its inputs, as a Kubeflow task does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from dubmill.config.params import Params
from dubmill.plan.architecture import PARTS, Architecture
from dubmill.plan.disk import READ_BY, WRITTEN_BY, caption_feature_bytes, disk_of, pair_latent_bytes
from dubmill.plan.gpus import load_assumptions
from dubmill.plan.memory import GpuSetup, memory_of, savings_in_params
from dubmill.plan.work import GPU_STEPS, Work, clip_shapes, work_of

FP32, GIB = 4, 2**30
DECODERS = ("vae", "audio_vae", "vocoder")  # that the validation of `train` needs
PIXEL_BYTES = 3 + 2 * 3 * FP32  # uint8 from the file, and two float32 copies while it is converted
SHARD_BYTES = 256 * 2**20  # of the pairs that `gate` collects before it writes them


@dataclass(frozen=True)
class HostNeeds:
    """CPU memory and disk of one step's task, in bytes."""

    process: float  # interpreter, libraries, CUDA's part in CPU memory
    weights: float
    data: float  # clips, latents, checkpoints; without a GPU also activations and optimizer state
    margin: float
    input_disk: int
    output_disk: int

    @property
    def memory(self) -> float:
        """CPU memory at the peak, with the margin."""
        return self.process + self.weights + self.data + self.margin

    @property
    def memory_gib(self) -> int:
        """The same in whole GiB, rounded up: what a pod requests."""
        return ceil(self.memory / GIB)


def host_needs(
    params: Params, architecture: Architecture, *, has_gpu: bool = True, num_train_gpus: int = 1
) -> dict[str, HostNeeds]:
    """Returns the needs of every step; with several GPUs `train` runs one process for each."""
    assumed, disk = load_assumptions(), disk_of(params, architecture)
    if not has_gpu:
        architecture = replace(architecture, dtype="float32")
    works = {work.step: work for work in work_of(params, architecture)}
    needs = {}
    for step in READ_BY:
        num_processes = num_train_gpus if step == "train" else 1
        uses_cuda = has_gpu and step in GPU_STEPS
        process = num_processes * (assumed.process_bytes + (assumed.cuda_host_bytes if uses_cuda else 0))
        weights = num_processes * _weight_bytes(works[step], params, architecture, has_gpu) if step in works else 0
        data = _data_bytes(step, params, architecture, disk)
        if step in works and not has_gpu:
            data += _compute_bytes(works[step], params, architecture)
        needs[step] = HostNeeds(
            process=process,
            weights=weights,
            data=data,
            margin=(assumed.host_margin - 1) * (process + weights + data),
            input_disk=sum(disk[name] for name in READ_BY[step]),
            output_disk=(1 + (step == "encode")) * sum(disk[name] for name in WRITTEN_BY[step]),  # shards, and one file
        )
    return needs


def _weight_bytes(work: Work, params: Params, architecture: Architecture, has_gpu: bool) -> int:
    """Returns the bytes of the largest part that a step loads, or of all parts where they stay in CPU memory.

    `train` keeps the decoders of its validation there, and under FSDP the transformer. int8 quantization happens after a part
    is read, so it saves nothing here.
    """
    sizes = {part: architecture.number_bytes * architecture.parameters[part] for part in PARTS}
    loaded = [sizes[part] for part in work.parts]
    if work.step == "train" and params.train.validation.every_steps:
        return sum(loaded) + sum(sizes[part] for part in DECODERS)
    return max(loaded) if has_gpu else sum(loaded)


def dub_pixel_bytes(num_pixels: int) -> int:
    """Returns the CPU memory of the pixels of one clip's dub: the clip and its dub, while both are read and written."""
    return 4 * num_pixels * PIXEL_BYTES


def _data_bytes(step: str, params: Params, architecture: Architecture, disk: dict[str, int]) -> float:
    clips = clip_shapes(params, architecture)
    pair = 2 * clips.half_pixels * PIXEL_BYTES
    checkpoint, latents = 3 * disk["adapter"], pair_latent_bytes(clips, architecture)
    return {
        "synthesize": params.synthesize.batch_size * clips.whole_pixels * PIXEL_BYTES,
        "inpaint": params.inpaint.batch_size * (clips.whole_pixels * PIXEL_BYTES + 2 * pair),
        "gate": SHARD_BYTES + pair,
        # shards are written as they come and merged row by row: the tensors of one batch, and their file, are held
        "encode": params.encode.batch_size * (pair + 2 * (latents + 2 * caption_feature_bytes(architecture))),
        "train": 2 * checkpoint,  # its tensors, and the file that is written
        "dub": params.dub.batch_size * dub_pixel_bytes(clips.half_pixels) + disk["adapter"],
        "evaluate": pair,
        "promote": pair,
    }.get(step, 0)


def _compute_bytes(work: Work, params: Params, architecture: Architecture) -> float:
    """Returns activations and optimizer state of a step that computes on the CPU."""
    memory = memory_of(work, params, architecture, savings_in_params(params), GpuSetup(1, 0.0, 1.0))
    return memory.total - memory.weights
