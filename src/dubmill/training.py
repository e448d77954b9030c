"""The training loop of the dubbing LoRA: reference tokens clean and appended, target noised, face-weighted loss.

Every step draws from a generator seeded by (seed, step), so a run resumed from a checkpoint goes on bit for bit as the
run that was never stopped. Checkpoints are safetensors, the optimizer's moments included; nothing is pickled.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save

from dubmill import adapters
from dubmill.artifacts import LatentSet
from dubmill.backbone import Modules
from dubmill.codec import Latents
from dubmill.conditioning import Layout, TextFeatures, isolated, layout, predict, remember
from dubmill.diffusion import add_noise, sample_sigmas, weighted_loss
from dubmill.files import write_atomically
from dubmill.params import TrainParams
from dubmill.shapes import LatentShape

LATENTS = "latents.safetensors"
LOSSES = "losses.jsonl"

NUM_BINS = 10  # of the histogram of drawn sigmas

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Pairs:
    """Encoded pairs, mapped into memory: side 0 is the original, side 1 the counterpart; P pairs."""

    video_P2SD: torch.Tensor
    audio_P2LD: torch.Tensor
    face_PS: torch.Tensor  # 1 on tokens of the face, 0 elsewhere
    text: TextFeatures  # rows 2p and 2p + 1: the caption of each side of pair p; the last row is the empty caption

    @classmethod
    def open(cls, latents: LatentSet) -> Pairs:
        """The tensors of a sealed set."""
        tensors = load_file(latents.path / LATENTS)
        text = TextFeatures(tensors["text_video"], tensors["text_audio"], tensors["text_mask"])
        return cls(tensors["video"], tensors["audio"], tensors["face"], text)


@dataclass(frozen=True)
class Batch:
    """One batch as the loss needs it."""

    target: Latents
    reference: Latents
    text: TextFeatures
    empty: TextFeatures  # of the empty caption, under which a reference that attends to itself is read
    weight_video_BS: torch.Tensor
    weight_audio_BL: torch.Tensor
    sigma_video_BS: torch.Tensor
    sigma_audio_BL: torch.Tensor
    noise: Latents


def draw(pairs: Pairs, shape: LatentShape, params: TrainParams, generator: torch.Generator) -> Batch:
    """A batch: which pairs, in which direction, at which noise, with which captions dropped."""
    count = params.batch_size

    def chance(probability: float) -> torch.Tensor:
        return torch.rand(count, generator=generator) < probability

    rows = torch.randint(len(pairs.video_P2SD), (count,), generator=generator)
    target_side = 1 - chance(params.reverse_probability).long()  # 1: the counterpart is the target
    sigma_video = sample_sigmas(params.sigma_sampler, count, shape.video_tokens, generator)
    sigma_audio = sigma_video
    if not params.shared_sigma:
        sigma_audio = sample_sigmas(params.sigma_sampler, count, shape.video_tokens, generator)
    is_given = torch.zeros(count, shape.video_tokens, dtype=torch.bool)
    is_given[:, : shape.height * shape.width] = chance(params.first_frame_probability)[:, None]
    empty = len(pairs.text) - 1
    caption = torch.where(chance(params.drop_caption_probability), empty, 2 * rows + target_side)
    face_BS = pairs.face_PS[rows]
    target = Latents(pairs.video_P2SD[rows, target_side], pairs.audio_P2LD[rows, target_side])
    return Batch(
        target=target,
        reference=Latents(pairs.video_P2SD[rows, 1 - target_side], pairs.audio_P2LD[rows, 1 - target_side]),
        text=pairs.text.pick(caption),
        empty=pairs.text.pick([empty] * count),
        weight_video_BS=(face_BS + (1 - face_BS) * params.background_weight) * ~is_given,
        weight_audio_BL=torch.ones(count, shape.audio),
        sigma_video_BS=sigma_video[:, None] * ~is_given,
        sigma_audio_BL=sigma_audio[:, None].expand(count, shape.audio),
        noise=Latents(
            torch.randn(target.video_BSD.shape, generator=generator),
            torch.randn(target.audio_BLD.shape, generator=generator),
        ),
    )


def losses(transformer: Any, batch: Batch, where: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """Video and audio loss of a batch: weighted mean squared error of the target tokens' velocity."""
    noisy = Latents(
        add_noise(batch.target.video_BSD, batch.noise.video_BSD, batch.sigma_video_BS),
        add_noise(batch.target.audio_BLD, batch.noise.audio_BLD, batch.sigma_audio_BL),
    )
    remember(transformer, batch.reference, batch.empty, where)
    sigmas = (batch.sigma_video_BS, batch.sigma_audio_BL)
    velocity = predict(transformer, noisy, batch.reference, *sigmas, batch.text, where)
    return (
        weighted_loss(velocity.video_BSD, batch.noise.video_BSD - batch.target.video_BSD, batch.weight_video_BS),
        weighted_loss(velocity.audio_BLD, batch.noise.audio_BLD - batch.target.audio_BLD, batch.weight_audio_BL),
    )


