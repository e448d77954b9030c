"""Which adapter dubs, and how it is used: the adapter of a promoted release, or one that was never released."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dubmill.artifacts.files import digest_of
from dubmill.artifacts.manifest import read_manifest
from dubmill.artifacts.store import Adapter, Backbone, Release
from dubmill.config.params import Params
from dubmill.dubbing.clip_size import ClipSize, release_info
from dubmill.errors import BackboneMismatchError, UnsupportedTextError
from dubmill.model.shapes import Geometry, half_frames


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """An adapter with all that is needed to dub with it.

    Attributes:
        name, version: for people and metadata.
        digest: identity of adapter and sampling; dubs of different digests are never mixed.
        adapter: folder of the sealed adapter.
        backbone: digest of the backbone it was trained on.
        size: the clips it dubs.
        sampling: values of `DubSamplingParams`.
        strength: weight of the adapter.
        languages: tags it was trained on; empty where nobody stated them.
        is_released: whether its metrics were compared with a champion's.
    """

    name: str
    version: str
    digest: str
    adapter: Path
    backbone: str
    size: ClipSize
    sampling: Mapping[str, Any]
    strength: float
    languages: tuple[str, ...]
    is_released: bool

    @classmethod
    def of_release(cls, release: Release) -> ModelSource:
        """The model of a promoted release, used as it was evaluated.

        Raises:
            InvalidArtifactError: the release lacks something that a dub needs.
        """
        adapter = release.path / "adapter"
        return cls(
            name=str(release.info.get("name", "dubmill")),
            version=str(release.info.get("version") or release.digest[:12]),
            digest=release.digest,
            adapter=adapter,
            backbone=release.info.get("backbone") or release.lineage.backbone,
            size=ClipSize.from_info(release_info(release, "clip"), str(release.path)),
            sampling=release_info(release, "sampling"),
            strength=float(release_info(release, "strength")),
            languages=tuple(read_manifest(adapter).info.get("languages") or ()),
            is_released=True,
        )

    @classmethod
    def of_adapter(cls, adapter: Adapter, params: Params, backbone: Backbone) -> ModelSource:
        """The model of an adapter without a release, sampled as `params.dub` says.

        The clip size is the adapter's own; where it states none, as most published LoRA files, it is half a clip of
        `params.synthesize`, which is what an adapter would be trained on with these params.

        Raises:
            InvalidArtifactError: the adapter's clip size cannot be read.
        """
        sampling = params.dub.sampling.model_dump()
        strength = params.dub.adapter_strength
        clip = adapter.info.get("clip") or _clip_of_params(params, Geometry(**backbone.info["geometry"]))
        return cls(
            name=adapter.path.name,
            version=adapter.digest[:12],
            digest=digest_of([adapter.digest, sampling, strength]),
            adapter=adapter.path,
            backbone=adapter.lineage.backbone,
            size=ClipSize.from_info(clip, str(adapter.path)),
            sampling=sampling,
            strength=strength,
            languages=tuple(adapter.info.get("languages") or ()),
            is_released=False,
        )

    def check_language(self, tag: str) -> None:
        """Refuse a language that a released adapter was not trained on; anything may be tried with an unreleased one.

        Raises:
            UnsupportedTextError: with the languages there are.
        """
        if self.is_released and self.languages and tag not in self.languages:
            known = ", ".join(self.languages)
            raise UnsupportedTextError(f"this release does not dub into {tag!r}", cure=f"use one of {known}")

    def check_backbone(self, backbone: Backbone) -> None:
        """Refuse another backbone than the one the adapter was trained on.

        Raises:
            BackboneMismatchError: it is another one.
        """
        if self.backbone != backbone.digest:
            raise BackboneMismatchError(
                f"the adapter was trained on backbone {self.backbone[:12]}, this is {backbone.digest[:12]}",
                where=str(self.adapter),
                cure="give the backbone it was trained on",
            )


def _clip_of_params(params: Params, geometry: Geometry) -> dict[str, Any]:
    section = params.synthesize
    return {
        "num_frames": half_frames(section.num_frames, geometry.temporal),
        "height": section.height,
        "width": section.width,
        "frame_rate": str(section.frame_rate),
        "sample_rate_hz": geometry.output_sample_rate_hz,
    }
