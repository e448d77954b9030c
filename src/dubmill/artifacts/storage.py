"""The files of a clip in a shard: lossless for the next step, and an MP4 for people."""

from __future__ import annotations

from dubmill import media
from dubmill.media.clips import Clip


def clip_members(name: str, clip: Clip) -> dict[str, bytes]:
    """Returns the two files of one clip for `Draft.add_shard`; `name` is `<row id>/<member>`."""
    return {f"{name}.clip": clip.to_bytes(), f"{name}.mp4": media.mp4_bytes(clip)}
