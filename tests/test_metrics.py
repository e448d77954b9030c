"""The figures of a dub, each against a case whose answer is known without the code."""

import numpy as np
import pytest
import scipy.stats
from doubles.scorers import BOXES, PlainScorers, plain_clip, talking

from dubmill.artifacts.rows import Line
from dubmill.errors import UsageError
from dubmill.metrics import METRICS, lipsync, measure, picture, speech, stats
from dubmill.metrics.likeness import cosine
from dubmill.text.spelling import words_of


def test_every_metric_of_the_table_is_measured_and_none_besides():
    dub, source = talking([0.1, 0.9, 0.3, 0.7, 0.2]), talking([0.9, 0.1, 0.2, 0.8, 0.4])
    line = Line(language="es", text="Uno, tres")
    figures = measure(
        dub,
        source=source,
        truth=dub,
        trip_FHWC=source.frames_FHWC,
        line=line,
        mouth_boxes_F4=BOXES,
        scorers=PlainScorers(),
    )
    assert set(figures) == set(METRICS)
    assert all(np.isfinite(value) for value in figures.values())
    assert figures["words_right"] == 0.5
    assert figures["language_right"] == 0.5
    assert figures["sync_correlation"] > 0.999
    assert figures["truth_mouth_correlation"] == pytest.approx(1)
    assert figures["old_motion_correlation"] < 0.5
    assert (figures["lse_d"], figures["lse_c"], figures["sync_offset_frames"]) == (1.0, 2.0, 0.0)
    assert figures["outside_psnr_db"] == picture.CEILING_DB
    assert figures["duration_gap_ms"] == 0


def test_without_the_true_dub_and_the_round_trip_their_figures_are_nan_and_the_rest_stands():
    one = talking([0.1, 0.9, 0.3, 0.7, 0.2])
    line = Line(language="es", text="uno")
    figures = measure(
        one, source=one, truth=None, trip_FHWC=None, line=line, mouth_boxes_F4=BOXES, scorers=PlainScorers()
    )
    unknown = {name for name, value in figures.items() if np.isnan(value)}
    assert unknown == {"truth_mouth_correlation", "outside_trip_psnr_db"}
    assert figures["mouth_change"] == 0
    assert figures["old_motion_correlation"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("asked", "heard", "right", "errors"),
    [
        ("uno tres", "uno tres", 1.0, 0.0),
        ("uno tres", "tres uno", 0.0, 1.0),
        ("uno tres", "uno", 0.5, 0.5),
        ("uno tres", "uno dos tres", 0.5, 0.5),
        ("uno", "dos dos dos", 0.0, 3.0),
        ("uno tres", "", 0.0, 1.0),
        ("¡Uno! Tres.", "uno TRES", 1.0, 0.0),
        ("cafe\u0301", "caf\u00e9", 1.0, 0.0),
        ("", "", 0.0, 0.0),
        ("", "uno", 0.0, 1.0),
    ],
)
def test_words_count_in_their_order(asked, heard, right, errors):
    words = words_of(asked, "es")
    assert speech.words_right(words, [("es", word) for word in heard.split()]) == pytest.approx(right)
    assert speech.error_rate(words, words_of(heard, "es")) == pytest.approx(errors)


def test_language_is_counted_over_recognised_words_and_regions_do_not_matter():
    recognised = [("es-MX", "no"), ("en", "no"), ("es", "uno"), ("es", "dos")]
    assert speech.language_right(["es"], recognised) == 0.75
    assert speech.language_right(["es-ES"], recognised[:1]) == 1
    assert speech.language_right(["es"], []) == 0


def test_the_language_of_a_clip_of_two_lines_changes_once_at_the_place_that_suits_it():
    recognised = [("en", "one"), ("en", "two"), ("es", "tres"), ("es", "uno")]
    assert speech.language_right(["en", "es"], recognised) == 1
    assert speech.language_right(["es", "en"], recognised) == 0.5
    assert speech.language_right(["en", "en"], recognised) == 0.5
    assert speech.language_right(["en", "es"], [("es", "uno"), ("en", "one"), ("es", "dos")]) == pytest.approx(2 / 3)


def test_sound_is_heard_mono_at_16_khz():
    stereo = np.stack([np.ones(48_000), -np.ones(48_000)]).astype(np.float32)
    heard = speech.scorer_audio(plain_clip(audio_CN=stereo, sample_rate_hz=48_000))
    assert heard.shape == (16_000,)
    assert heard.dtype == np.float32
    assert np.abs(heard).max() < 1e-6


