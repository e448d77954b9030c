"""The seam: `materialize` makes a sealed backbone folder, `load` opens it. Nothing else knows what "nano" is.

nano and LTX-2 are the same diffusers classes, so everything behind `load` is one code path. Ratios and widths are read
from the loaded modules and held against the manifest.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dubmill import languages, timing
from dubmill.artifacts import Backbone, Lineage
from dubmill.clips import Clip
from dubmill.errors import BadArtifact, BadParams, DubmillError, ServiceUnavailable
from dubmill.files import digest_of, sha256_of
from dubmill.params import BackboneParams, WorldParams
from dubmill.rows import Line, Prompt
from dubmill.shapes import Geometry

if TYPE_CHECKING:
    import torch

    from dubmill.faces import FaceFinder
    from dubmill.mel import MelSettings
    from dubmill.metrics.scorers import Scorers

logger = logging.getLogger(__name__)

PIPELINE = "pipeline"
TEXT_ENCODER_PLACE = "DUBMILL_TEXT_ENCODER"
PARTS = ("transformer", "connectors", "vae", "audio_vae", "vocoder", "text_encoder")
UPSAMPLER = "latent_upsampler"  # where LTX-2's repository has it


@dataclass(frozen=True)
class Modules:
    """The parts of one joint audio-video diffusion model, frozen and in evaluation mode."""

    transformer: Any  # diffusers LTX2VideoTransformer3DModel
    vae: Any  # AutoencoderKLLTX2Video
    audio_vae: Any  # AutoencoderKLLTX2Audio
    vocoder: Any  # LTX2Vocoder
    text_encoder: Any  # transformers Gemma3
    tokenizer: Any
    connectors: Any  # LTX2TextConnectors
    scheduler: Any  # FlowMatchEulerDiscreteScheduler
    geometry: Geometry
    mel: MelSettings
    max_text_tokens: int
    device: torch.device
    dtype: torch.dtype


def materialize(params: BackboneParams, out: Path) -> Backbone:
    """Write the backbone's diffusers folder at `out` and seal it.

    Raises:
        TamperedArtifact: a shipped nano weight file is not the one whose digest ships with it.
        ServiceUnavailable: the hub does not answer.
        BadArtifact: the folder is not an LTX-2 pipeline.
    """
    draft = Backbone.draft(out, Lineage(step="backbone", params=params.model_dump(), licence=params.licence))
    if draft.is_sealed:
        return draft.seal()
    folder = draft.path / PIPELINE
    if params.source == "nano":
        from dubmill.nano import weights

        weights.materialize(folder)
    else:
        _fetch(params, folder)
    modules = _load(folder)
    info = {
        "source": params.source,
        "repo": params.repo,
        "revision": params.revision,
        "geometry": modules.geometry.to_dict(),
        "mel": modules.mel.to_dict(),
        "text_encoder_digest": _folder_digest(folder, "text_encoder", "tokenizer", "connectors"),
        "in_8_bits": in_8_bits(params),
    }
    return draft.seal(info)


def in_8_bits(params: BackboneParams) -> list[str]:
    """The parts whose blocks' weights are to lie in 8 bits wherever the backbone is loaded."""
    bits = {"transformer": params.transformer_bits, "text_encoder": params.text_encoder_bits}
    return [part for part in bits if bits[part] == 8]


