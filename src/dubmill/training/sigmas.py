"""Samples the noise levels of a training, by one of three samplers whose constants are parameters."""

from __future__ import annotations

from statistics import NormalDist

import torch
from diffusers.pipelines.ltx2.pipeline_ltx2 import calculate_shift

from dubmill.config.training import SigmaSamplerParams


def sample_sigmas(
    params: SigmaSamplerParams, count: int, num_video_tokens: int, generator: torch.Generator
) -> torch.Tensor:
    """Returns `count` random sigmas in (0, 1].

    `shifted-logit-normal`: sigmoid(N(shift, std)), the shift linear in the target's video tokens through two points, and
    not clamped beyond them (JUST-DUB-IT's release). `stretched-logit-normal`: the same spread over (0, 1], see `_stretched`.
    `two-logit-normals`: sigmoid of N(mean, std), half of the draws by each mean, for models so small that they decide on
    the words above sigma .95.
    """
    normal = torch.randn(count, generator=generator)
    if params.kind == "two-logit-normals":
        is_first = torch.rand(count, generator=generator) < 0.5
        return torch.sigmoid(normal * params.std + torch.where(is_first, *params.means))
    shift = calculate_shift(num_video_tokens, *params.shift_tokens, *params.shifts)
    if params.kind == "shifted-logit-normal":
        return torch.sigmoid(normal * params.std + shift)
    return _stretched(normal * params.std, shift, params, generator)


def _stretched(
    normal: torch.Tensor, shift: float, params: SigmaSamplerParams, generator: torch.Generator
) -> torch.Tensor:
    """Returns shifted draws stretched over (0, 1], a share of them replaced by uniform ones (LTX-2's trainer 1.2.0).

    At many tokens the shift pushes nearly every draw to 1: the range between two percentiles becomes 0 to 1, and what
    falls below `least` is mirrored at it.
    """
    least = params.least
    ends = [NormalDist(shift, params.std).inv_cdf(percent / 100) for percent in params.percentiles]
    low, high = torch.sigmoid(torch.tensor(ends, dtype=torch.float64))
    spread = (torch.sigmoid(normal.double() + shift) - low) / (high - low)  # near 1 float32 has too few steps
    spread = torch.where(spread < least, 2 * least - spread, spread).clamp(max=1).float()
    uniform = least + (1 - least) * torch.rand(len(normal), generator=generator)
    return torch.where(torch.rand(len(normal), generator=generator) < params.uniform_share, uniform, spread)
