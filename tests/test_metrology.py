"""The measurements of the metrics: growing damage, and the ranking of methods against the exact truth."""

import math

import pytest

from benchmarks import metrology
from benchmarks.metrology import LADDERS, METHODS, MOUTH, SOUND, SOURCE_LADDER, Findings, badness, growth, page, ranking
from dubmill.metrics import METRICS
from dubmill.metrics.shares import FLOOR

NUM_PAIRS = 6


def findings(figure):
    """Findings in which method number m has the figure `figure(m)` by every metric, and is the m-th worst in truth."""
    by_method = {method: [figure(place)] * NUM_PAIRS for place, method in enumerate(METHODS)}
    truths = {method: [-float(place)] * NUM_PAIRS for place, method in enumerate(METHODS)}
    ladders = {
        ladder.name: {metric: {at: [at] * NUM_PAIRS for at in ladder.strengths} for metric in ladder.metrics}
        for ladder in (*LADDERS, SOURCE_LADDER)
    }
    figures = {metric: {**by_method, FLOOR: [9.0] * NUM_PAIRS} for metric in METRICS}
    return Findings(
        figures, {MOUTH: truths, SOUND: truths}, ladders, [f"seed-{pair // 2}" for pair in range(NUM_PAIRS)]
    )


@pytest.mark.parametrize(
    ("metric", "value", "bad"), [("words_right", 0.25, -0.25), ("lse_d", 0.25, 0.25), ("mouth_sharpness", 0.25, 0.75)]
)
def test_badness_grows_where_a_figure_leaves_its_better_direction_or_the_truth(metric, value, bad):
    assert badness(metric, value, 1.0) == bad


@pytest.mark.parametrize(
    ("means", "fall"), [([0, 1, 2, 4], 0.0), ([0, 4, 3, 4], 0.25), ([0, 1, -1, 2], 1.0), ([5, 5, 5, 5], math.nan)]
)
def test_a_stronger_damage_that_is_rated_better_is_a_share_of_the_range(means, fall):
    assert growth(dict(enumerate([mean] for mean in means)))[1] == pytest.approx(fall, nan_ok=True)


def test_a_metric_that_ranks_as_the_truth_does_has_tau_1_and_one_that_ranks_the_other_way_minus_1():
    assert ranking(findings(lambda place: -float(place)), "words_right") == pytest.approx((1.0, 1.0, 1.0))
    assert ranking(findings(float), "words_right") == pytest.approx((-1.0, -1.0, -1.0))
    assert ranking(findings(lambda place: 1.0), "words_right") == (0.0, 0.0, 0.0)


def test_a_metric_without_an_exact_truth_or_without_a_figure_is_not_ranked():
    assert ranking(findings(float), "clipped_share") is None
    assert ranking(findings(lambda place: math.nan), "lse_c") is None


def test_every_metric_is_on_the_page_and_every_metric_has_a_growing_damage():
    text = "\n".join(page(findings(float), "0123"))
    assert all(text.count(f"`{metric}`") >= 2 for metric in METRICS)
    assert {metric for ladder in (*LADDERS, SOURCE_LADDER) for metric in ladder.metrics} == set(METRICS)
    assert set(metrology.ASPECTS) <= set(METRICS)