def _fetch(params: BackboneParams, folder: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if Path(params.repo).is_dir():
        shutil.copytree(params.repo, folder, dirs_exist_ok=True)
        return
    try:
        snapshot_download(params.repo, revision=params.revision, local_dir=folder)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ServiceUnavailable(
            f"{params.repo}@{params.revision} could not be fetched ({type(error).__name__})",
            cure="check the network, the revision and HF_TOKEN, or use backbone.source: nano",
        ) from error


def _folder_digest(folder: Path, *parts: str) -> str:
    files = sorted(path for part in parts for path in (folder / part).rglob("*") if path.is_file())
    return digest_of({path.relative_to(folder).as_posix(): sha256_of(path) for path in files})


def load(backbone: Backbone, *, needed: Sequence[str] = PARTS, on_cpu: Sequence[str] = ()) -> Modules:
    """The modules of a backbone, in bf16 where there is a GPU, else in float32.

    Only the `needed` ones go to the GPU, and not those that are to be taken there by the caller, `on_cpu`.

    Those that the manifest names have their blocks' weights in 8 bits; an older manifest names none.

    Raises:
        BadArtifact: the modules disagree with the manifest about their geometry.
    """
    modules = _load(backbone.path / PIPELINE, needed, on_cpu, backbone.info.get("in_8_bits", []))
    declared = backbone.info["geometry"]
    if modules.geometry.to_dict() != declared:
        raise BadArtifact(
            f"the modules measure {modules.geometry.to_dict()}, the manifest says {declared}",
            where=str(backbone.path),
            cure="make the backbone again",
        )
    return modules


def skeleton(backbone: Backbone) -> Any:
    """The backbone's transformer without weights (meta device): the names and shapes of its layers, at no cost."""
    import torch
    from diffusers import LTX2VideoTransformer3DModel

    config = LTX2VideoTransformer3DModel.load_config(backbone.path / PIPELINE / "transformer")
    with torch.device("meta"):
        return LTX2VideoTransformer3DModel.from_config(config)


def place_of(part: str, device: torch.device, needed: Collection[str]) -> torch.device:
    """Where a part lies: on `device` if the step needs it, but for a text encoder that is to spare a small GPU.

    With DUBMILL_TEXT_ENCODER=cpu captions are read on the CPU: slower, and in no GPU memory.
    """
    import torch

    is_spared = part == "text_encoder" and os.environ.get(TEXT_ENCODER_PLACE) == "cpu"
    return device if part in needed and not is_spared else torch.device("cpu")


def _load(
    folder: Path, needed: Sequence[str] = PARTS, on_cpu: Sequence[str] = (), packed: Sequence[str] = ()
) -> Modules:
    import torch
    from diffusers import LTX2Pipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from dubmill.eight_bits import pack
    from dubmill.mel import settings_of

    for noisy in (diffusers_logging, transformers_logging):
        noisy.disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        pipeline = LTX2Pipeline.from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise BadArtifact(
            f"not an LTX-2 pipeline in diffusers' layout ({str(error).splitlines()[0]})",
            where=str(folder),
            cure="give a repository or folder that LTX2Pipeline.from_pretrained opens",
        ) from error
    parts = {name: getattr(pipeline, name) for name in PARTS}
    for name, part in parts.items():
        if name in packed and name in needed:
            pack(part)  # before it goes to the GPU, which need never hold it whole
        part.to(place_of(name, device, set(needed) - set(on_cpu))).requires_grad_(False).eval()
    mel = settings_of(pipeline.audio_vae.config)
    return Modules(
        **parts,
        tokenizer=pipeline.tokenizer,
        scheduler=pipeline.scheduler,
        geometry=_geometry(pipeline),
        mel=mel,
        max_text_tokens=min(pipeline.tokenizer.model_max_length, 1024),
        device=device,
        dtype=dtype,
    )


def load_upsampler(backbone: Backbone) -> Any:
    """The model that doubles the height and width of video latents, for a dub's second stage.

    Raises:
        BadArtifact: the backbone has none.
    """
    import torch
    from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel

    folder = backbone.path / PIPELINE / UPSAMPLER
    if not folder.is_dir():
        raise BadArtifact(
            "the backbone has no latent upsampler, which a second stage needs",
            where=str(folder),
            cure="leave second_stage.sigmas empty, or fetch a backbone with one",
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return LTX2LatentUpsamplerModel.from_pretrained(folder, torch_dtype=dtype).to(device).requires_grad_(False).eval()


def _geometry(pipeline: Any) -> Geometry:
    """Ratios of the modules; the transformer's own idea of them must agree, or positions would be wrong."""
    temporal, spatial = pipeline.vae_temporal_compression_ratio, pipeline.vae_spatial_compression_ratio
    believed = tuple(pipeline.transformer.config.vae_scale_factors)
    if believed != (temporal, spatial, spatial):
        raise BadArtifact(
            f"the VAE compresses {temporal}x{spatial}, the transformer believes {believed}", cure="fix the configs"
        )
    audio = pipeline.audio_vae.config
    return Geometry(
        temporal=temporal,
        spatial=spatial,
        video_channels=pipeline.transformer.config.in_channels,
        audio_channels=pipeline.transformer.config.audio_in_channels,
        sample_rate_hz=audio.sample_rate,
        output_sample_rate_hz=pipeline.vocoder.config.output_sampling_rate,
        hop_length=audio.mel_hop_length,
        mel_per_latent=pipeline.audio_vae_temporal_compression_ratio,
        audio_in_channels=audio.in_channels,
    )


def load_scorers(backbone: Backbone) -> Scorers:
    """The measuring models that fit this backbone's clips.

    Raises:
        DubmillError: none ship with it.
    """
    if backbone.info["source"] == "nano":
        from dubmill.nano import scorers

        return scorers.load(backbone.path / PIPELINE / "scorers")
    raise DubmillError(
        "no scorers are configured for real faces and speech yet",
        where=backbone.info["repo"],
        cure="measure on nano, or bring a module that fulfils dubmill.metrics.scorers.Scorers",
    )


def shows_one_face(backbone: Backbone) -> bool:
    """Whether one face fills every picture of this backbone's world, so that none has to be looked for."""
    return backbone.info["source"] == "nano"


def load_face_finder(backbone: Backbone) -> FaceFinder:
    """Who sees the faces of this backbone's clips: nano's own scorer, else a detector of real faces.

    Raises:
        UsageError: the extra `faces` is not installed.
    """
    if backbone.info["source"] == "nano":
        from dubmill.faces import ScoredFaces

        return ScoredFaces(load_scorers(backbone))
    from dubmill.faces.yunet import YuNet

    return YuNet()


def said_line(backbone: Backbone, line: Line) -> Line:
    """`line` as the backbone spells it.

    Raises:
        UnsayableText: unknown language or word, or too many words; the sentence lists what is allowed.
    """
    if backbone.info["source"] == "nano":
        from dubmill.nano import world

        return Line(language=line.language, text=" ".join(world.check_text(line.language, line.text)))
    languages.language(line.language)
    return line


def speaking_seconds(backbone: Backbone, line: Line) -> float:
    """Seconds that the backbone's speakers need for a line, unhurried: nano's from its lexicon, the mean of its voices.

    Raises:
        UnsayableText: unknown language or word.
    """
    if backbone.info["source"] != "nano":
        return timing.speaking_seconds(line)
    from dubmill.nano.lexicon import VOICES, lexicon
    from dubmill.nano.world import check_text

    spoken, voices = lexicon(), range(len(VOICES))
    words = check_text(line.language, line.text)
    return sum(spoken[line.language, voice, word].seconds for word in words for voice in voices) / len(voices)


def fit_line(backbone: Backbone, line: Line, room_seconds: float) -> timing.Fit:
    """How a line fits `room_seconds` when this backbone says it; nano's words cannot be hurried.

    Raises:
        UnsayableText: the backbone cannot say the words, in whatever time.
    """
    line = said_line(backbone, line)
    needed = speaking_seconds(backbone, line)
    hurry = 1.0 if backbone.info["source"] == "nano" else timing.MAX_HURRY
    return timing.Fit(line, needed, needed / hurry, room_seconds)


def is_filmed(prompt: Prompt) -> bool:
    """Whether the pairs of a prompt come from the nano world itself: its held-out ones do, for their exact truth."""
    return prompt.split == "heldout" and prompt.source == "grammar"


def film_pair(prompt: Prompt, half: str, difficulty: WorldParams) -> tuple[Clip, Clip, np.ndarray]:
    """The world's own exact pair: one half of the prompt's puppet filmed in both languages, and its mouth boxes (F, 4).

    Raises:
        BadParams: the prompt is not of the nano world.
    """
    from dubmill.nano import world

    if prompt.source != "grammar":
        raise BadParams(f"prompt {prompt.id} is no scene of the nano world", cure="set prompts.source to grammar")
    index = ("first", "second").index(half)
    dubbed = (prompt.first_dubbed, prompt.second) if half == "first" else (prompt.first, prompt.second_dubbed)
    hard = world.Difficulty(**difficulty.model_dump())
    original, counterpart = (
        world.halves(world.film(*_scene(prompt, *lines), motion_seed=prompt.seed, difficulty=hard))[index]
        for lines in ((prompt.first, prompt.second), dubbed)
    )
    clips = [
        Clip(film.frames_FHWC, Fraction(world.FRAME_RATE), film.audio_N[None], world.SAMPLE_RATE_HZ)
        for film in (original, counterpart)
    ]
    return clips[0], clips[1], original.mouth_box_F4


def _scene(prompt: Prompt, first: Line, second: Line) -> tuple[Any, Any]:
    from dubmill.nano import world

    phrases = tuple(world.Phrase(line.language, tuple(line.text.split())) for line in (first, second))
    return world.puppet(prompt.seed), phrases
