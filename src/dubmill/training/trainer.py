"""The training loop of the dubbing LoRA: clean reference tokens, noised target tokens, a loss weighted by the face.

Every step draws from a generator seeded by (seed, step), so a run resumed from a checkpoint continues bit for bit like
one that was never stopped. Several processes sample the same batch and take a slice each, so the losses do not depend on
their number. Checkpoints are safetensors with the optimizer's moments, in full whatever the number of processes; nothing
is pickled.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from safetensors import safe_open
from safetensors.torch import load_file, save

from dubmill import adapters
from dubmill.artifacts.files import write_atomically
from dubmill.artifacts.store import LatentSet
from dubmill.config.training import TrainParams
from dubmill.errors import InterruptedStepError, InvalidParamsError
from dubmill.generation.seeds import generators, rank_seed, step_seed
from dubmill.model.conditioning import SequenceLayout, cache_reference, patched_attention, predict, sequence_layout
from dubmill.model.diffusion import add_noise, weighted_loss
from dubmill.model.latents import Latents
from dubmill.model.load import Modules, compute_device
from dubmill.model.loras import activate_loras
from dubmill.model.memory import explained_out_of_memory
from dubmill.model.shapes import LatentShape
from dubmill.training.batches import Batch, Pairs, sample_batch
from dubmill.training.optimizer import build_optimizer, gathered, shard_like
from dubmill.training.validation import Validation

CURE = "set train.gradient_checkpointing: true or backbone.transformer_bits: 8, or lower train.batch_size"
PROCESS_TIMEOUT = timedelta(hours=2)  # of collective operations: all other processes wait while rank 0 validates

Report = Callable[[dict[str, Any]], object]


def dubbing_losses(transformer: Any, batch: Batch, layout: SequenceLayout) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the video and audio loss of a batch: weighted mean squared errors of the target tokens' velocity."""
    noisy = Latents(
        add_noise(batch.target.video_BSD, batch.noise.video_BSD, batch.sigma_video_BS),
        add_noise(batch.target.audio_BLD, batch.noise.audio_BLD, batch.sigma_audio_BL),
    )
    cache_reference(transformer, batch.reference, batch.empty, layout)
    sigmas = (batch.sigma_video_BS, batch.sigma_audio_BL)
    velocity = predict(transformer, noisy, batch.reference, *sigmas, batch.text, layout)
    return (
        weighted_loss(velocity.video_BSD, batch.noise.video_BSD - batch.target.video_BSD, batch.weight_video_BS),
        weighted_loss(velocity.audio_BLD, batch.noise.audio_BLD - batch.target.audio_BLD, batch.weight_audio_BL),
    )


def learning_rate_factor(step: int, params: TrainParams) -> float:
    """Returns the factor on the learning rate at `step` (0-based): a linear warm-up, then the schedule's decay to zero."""
    if step < params.num_warmup_steps:
        return (step + 1) / params.num_warmup_steps
    if params.schedule == "constant":
        return 1.0
    done = (step - params.num_warmup_steps) / max(1, params.num_steps - params.num_warmup_steps)
    return 1 - done if params.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


class LossModule(torch.nn.Module):
    """`dubbing_losses` as a module: DDP synchronises the gradients of a module's forward."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, batch: Batch, layout: SequenceLayout) -> tuple[torch.Tensor, torch.Tensor]:
        """See `dubbing_losses`."""
        return dubbing_losses(self.transformer, batch, layout)


def build_accelerator(params: TrainParams) -> Accelerator:
    """Returns the accelerator of this process, among those that torchrun or accelerate started; one alone is fine.

    Raises:
        InvalidParamsError: the batch is too small to give each process a sample.
    """
    precision = "no" if params.mixed_precision == "none" else "bf16"
    timeout = InitProcessGroupKwargs(timeout=PROCESS_TIMEOUT)
    is_on_cpu = compute_device().type == "cpu"
    accelerator = Accelerator(mixed_precision=precision, cpu=is_on_cpu, kwargs_handlers=[timeout])
    if params.batch_size < accelerator.num_processes:
        raise InvalidParamsError(
            f"a batch of {params.batch_size} cannot be split over {accelerator.num_processes} processes",
            where="train.batch_size",
            cure="raise it to a multiple of the processes, or start fewer",
        )
    return accelerator


def uses_fsdp(params: TrainParams, accelerator: Accelerator) -> bool:
    """Returns whether the transformer's weights are sharded over several processes."""
    return params.parallel == "fsdp" and accelerator.num_processes > 1


