"""The meaning of every parameter: type, bound, unit. The values are in params.yaml, once; there are no defaults here.

One section per step of the pipeline. An overlay lists only what differs: a file, or a preset by its name. KFP passes numbers as
floats (8 -> 8.0): whole floats are accepted as integers, 8.5 is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from dubmill.config.overlays import layers_of
from dubmill.config.sampling import DubSamplingParams, SamplingParams
from dubmill.config.scorers import ScorersParams
from dubmill.config.section import Cosine, Count, Decibels, NotNegative, Positive, Section, Seed, Share
from dubmill.config.training import TrainParams
from dubmill.errors import InvalidParamsError


class BackboneParams(Section):
    """Which joint audio-video diffusion model to use."""

    source: Literal["nano", "hub"] = Field(description="nano: embedded; hub: a diffusers LTX-2 repository or folder")
    repo: str = Field(description="hub: repository id or local folder; nano: ignored, keep 'nano'")
    revision: str = Field(
        description="hub: branch, tag or commit, sealed as the commit; nano: ignored, keep 'embedded'"
    )
    licence: str = Field(description="licence id that every derivative carries")
    architecture: Literal["nano", "ltx-2-19b", "ltx-2.3-22b"] = Field(
        description="the model sizes that `dubmill plan` uses"
    )
    upsampler: str = Field(
        description="hub: repo@revision of a latent upsampler in diffusers' layout, if `repo` has none; none: no upsampler"
    )
    distilled_lora: str = Field(
        description="hub: a LoRA file for sampling in few steps, repo@revision:file or a path; none: no LoRA; nano: ignored"
    )
    text_encoder: str = Field(description="name of the text encoder, for the record; its weights are in the repository")
    transformer_bits: Literal[8, 16] = Field(
        description="8: int8 weights in the linear layers of its blocks; 16: bf16 (float32 on a CPU)"
    )
    text_encoder_bits: Literal[8, 16] = Field(description="the same for the text encoder")
    vram_gb: Count | Literal["none"] = Field(description="GPU memory that the backbone needs; none: it runs on a CPU")


class PromptsParams(Section):
    """Prompts: who the speakers are and what they say."""

    source: Literal["grammar", "bank", "llm", "footage"] = Field(
        description="grammar: the nano world; bank: LTX-2 paragraphs; llm: an endpoint; footage: own recordings"
    )
    licence: str = Field(description="licence of the prompts' texts, or of the recordings")
    footage: str = Field(description="footage: CSV file, or folder with a manifest.csv (docs/footage.md); else none")
    seed: Seed = Field(description="seed of all random choices")
    num_train: Count = Field(description="number of training prompts; two pairs are made from each")
    num_heldout: Count = Field(description="number of prompts whose clips are only used for evaluation")
    languages: list[str] = Field(min_length=2, description="BCP-47 tags; every ordered pair of two languages is used")
    line_seconds: Positive = Field(
        description="bank, llm: seconds in which a line must be spoken, half a switch clip; grammar: ignored"
    )
    llm_url: str = Field(description="llm: base URL of an OpenAI-compatible endpoint")
    llm_model: str = Field(description="llm: model name")
    llm_attempts: Count = Field(
        description="llm: number of requests for one prompt; without a valid answer the prompt is dropped"
    )


class SynthesizeParams(Section):
    """Generation of switch clips, whose speaker changes language half-way."""

    seed: Seed
    num_frames: Count = Field(description="frames of a switch clip: 2 x temporal ratio x k + 1")
    height: Count = Field(description="height in pixels")
    width: Count = Field(description="width in pixels")
    frame_rate: Positive = Field(description="frames per second")
    batch_size: Count = Field(description="clips generated at once")
    sampling: SamplingParams


class WorldParams(Section):
    """Difficulty of the rendered clips of nano's world, to test robustness; nano is trained without any of it."""

    head_turn: Share = Field(description="how far the head turns from side to side; 0: not at all")
    occluder: Share = Field(description="share of the clip for which a hand covers the mouth")
    noise: float = Field(ge=0, description="noise under the speech, RMS as a share of the words'")
    music: float = Field(ge=0, description="music under the speech, RMS as a share of the words'")
    tempo: float = Field(ge=0.5, le=2, description="speed of the speech relative to the usual one")


