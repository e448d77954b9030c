"""How much of a dub's picture is kept: around whom, where nobody is, and what is told of it."""

import sys
from fractions import Fraction

import numpy as np
import pytest
from doubles.faces import FixedDetector, face

from dubmill.artifacts.manifest import Lineage
from dubmill.artifacts.store import Backbone
from dubmill.dubbing import open as opening
from dubmill.errors import UnreadableMediaError, UsageError
from dubmill.faces import NO_DETECTION, FaceMasker, check_face_choice, check_picture_choice, timed_sentences
from dubmill.media.clips import Clip

RATE, SIZE = Fraction(25), (90, 160)
LEFT, RIGHT = 40.0, 120.0
BOTH = [face(LEFT, y=45, side=30), face(RIGHT, y=45, side=30)]
SOURCE, DUB = 50, 200  # how bright their pictures are


def clip(brightness, num_frames=50):
    sound = np.full((1, round(num_frames / RATE * 16_000)), brightness / 1000, np.float32)
    return Clip(np.full((num_frames, *SIZE, 3), brightness, np.uint8), RATE, sound, 16_000)


def kept(found, choice="", *, start_seconds=0.0):
    """What is kept of a dub of a clip in choice `found` was seen, and the two composited over each other."""
    was = clip(SOURCE, len(found))
    mask = FaceMasker(FixedDetector(found), "").mask(was, choice, start_seconds=start_seconds)
    return mask, mask.composite(was, clip(DUB, len(found)))


def test_a_clip_of_one_face_shows_the_dub_around_it_the_whole_dub_or_nothing_of_it():
    dub, masker = clip(DUB), FaceMasker(FixedDetector([[BOTH[0]]] * 50), "")
    local, whole, none = (
        masker.mask(clip(SOURCE), "", start_seconds=0.0, picture=picture) for picture in ("face", "whole", "keep")
    )
    frames_FHWC = local.composite(clip(SOURCE), dub).frames_FHWC
    assert (frames_FHWC[:, 30:60, 25:55] == DUB).all()
    assert (frames_FHWC[:, :, 80:] == SOURCE).all()
    assert whole.composite(clip(SOURCE), dub) is dub
    assert (none.composite(clip(SOURCE), dub).frames_FHWC == SOURCE).all()
    assert local.notes == whole.notes == none.notes == ()


def test_a_picture_choice_that_is_none_is_refused():
    with pytest.raises(UsageError, match="choose face, whole, keep"):
        check_picture_choice("mouth")


def test_of_two_faces_only_the_chosen_one_is_dubbed_and_the_edge_is_soft():
    for choice, own, other in (("left", LEFT, RIGHT), ("2", RIGHT, LEFT)):
        mask, composited = kept([BOTH] * 50, choice)
        own_box, other_box = (np.s_[:, 30:60, int(x) - 15 : int(x) + 15] for x in (own, other))
        assert (composited.frames_FHWC[own_box] == DUB).all()
        assert (composited.frames_FHWC[other_box] == SOURCE).all()
        across_W = composited.frames_FHWC[0, 45, :, 0].astype(int)
        assert np.abs(np.diff(across_W)).max() <= (DUB - SOURCE) / 8
        assert (composited.frames_FHWC[:, :, [0, -1]] == SOURCE).all()
        assert timed_sentences(mask.notes) == ("1 other face left unchanged (0:00:00.0 to 0:00:02.0)",)


def test_a_neighbour_cheek_to_cheek_stays_untouched():
    near = [face(60, y=45, side=30), face(86, y=45, side=30)]
    _, composited = kept([near] * 20, "left")
    assert (composited.frames_FHWC[:, 30:60, 71:101] == SOURCE).all()
    assert (composited.frames_FHWC[:, 35:55, 46:60] == DUB).all()


def test_a_face_in_the_background_is_left_even_where_nobody_chose():
    _, composited = kept([[face(80, y=45, side=60), face(10, y=12, side=20)]] * 20)
    assert (composited.frames_FHWC[:, 20:70, 55:105] == DUB).all()
    assert (composited.frames_FHWC[:, 2:22, 0:20] == SOURCE).all()


def test_what_is_kept_scales_with_the_picture():
    mask, _ = kept([BOTH] * 20, "right")
    small, large = mask.weights(3, *SIZE), mask.weights(3, 2 * SIZE[0], 2 * SIZE[1])
    assert large[::2, ::2] == pytest.approx(small, abs=0.1)


