"""Loads the parts of a backbone's diffusers folder that a step needs, each on the device that the step needs it on.

nano and LTX-2 have the same diffusers classes, so there is one code path. Ratios and widths are computed from the configs
and compared with the backbone's manifest.
"""

from __future__ import annotations

import importlib
import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dubmill.errors import InvalidArtifactError
from dubmill.model.shapes import Geometry

if TYPE_CHECKING:
    import torch
    from diffusers.models.autoencoders.autoencoder_kl_ltx2 import AutoencoderKLLTX2Video
    from diffusers.models.autoencoders.autoencoder_kl_ltx2_audio import AutoencoderKLLTX2Audio
    from diffusers.models.transformers.transformer_ltx2 import LTX2VideoTransformer3DModel
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
    from transformers import Gemma3ForConditionalGeneration, PreTrainedTokenizerBase

    from dubmill.model.mel import MelSettings

PIPELINE = "pipeline"
TEXT_ENCODER_DEVICE = "DUBMILL_TEXT_ENCODER"
PARTS = ("transformer", "connectors", "vae", "audio_vae", "vocoder", "text_encoder")
DECODERS = ("vae", "audio_vae", "vocoder")
UPSAMPLER = "latent_upsampler"  # the folder of that name in LTX-2's repository
MAX_TEXT_TOKENS = 1024  # LTX-2's; a tokenizer may have a smaller limit


class StoredBackbone(Protocol):
    """A folder with a diffusers pipeline in `path / PIPELINE`, and its manifest's info."""

    @property
    def path(self) -> Path:
        """The backbone's directory."""
        ...

    def folder(self, name: str, *parts: str) -> Path:
        """Returns a folder in it; the files at its top and in the sub-folders `parts` are the ones that were sealed."""
        ...

    @property
    def info(self) -> dict[str, Any]:
        """Holds `geometry`, and optionally `in_8_bits`."""
        ...


@dataclass(frozen=True)
class Modules:
    """The loaded parts of one joint audio-video diffusion model, frozen and in evaluation mode.

    A part that was not loaded is not there: using it is a fault of the caller, who named the parts it needs.
    """

    parts: Mapping[str, Any]  # by name in the diffusers folder
    tokenizer: PreTrainedTokenizerBase
    scheduler: FlowMatchEulerDiscreteScheduler
    geometry: Geometry
    mel: MelSettings
    max_text_tokens: int
    device: torch.device
    dtype: torch.dtype
    lora_users: Counter[str] = field(default_factory=Counter)  # how many dubbers use each LoRA on the transformer

    @property
    def transformer(self) -> LTX2VideoTransformer3DModel:
        """The denoising transformer."""
        return self._loaded("transformer")

    @property
    def vae(self) -> AutoencoderKLLTX2Video:
        """The video autoencoder."""
        return self._loaded("vae")

    @property
    def audio_vae(self) -> AutoencoderKLLTX2Audio:
        """The audio autoencoder, of log-mel spectrograms."""
        return self._loaded("audio_vae")

    @property
    def vocoder(self) -> LTX2Vocoder | LTX2VocoderWithBWE:
        """Log-mel spectrograms to waveforms."""
        return self._loaded("vocoder")

    @property
    def text_encoder(self) -> Gemma3ForConditionalGeneration:
        """The language model whose hidden states are the captions' features."""
        return self._loaded("text_encoder")

    @property
    def connectors(self) -> LTX2TextConnectors:
        """Text features for the transformer's video and audio sides."""
        return self._loaded("connectors")

    @property
    def text_encoder_device(self) -> torch.device:
        """The device that captions are encoded on."""
        import torch

        return torch.device("cpu") if os.environ.get(TEXT_ENCODER_DEVICE) == "cpu" else self.device

    def _loaded(self, name: str) -> Any:
        assert name in self.parts, f"the part {name} was not loaded: name it in load(needed=...)"
        return self.parts[name]