class InpaintParams(Section):
    """Inpainting each half of a switch clip with speech in the other half's language."""

    source: Literal["self-made", "world", "footage"] = Field(
        description="self-made: inpainted clips; world: exact pairs (nano only); footage: recordings in two languages"
    )
    seed: Seed
    batch_size: Count = Field(description="clips inpainted at once")
    mask_threshold: Positive = Field(
        description="latent residual above which a token counts as touched by the mouth (method: 0.1)"
    )
    mask_norm: Literal["max", "mean"] = Field(
        description="how the residual is reduced over channels, in units of the latent's std"
    )
    mouth_margin: Share = Field(description="widening of the mouth box, as a share of its size, before it is filled")
    world: WorldParams = Field(
        description="difficulty of the pairs that nano's world renders: the held-out pairs, and all pairs with source world"
    )
    lip_augmentation_share: Share = Field(
        description="share of clips whose mouth is inpainted again with exaggerated articulation, to the sound of the first pass"
    )
    resamplings: Count = Field(description="times each step is re-noised and repeated (1: none), as in RePaint")
    sampling: SamplingParams


class Thresholds(Section):
    """The bounds of one level of gates; a pair outside a bound violates that gate. A bound that is none is not applied."""

    min_words_right: Share | Literal["none"] = Field(
        description="share of requested words recognised in order, worse of the two clips"
    )
    min_language_right: Share | Literal["none"] = Field(
        description="share of recognised words in the requested language, worse of the two clips"
    )
    min_voice_cosine: Cosine | Literal["none"] = Field(description="cosine of the two voices")
    min_identity_cosine: Cosine | Literal["none"] = Field(description="cosine of the two faces")
    min_sync_correlation: Cosine | Literal["none"] = Field(
        description="correlation of the mouth opening in picture and sound, worse of the two clips"
    )
    min_lse_c: NotNegative | Literal["none"] = Field(
        description="LSE-C: confidence of lip sync, worse of the two clips"
    )
    max_lse_d: NotNegative | Literal["none"] = Field(description="LSE-D: distance of lip sync, worse of the two clips")
    max_sync_offset_frames: NotNegative | Literal["none"] = Field(
        description="offset of the sound in frames, worse of the two clips"
    )
    min_mouth_sharpness: NotNegative | Literal["none"] = Field(
        description="gradient inside the mouth box, ratio of the counterpart to the original"
    )
    min_outside_psnr_db: NotNegative | Literal["none"] = Field(
        description="PSNR of the two clips outside the mouth box"
    )
    min_mouth_change: Share | Literal["none"] = Field(
        description="mean absolute difference inside the mouth box, 0 to 1; 0 is a copied mouth"
    )
    max_old_motion_correlation: Cosine | Literal["none"] = Field(
        description="correlation of the two clips' mouth openings; a high one is lip motion left over from the original"
    )
    min_loudness_dbfs: Decibels | Literal["none"] = Field(description="RMS of the quieter clip")
    max_clipped_share: Share | Literal["none"] = Field(description="share of samples at full scale")
    max_duration_gap_ms: NotNegative | Literal["none"] = Field(
        description="largest difference in duration: picture to sound, and clip to clip"
    )


class GateParams(Section):
    """Quality gates: which pairs are used for training."""

    strict: Thresholds = Field(description="a pair outside these bounds is rejected")
    warning: Thresholds = Field(description="a pair outside these bounds is kept and reported")
    min_accepted_share: Share = Field(description="the step fails if a smaller share of the pairs is accepted")


class EncodeParams(Section):
    """Encoding accepted pairs as latents and text features."""

    batch_size: Count = Field(description="clips encoded at once")
    face_margin: Share = Field(
        description="how far the mouth box is widened to get the face region, where the loss has weight 1"
    )


