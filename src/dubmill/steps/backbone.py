"""Step `backbone`: provides the joint audio-video model that all later steps use."""

from __future__ import annotations

from pathlib import Path

from dubmill.artifacts.store import Backbone
from dubmill.config.params import BackboneParams
from dubmill.worlds.materialize import materialize


def backbone(params: BackboneParams, out: Path) -> Backbone:
    """Unpack the embedded nano weights, or fetch a pinned LTX-2, and seal the folder at `out`."""
    return materialize(params, out)
