"""Drawing: the area, the edges and the colours of shapes, layers moved by parts of a pixel, and what tells puppets apart."""

from __future__ import annotations

import numpy as np
import pytest

from dubmill.nano import face, portrait, puppets, room, sketch, world
from dubmill.nano.drawing import PHASES, Layer, Sprite
from dubmill.nano.pretrain import data
from dubmill.nano.puppets import Motion


def _disc(x: float, y: float, radius: float, size: int = 64) -> Layer:
    layer = Layer(size)
    layer.paint(layer.ellipse(x, y, radius, radius), (1.0, 0.5, 0.25))
    return layer


def test_a_disc_covers_its_area_and_its_colours_are_premultiplied():
    picture_CHW = _disc(0.1, -0.2, 0.4).small()
    assert picture_CHW[3].sum() == pytest.approx(np.pi * (0.4 * 32) ** 2, rel=0.01)
    assert np.allclose(picture_CHW[:3], picture_CHW[3] * np.float32([1.0, 0.5, 0.25])[:, None, None], atol=1e-6)


def test_an_edge_is_soft_over_about_a_pixel():
    row_W = _disc(0.0, 0.0, 0.5).small()[3, 32]
    assert 2 <= ((row_W > 0.02) & (row_W < 0.98)).sum() <= 4


def test_a_shape_thinner_than_a_pixel_is_as_much_paler():
    areas = []
    for height in (0.02, 0.01, 0.005):
        layer = Layer(64)
        layer.paint(layer.ellipse(0, 0, 0.5, height), (1, 1, 1))
        areas.append(layer.small()[3].sum())
    assert areas[0] / areas[1] == pytest.approx(2, rel=0.1)
    assert areas[1] / areas[2] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("across", [1, 3, 5, -7])
def test_a_sprite_moves_by_parts_of_a_pixel(across: int):
    def middle(frame_CHW: np.ndarray) -> np.ndarray:
        rows, columns = np.mgrid[0:64, 0:64]
        return np.array([(frame_CHW[0] * axis).sum() / frame_CHW[0].sum() for axis in (columns, rows)])

    sprite, frames = Sprite(_disc(0, 0, 0.4)), np.zeros((2, 3, 64, 64), np.float32)
    sprite.put(frames[0], 0)
    sprite.put(frames[1], across)
    assert middle(frames[1]) - middle(frames[0]) == pytest.approx(np.array([across / PHASES, 0]), abs=0.02)
    assert frames[1].sum() == pytest.approx(frames[0].sum(), rel=1e-3)


def test_a_sprite_half_out_of_the_picture_is_cut_and_one_far_away_is_not_drawn():
    sprite = Sprite(_disc(0, 0, 0.4))
    frame_CHW = np.zeros((3, 64, 64), np.float32)
    sprite.put(frame_CHW, 32 * PHASES)
    assert 0 < frame_CHW[0].sum() < 0.6 * np.pi * (0.4 * 32) ** 2
    empty_CHW = np.zeros((3, 64, 64), np.float32)
    sprite.put(empty_CHW, 200 * PHASES)
    assert not empty_CHW.any()


def test_a_tint_changes_colour_and_no_cover():
    layer = _disc(0, 0, 0.4)
    before = layer.rgba_CHW.copy()
    layer.tint(layer.ellipse(0.3, 0, 0.3, 0.3), (0, 0, 1), strength=0.5)
    assert np.array_equal(layer.rgba_CHW[3], before[3])
    assert (layer.rgba_CHW[2] > before[2] + 0.1).any()
    assert (layer.rgba_CHW[:3] <= layer.rgba_CHW[3] + 1e-6).all()


def test_the_room_grows_bright():
    frames_FCHW = room.draw_room((0.4, 0.55, 0.85), 1, np.array([0.0, 0.5, 1.0]))
    walls = [float(frame[:, 90:, :].mean()) for frame in frames_FCHW]
    assert walls[0] < walls[1] < walls[2]
    assert frames_FCHW.min() >= 0


STILL = Motion(*(np.array([value]) for value in (0.0, 0.0, 1.0, 0.0, 9.0)))
CLOSED_F3 = np.float32([[0, 0.5, 0]])