def test_loudness_clipping_and_length_of_known_sounds():
    seconds = 0.4
    sine = np.sin(2 * np.pi * 100 * np.arange(6400) / 16_000, dtype=np.float32)[None]
    assert speech.loudness_dbfs(plain_clip(audio_CN=sine)) == pytest.approx(-3.01, abs=0.01)
    assert speech.loudness_dbfs(plain_clip()) == speech.SILENCE_DBFS
    assert speech.loudness_dbfs(plain_clip(audio_CN=np.zeros((1, 0), np.float32))) == speech.SILENCE_DBFS
    loud = np.array([[1.0, -1.0, 0.5, 0.0]], np.float32)
    assert speech.clipped_share(plain_clip(audio_CN=loud)) == 0.5
    short = plain_clip(audio_CN=np.zeros((1, round((seconds - 0.1) * 16_000)), np.float32))
    assert speech.duration_gap_ms(short, plain_clip()) == pytest.approx(100)
    assert speech.duration_gap_ms(plain_clip(), plain_clip(np.zeros((4, 16, 16, 3), np.uint8))) == pytest.approx(80)


def test_correlation_is_pearsons_and_zero_where_nothing_moves():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 40))
    assert lipsync.correlation(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert lipsync.correlation(a, np.full(40, 0.3)) == 0
    assert lipsync.correlation(a[:1], b[:1]) == 0
    assert lipsync.correlation([], []) == 0
    holed = a.copy()
    holed[7] = np.nan
    assert np.isnan(lipsync.correlation(np.full(40, np.nan), b))
    assert lipsync.correlation(holed, np.append(b, 9.0)) == pytest.approx(
        np.corrcoef(np.delete(a, 7), np.delete(b, 7))[0, 1]
    )


def test_lse_finds_the_offset_and_the_confidence():
    assert lipsync.lip_sync(np.array([9.0, 8.0, 7.0, 2.0, 9.0])) == lipsync.LipSync(2.0, 6.0, 1.0)
    assert lipsync.lip_sync(np.array([np.nan, 5.0, 6.0])) == lipsync.LipSync(5.0, 0.5, 0.0)
    nothing = lipsync.lip_sync(np.full(3, np.nan))
    assert np.isnan([nothing.distance, nothing.confidence, nothing.offset_frames]).all()


def test_lip_diversity_of_a_still_mouth_is_nothing():
    assert lipsync.lip_diversity(np.full(9, 0.4)) == pytest.approx(0)
    assert lipsync.lip_diversity(np.array([0.0, 1.0, np.nan])) == 0.5
    assert np.isnan(lipsync.lip_diversity(np.array([np.nan])))


def test_cosine_of_nobody_is_zero():
    assert cosine(np.array([1.0, 0]), np.array([2.0, 0])) == 1
    assert cosine(np.array([1.0, 0]), np.array([-1.0, 0])) == -1
    assert cosine(np.zeros(2), np.array([1.0, 0])) == 0


def test_psnr_looks_outside_the_mouth_and_change_inside_it():
    source = np.full((5, 16, 16, 3), 100, np.uint8)
    inside, outside = source.copy(), source.copy()
    inside[:, 4:8, 4:8] = 151
    outside[:, 12:, :] = 110
    assert picture.outside_psnr_db(inside, source, BOXES) == picture.CEILING_DB
    assert picture.mouth_change(inside, source, BOXES) == pytest.approx(0.2)
    assert picture.mouth_change(outside, source, BOXES) == 0
    share = 4 * 16 / (16 * 16 - 6 * 6)  # the widened box is 6 x 6
    assert picture.outside_psnr_db(outside, source, BOXES) == pytest.approx(-10 * np.log10(share * (10 / 255) ** 2))


def test_pictures_without_an_outside_or_a_mouth_have_no_figure():
    frames = np.zeros((5, 16, 16, 3), np.uint8)
    assert np.isnan(picture.outside_psnr_db(frames, frames, np.array([[0.0, 0, 16, 16]])))
    assert np.isnan(picture.mouth_change(frames, frames, np.full((5, 4), np.nan)))
    assert np.isnan(picture.mouth_change(frames, frames, np.array([[40.0, 40, 50, 50]])))
    assert picture.outside_psnr_db(frames, frames, np.zeros((0, 4))) == picture.CEILING_DB
    with pytest.raises(UsageError, match="16x16 and 8x16"):
        picture.outside_psnr_db(frames, frames[:, :, :8], BOXES)


SINGLE = {"num_bootstrap": 300, "confidence": 0.9}


def test_an_interval_covers_the_mean_as_often_as_it_says():
    """A 90 % interval of 40 normal values: percentile bootstrap covers a little less; 300 trials, sd about 1.8 %."""
    random = np.random.default_rng(1)
    hits = 0
    for trial in range(300):
        interval = stats.bootstrap_interval(random.normal(size=40), clusters=range(40), seed=trial, **SINGLE)
        hits += interval.low <= 0 <= interval.high
    assert 0.82 <= hits / 300 <= 0.95


def test_an_interval_of_clusters_covers_the_mean_where_that_of_clips_does_not():
    """20 puppets of 4 clips that differ between puppets only: 20 values, not 80; 200 trials, sd about 2.1 %."""
    random = np.random.default_rng(3)
    hits = dict.fromkeys(("puppets", "clips"), 0)
    for trial in range(200):
        values = np.repeat(random.normal(size=20), 4)
        for unit, clusters in (("puppets", np.repeat(np.arange(20), 4)), ("clips", range(80))):
            interval = stats.bootstrap_interval(values, clusters=list(clusters), seed=trial, **SINGLE)
            hits[unit] += interval.low <= 0 <= interval.high
    assert hits["puppets"] / 200 > 0.8
    assert hits["clips"] / 200 < 0.7


def test_an_interval_of_one_cluster_or_none_has_no_width():
    def interval(values, clusters):
        found = stats.bootstrap_interval(values, clusters=clusters, num_bootstrap=100, confidence=0.95, seed=3)
        return found.mean, found.low, found.high

    assert interval([0.7], ["a"]) == (0.7, 0.7, 0.7)
    assert interval([0.0, 1.0], ["a", "a"]) == (0.5, 0.5, 0.5)
    assert np.isnan(interval([np.nan], ["a"])).all()
    assert interval([1.0, np.nan, 3.0], "abc")[0] == 2
    assert interval([1, 2, 9], "abc") == interval([1, 2, 9], "abc")
    with pytest.raises(UsageError):
        interval([1.0, 2.0], ["a"])


def test_the_interval_is_that_of_scipy_up_to_the_draws():
    values = np.random.default_rng(5).gamma(2.0, size=60)
    ours = stats.bootstrap_interval(values, clusters=range(60), num_bootstrap=20_000, confidence=0.95, seed=3)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=4
    ).confidence_interval
    width = theirs.high - theirs.low
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.03 * width)


