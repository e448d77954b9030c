"""The noise levels that a training draws, from the constants that its parameters name."""

from pathlib import Path

import pytest
import torch

from dubmill.config.params import load, validate
from dubmill.config.training import SigmaSamplerParams
from dubmill.errors import InvalidParamsError
from dubmill.training.sigmas import sample_sigmas

COMMITTED = Path(__file__).parents[1] / "params.yaml"
NANO = load(COMMITTED).train.sigma_sampler
RELEASED = load(COMMITTED, Path("jdi-19b")).train.sigma_sampler
STRETCHED = load(COMMITTED, Path("dubit-2.3")).train.sigma_sampler


def drawn(params, tokens, count=20000, **changes):
    return sample_sigmas(params.model_copy(update=changes), count, tokens, torch.Generator().manual_seed(0))


def test_the_released_sampler_shifts_with_the_number_of_tokens():
    """Median of sigmoid(N(shift, 1)) is sigmoid(shift): .95 at 1,024 tokens, 2.05 at 4,096."""
    for tokens, shift in ((1024, 0.95), (4096, 2.05), (8160, 3.5)):
        assert torch.logit(drawn(RELEASED, tokens)).median() == pytest.approx(shift, abs=0.05)


def test_the_stretched_sampler_covers_all_noise_levels_where_the_released_one_collapses():
    """At 8,160 tokens half of the released sampler's draws lie above .97."""
    released, stretched = drawn(RELEASED, 8160), drawn(STRETCHED, 8160)
    assert released.median() > 0.97
    assert stretched.min() >= 1e-3
    assert stretched.max() <= 1
    assert (stretched < 0.5).float().mean() > 0.08
    assert (released < 0.5).float().mean() < 0.001
    wide = drawn(STRETCHED, 32640)  # 1920x1088x121
    assert wide.median().item() == pytest.approx(stretched.median().item(), abs=0.05)


def test_two_logit_normals_draw_often_above_sigma_095():
    sigmas = drawn(NANO, 64)
    assert 0.2 < (sigmas > 0.95).float().mean() < 0.4
    assert ((sigmas > 0) & (sigmas <= 1)).all()


def test_every_constant_of_a_sampler_takes_part_in_its_draws():
    """Trap: a figure that is named in a preset and fixed in the code."""
    changes = {
        "std": (NANO, 0.9),
        "means": (NANO, [2.8, 0.5]),
        "shift_tokens": (RELEASED, [1024, 2048]),
        "shifts": (RELEASED, [0.95, 2.5]),
        "percentiles": (STRETCHED, [1.0, 99.9]),
        "least": (STRETCHED, 0.1),
        "uniform_share": (STRETCHED, 0.5),
    }
    assert changes.keys() | {"kind"} == SigmaSamplerParams.model_fields.keys()
    for name, (params, value) in changes.items():
        assert not torch.equal(drawn(params, 3520), drawn(params, 3520, **{name: value})), name
    assert not torch.equal(drawn(STRETCHED, 3520), drawn(STRETCHED, 3520, std=0.9))


def test_the_stretch_takes_the_percentiles_of_the_shifted_draws_to_zero_and_one():
    plain = {"uniform_share": 0.0, "least": 1e-9}
    for std in (1.0, 0.6):
        sigmas = drawn(STRETCHED, 4096, std=std, percentiles=[10.0, 90.0], **plain)
        assert (sigmas == 1).float().mean() == pytest.approx(0.1, abs=0.01)
        inside = drawn(STRETCHED, 4096, std=std, percentiles=[1e-4, 99.9999], **plain)
        raw = drawn(RELEASED, 4096, std=std)
        assert torch.corrcoef(torch.stack([inside, raw]))[0, 1] > 0.999


@pytest.mark.parametrize(
    ("name", "value"),
    [("shift_tokens", [4096, 1024]), ("percentiles", [0.0, 99.0]), ("means", [1.0]), ("least", 1.0)],
)
def test_constants_that_make_no_sampler_are_refused_by_name(name, value):
    with pytest.raises(InvalidParamsError, match=name):
        validate(SigmaSamplerParams, NANO.model_dump() | {name: value}, "train.sigma_sampler")
