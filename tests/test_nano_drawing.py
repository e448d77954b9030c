"""Drawing: edges cover what they should, layers move by parts of a pixel, and colours stay in range."""

from __future__ import annotations

import numpy as np
import pytest

from dubmill.nano import face, room
from dubmill.nano.drawing import PHASES, Layer, Sprite


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


@pytest.mark.parametrize(("across", "down"), [(1, 0), (0, 3), (5, -2), (-7, 9)])
def test_a_sprite_moves_by_parts_of_a_pixel(across: int, down: int):
    def middle(frame_CHW: np.ndarray) -> np.ndarray:
        rows, columns = np.mgrid[0:64, 0:64]
        return np.array([(frame_CHW[0] * axis).sum() / frame_CHW[0].sum() for axis in (columns, rows)])

    sprite, frames = Sprite(_disc(0, 0, 0.4)), np.zeros((2, 3, 64, 64), np.float32)
    sprite.put(frames[0], 0, 0)
    sprite.put(frames[1], across, down)
    assert middle(frames[1]) - middle(frames[0]) == pytest.approx(np.array([across, down]) / PHASES, abs=0.02)
    assert frames[1].sum() == pytest.approx(frames[0].sum(), rel=1e-3)


def test_a_sprite_half_out_of_the_picture_is_cut_and_one_far_away_is_not_drawn():
    sprite = Sprite(_disc(0, 0, 0.4))
    frame_CHW = np.zeros((3, 64, 64), np.float32)
    sprite.put(frame_CHW, 32 * PHASES, 0)
    assert 0 < frame_CHW[0].sum() < 0.6 * np.pi * (0.4 * 32) ** 2
    empty_CHW = np.zeros((3, 64, 64), np.float32)
    sprite.put(empty_CHW, 200 * PHASES, 0)
    assert not empty_CHW.any()


def test_a_tint_changes_colour_and_no_cover():
    layer = _disc(0, 0, 0.4)
    before = layer.rgba_CHW.copy()
    layer.tint(layer.ellipse(0.3, 0, 0.3, 0.3), (0, 0, 1), strength=0.5)
    assert np.array_equal(layer.rgba_CHW[3], before[3])
    assert (layer.rgba_CHW[2] > before[2] + 0.1).any()
    assert (layer.rgba_CHW[:3] <= layer.rgba_CHW[3] + 1e-6).all()


def test_the_room_grows_bright():
    frames_FCHW = room.draw_room(np.float32([0.4, 0.55, 0.85]), 1, np.array([0.0, 0.5, 1.0]))
    walls = [float(frame[:, 90:, :].mean()) for frame in frames_FCHW]
    assert walls[0] < walls[1] < walls[2]
    assert frames_FCHW.min() >= 0


def test_every_style_of_hair_is_another_head():
    heads = {}
    moves = face.motion(np.random.default_rng(0), np.zeros(1), np.zeros(1), np.full(1, 9.0))
    for seed in range(60):
        who = face.puppet(seed, (0,))
        heads.setdefault(who.style, face.draw(who, moves, np.float32([[0, 0.5, 0]]), np.zeros(1))[0])
    assert set(heads) == set(face.STYLES)
    frames = list(heads.values())
    assert all(np.abs(one.astype(int) - other).mean() > 5 for one, other in zip(frames, frames[1:], strict=False))


def test_iris_colours_can_be_told_apart_in_the_picture():
    shades = []
    for iris in face.IRISES:
        who = face.puppet(1, (0,))
        seen = face.Puppet(**{**who.__dict__, "iris": iris})
        moves = face.Motion(*(np.array([value]) for value in (0.0, 0.0, 1.0, 0.0, 0.0, 9.0)))
        frame_HWC = face.draw(seen, moves, np.float32([[0, 0.5, 0]]), np.zeros(1))[0]
        x0, y0, x1, y1 = face.eyes_boxes(seen, moves)[0].round().astype(int)
        pixels = frame_HWC[y0:y1, x0:x1].reshape(-1, 3).astype(float)
        nearest = pixels[np.abs(pixels - np.array(iris) * 255).sum(axis=1).argmin()]
        shades.append(np.abs(nearest - np.array(iris) * 255).max())
    assert max(shades) < 25