class DubParams(Section):
    """Dubbing the held-out clips."""

    seed: Seed
    methods: list[Literal["adapter", "base", "cascade", "ceiling"]] = Field(
        min_length=1,
        description="cascade: the counterpart's speech with the unchanged picture; ceiling: the counterpart; both after"
        " the autoencoders and the vocoder",
    )
    adapter_strength: Positive = Field(description="LoRA weight at inference")
    batch_size: Count = Field(description="clips dubbed at once")
    sampling: DubSamplingParams


class EvaluateParams(Section):
    """Measuring the dubs."""

    seed: Seed
    num_bootstrap: Count = Field(description="bootstrap resamples of each interval")
    confidence: Share = Field(description="coverage of the intervals")
    num_showcase: Count = Field(description="held-out clips shown side by side in the report")


class RegisterParams(Section):
    """Where a trained adapter is registered."""

    experiment: str = Field(description="MLflow experiment")
    model: str = Field(description="registered model name")


class PromoteParams(Section):
    """When a challenger becomes champion."""

    improve: list[str] = Field(
        min_length=1, description="metrics of which at least one must be better than the champion's"
    )
    max_regression: dict[str, float] = Field(description="metric -> the most it may get worse, in its own unit")
    min_shares: dict[str, Share] = Field(
        description="metric -> the least share of the way from its floor (mismatched clips) to its ceiling (the true dub"
        " after the autoencoders and the vocoder) that a champion's mean must reach"
    )
    canary_clips: int = Field(
        ge=0,
        description="held-out clips that a canary of the endpoint dubs before the endpoint is rolled; 0: there is no canary",
    )
    canary_max_regression: dict[str, float] = Field(
        description="metric -> the most by which its mean over these dubs may be worse than the report's for the same clips"
    )


with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message='Field name "register"')  # the step's word; ABCMeta.register is not used

    class Params(Section):
        """All sections: the steps in the order of the pipeline, then the measuring models."""

        backbone: BackboneParams
        prompts: PromptsParams
        synthesize: SynthesizeParams
        inpaint: InpaintParams
        gate: GateParams
        encode: EncodeParams
        train: TrainParams
        dub: DubParams
        evaluate: EvaluateParams
        register: RegisterParams
        promote: PromoteParams
        scorers: ScorersParams

        @model_validator(mode="after")
        def _has_the_loras_of_its_samplings(self) -> Self:
            dub = self.dub.sampling
            loras = {
                "synthesize.sampling": self.synthesize.sampling.lora,
                "inpaint.sampling": self.inpaint.sampling.lora,
                "train.validation.sampling": self.train.validation.sampling.lora,
                "dub.sampling": dub.lora,
                "dub.sampling.second_stage": dub.second_stage.lora,
            }
            wrong = [section for section, lora in loras.items() if lora != "none"]
            if wrong and self.backbone.source == "hub" and self.backbone.distilled_lora == "none":
                sections = ", ".join(wrong)
                raise ValueError(
                    f"`lora: distilled` in {sections} needs a LoRA in backbone.distilled_lora, which is none"
                )
            return self


MODELS = "scorers"  # the one section that is no step of the pipeline: `gate` and `evaluate` read it
STEPS = tuple(name for name in Params.model_fields if name != MODELS)


def load(path: Path, *overlays: Path) -> Params:
    """Returns the params of the file `path` with each overlay (a file or a preset's name) merged over them in order.

    Raises:
        InvalidParamsError: see `layers_of` and `validate`; it names the first file with which the values are invalid.
    """
    layers = layers_of(path, overlays)
    try:
        return validate(Params, layers[-1][1], str(path))
    except InvalidParamsError:
        for where, values in layers:
            validate(Params, values, where)
        raise


Kind = TypeVar("Kind", bound=Section)


def validate(kind: type[Kind], data: Mapping[str, Any], where: str) -> Kind:
    """Returns `data` as a section; an error names the first value that is wrong.

    Raises:
        InvalidParamsError: a name, type or bound is broken.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(str(part) for part in fault["loc"]) or "params"
        value = f" (given: {fault['input']!r})" if not isinstance(fault["input"], Mapping) else ""
        raise InvalidParamsError(
            f"{name}: {fault['msg']}{value}", where=where, cure="see `dubmill params` for the meaning and bounds"
        ) from error
