"""Seeds: their values are part of every published result, so they are held here as numbers."""

import torch

from dubmill.generation.seeds import generators, half_seed, item_seed, rank_seed, step_seed


def test_the_seeds_are_those_of_all_results_so_far():
    assert item_seed(11, 7) == 11_000_040
    assert [half_seed(13, 7, half) for half in (0, 1)] == [26_000_092, 26_000_093]
    assert step_seed(17, 3, 1) == 17_153_054_487
    assert rank_seed(5, 0) == 5
    assert rank_seed(5, 2) == 5 + 2 * 2**40


def test_a_generator_draws_on_the_cpu_whatever_the_device_of_the_model():
    """Trap: a CUDA generator draws other numbers than a CPU one, so results would depend on the machine."""
    one, other = generators([3, 2**63 + 3])
    assert one.device.type == "cpu"
    assert torch.equal(torch.randn(4, generator=one), torch.randn(4, generator=other))