def compute_device() -> torch.device:
    """Returns the device that models run on: the GPU if there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype(part: str, device: torch.device) -> torch.dtype:
    """Returns the dtype of a part's weights: bf16 on a GPU, float32 on a CPU.

    The vocoder is always float32: LTX-2.3's computes a spectrum whose phases bf16 (8 bits of precision) spoils.
    """
    import torch

    return torch.bfloat16 if device.type == "cuda" and part != "vocoder" else torch.float32


def device_of(part: str, device: torch.device, needed: Collection[str]) -> torch.device:
    """Returns where a part belongs: on `device` if the step needs it there.

    The text encoder is on the CPU: it goes to the GPU while captions are encoded and leaves before anything is sampled,
    as it takes 24 GB. With DUBMILL_TEXT_ENCODER=gpu it stays on the GPU, with DUBMILL_TEXT_ENCODER=cpu it is never there.
    """
    import torch

    stays_on_cpu = part == "text_encoder" and os.environ.get(TEXT_ENCODER_DEVICE) != "gpu"
    return device if part in needed and not stays_on_cpu else torch.device("cpu")


def load(backbone: StoredBackbone, *, needed: Sequence[str] = PARTS, on_cpu: Sequence[str] = ()) -> Modules:
    """Returns the `needed` parts of a backbone, and reads no other part's weights.

    The parts in `on_cpu` stay on the CPU, for a caller that moves them itself; the others go to the GPU if there is one.
    Parts that the manifest lists under `in_8_bits` get int8 weights in their blocks.

    Raises:
        InvalidArtifactError: the folder cannot be loaded, or its configs and the manifest have different geometries.
    """
    modules = load_folder(
        backbone.folder(PIPELINE, *needed, "tokenizer", "scheduler"), needed, on_cpu, backbone.info.get("in_8_bits", [])
    )
    declared = backbone.info["geometry"]
    if modules.geometry.to_dict() != declared:
        raise InvalidArtifactError(
            f"the configs say {modules.geometry.to_dict()}, the manifest says {declared}",
            where=str(backbone.path),
            cure="make the backbone again",
        )
    return modules


def load_folder(
    folder: Path, needed: Sequence[str] = PARTS, on_cpu: Sequence[str] = (), quantized: Sequence[str] = ()
) -> Modules:
    """Returns the `needed` parts of a diffusers folder; see `load`.

    Raises:
        InvalidArtifactError: the folder is not an LTX-2 pipeline, or weights are missing.
    """
    from dubmill.model.geometry import measure_geometry
    from dubmill.model.quantization import quantize_blocks

    geometry, mel = measure_geometry(folder)
    device = compute_device()
    parts = {}
    for name in needed:
        part = _load_part(folder, name, compute_dtype(name, device))
        if name in quantized:
            quantize_blocks(part)  # on the CPU, so that the GPU never holds the full weights
        parts[name] = part.to(device_of(name, device, set(needed) - set(on_cpu))).requires_grad_(False).eval()
    tokenizer = _load_part(folder, "tokenizer", None)
    return Modules(
        parts=parts,
        tokenizer=tokenizer,
        scheduler=_load_part(folder, "scheduler", None),
        geometry=geometry,
        mel=mel,
        max_text_tokens=min(tokenizer.model_max_length, MAX_TEXT_TOKENS),
        device=device,
        dtype=compute_dtype("transformer", device),
    )


def load_upsampler(backbone: StoredBackbone) -> LTX2LatentUpsamplerModel:
    """Returns the model that doubles the height and width of video latents, for a dub's second stage.

    Raises:
        InvalidArtifactError: the backbone has none.
    """
    from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel

    folder = backbone.path / PIPELINE / UPSAMPLER
    if not folder.is_dir():
        raise InvalidArtifactError(
            "the backbone has no latent upsampler, which a second stage needs",
            where=str(folder),
            cure="leave second_stage.sigmas empty, or fetch a backbone with one",
        )
    backbone.folder(f"{PIPELINE}/{UPSAMPLER}")
    device = compute_device()
    upsampler: Any = LTX2LatentUpsamplerModel.from_pretrained(folder, torch_dtype=compute_dtype(UPSAMPLER, device))
    return upsampler.to(device).requires_grad_(False).eval()


def skeleton(backbone: StoredBackbone) -> LTX2VideoTransformer3DModel:
    """Returns the backbone's transformer without weights (meta device): the names and shapes of its layers."""
    from dubmill.model.geometry import on_meta

    return on_meta(backbone.path / PIPELINE, "transformer")


def part_class(folder: Path, name: str) -> Any:
    """Returns the class of a part, which `model_index.json` names.

    Raises:
        InvalidArtifactError: the index or the part is missing, or the class is not one of diffusers or transformers.
    """
    import diffusers.pipelines

    try:
        library, class_name = json.loads((folder / "model_index.json").read_text())[name]
        package = "diffusers.pipelines." + library if hasattr(diffusers.pipelines, library) else library
        if package.split(".")[0] not in ("diffusers", "transformers"):
            raise ValueError(f"{library} is neither diffusers nor transformers")
        return getattr(importlib.import_module(package), class_name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise _not_ltx2(folder, name, error) from error


def _load_part(folder: Path, name: str, dtype: torch.dtype | None) -> Any:
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for noisy in (diffusers_logging, transformers_logging):
        noisy.disable_progress_bar()
    kind, options = part_class(folder, name), {}
    if dtype is not None:
        options = {"dtype": dtype} if name == "text_encoder" else {"torch_dtype": dtype}
    try:
        return kind.from_pretrained(folder / name, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _not_ltx2(folder, name, error) from error


def _not_ltx2(folder: Path, name: str, error: Exception) -> InvalidArtifactError:
    return InvalidArtifactError(
        f"not an LTX-2 pipeline in diffusers' layout: {name} cannot be loaded ({(str(error).splitlines() or [''])[0]})",
        where=str(folder),
        cure="give a repository or folder that LTX2Pipeline.from_pretrained opens",
    )
