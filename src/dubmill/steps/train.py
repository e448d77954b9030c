"""Step `train`: one dubbing LoRA from encoded pairs."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from dubmill import adapters
from dubmill.artifacts.draft import Draft
from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.store import Adapter, Backbone, LatentSet
from dubmill.config.training import TrainParams
from dubmill.errors import BackboneMismatchError
from dubmill.model.load import DECODERS, load
from dubmill.model.loras import add_sampling_lora
from dubmill.report import model_card
from dubmill.training.loss_log import LossLog
from dubmill.training.optimizer import count_weights
from dubmill.training.trainer import Trainer, build_accelerator, uses_fsdp

logger = logging.getLogger(__name__)


def train(backbone: Backbone, latents: LatentSet, params: TrainParams, out: Path) -> Adapter:
    """Fit one LoRA adapter on encoded pairs and seal it at `out`; a killed run resumes from its last checkpoint.

    Started by torchrun or `accelerate launch`, all processes train the one adapter, and the first of them writes it.

    Raises:
        InterruptedStepError: the run was stopped by SIGTERM; a checkpoint of its last step is kept.
        BackboneMismatchError: `latents` were encoded by another backbone or text encoder.
    """
    if latents.lineage.backbone != backbone.digest:
        raise BackboneMismatchError(
            f"the latents were encoded by backbone {latents.lineage.backbone[:12]}, this one is {backbone.digest[:12]}",
            where=str(latents.path),
            cure="run encode again with this backbone",
        )
    if latents.lineage.text_encoder != backbone.text_encoder_digest:
        raise BackboneMismatchError(
            f"the captions were read by text encoder {latents.lineage.text_encoder[:12]}, "
            f"this backbone has {backbone.text_encoder_digest[:12]}",
            where=str(latents.path),
            cure="run encode again with this backbone",
        )
    lineage = Lineage.of("train", params, backbone, latents)
    accelerator = build_accelerator(params)
    with accelerator.main_process_first():  # it clears other work first; the others then find the draft
        draft = Adapter.draft(out, lineage, is_shared=not accelerator.is_main_process)
    if draft.is_sealed:
        return draft.seal()
    sharded = ["transformer"] if uses_fsdp(params, accelerator) else []  # then no GPU has to hold all of it
    decoders = DECODERS if params.validation.every_steps else ()
    modules = load(backbone, needed=["transformer", *decoders], on_cpu=[*sharded, *decoders])
    if params.validation.every_steps:
        add_sampling_lora(modules, backbone, params.validation.sampling.lora)
    trainer = Trainer(modules, latents, params, draft.path, accelerator)
    place = (accelerator.process_index + 1, accelerator.num_processes)
    logger.info("process %d of %d holds %d of %d weights", *place, *count_weights(trainer.modules.transformer))
    if not accelerator.is_main_process:
        trainer.run(lambda row: None)
        trainer.gather()
        accelerator.wait_for_everyone()
        return draft.seal()
    logger.info(
        "trained parameters and their learning rates:\n%s", adapters.learning_rate_table(trainer.lora, trainer.rates)
    )
    log = LossLog(draft.path, trainer.num_done)
    with _Progress(params.num_steps) as progress:
        trainer.run(lambda row: (log.add(row), progress.show(row)))
    trainer.gather()
    info = {**_info(backbone, latents, params), "sigma_histogram": log.sigma_histogram()}
    adapter = _finish(draft, trainer, lineage, info)
    accelerator.wait_for_everyone()
    return adapter


def _finish(draft: Draft[Adapter], trainer: Trainer, lineage: Lineage, info: dict[str, object]) -> Adapter:
    metadata = adapters.lora_facts(lineage, info)
    draft.write(adapters.WEIGHTS, adapters.lora_bytes(trainer.modules.transformer, metadata))
    base = model_card.base_of(info, None)
    card = model_card.model_card(lineage, info, name="dubbing adapter", base=base, digest="", report=None)
    draft.write(model_card.CARD, card.encode())
    draft.write(model_card.NOTICE, model_card.licence_notice(lineage, base).encode())
    for checkpoint in trainer.checkpoints():
        checkpoint.unlink()
    return draft.seal(info)


def _info(backbone: Backbone, latents: LatentSet, params: TrainParams) -> dict[str, object]:
    """Returns the settings that a user of the adapter needs."""
    return {
        "base_model": backbone.info["repo"],
        "rank": params.rank,
        "targets": list(params.targets),
        "reference_positions": params.reference_positions,
        "reference_attention": params.reference_attention,
        "isolate_modalities": params.isolate_modalities,
        "pair_source": latents.lineage.pair_source,
        "num_pairs": latents.info["num_pairs"],
        "clip": latents.info["clip"],
        "languages": latents.info["languages"],
    }


class _Progress:
    """Shows losses and the time left: a progress bar on a terminal, a log line at intervals elsewhere."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps, self.bar = num_steps, None

    def __enter__(self) -> _Progress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=self.num_steps, desc="train", unit="step")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.close()

    def show(self, row: dict[str, Any]) -> None:
        """Show one step."""
        losses = f"video {row['video']:.4f} audio {row['audio']:.4f}"
        if self.bar:
            self.bar.n = int(row["step"])
            self.bar.set_postfix_str(losses)
        elif row["step"] % 25 == 0 or row["step"] == self.num_steps:
            logger.info("step %d of %d: %s, %.0f s left", row["step"], self.num_steps, losses, row["eta_seconds"])
