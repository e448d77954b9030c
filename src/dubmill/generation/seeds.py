"""Computes the seeds of all random draws from the seed of a run and the number of a clip, prompt, step or process.

Different items of one run, and equal items of different runs, get different seeds. The values are part of every result:
another formula gives other clips and other adapters.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

RUN, HALF, MICRO_BATCH, RANK = 1_000_003, 2, 1_009, 2**40
LARGEST = 2**63  # torch takes signed 64-bit seeds


def item_seed(run_seed: int, item: int) -> int:
    """Returns the seed of one clip or prompt; `item` is its own number, such as a prompt's seed."""
    return run_seed * RUN + item


def item_rng(run_seed: int, item: int) -> np.random.Generator:
    """Returns a NumPy generator for one decision about one clip or prompt."""
    return np.random.default_rng([run_seed, item])


def half_seed(run_seed: int, item: int, half: int) -> int:
    """Returns the seed of one half (0 or 1) of a clip with a language switch."""
    return item_seed(run_seed, item) * HALF + half


def step_seed(run_seed: int, step: int, micro_batch: int) -> int:
    """Returns the seed of one micro-batch of a training step."""
    return item_seed(run_seed, step) * MICRO_BATCH + micro_batch


def rank_seed(seed: int, rank: int) -> int:
    """Returns the seed of one process among several that share `seed`."""
    return (seed + rank * RANK) % LARGEST


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Returns a generator for each seed, on the CPU: the draws are then the same with any GPU and without one."""
    return [torch.Generator().manual_seed(seed % LARGEST) for seed in seeds]
