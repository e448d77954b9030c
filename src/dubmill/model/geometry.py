"""Reads a backbone's ratios and widths from its configs, and checks its weight files by their headers alone.

No weights are loaded: the modules are built on torch's meta device, and a safetensors header is a few kilobytes. LTX-2's
weights in float32 would take 135 GB of memory.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from dubmill.errors import InvalidArtifactError
from dubmill.model.load import PARTS, part_class
from dubmill.model.mel import MelSettings, settings_of
from dubmill.model.shapes import Geometry

UNCHECKED = ("text_encoder",)  # transformers renames its tensors while it loads them


def on_meta(folder: Path, part: str) -> Any:
    """Returns a part of a diffusers folder without its weights, on the meta device.

    Raises:
        InvalidArtifactError: the folder is not an LTX-2 pipeline in diffusers' layout.
    """
    kind = part_class(folder, part)
    try:
        with torch.device("meta"):
            return kind.from_config(kind.load_config(folder / part))
    except (OSError, ValueError, TypeError) as error:
        raise InvalidArtifactError(
            f"the config of {part} cannot be read ({(str(error).splitlines() or [''])[0]})",
            where=str(folder),
            cure="fetch the backbone again",
        ) from error


def measure_geometry(folder: Path) -> tuple[Geometry, MelSettings]:
    """Returns the ratios and widths of a diffusers folder, and the audio VAE's spectrogram settings.

    Raises:
        InvalidArtifactError: the VAE and the transformer have different ratios, so that positions would be wrong.
    """
    vae, audio_vae = on_meta(folder, "vae"), on_meta(folder, "audio_vae")
    transformer, vocoder = _config(folder, "transformer"), _config(folder, "vocoder")
    temporal, spatial = vae.temporal_compression_ratio, vae.spatial_compression_ratio
    expected = tuple(transformer["vae_scale_factors"])
    if expected != (temporal, spatial, spatial):
        raise InvalidArtifactError(
            f"the VAE compresses {temporal}x{spatial}, the transformer expects {expected}",
            where=str(folder),
            cure="fix the configs",
        )
    audio = audio_vae.config
    geometry = Geometry(
        temporal=temporal,
        spatial=spatial,
        video_channels=transformer["in_channels"],
        audio_channels=transformer["audio_in_channels"],
        sample_rate_hz=audio["sample_rate"],
        output_sample_rate_hz=vocoder["output_sampling_rate"],
        hop_length=audio["mel_hop_length"],
        mel_per_latent=audio_vae.temporal_compression_ratio,
        audio_in_channels=audio["in_channels"],
    )
    return geometry, settings_of(audio)


def check_weights(folder: Path) -> None:
    """Checks that the weight files of all parts have the tensors that their configs ask for.

    Raises:
        InvalidArtifactError: tensors are missing or have another shape, or a file of a part is missing or cut short.
    """
    for part in PARTS:
        shapes = _stored_shapes(folder / part)
        if part in UNCHECKED:
            continue
        expected = {name: tuple(value.shape) for name, value in on_meta(folder, part).state_dict().items()}
        wrong = sorted(name for name, shape in expected.items() if shapes.get(name) != shape)
        if wrong:
            raise InvalidArtifactError(
                f"{len(wrong)} tensors of {part} are missing or have another shape, the first is {wrong[0]}",
                where=str(folder / part),
                cure="fetch the backbone again",
            )


def _stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Returns shapes of the tensors in a part's safetensors files; an index names them if there are several."""
    files = sorted(folder.glob("*.safetensors"))
    for index in folder.glob("*.safetensors.index.json"):
        files = sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InvalidArtifactError(
                f"a weight file cannot be read ({error})", where=str(path), cure="fetch the backbone again"
            ) from error
    if not shapes:
        raise InvalidArtifactError("there are no safetensors files", where=str(folder), cure="fetch the backbone again")
    return shapes


def _config(folder: Path, part: str) -> dict[str, Any]:
    """Returns a part's config with the defaults of its class."""
    kind = part_class(folder, part)
    parameters = inspect.signature(kind.__init__).parameters.values()
    defaults = {one.name: one.default for one in parameters if one.default is not one.empty}
    return {**defaults, **kind.load_config(folder / part)}
