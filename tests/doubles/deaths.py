"""Processes that end in the middle of their work."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from dubmill.training import trainer as training


@contextmanager
def dying_at(num_steps):
    """While open, a training ends as if killed once it has made `num_steps`."""
    step = training.Trainer.step

    def until(self, index):
        if index == num_steps:
            raise KeyboardInterrupt
        return step(self, index)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training.Trainer, "step", until)
        with pytest.raises(KeyboardInterrupt):
            yield
