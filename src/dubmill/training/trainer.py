"""The training loop of the dubbing LoRA: reference tokens clean and appended, target noised, face-weighted loss.

Every step draws from a generator seeded by (seed, step), so a run resumed from a checkpoint goes on bit for bit as the
run that was never stopped. Several processes draw the same batch and take a slice each, so the figures do not depend on
their number. Checkpoints are safetensors, the optimizer's moments included, whole whatever the number of processes;
nothing is pickled.
"""

from __future__ import annotations

import json
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
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from safetensors import safe_open
from safetensors.torch import load_file, save

from dubmill import adapters
from dubmill.artifacts.files import write_atomically
from dubmill.artifacts.store import LatentSet
from dubmill.config.params import TrainParams
from dubmill.errors import InterruptedStepError, InvalidParamsError
from dubmill.generation.codec import Latents
from dubmill.model.conditioning import SequenceLayout, cache_reference, patched_attention, predict, sequence_layout
from dubmill.model.diffusion import add_noise, weighted_loss
from dubmill.model.load import Modules
from dubmill.model.shapes import LatentShape
from dubmill.training.batches import Batch, Pairs, sample_batch
from dubmill.training.optimizer import optimizer, share_of, whole
from dubmill.training.validation import Validation

LOSSES = "losses.jsonl"

NUM_BINS = 10  # of the histogram of drawn sigmas
PATIENCE = timedelta(hours=2)  # that processes have with each other: all but the first wait while it validates

Report = Callable[[dict[str, Any]], None]


def dubbing_losses(transformer: Any, batch: Batch, layout: SequenceLayout) -> tuple[torch.Tensor, torch.Tensor]:
    """Video and audio loss of a batch: weighted mean squared error of the target tokens' velocity."""
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
    """The learning rate's factor at `step` (0-based): a linear warm-up, then the schedule's decay to zero."""
    if step < params.num_warmup_steps:
        return (step + 1) / params.num_warmup_steps
    if params.schedule == "constant":
        return 1.0
    done = (step - params.num_warmup_steps) / max(1, params.num_steps - params.num_warmup_steps)
    return 1 - done if params.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


class Losses(torch.nn.Module):
    """`dubbing_losses` as a module, so that DDP sees the forward whose gradients it sums."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, batch: Batch, layout: SequenceLayout) -> tuple[torch.Tensor, torch.Tensor]:
        """See `dubbing_losses`."""
        return dubbing_losses(self.transformer, batch, layout)


def build_accelerator(params: TrainParams) -> Accelerator:
    """This process's place among those that train together, as torchrun or accelerate started them; one alone is fine.

    Raises:
        InvalidParamsError: the batch is too small to give each process a sample.
    """
    precision = "no" if params.mixed_precision == "none" else "bf16"
    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available(), kwargs_handlers=[patience])
    if params.batch_size < accelerator.num_processes:
        raise InvalidParamsError(
            f"a batch of {params.batch_size} cannot be split over {accelerator.num_processes} processes",
            where="train.batch_size",
            cure="raise it to a multiple of the processes, or start fewer",
        )
    return accelerator


def uses_fsdp(params: TrainParams, accelerator: Accelerator) -> bool:
    """Whether the transformer's weights are spread over several processes."""
    return params.parallel == "fsdp" and accelerator.num_processes > 1


def shard(transformer: Any) -> None:
    """Spread the transformer's weights over all processes (FSDP2); each block is gathered only while it computes.

    A transformer on the CPU is moved to the processes' GPUs here, block by block, a block whole before it is cut.
    """
    from torch.distributed.fsdp import fully_shard

    for block in transformer.transformer_blocks:
        fully_shard(block)
    fully_shard(transformer)


