"""Trains the distilled LoRA of the base: four steps without guidance that end where ten guided ones of the base alone do.

The guided base samples random captions first, and its states are kept. The LoRA then learns the mean velocity from one noise
level of four-step sampling to the next, so that one step reaches the state of the guided base there: progressive distillation
(Salimans and Ho 2022) with the guidance distilled too (Meng et al. 2023). In some clips tokens stay clean, as in inpainting.

Axes: B clips, K noise levels, S video tokens, L audio tokens, C channels.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from dubmill.model.conditioning import predict, sequence_layout
from dubmill.model.denoising import DenoisingJob, denoising_step
from dubmill.model.diffusion import GuidanceScales, schedule, weighted_loss
from dubmill.model.latents import Latents
from dubmill.model.load import Modules, load_folder
from dubmill.model.loras import DISTILLED
from dubmill.model.shapes import LatentShape, latent_shape
from dubmill.model.text import TextFeatures, encode_captions
from dubmill.nano import world
from dubmill.nano.captions import caption
from dubmill.nano.figures import clip_figures, mean_figures
from dubmill.nano.pretrain import data
from dubmill.nano.pretrain.denoiser import noised_tokens
from dubmill.nano.pretrain.loop import Schedule

logger = logging.getLogger(__name__)

NUM_STEPS = 4
_TEACHER_STEPS, _VIDEO_GUIDANCE, _AUDIO_GUIDANCE = 10, 2.0, 3.0
_RANK, _TARGETS = 16, ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"]
_BATCH = 8


@dataclass(frozen=True)
class _Kind:
    """Clips that the teacher samples: how many, of which length, and which share of the captions describes nobody."""

    name: str
    num_clips: int
    num_frames: int
    plain_share: float
    batch_share: float
    seed: int


_KINDS = (
    _Kind("whole", 144, world.NUM_FRAMES, 0.3, 0.38, 1),
    _Kind("inpainted", 112, world.NUM_FRAMES, 0.3, 0.37, 2),  # some tokens of clips of the first kind stay clean
    _Kind("half", 64, world.HALF_FRAMES, 0.5, 0.25, 3),
)


class FewStepsTraining:
    """Part `few_steps`."""

    name = "few_steps"

    def __init__(self, base: Path, out: Path, *, scorers: Path, kinds: tuple[_Kind, ...] = _KINDS) -> None:
        """`base` is a diffusers folder; the teacher's states are kept in `out`, and are sampled once."""
        self._modules, self._base, self._scorers, self._kinds = load_folder(base), base, scorers, kinds
        self.model = self._modules.transformer
        self.schedule = Schedule(peak_rate=1e-3, weight_decay=0.0, warmup_steps=20, decay_share=1.0)
        self._trajectories = _trajectories(self._modules, out, kinds)
        self._sigmas_K = _sigmas(self._modules, NUM_STEPS)
        torch.manual_seed(0)
        self.model.add_adapter(LoraConfig(r=_RANK, lora_alpha=_RANK, target_modules=_TARGETS), adapter_name=DISTILLED)

    def loss(self, step: int, progress: float, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        kind = self._kinds[int(rng.choice(len(self._kinds), p=[kind.batch_share for kind in self._kinds]))]
        rows = self._trajectories[kind.name]
        at = torch.from_numpy(rng.integers(0, len(rows["video"]), _BATCH))
        level = torch.from_numpy(rng.integers(0, NUM_STEPS, _BATCH))
        sigma_B, next_B = self._sigmas_K[level], self._sigmas_K[level + 1]
        masks = rows["video_mask"][at].float(), rows["audio_mask"][at].float()
        velocity = predict(
            self.model,
            Latents(rows["video"][at, level].float(), rows["audio"][at, level].float()),
            None,
            sigma_B[:, None] * masks[0],
            sigma_B[:, None] * masks[1],
            TextFeatures(rows["video_text"][at], rows["audio_text"][at], rows["text_mask"][at]),
            sequence_layout(_shape(self._modules, kind), world.FRAME_RATE, self.model),
        )
        losses = []
        for name, made, mask in zip(("video", "audio"), (velocity.video_BSD, velocity.audio_BLD), masks, strict=True):
            moved = rows[name][at, level + 1].float() - rows[name][at, level].float()
            losses.append(weighted_loss(made, moved / (next_B - sigma_B)[:, None, None], mask))
        return losses[0] + losses[1], {"video": losses[0].item(), "audio": losses[1].item()}

    def evaluate(self) -> dict[str, float]:
        from diffusers.pipelines.ltx2.pipeline_ltx2 import LTX2Pipeline

        from dubmill.nano import sampling, scorers

        takes = data.held_out_takes(24, is_drawn=False)
        pipeline = LTX2Pipeline.from_pretrained(self._base, transformer=self.model)
        pipeline.set_progress_bar_config(disable=True)
        captions = [caption(one.puppet.describe(), one.film.phrases) for one in takes]
        frames, audio = sampling.sample_clips(pipeline, captions, seed=0, steps=NUM_STEPS, guidance=1.0)
        judge = scorers.load_scorers(self._scorers)
        return mean_figures(
            [
                clip_figures(judge, frames_FHWC, audio_N, one.film.phrases)
                for frames_FHWC, audio_N, one in zip(frames, audio, takes, strict=True)
            ]
        )

    def save(self, out: Path) -> None:
        state = get_peft_model_state_dict(self.model, adapter_name=DISTILLED)
        save_file(
            {f"transformer.{name}": value.detach().contiguous() for name, value in state.items()},
            out / "distilled_lora.safetensors",
        )


def _sigmas(modules: Modules, num_steps: int) -> torch.Tensor:
    """Returns the noise levels (K,) of the base's own sampler, the last of them 0."""
    return schedule(modules.scheduler, num_steps, None, 0, torch.device("cpu")).sigmas  # nano's shift is fixed


def _shape(modules: Modules, kind: _Kind) -> LatentShape:
    return latent_shape(
        num_frames=kind.num_frames,
        height=world.FRAME_SIZE,
        width=world.FRAME_SIZE,
        frame_rate=world.FRAME_RATE,
        geometry=modules.geometry,
    )


def _trajectories(modules: Modules, out: Path, kinds: tuple[_Kind, ...]) -> dict[str, dict[str, Any]]:
    """Returns the teacher's states by kind, from `out` where they are; the last states of whole clips are inpainted."""
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        path = out / f"trajectories_{kind.name}.pt"
        if not path.exists():
            clips = found["whole"] if kind.name == "inpainted" else None
            batches = [_sampled(modules, kind, first, clips) for first in range(0, kind.num_clips, _BATCH)]
            columns = {name: [batch[name] for batch in batches] for name in batches[0]}
            speakers = [name for names in columns.pop("speakers") for name in names]
            partial = path.with_suffix(".partial")
            torch.save({name: torch.cat(values) for name, values in columns.items()} | {"speakers": speakers}, partial)
            partial.rename(path)
        found[kind.name] = torch.load(path)
    return found


@torch.no_grad()
def _sampled(modules: Modules, kind: _Kind, first: int, clips: dict[str, Any] | None) -> dict[str, Any]:
    """Returns one batch: states at the levels of few-step sampling, masks (1: generated), text features and speakers."""
    logger.info("the teacher samples %s clips: %d of %d", kind.name, first, kind.num_clips)
    rng, shape = np.random.default_rng([first // _BATCH, kind.seed]), _shape(modules, kind)
    speakers, captions = [], []
    for place in range(first, first + _BATCH):
        puppet, phrases = world.puppet(int(rng.integers(data.HELD_OUT_SEED))), world.random_phrases(rng)
        is_plain = rng.random() < kind.plain_share
        described = puppet.describe() if clips is None else clips["speakers"][place]
        speakers.append("A person" if is_plain else described)
        captions.append(caption(speakers[-1], phrases if kind.num_frames == world.NUM_FRAMES else phrases[:1]))
    masks = torch.ones(_BATCH, shape.video_tokens), torch.ones(_BATCH, shape.audio)
    clean = Latents(
        torch.zeros(*masks[0].shape, modules.geometry.video_channels),
        torch.zeros(*masks[1].shape, modules.geometry.audio_channels),
    )
    if clips is not None:
        rows = slice(first, first + _BATCH)
        clean = Latents(clips["video"][rows, -1].float(), clips["audio"][rows, -1].float())
        masks = noised_tokens([clean.video_BSD, clean.audio_BLD], rng)
    text = encode_captions([*[""] * _BATCH, *captions], modules)
    seeds = [1000 * (first // _BATCH) + index for index in range(_BATCH)]
    states = _guided_states(modules, text, clean, masks, seeds, shape)
    own = text.pick(range(_BATCH, 2 * _BATCH))
    features = {"video_text": own.video_BTD, "audio_text": own.audio_BTD, "text_mask": own.mask_BT}
    return states | features | {"video_mask": masks[0], "audio_mask": masks[1], "speakers": speakers}


def _guided_states(
    modules: Modules,
    text: TextFeatures,
    clean: Latents,
    masks: tuple[torch.Tensor, torch.Tensor],
    seeds: list[int],
    shape: LatentShape,
) -> dict[str, torch.Tensor]:
    """Returns the guided sampler's states (B, K, tokens, C), float16, at the noise levels of few-step sampling."""
    job = DenoisingJob(
        text=text,
        layout=sequence_layout(shape, world.FRAME_RATE, modules.transformer),
        reference=None,
        clean=clean,
        keep_video_BS=masks[0] == 0,
        keep_audio_BL=masks[1] == 0,
        video_scales=GuidanceScales(_VIDEO_GUIDANCE, 0.0, 1.0, 0.0),
        audio_scales=GuidanceScales(_AUDIO_GUIDANCE, 0.0, 1.0, 0.0),
        stg_blocks=(),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_resamplings=1,
    )
    levels = schedule(modules.scheduler, _TEACHER_STEPS, None, 0, torch.device("cpu"))
    states = [job.start(levels.sigmas[0])]
    for index in range(_TEACHER_STEPS):
        states.append(denoising_step(modules.transformer, job, states[-1], levels, index))
    wanted = _sigmas(modules, NUM_STEPS).tolist()
    return {
        "video": _at_levels([state.video_BSD for state in states], levels.sigmas.tolist(), wanted),
        "audio": _at_levels([state.audio_BLD for state in states], levels.sigmas.tolist(), wanted),
    }


def _at_levels(states: list[torch.Tensor], sigmas: list[float], wanted: list[float]) -> torch.Tensor:
    """Returns the states (B, K, tokens, C) at `wanted` noise levels: an Euler step is a straight line between two states."""
    chosen = []
    for sigma in wanted:
        index = min(sum(level >= sigma - 1e-6 for level in sigmas) - 1, len(sigmas) - 2)
        share = (sigmas[index] - sigma) / (sigmas[index] - sigmas[index + 1])
        chosen.append(torch.lerp(states[index], states[index + 1], share))
    return torch.stack(chosen, dim=1).half()