def rate_at(step: int, params: TrainParams) -> float:
    """The learning rate's factor at `step` (0-based): a linear warm-up, then the schedule's decay to zero."""
    if step < params.num_warmup_steps:
        return (step + 1) / params.num_warmup_steps
    if params.schedule == "constant":
        return 1.0
    done = (step - params.num_warmup_steps) / max(1, params.num_steps - params.num_warmup_steps)
    return 1 - done if params.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))


class Trainer:
    """A LoRA being fitted in `folder`, resumable from its last checkpoint."""

    def __init__(self, modules: Modules, latents: LatentSet, params: TrainParams, folder: Path) -> None:
        self.modules, self.params, self.folder = modules, params, folder
        precision = "no" if params.mixed_precision == "none" else "bf16"
        self.accelerator = Accelerator(mixed_precision=precision, cpu=modules.device.type == "cpu")
        self.pairs = Pairs.open(latents)
        info = latents.info
        self.shape = LatentShape(**info["latent_shape"])
        self.where = layout(
            self.shape,
            info["frame_rate"],
            modules,
            reference=params.reference_positions,
            isolate=params.isolate_modalities,
            attention=params.reference_attention,
        )
        torch.manual_seed(params.seed)
        transformer = modules.transformer
        adapters.add(transformer, rank=params.rank, alpha=params.alpha, dropout=params.dropout, targets=params.targets)
        transformer.train()
        if params.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        self.lora = adapters.parameters(transformer)
        self.rates = adapters.groups(list(self.lora), params)
        grouped = [{"params": [value], "lr": self.rates[name]} for name, value in self.lora.items()]
        optimizer = torch.optim.AdamW(grouped, weight_decay=params.weight_decay)
        self.transformer, self.optimizer = self.accelerator.prepare(transformer, optimizer)
        self.num_done = self.resume()

    def run(self, report: Report) -> None:
        """Train from where the last checkpoint left off to `num_steps`; `report` gets a row per optimizer step."""
        first = self.num_done
        with isolated(self.modules.transformer, self.where):
            started = time.monotonic()
            for step in range(first, self.params.num_steps):
                row = self.step(step)
                done, left = step + 1 - first, self.params.num_steps - step - 1
                report({**row, "eta_seconds": (time.monotonic() - started) / done * left})
                if (step + 1) % self.params.checkpoint_every == 0 and left:
                    self.save(step + 1)

    def step(self, step: int) -> dict[str, Any]:
        """One optimizer step; returns its losses, its learning rate and the sigmas it drew for the video."""
        factor = rate_at(step, self.params)
        for group, rate in zip(self.optimizer.param_groups, self.rates.values(), strict=True):
            group["lr"] = rate * factor
        video_sum = audio_sum = 0.0
        sigmas: list[float] = []
        for part in range(self.params.accumulate):
            seed = (self.params.seed * 1_000_003 + step) * 1_009 + part
            torch.manual_seed(seed % 2**63)
            batch = draw(self.pairs, self.shape, self.params, torch.Generator().manual_seed(seed % 2**63))
            sigmas += batch.sigma_video_BS.amax(dim=1).tolist()
            with self.accelerator.autocast():
                video, audio = losses(self.transformer, _to(batch, self.modules.device), self.where)
            self.accelerator.backward((video + audio) / self.params.accumulate)
            video_sum += video.item() / self.params.accumulate
            audio_sum += audio.item() / self.params.accumulate
        self.accelerator.clip_grad_norm_(self.lora.values(), self.params.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        total, rate = video_sum + audio_sum, self.params.learning_rate * factor
        told = {"step": step + 1, "video": video_sum, "audio": audio_sum, "total": total, "lr": rate}
        return {**told, "sigmas": [round(sigma, 4) for sigma in sigmas]}

    def save(self, step: int) -> None:
        """Write the checkpoint after `step` steps, and drop those too many."""
        tensors = {f"lora/{name}": value.detach().cpu().contiguous() for name, value in self.lora.items()}
        for name, value in self.lora.items():
            for moment, tensor in self.optimizer.state[value].items():
                tensors[f"{moment}/{name}"] = tensor.detach().cpu().contiguous()
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
        tensors = load_file(path)
        for name, value in self.lora.items():
            with torch.no_grad():
                value.copy_(tensors[f"lora/{name}"])
            moments = ("step", "exp_avg", "exp_avg_sq")
            self.optimizer.state[value] = {moment: tensors[f"{moment}/{name}"].to(value.device) for moment in moments}
        return step


def _to(batch: Batch, device: torch.device) -> Batch:
    def move(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.to(device)
        return type(value)(*(move(getattr(value, name)) for name in value.__dataclass_fields__))

    return move(batch)


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
