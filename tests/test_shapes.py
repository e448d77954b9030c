"""Pixels to latents and back, on LTX-2's numbers and on nano's."""

import pytest

from dubmill.errors import InvalidParamsError
from dubmill.model import shapes

LTX2 = shapes.Geometry(8, 32, 128, 128, 16000, 24000, 160, 4, 2)


def test_the_released_bucket_has_the_published_token_counts():
    shape = shapes.latent_shape(num_frames=121, height=352, width=640, frame_rate=25, geometry=LTX2)
    assert (shape.frames, shape.height, shape.width, shape.audio) == (16, 11, 20, 121)
    assert shape.video_tokens == 3520


@pytest.mark.parametrize("temporal", [4, 8])
def test_every_frame_lies_in_the_latent_that_lists_it(temporal):
    for index in range(6):
        assert all(
            shapes.latent_of_frame(frame, temporal) == index for frame in shapes.frames_of_latent(index, temporal)
        )
    assert shapes.pixel_frames(6, temporal) == shapes.frames_of_latent(5, temporal).stop


def test_the_halves_of_a_switch_clip_share_the_middle_frame_and_fit_the_latents():
    assert shapes.half_frames(241, 8) == 121
    assert shapes.half_frames(25, 4) == 13


@pytest.mark.parametrize(("frames", "said"), [(120, "113 or 121"), (233, "225 or 241")])
def test_a_clip_without_halves_is_refused_with_the_nearest_lengths(frames, said):
    with pytest.raises(InvalidParamsError, match=said):
        shapes.half_frames(frames, 8)


def test_a_side_that_does_not_divide_is_named():
    with pytest.raises(InvalidParamsError, match="width 650"):
        shapes.latent_shape(num_frames=121, height=352, width=650, frame_rate=25, geometry=LTX2)
