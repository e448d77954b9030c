"""How a clip lies in a shard: once without loss for the next step, once as an MP4 for people."""

from __future__ import annotations

from dubmill import media
from dubmill.media.clips import Clip


def clip_members(name: str, clip: Clip) -> dict[str, bytes]:
    """The two files of one clip, to hand to `Draft.add_shard`; `name` is `<row id>/<what>`."""
    return {f"{name}.clip": clip.to_bytes(), f"{name}.mp4": media.mp4_bytes(clip)}
