"""The training loop that all parts share: seeded by step, so a killed run resumes to the same weights.

No random state is kept between steps: torch and numpy are seeded anew from `(part, step)`, and the learning rate is a function
of the step alone. A checkpoint therefore holds the model, the optimizer, the average and the step, and nothing else.
"""

from __future__ import annotations

import json
import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from dubmill.nano.pretrain.sheets import save_curve

_CHECKPOINT, _CURVE = "checkpoint.pt", "curve.jsonl"


@dataclass(frozen=True)
class Schedule:
    """Optimizer settings of one part; the learning rate rises, stays, and falls by a cosine over the last `decay_share`."""

    peak_rate: float
    warmup_steps: int = 60
    decay_share: float = 0.6
    floor_share: float = 0.02
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 1e-4
    clip_norm: float = 1.0
    average: float = 0.0

    def rate(self, step: int, total_steps: int) -> float:
        """Returns the learning rate at `step`."""
        progress = (step / total_steps - (1 - self.decay_share)) / self.decay_share
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
        return self.peak_rate * min(1.0, (step + 1) / self.warmup_steps) * max(self.floor_share, fall)


class Part(Protocol):
    """A part of nano, as the training loop uses it."""

    name: str
    schedule: Schedule

    @property
    def model(self) -> nn.Module:
        """The network that is trained."""
        ...

    def loss(self, step: int, progress: float, rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        """Returns the loss of one seeded batch, and figures to plot."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Returns figures on held-out clips."""
        ...

    def save(self, out: Path) -> None:
        """Write the weights in the form that they are shipped in."""
        ...


class _Average:
    """Exponential moving average of the parameters; off when its decay is zero."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = list(model.parameters())
        self.values = [parameter.detach().clone() for parameter in self.parameters] if decay else []

    def update(self, step: int) -> None:
        if self.decay:
            pull = 1 - min(self.decay, (1 + step) / (10 + step))
            for value, parameter in zip(self.values, self.parameters, strict=True):
                value.lerp_(parameter.data, pull)

    def swap(self) -> None:
        """Put the average in the model, and the model's values here; swap again to undo."""
        for parameter, value in zip(self.parameters, self.values, strict=False):
            kept = parameter.data.clone()
            parameter.data.copy_(value)
            value.copy_(kept)


def train_part(
    part: Part,
    out: Path,
    *,
    total_steps: int,
    seconds: float = math.inf,
    stop_at: float = math.inf,
    evaluate_every: int = 500,
    checkpoint_seconds: float = 120.0,
    say: Callable[[str], None] = print,
) -> int:
    """Train `part` to `total_steps`, or stop at a checkpoint after `seconds` or at step `stop_at`; returns the step reached."""
    out.mkdir(parents=True, exist_ok=True)
    trained = [parameter for parameter in part.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=part.schedule.peak_rate, betas=part.schedule.betas, weight_decay=part.schedule.weight_decay
    )
    average = _Average(part.model, part.schedule.average)
    step = _resume(part, optimizer, average, out)
    started = saved = time.monotonic()
    first_step, figures = step, []
    while step < min(total_steps, stop_at) and time.monotonic() - started < seconds:
        figures.append(_one_step(part, optimizer, trained, step, total_steps))
        average.update(step)
        step += 1
        if step % 50 == 0 or step == total_steps:
            pace = (time.monotonic() - started) / (step - first_step)
            _log(
                out,
                "train",
                step,
                _mean(figures),
                say,
                f"{pace:.2f} s/step, {pace * (total_steps - step) / 60:.0f} min left",
            )
            figures = []
        if step % evaluate_every == 0 or step == total_steps:
            _evaluate(part, average, out, step, say)
        if time.monotonic() - saved > checkpoint_seconds:
            _save(part, optimizer, average, out, step)
            saved = time.monotonic()
    _save(part, optimizer, average, out, step)
    return step


def _one_step(
    part: Part, optimizer: torch.optim.Optimizer, trained: list[nn.Parameter], step: int, total_steps: int
) -> dict[str, float]:
    seed = zlib.crc32(f"{part.name}/{step}".encode())
    torch.manual_seed(seed)
    for group in optimizer.param_groups:
        group["lr"] = part.schedule.rate(step, total_steps)
    loss, figures = part.loss(step, step / total_steps, np.random.default_rng(seed))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(trained, part.schedule.clip_norm)
    if torch.isfinite(norm):  # one bad batch must not end a long training
        optimizer.step()
    return {"loss": loss.item(), "grad_norm": norm.item(), **figures}


@torch.no_grad()
def _evaluate(part: Part, average: _Average, out: Path, step: int, say: Callable[[str], None]) -> None:
    average.swap()
    part.model.eval()
    torch.manual_seed(0)
    _log(out, "held_out", step, part.evaluate(), say, "")
    part.save(out)
    save_curve(out / _CURVE, out / "curve.png")
    part.model.train()
    average.swap()


def _mean(figures: list[dict[str, float]]) -> dict[str, float]:
    names = {name: None for row in figures for name in row}
    return {name: float(np.mean([row[name] for row in figures if name in row])) for name in names}


def _log(out: Path, kind: str, step: int, figures: dict[str, float], say: Callable[[str], None], note: str) -> None:
    with (out / _CURVE).open("a") as curve:
        curve.write(json.dumps({"kind": kind, "step": step, "clock": round(time.time()), **figures}) + "\n")
    shown = " ".join(f"{name} {value:.4g}" for name, value in figures.items())
    say(f"{time.strftime('%H:%M:%S')} {kind} {step}: {shown} {note}")


def _save(part: Part, optimizer: torch.optim.Optimizer, average: _Average, out: Path, step: int) -> None:
    """Write a checkpoint atomically."""
    state = {
        "model": part.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.values,
        "step": step,
    }
    partial = out / (_CHECKPOINT + ".partial")
    torch.save(state, partial)
    partial.replace(out / _CHECKPOINT)


def _resume(part: Part, optimizer: torch.optim.Optimizer, average: _Average, out: Path) -> int:
    if not (out / _CHECKPOINT).exists():
        return 0
    state = torch.load(out / _CHECKPOINT, weights_only=True)
    part.model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    average.values = state["average"]
    return state["step"]