class Trainer:
    """A LoRA being fitted in `folder`, resumable from its last checkpoint."""

    def __init__(
        self, modules: Modules, latents: LatentSet, params: TrainParams, folder: Path, accelerator: Accelerator
    ) -> None:
        self.modules, self.params, self.folder, self.accelerator = modules, params, folder, accelerator
        self.pairs = Pairs.open(latents)
        self.shape, rate = LatentShape(**latents.info["latent_shape"]), latents.info["frame_rate"]
        examples = self.pairs.examples(params.validation.num_clips)
        self.validation = Validation(modules, examples, self.shape, rate, params)
        torch.manual_seed(params.seed)  # equal LoRA weights in every process
        transformer = modules.transformer
        adapters.add_lora(
            transformer, rank=params.rank, alpha=params.alpha, dropout=params.dropout, targets=params.targets
        )
        for value in adapters.lora_parameters(transformer).values():
            value.data = value.data.float()  # bf16 would round small updates away
        transformer.train()
        if params.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        self.uses_fsdp = uses_fsdp(params, accelerator)
        if self.uses_fsdp:
            shard(transformer)
        self.layout = sequence_layout(  # on the device that the transformer is on by now
            self.shape,
            rate,
            modules,
            reference=params.reference_positions,
            isolate=params.isolate_modalities,
            attention=params.reference_attention,
        )
        self.losses = Losses(transformer) if self.uses_fsdp else accelerator.prepare_model(Losses(transformer))
        self.lora = adapters.lora_parameters(transformer)
        self.rates = adapters.learning_rates(list(self.lora), params)
        self.optimizer = optimizer(self.lora, self.rates, params, modules.device)
        self.num_done = self.num_kept = self.resume()

    def run(self, report: Report) -> None:
        """Train from where the last checkpoint left off to `num_steps`; `report` gets a row per optimizer step.

        Raises:
            InterruptedStepError: the process was asked to end (SIGTERM); a checkpoint of the last step was written first.
        """
        first = self.num_done
        with patched_attention(self.modules.transformer, self.layout), _asked_to_end() as asked:
            started = time.monotonic()
            for step in range(first, self.params.num_steps):
                self._pause(step, asked)
                row = self.step(step)
                done, left = step + 1 - first, self.params.num_steps - step - 1
                report({**row, "eta_seconds": (time.monotonic() - started) / done * left})
            self._validate(self.params.num_steps, asked)

    def _pause(self, step: int, asked: threading.Event) -> None:
        """Between two steps, the first `step` done: keep them, look at what they made, leave if asked to.

        A run that goes on from here begins with the same pause, and so makes the dubs that it was stopped in.
        """
        if step % self.params.checkpoint_every == 0:
            self.save(step)
        self._validate(step, asked)
        if self._is_any(asked.is_set()):
            self.save(step)
            raise InterruptedStepError(
                f"asked to end after step {step} of {self.params.num_steps}, which is kept",
                where=str(self.folder),
                cure="run the step again to go on from there",
            )

    def _validate(self, step: int, asked: threading.Event) -> None:
        """Have the first process dub the examples, where they are due and not there yet.

        Where the weights are spread, all processes compute the same dubs, since each block is gathered from all.
        """
        if not self.validation.is_due(step):
            return
        paths, is_first = self.validation.paths(self.folder, step), self.accelerator.is_main_process
        if not self._is_any(is_first and not all(path.exists() for path in paths)):
            return
        if self.uses_fsdp or is_first:
            is_asked = (lambda: self._is_any(asked.is_set())) if self.uses_fsdp else asked.is_set
            with self.accelerator.autocast():
                self.validation.make(paths, is_asked, is_writer=is_first)

    def _is_any(self, flag: bool) -> bool:
        """Whether `flag` is set in any process: all must leave the loop at the same step, or the rest would wait."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device)))

    def step(self, step: int) -> dict[str, Any]:
        """One optimizer step; returns its losses, its learning rate and the sigmas it drew for the video."""
        factor = learning_rate_factor(step, self.params)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_rate"] * factor
        sums = torch.zeros(2, dtype=torch.float64, device=self.modules.device)
        sigmas: list[float] = []
        for part in range(self.params.accumulate):
            batch, video_share, audio_share, drawn = self._drawn(step, part)
            sigmas += drawn
            is_last = part + 1 == self.params.accumulate
            with nullcontext() if is_last else self.accelerator.no_sync(self.losses):
                with self.accelerator.autocast():
                    video, audio = self.losses(batch, self.layout)
                video, audio = video * video_share, audio * audio_share
                # gradients are averaged over the processes, and these losses are parts of a sum
                scale = self.accelerator.num_processes / self.params.accumulate
                self.accelerator.backward((video + audio) * scale)
            sums += torch.stack([video, audio]).detach().double() / self.params.accumulate
        self.accelerator.clip_grad_norm_(self.lora.values(), self.params.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        video_sum, audio_sum = self.accelerator.reduce(sums).tolist()
        total, rate = video_sum + audio_sum, self.params.learning_rate * factor
        told = {"step": step + 1, "video": video_sum, "audio": audio_sum, "total": total, "lr": rate}
        return {**told, "sigmas": [round(sigma, 4) for sigma in sigmas]}

    def _drawn(self, step: int, part: int) -> tuple[Batch, float, float, list[float]]:
        """This process's slice of the batch, its share of the whole batch's video and audio weight, and all sigmas."""
        seed = (self.params.seed * 1_000_003 + step) * 1_009 + part
        batch = sample_batch(self.pairs, self.shape, self.params, torch.Generator().manual_seed(seed % 2**63))
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        torch.manual_seed((seed + rank * 2**40) % 2**63)  # dropout: another mask in each process
        mine = _each(batch, lambda tensor: tensor[rank::count].to(self.modules.device))
        return (
            mine,
            float(batch.weight_video_BS[rank::count].sum() / batch.weight_video_BS.sum().clamp(min=1e-8)),
            float(batch.weight_audio_BL[rank::count].sum() / batch.weight_audio_BL.sum()),
            batch.sigma_video_BS.amax(dim=1).tolist(),
        )

    def save(self, step: int) -> None:
        """Write the checkpoint after `step` steps, unless it is there, and drop those too many; one process writes what
        all gather.

        Raises:
            DiskFullError: the disk is full; the checkpoint before is still there.
        """
        if step == self.num_kept:
            return
        self.num_kept, tensors = step, {}
        for name, value in self.lora.items():
            for kind, held in {"lora": value, **self.optimizer.state[value]}.items():
                tensor = whole(torch.as_tensor(held).detach())
                if self.accelerator.is_main_process:
                    tensors[f"{kind}/{name}"] = tensor.cpu().contiguous()
        if not self.accelerator.is_main_process:
            return
        data = save(tensors, metadata={"step": str(step)})
        write_atomically(self.folder / f"checkpoint-{step:08d}.safetensors", data)
        for old in self.checkpoints()[: -self.params.keep_checkpoints]:
            old.unlink()

    def checkpoints(self) -> list[Path]:
        """The checkpoints on disk, oldest first."""
        return sorted(self.folder.glob("checkpoint-*.safetensors"))

    def resume(self) -> int:
        """Load the last checkpoint, if there is one; returns the number of steps already done."""
        if not self.checkpoints():
            return 0
        path = self.checkpoints()[-1]
        with safe_open(path, framework="pt") as file:
            step = int(file.metadata()["step"])
        held: dict[str, dict[str, Any]] = {name: {} for name in self.lora}
        for key, tensor in load_file(path).items():
            kind, _, name = key.partition("/")
            held[name][kind] = share_of(tensor, self.lora[name])
        for name, value in self.lora.items():
            with torch.no_grad():
                value.copy_(held[name].pop("lora"))
            self.optimizer.state[value] = held[name]
        return step

    def gather(self) -> None:
        """Put the whole LoRA back into the transformer as plain tensors, where its weights are spread."""
        for name, value in self.lora.items():
            layer, _, leaf = name.rpartition(".")
            full = torch.nn.Parameter(whole(value.detach()), requires_grad=False)
            setattr(self.modules.transformer.get_submodule(layer), leaf, full)


@contextmanager
def _asked_to_end() -> Iterator[threading.Event]:
    """While open, SIGTERM sets the event instead of ending the process."""
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _each(batch: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`batch` with every tensor in it changed."""
    if isinstance(batch, torch.Tensor):
        return change(batch)
    return type(batch)(*(_each(getattr(batch, name), change) for name in batch.__dataclass_fields__))


class LossLog:
    """losses.jsonl in a folder: a line per step, cut back to the checkpoint when a run resumes."""

    def __init__(self, folder: Path, num_done: int) -> None:
        self.path = folder / LOSSES
        kept = self.path.read_text().splitlines()[:num_done] if self.path.exists() else []
        self.path.write_text("".join(line + "\n" for line in kept))

    def add(self, row: dict[str, Any]) -> None:
        """Append one step."""
        kept = ("step", "video", "audio", "total", "lr", "sigmas")
        with self.path.open("a") as stream:
            stream.write(json.dumps({name: row[name] for name in kept}) + "\n")

    def sigma_histogram(self) -> list[int]:
        """Sigmas drawn in the whole run, in ten bins from 0 to 1: a collapse to the last bins is seen here."""
        rows = (json.loads(line) for line in self.path.read_text().splitlines())
        drawn = torch.tensor([sigma for row in rows for sigma in row["sigmas"]])
        return torch.histc(drawn, NUM_BINS, 0, 1).long().tolist()
