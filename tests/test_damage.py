"""Damages of clips, and the bounds of the gate that are found from them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from doubles.scorers import BOXES, plain_clip, talking

from dubmill.config.params import load
from dubmill.metrics import lipsync, picture, speech
from dubmill.quality import calibration, damage

STRICT = load(Path(__file__).parents[1] / "params.yaml").gate.strict
OPENINGS = [0.1, 0.9, 0.3, 0.7, 0.2]
OF_LENGTH = {"sound_short", "clip_long"}


def mouth_of(clip):
    return clip.frames_FHWC[:, 4:8, 4:8].mean(axis=(1, 2, 3))


@pytest.mark.parametrize("name", damage.CLIP_DAMAGES)
def test_every_damage_changes_the_clip_and_no_other_damage_its_length(name):
    frames = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    clip = replace(talking(OPENINGS), frames_FHWC=frames)
    damaged = damage.CLIP_DAMAGES[name](clip, BOXES)
    is_equal = np.array_equal(damaged.frames_FHWC, clip.frames_FHWC) and np.array_equal(damaged.audio_CN, clip.audio_CN)
    assert not is_equal
    lengths = [(len(each.frames_FHWC), each.audio_CN.shape) for each in (clip, damaged)]
    assert (lengths[0] == lengths[1]) == (name not in OF_LENGTH)
    assert damaged.frames_FHWC.dtype == np.uint8
    assert damaged.audio_CN.dtype == np.float32


def test_late_sound_comes_later_and_early_sound_earlier():
    clip = plain_clip(audio_CN=np.eye(1, 6400, 3200, dtype=np.float32))
    assert damage.shifted_sound(0.05)(clip, BOXES).audio_CN.argmax() == 3200 + 800
    assert damage.shifted_sound(-0.05)(clip, BOXES).audio_CN.argmax() == 3200 - 800


def test_a_frozen_mouth_does_not_move_and_a_backward_one_moves_backwards():
    clip = talking(OPENINGS)
    assert np.ptp(mouth_of(damage.frozen_mouth(clip, BOXES))) == 0
    assert lipsync.correlation(mouth_of(damage.reversed_mouth(clip, BOXES)), mouth_of(clip)[::-1]) == pytest.approx(1)


def test_a_blurred_mouth_is_less_sharp_and_the_rest_stays():
    frames = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    clip = plain_clip(frames)
    blurred = damage.blurred_mouth(clip, BOXES).frames_FHWC
    assert picture.mouth_sharpness(blurred, frames, BOXES) < 0.5
    assert picture.mouth_sharpness(frames, frames, BOXES) == 1
    assert picture.outside_psnr_db(blurred, frames, BOXES) == picture.CEILING_DB
    assert np.isnan(picture.mouth_sharpness(frames, np.zeros_like(frames), BOXES))


def test_a_quiet_sound_is_40_db_lower():
    clip = talking(OPENINGS)
    gap = speech.loudness_dbfs(clip) - speech.loudness_dbfs(damage.quiet(clip, BOXES))
    assert gap == pytest.approx(40)


def figures(**changes):
    """Figures inside every gate, with changes."""
    inside = {
        name.split("_", 1)[1]: max(bound, 1.0) if name.startswith("min_") else min(bound, 0.0)
        for name, bound in STRICT.model_dump().items()
    }
    return inside | {"outside_psnr_db": 50.0, "loudness_dbfs": -20.0, "old_motion_correlation": 0.1} | changes


def rows(num_puppets=40):
    """True pairs whose LSE-C is 0.7 to 0.9, and a damage whose is 0.1 to 0.3."""
    found = []
    for puppet in range(num_puppets):
        share = (puppet // 2) / (num_puppets // 2 - 1)
        pairs = {"true_pair": figures(lse_c=0.7 + 0.2 * share), "lips_other_words": figures(lse_c=0.1 + 0.2 * share)}
        found += [{"damage": name, "puppet": puppet, "figures": values} for name, values in pairs.items()]
    return found


LOOSE = STRICT.model_copy(update={"min_lse_c": 0.0})


def test_a_bound_is_found_that_rejects_the_damage_and_keeps_the_true_pairs():
    found = calibration.calibrate(rows(), LOOSE)
    assert found.rejected_by_old["lips_other_words"] == 0
    assert found.rejected["lips_other_words"] >= calibration.TARGET
    assert found.rejected["true_pair"] == 0
    assert 0.25 < found.bounds["min_lse_c"] < 0.7
    assert found.missed == []
    assert [point.tightness for point in found.curve] == list(calibration.TIGHTNESS)


def test_a_bound_without_damages_of_its_own_stays():
    found = calibration.calibrate(rows(), LOOSE)
    assert found.bounds["min_words_right"] == STRICT.min_words_right
    assert found.bounds["max_old_motion_correlation"] == STRICT.max_old_motion_correlation


def test_a_damage_that_looks_like_a_true_pair_is_reported_as_missed():
    alike = [row | {"damage": "mouth_blurred"} for row in rows() if row["damage"] == "true_pair"]
    found = calibration.calibrate([*rows(), *alike], LOOSE)
    assert found.missed == ["mouth_blurred"]
    assert found.rejected["true_pair"] <= calibration.MAX_TRUE


def test_a_figure_that_could_not_be_measured_counts_as_rejected():
    unknown = [
        row | {"figures": row["figures"] | {"lse_c": float("nan")}} for row in rows() if row["damage"] != "true_pair"
    ]
    true = [row for row in rows() if row["damage"] == "true_pair"]
    assert calibration.calibrate([*true, *unknown], LOOSE).rejected["lips_other_words"] == 1