def test_every_style_of_hair_is_another_head():
    heads = {}
    for seed in range(60):
        puppet = puppets.draw_puppet(seed, 1)
        heads.setdefault(portrait.looks(puppet).style, face.draw(puppet, STILL, CLOSED_F3, np.zeros(1))[0])
    assert set(heads) == set(portrait.STYLE_OF_HAIR.values())
    frames = list(heads.values())
    assert all(np.abs(one.astype(int) - other).mean() > 5 for one, other in zip(frames, frames[1:], strict=False))


def test_every_iris_shows_in_its_colour():
    seen = set()
    for seed in range(40):
        puppet = puppets.draw_puppet(seed, 1)
        iris = portrait.looks(puppet).iris
        x0, y0, x1, y1 = face.eye_boxes(puppet, STILL)[0].round().astype(int)
        pixels = face.draw(puppet, STILL, CLOSED_F3, np.zeros(1))[0, y0:y1, x0:x1].reshape(-1, 3).astype(float)
        assert np.abs(pixels - np.array(iris) * 255).max(axis=1).min() < 25
        seen.add(iris)
    assert seen == set(portrait.IRIS_OF_SKIN.values())


def test_puppets_with_the_same_caption_have_the_same_looks():
    """What the latents of a sketch do not hold must follow from what they hold."""
    kinds = {}
    for seed in range(300):
        puppet = puppets.draw_puppet(seed, 1)
        kinds.setdefault(puppet.describe(), set()).add(portrait.looks(puppet))
    assert len(kinds) == 64
    assert all(len(found) == 1 for found in kinds.values())


@pytest.mark.parametrize("drawing", [face, sketch])
def test_the_mouth_box_holds_every_pixel_that_speech_changes(drawing: puppets.Drawing):
    puppet = puppets.draw_puppet(3, 1)
    open_F3 = np.float32([[0.8, 0.6, 0.2]])
    before, after = (drawing.draw(puppet, STILL, mouth_F3, np.zeros(1))[0] for mouth_F3 in (CLOSED_F3, open_F3))
    x0, y0, x1, y1 = drawing.lip_boxes(STILL, open_F3)[0]
    rows, columns = np.nonzero(np.abs(before.astype(int) - after).max(axis=2) > 24)
    assert y0 - 1 <= rows.min() < rows.max() <= y1 + 1
    assert x0 - 1 <= columns.min() < columns.max() <= x1 + 1


def test_the_mouth_covers_the_same_tokens_in_the_frames_and_in_their_sketch():
    """The base was trained to inpaint the tokens of the sketch's mouth."""
    for seed in range(40):
        tokens = []
        for drawing, size in ((face, 128), (sketch, 64)):
            rendition = world.Rendition(drawing, is_posed=drawing is sketch)
            box_F4 = data.take(seed, is_drawn=False, rendition=rendition).film.mouth_box_F4 * 4 / size
            x0, y0, x1, y1 = *box_F4[:, :2].min(0), *box_F4[:, 2:].max(0)
            tokens.append((int(y0), int(np.ceil(y1)), max(1, int(x0)), min(3, int(np.ceil(x1)))))
        assert tokens[0] == tokens[1]


def test_frames_show_no_sway_and_the_sketches_of_the_encoder_show_none_either():
    """The encoder cannot give a pose that it does not see, so it learns from sketches that have none."""
    eyes = {
        name: data.take(5, is_drawn=False, rendition=rendition).film.eyes_box_F4
        for name, rendition in (("full", world.FULL), ("still", data.STILL_SKETCHES), ("posed", data.SKETCHES))
    }
    assert np.ptp(eyes["full"], axis=0).max() == 0
    assert np.ptp(eyes["still"], axis=0).max() == 0
    assert np.ptp(eyes["posed"], axis=0).max() > 1
    sizes = {
        tuple(data.take(seed, is_drawn=False, rendition=data.STILL_SKETCHES).film.eyes_box_F4[0]) for seed in range(8)
    }
    assert len(sizes) == 1
