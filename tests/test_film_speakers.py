"""Who speaks in each segment, and whose face moves: over all segments of a speaker together, from shot to shot."""

import sys
from pathlib import Path

import numpy as np
import pytest
from doubles.faces import face

from dubmill.dubbing.project import Row
from dubmill.dubbing.project.speakers import Observation, SeenFace, assign_speakers
from dubmill.errors import UsageError
from dubmill.faces import track_face
from dubmill.faces.blending import check_face_choice

ANA, BEN, CARLA = np.eye(3, dtype=np.float32)
SAME = {"same_voice": 0.6, "same_face": 0.6}


def rows(*speakers, **changes):
    return [Row(f"s{n}", 2.0 * n, 2.0 * n + 1, speaker=name, **changes) for n, name in enumerate(speakers)]


def heard(voice, *faces):
    """Faces as (who, place, sync)."""
    return Observation(voice, tuple(SeenFace(place, who, sync) for who, place, sync in faces))


def table(rows):
    return [(row.speaker, row.face) for row in rows]


def test_the_face_is_followed_when_a_shot_shows_it_elsewhere_and_a_segment_without_it_is_off_screen():
    observations = [
        heard(ANA, (ANA, 0.25, 0.9), (BEN, 0.75, 0.1)),
        heard(BEN, (BEN, 0.3, 0.8), (ANA, 0.7, 0.2)),
        heard(ANA, (BEN, 0.5, 0.3)),
        heard(ANA, (ANA, 0.27, 0.9)),
    ]
    assert table(assign_speakers(rows("Ana", "Ben", "Ana", "Ana"), observations, **SAME)) == [
        ("Ana", "25%"), ("Ben", "30%"), ("Ana", "none"), ("Ana", "25%"),
    ]  # fmt: skip


def test_one_segment_in_which_another_mouth_fits_better_by_chance_is_outvoted():
    pair = [(ANA, 0.2, 0.9), (BEN, 0.8, 0.1)]
    chance = [(ANA, 0.2, 0.5), (BEN, 0.8, 0.7)]
    both = [heard(ANA, *pair), heard(ANA, *chance), heard(ANA, *pair)]
    assert [face for _, face in table(assign_speakers(rows("Ana", "Ana", "Ana"), both, **SAME))] == ["20%"] * 3


def test_a_narrator_whose_mouth_is_never_seen_to_move_has_no_face_even_alone_with_one():
    observations = [heard(CARLA, (ANA, 0.5, 0.2)), heard(CARLA, (ANA, 0.5, 0.1)), heard(CARLA)]
    assert table(assign_speakers(rows("N", "N", "N"), observations, **SAME)) == [("N", "none")] * 3


def test_speakers_without_names_are_found_by_their_voices_and_names_of_the_script_spread():
    observations = [heard(voice, (ANA, 0.2, 0.9 if voice is ANA else 0.1)) for voice in (ANA, BEN, ANA, BEN, ANA)]
    found = table(assign_speakers(rows("", "", "Ana", "", ""), observations, **SAME))
    assert found == [("Ana", "20%"), ("speaker 1", "none"), ("Ana", "20%"), ("speaker 1", "none"), ("Ana", "20%")]


def test_silence_has_no_speaker_and_what_a_person_wrote_stays():
    nobody = np.zeros(3, np.float32)
    found = assign_speakers(rows("", "Ben", face="left"), [heard(nobody), heard(BEN, (BEN, 0.5, 0.9))], **SAME)
    assert table(found) == [("", "left"), ("Ben", "left")]


def test_a_face_is_chosen_by_its_place():
    left, right = face(20, 20, 20), face(80, 20, 20)
    how = {"frame_rate": 25.0, "frame_size": (50, 100), "jitter_frames": 0}
    for choice, x0 in (("22%", 10), ("78%", 70), ("100%", 70)):
        assert track_face([[left, right]] * 5, choice=choice, **how).boxes_F4[0, 0] == x0
        check_face_choice(choice)
    with pytest.raises(UsageError, match="is no face"):
        check_face_choice("left%")


def test_two_puppets_that_change_sides_between_shots_are_told_apart(tmp_path):
    """The benchmark's dialogue, of three lines: the true mouth, voice and face by nano's scorers."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    import who_speaks

    from dubmill.config import params
    from dubmill.worlds.materialize import materialize

    base = materialize(params.load(who_speaks.ROOT / "params.yaml").backbone, tmp_path / "backbone")
    found = who_speaks.measure(base, 1, 3, tmp_path, ["voices"])
    assert found["voices"].all()
