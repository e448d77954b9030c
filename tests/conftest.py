"""Fixtures that several test files share: the miniature LTX-2, and a steady number of threads."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session")
def mini_backbone(tmp_path_factory):
    """The untrained LTX-2 of real geometry, sealed."""
    import miniature

    return miniature.backbone(tmp_path_factory.mktemp("mini") / "backbone")


@pytest.fixture(scope="session")
def mini(mini_backbone):
    """Its modules."""
    from dubmill.backbone import load

    return load(mini_backbone)