def test_the_spread_of_clusters_is_the_cluster_robust_error_of_statsmodels():
    """statsmodels 0.15.0: OLS on a constant, cov_type="cluster", gives .1268 here; without clusters .0757."""
    random = np.random.default_rng(7)
    clusters = np.repeat(np.arange(40), 3)
    values = 0.3 + np.repeat(random.normal(0, 1, 40), 3) + random.normal(0, 0.3, 120)
    interval = stats.bootstrap_interval(values, clusters=clusters, num_bootstrap=20_000, confidence=0.95, seed=1)
    assert interval.mean == pytest.approx(-0.12328393)
    assert (interval.high - interval.low) / (2 * 1.96) == pytest.approx(0.12680788, rel=0.05)


def test_blocks_do_not_change_an_interval(monkeypatch):
    values = np.random.default_rng(5).normal(size=30)
    whole = stats.bootstrap_interval(values, clusters=range(30), num_bootstrap=500, confidence=0.95, seed=3)
    monkeypatch.setattr(stats, "BLOCK", 700)
    assert stats.bootstrap_interval(values, clusters=range(30), num_bootstrap=500, confidence=0.95, seed=3) == whole


def test_the_paired_test_is_the_two_sided_one_of_scipy():
    differences = np.array([2.0, 0.5, -0.5, 0.5, 1.0, 0.7, -0.2, 1.3])
    theirs = scipy.stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    ours = stats.paired_test(differences, clusters=range(8), seed=0)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert stats.paired_test(-differences, clusters=range(8), seed=0).p == ours.p


def test_two_clips_of_a_puppet_are_no_more_evidence_than_one():
    differences = [1.0, 0.5, 2.0, 0.7, 1.1]
    single = stats.paired_test(differences, clusters=range(5), seed=0)
    double = stats.paired_test(np.repeat(differences, 2), clusters=np.repeat(np.arange(5), 2).tolist(), seed=0)
    assert double == single
    assert stats.paired_test(np.repeat(differences, 2), clusters=range(10), seed=0).p < single.p


def test_drawn_flips_agree_with_all_flips(monkeypatch):
    differences = np.random.default_rng(2).normal(0.4, 1, size=12)
    exact = stats.paired_test(differences, clusters=range(12), seed=0).p
    monkeypatch.setattr(stats, "MAX_EXACT", 0)
    drawn = stats.paired_test(differences, clusters=range(12), seed=0).p
    assert drawn == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / stats.NUM_FLIPS))
    assert drawn != 0


def test_a_p_at_the_resolution_of_the_test_says_so():
    few = stats.paired_test([1.0, 2.0, 1.5], clusters=range(3), seed=0)
    assert (few.p, few.is_at_resolution) == (0.25, True)
    many = stats.paired_test(np.ones(40), clusters=range(40), seed=0)
    assert (many.p, many.is_at_resolution) == (1 / (1 + stats.NUM_FLIPS), True)
    assert not stats.paired_test([1.0, -0.9, 1.5], clusters=range(3), seed=0).is_at_resolution