def test_a_face_lost_for_a_while_shows_the_source_there_and_fades():
    found = [[BOTH[0]]] * 20 + [[]] * 20 + [[BOTH[0]]] * 20
    mask, composited = kept(found, start_seconds=60.0)
    assert (composited.frames_FHWC[20:40] == SOURCE).all()
    level_F = composited.frames_FHWC[:, 30:60, 25:55].mean(axis=(1, 2, 3))
    assert (level_F[20:40] == SOURCE).all()
    assert (level_F[[0, 10, 50, 59]] == DUB).all()
    assert 0 < np.abs(np.diff(level_F)).max() <= (DUB - SOURCE) / 4
    assert np.array_equal(composited.audio_CN, clip(DUB, 60).audio_CN)
    assert timed_sentences(mask.notes) == ("the face is lost, so the picture is unchanged (0:01:00.8 to 0:01:01.6)",)


def test_without_a_face_the_picture_is_the_sources_and_the_sound_the_dubs():
    mask, composited = kept([[]] * 20)
    assert (composited.frames_FHWC == SOURCE).all()
    assert np.array_equal(composited.audio_CN, clip(DUB, 20).audio_CN)
    assert "no face is visible" in timed_sentences(mask.notes)[0]


def test_a_choice_where_only_one_face_is_seen_takes_that_one_and_tells():
    mask, composited = kept([[BOTH[1]]] * 20, "2")
    assert (composited.frames_FHWC[:, 30:60, 105:135] == DUB).all()
    assert (composited.frames_FHWC[:, :, :80] == SOURCE).all()
    assert "only one face is visible" in timed_sentences(mask.notes)[0]


def test_several_faces_without_a_choice_are_listed():
    with pytest.raises(UnreadableMediaError, match="1 at 25 %.*2 at 75 %.*--face"):
        kept([BOTH] * 20)
    with pytest.raises(UsageError, match="'3'.*1 at 25 %"):
        kept([BOTH] * 20, "3")


def test_all_keeps_everything_and_looks_for_nothing():
    class Never:
        jitter_frames = 0

        def detect(self, frames_FHWC):
            pytest.fail("frames were looked at")

    dub = clip(DUB)
    assert FaceMasker(Never(), "").mask(clip(SOURCE), "all", start_seconds=0.0).composite(clip(SOURCE), dub) is dub


def test_without_a_detector_the_whole_picture_is_kept_and_told_and_no_face_can_be_chosen():
    undetected, dub = FaceMasker(None, "pip install 'dubmill[faces]'"), clip(DUB)
    mask = undetected.mask(clip(SOURCE), "", start_seconds=0.0)
    assert mask.composite(clip(SOURCE), dub) is dub
    assert "faces were not detected; to have that: pip install" in timed_sentences(mask.notes)[0]
    with pytest.raises(UsageError, match=r"'left'.*pip install"):
        undetected.mask(clip(SOURCE), "left", start_seconds=0.0)


@pytest.mark.parametrize("choice", ["", "left", "right", "all", "1", "12"])
def test_what_chooses_a_face(choice):
    check_face_choice(choice)


@pytest.mark.parametrize("choice", ["0", "-1", "middle", "Left", "1.5", "1 2", "left\n"])
def test_what_chooses_none(choice):
    with pytest.raises(UsageError, match="left, right, all"):
        check_face_choice(choice)


def backbone_of_source(out, source):
    return Backbone.draft(out, Lineage(step="backbone", params={})).seal({"source": source, "text_encoder_digest": "t"})


def test_nobody_looks_for_faces_in_a_world_that_has_one_to_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("dubmill.worlds.nano.NanoWorld.face_detector", lambda world: pytest.fail("a finder was loaded"))
    masker = opening.open_face_masker(backbone_of_source(tmp_path, "nano").path)
    assert masker == NO_DETECTION
    assert masker.mask(clip(SOURCE), "2", start_seconds=0.0).notes == ()


def test_a_missing_detector_does_not_keep_a_dub_from_being_made(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    masker = opening.open_face_masker(backbone_of_source(tmp_path, "hub").path)
    assert (masker.detector, masker.cure) == (None, "pip install 'dubmill[faces]'")
