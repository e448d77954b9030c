"""The KServe manifest that a release carries, so that deploying it is one `kubectl apply`."""

from __future__ import annotations

from pathlib import Path
from string import Template

from dubmill import __version__
from dubmill.tracking.registry import Version

TEMPLATE = Path(__file__).parent / "inferenceservice.yaml"


def inference_service(version: Version, adapter_digest: str) -> str:
    """Returns the InferenceService manifest, as YAML, that serves this model version."""
    return Template(TEMPLATE.read_text()).substitute(
        name=version.name,
        version=version.number,
        digest=adapter_digest[:12],
        image=f"dubmill/predictor:{__version__}-cpu",
    )