def shard_with_fsdp(transformer: Any) -> None:
    """Shards the transformer's weights over all processes (FSDP2); each block is gathered only while it computes.

    A transformer on the CPU is moved to the processes' GPUs here, block by block.
    """
    from torch.distributed.fsdp import fully_shard

    for block in transformer.transformer_blocks:
        fully_shard(block)
    fully_shard(transformer)


class Trainer:
    """Trains a LoRA in `folder`, and resumes from its last checkpoint."""

    def __init__(
        self, modules: Modules, latents: LatentSet, params: TrainParams, folder: Path, accelerator: Accelerator
    ) -> None:
        self.modules, self.params, self.folder, self.accelerator = modules, params, folder, accelerator
        self.pairs = Pairs.open(latents)
        self.shape, rate = LatentShape(**latents.info["latent_shape"]), latents.info["frame_rate"]
        examples = self.pairs.validation_examples(params.validation.num_clips)
        self.validation = Validation(modules, examples, self.shape, rate, params)
        torch.manual_seed(params.seed)  # equal LoRA weights in every process
        transformer = modules.transformer
        adapters.add_lora(
            transformer, rank=params.rank, alpha=params.alpha, dropout=params.dropout, targets=params.targets
        )
        activate_loras(transformer, {adapters.ADAPTER_NAME: 1.0})  # one for sampling may be there too, for validation
        for value in adapters.lora_parameters(transformer).values():
            value.data = value.data.float()  # bf16 would round small updates away
        transformer.train()
        if params.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        self.uses_fsdp = uses_fsdp(params, accelerator)
        if self.uses_fsdp:
            shard_with_fsdp(transformer)
        self.layout = sequence_layout(  # after sharding, which may have moved the transformer to a GPU
            self.shape,
            rate,
            transformer,
            reference=params.reference_positions,
            isolate=params.isolate_modalities,
            attention=params.reference_attention,
        )
        losses = LossModule(transformer)
        self.losses = losses if self.uses_fsdp else accelerator.prepare_model(losses)
        self.lora = adapters.lora_parameters(transformer)
        self.rates = adapters.learning_rates(list(self.lora), params)
        self.optimizer = build_optimizer(self.lora, self.rates, params, modules.device)
        self.num_done = self.num_saved = self.resume()

    def run(self, report: Report) -> None:
        """Trains from the last checkpoint to `num_steps`; `report` gets a row per optimizer step.

        Raises:
            InterruptedStepError: the process got SIGTERM; a checkpoint of the last step was written first.
        """
        first = self.num_done
        with patched_attention(self.modules.transformer, self.layout), _sigterm_event() as stop:
            started = time.monotonic()
            for step in range(first, self.params.num_steps):
                self._between_steps(step, stop)
                with explained_out_of_memory("training", CURE):
                    row = self.step(step)
                num_done, num_left = step + 1 - first, self.params.num_steps - step - 1
                report({**row, "eta_seconds": (time.monotonic() - started) / num_done * num_left})
            self._validate(self.params.num_steps, stop)

    def _between_steps(self, step: int, stop: threading.Event) -> None:
        """After `step` steps: saves a checkpoint and validates when due, and stops after SIGTERM.

        A resumed run begins with the same call, so it makes the validation dubs in which it was stopped.
        """
        if step % self.params.checkpoint_every == 0:
            self.save(step)
        self._validate(step, stop)
        if self._is_any(stop.is_set()):
            self.save(step)
            raise InterruptedStepError(
                f"stopped after step {step} of {self.params.num_steps}, with a checkpoint",
                where=str(self.folder),
                cure="run the step again to continue from there",
            )

    def _validate(self, step: int, stop: threading.Event) -> None:
        """Dubs the validation examples on rank 0, if they are due and not there yet.

        With sharded weights all ranks compute the same dubs, since each block is gathered from all of them.
        """
        if not self.validation.is_due(step):
            return
        paths, is_first = self.validation.paths(self.folder, step), self.accelerator.is_main_process
        if not self._is_any(is_first and not all(path.exists() for path in paths)):
            return
        if self.uses_fsdp or is_first:
            is_stopping = (lambda: self._is_any(stop.is_set())) if self.uses_fsdp else stop.is_set
            with self.accelerator.autocast():
                self.validation.dub_examples(paths, is_stopping, is_writer=is_first)

    def _is_any(self, flag: bool) -> bool:
        """Returns whether `flag` is set in any process: all must leave the loop at the same step, or the others would hang."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device)))

    def step(self, step: int) -> dict[str, Any]:
        """Takes one optimizer step; returns its losses, its learning rate and the sigmas of the video."""
        factor = learning_rate_factor(step, self.params)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_rate"] * factor
        sums = torch.zeros(2, dtype=torch.float64, device=self.modules.device)
        sigmas: list[float] = []
        for part in range(self.params.accumulate):
            batch, video_share, audio_share, batch_sigmas = self._sample(step, part)
            sigmas += batch_sigmas
            is_last = part + 1 == self.params.accumulate
            with nullcontext() if is_last else self.accelerator.no_sync(self.losses):
                with self.accelerator.autocast():
                    video, audio = self.losses(batch, self.layout)
                video, audio = video * video_share, audio * audio_share
                # DDP averages gradients over the processes, but these losses are parts of a sum
                scale = self.accelerator.num_processes / self.params.accumulate
                self.accelerator.backward((video + audio) * scale)
            sums += torch.stack([video, audio]).detach().double() / self.params.accumulate
        self.accelerator.clip_grad_norm_(self.lora.values(), self.params.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        video_sum, audio_sum = self.accelerator.reduce(sums).tolist()
        return {
            "step": step + 1,
            "video": video_sum,
            "audio": audio_sum,
            "total": video_sum + audio_sum,
            "lr": self.params.learning_rate * factor,
            "sigmas": [round(sigma, 4) for sigma in sigmas],
        }

    def _sample(self, step: int, part: int) -> tuple[Batch, float, float, list[float]]:
        """Returns this process's slice of the batch, its share of the batch's video and audio weight, and all of its sigmas."""
        seed = step_seed(self.params.seed, step, part)
        batch = sample_batch(self.pairs, self.shape, self.params, *generators([seed]))
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        torch.manual_seed(rank_seed(seed, rank))  # dropout: another mask in each process
        own = _map_tensors(batch, lambda tensor: tensor[rank::count].to(self.modules.device))
        return (
            own,
            float(batch.weight_video_BS[rank::count].sum() / batch.weight_video_BS.sum().clamp(min=1e-8)),
            float(batch.weight_audio_BL[rank::count].sum() / batch.weight_audio_BL.sum()),
            batch.sigma_video_BS.amax(dim=1).tolist(),
        )

    def save(self, step: int) -> None:
        """Writes the checkpoint after `step` steps, unless it is there, and deletes the oldest ones beyond the limit.

        All processes must call: they gather the tensors, and rank 0 writes them.

        Raises:
            DiskFullError: the disk is full; the previous checkpoint is still there.
        """
        if step == self.num_saved:
            return
        self.num_saved, tensors = step, {}
        for name, value in self.lora.items():
            for kind, stored in {"lora": value, **self.optimizer.state[value]}.items():
                tensor = gathered(torch.as_tensor(stored).detach())
                if self.accelerator.is_main_process:
                    tensors[f"{kind}/{name}"] = tensor.cpu().contiguous()
        if not self.accelerator.is_main_process:
            return
        data = save(tensors, metadata={"step": str(step)})
        write_atomically(self.folder / f"checkpoint-{step:08d}.safetensors", data)
        for old in self.checkpoints()[: -self.params.keep_checkpoints]:
            old.unlink()

    def checkpoints(self) -> list[Path]:
        """Returns the checkpoints on disk, oldest first."""
        return sorted(self.folder.glob("checkpoint-*.safetensors"))

    def resume(self) -> int:
        """Loads the last checkpoint, if there is one; returns the number of steps already done."""
        if not self.checkpoints():
            return 0
        path = self.checkpoints()[-1]
        with safe_open(path, framework="pt") as file:
            step = int(file.metadata()["step"])
        stored: dict[str, dict[str, Any]] = {name: {} for name in self.lora}
        for key, tensor in load_file(path).items():
            kind, _, name = key.partition("/")
            stored[name][kind] = shard_like(tensor, self.lora[name])
        for name, value in self.lora.items():
            with torch.no_grad():
                value.copy_(stored[name].pop("lora"))
            self.optimizer.state[value] = stored[name]
        return step

    def gather(self) -> None:
        """Puts the full LoRA into the transformer as plain tensors, where its weights are sharded."""
        for name, value in self.lora.items():
            layer, _, leaf = name.rpartition(".")
            full = torch.nn.Parameter(gathered(value.detach()), requires_grad=False)
            setattr(self.modules.transformer.get_submodule(layer), leaf, full)


@contextmanager
def _sigterm_event() -> Iterator[threading.Event]:
    """Makes SIGTERM set an event instead of ending the process while open."""
    stop = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def _map_tensors(batch: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Returns `batch` with every tensor in it changed."""
    if isinstance(batch, torch.Tensor):
        return change(batch)
    return type(batch)(*(_map_tensors(getattr(batch, name), change) for name in batch.__dataclass_fields__))