def test_ties_and_missing_figures_weigh_for_neither_side():
    assert stats.paired_test([0.0, 0.0], clusters=range(2), seed=0).p == 1
    assert stats.paired_test([], clusters=[], seed=0).p == 1
    tied = stats.paired_test([1.0, 1.0, 1.0, 0.0, np.nan], clusters=range(5), seed=0)
    assert tied.p == stats.paired_test([1.0, 1.0, 1.0], clusters=range(3), seed=0).p == 0.25


def test_the_effect_size_is_the_t_statistic_over_the_root_of_the_number_of_puppets():
    differences = np.random.default_rng(4).normal(0.5, 1, size=12)
    t = scipy.stats.ttest_1samp(differences, 0).statistic
    assert stats.effect_size(differences, clusters=range(12)) == pytest.approx(t / np.sqrt(12))
    assert np.isnan(stats.effect_size([1.0], clusters=["a"]))
    assert np.isnan(stats.effect_size([1.0, 1.0], clusters=["a", "b"]))


def test_holm_gives_the_values_of_statsmodels():
    """statsmodels 0.15.0: multipletests(ps, method="holm")."""
    expected = [0.055, 0.156, 0.5, 0.0054, 0.156, 0.42]
    assert stats.holm([0.011, 0.039, 0.5, 0.0009, 0.04, 0.21]) == pytest.approx(expected)


def test_holm_matches_its_textbook_and_keeps_the_order():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    kept = stats.holm([0.02, float("nan")])
    assert kept[0] == 0.02
    assert np.isnan(kept[1])
    assert stats.holm([]) == []


def test_the_shift_at_which_two_series_fit_best_is_found_and_none_where_nothing_was_seen():
    seen = np.convolve(np.random.default_rng(0).normal(size=70), np.ones(3) / 3)
    for shift in (-5, -1, 0, 3, 12):
        assert lipsync.best_shift(seen, np.roll(seen, shift)) == abs(shift)
    assert np.isnan(lipsync.best_shift(np.full(70, np.nan), seen))
    assert np.isnan(lipsync.best_shift(np.full(70, 0.3), seen))


class DeafScorers(PlainScorers):
    """Without a recogniser, and with nobody to be seen in dark pictures or heard in silence."""

    missing = {"words": "no recogniser is installed"}

    def troubles(self, frames_FHWC, audio_N):
        return [] if frames_FHWC.any() else ["no face is in it"]

    def words(self, audio_N):
        return None

    def voice(self, audio_N):
        return np.array([1.0, 0.5]) if np.any(audio_N) else np.zeros(2)

    def identity(self, frames_FHWC):
        return np.ones(3) if frames_FHWC.any() else np.zeros(3)

    def mouth(self, frames_FHWC):
        return super().mouth(frames_FHWC) if frames_FHWC.any() else np.full((len(frames_FHWC), 5), np.nan)


def figures_of(dub, source):
    line = Line(language="es", text="uno")
    boxes = {"trip_FHWC": None, "mouth_boxes_F4": BOXES}
    return measure(dub, source=source, truth=None, line=line, scorers=DeafScorers(), **boxes)


def test_what_was_not_measured_is_nan_and_what_the_dub_lost_is_as_bad_as_can_be():
    """A silent dub that counted as not measured would be left out of its method's mean, and make it look better."""
    shown, empty = talking([0.1, 0.9, 0.3, 0.7, 0.2]), plain_clip()
    lost, nobody = figures_of(empty, shown), figures_of(shown, empty)
    assert np.isnan([lost["words_right"], lost["characters_right"], lost["language_right"]]).all()
    for name in ("voice_cosine", "identity_cosine", "sync_correlation", "lip_diversity"):
        assert lost[name] == 0, name
    assert np.isnan([nobody["voice_cosine"], nobody["identity_cosine"]]).all()
    assert nobody["sync_correlation"] > 0.9
    assert np.isnan(figures_of(empty, empty)["sync_correlation"])


def test_characters_are_counted_where_a_script_has_no_spaces_and_beside_words_elsewhere():
    chinese = words_of("今天下午三点", "zh")
    assert speech.words_right(chinese, [("zh", sign) for sign in "今天下午两点"]) == pytest.approx(5 / 6)
    spanish, recognised = words_of("una casa", "es"), [("es", "una"), ("es", "cosa")]
    assert speech.words_right(spanish, recognised) == 0.5
    assert speech.characters_right(spanish, recognised) == pytest.approx(6 / 7)
    assert speech.characters_right(spanish, []) == 0
    assert np.isnan(speech.characters_right(spanish, None))
