"""nano's modules, untrained, through the library's own paths: sizes, ratios and rates fit before any hour is spent on training."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from dubmill import params
from dubmill.backbone import Modules, load, load_scorers
from dubmill.codec import decode, encode, shape_of
from dubmill.generation import generate, inpaint
from dubmill.nano import face, weights, world
from dubmill.nano.captions import caption
from dubmill.nano.scorer_nets import ScorerNets
from dubmill.nano_card.films import clip_of
from dubmill.steps.backbone import backbone
from dubmill.steps.inpaint import half_region

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def values() -> params.Params:
    """The committed params at the world's size, with two steps of sampling."""
    told = params.load(ROOT / "params.yaml")
    quick = told.synthesize.sampling.model_copy(update={"num_steps": 2})
    size = {"num_frames": world.NUM_FRAMES, "height": face.FRAME_SIZE, "width": face.FRAME_SIZE}
    filmed = {"sampling": quick, "frame_rate": world.FRAME_RATE, **size}
    changed = {
        "synthesize": told.synthesize.model_copy(update=filmed),
        "inpaint": told.inpaint.model_copy(update={"sampling": quick}),
    }
    return told.model_copy(update=changed)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained nano, shipped as a trained one is."""
    run, out = tmp_path_factory.mktemp("untrained") / "run", tmp_path_factory.mktemp("untrained") / "weights"
    (run / "scorers").mkdir(parents=True)
    save_file(ScorerNets().state_dict(), run / "scorers" / "scorers.safetensors")
    weights.ship(run, out)
    return out


@pytest.fixture(scope="module")
def opened(shipped: Path, values: params.Params, tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "materialize", partial(weights.materialize, weights=shipped))
        return backbone(values.backbone, tmp_path_factory.mktemp("nano") / "backbone")


@pytest.fixture(scope="module")
def modules(opened) -> Modules:
    return load(opened)


@pytest.fixture(scope="module")
def film() -> world.Film:
    return world.film(world.puppet(5), world.random_phrases(np.random.default_rng(0)), motion_seed=5)


def test_a_trained_nano_will_stay_under_its_size(shipped: Path):
    sizes = {path: path.stat().st_size for path in shipped.rglob("*") if path.is_file()}
    lexicon = sizes.pop(shipped / "lexicon.safetensors")
    assert sum(sizes.values()) < 30e6
    assert lexicon < 12e6


def test_the_ratios_are_ltx_2s_own(modules: Modules):
    geometry = modules.geometry
    assert (geometry.temporal, geometry.spatial) == (8, 32)
    assert (geometry.sample_rate_hz, geometry.output_sample_rate_hz) == (16000, 24000)


@pytest.mark.parametrize("is_half", [False, True])
def test_a_film_goes_through_the_codec_and_keeps_its_shape(modules: Modules, film: world.Film, is_half: bool):
    clip = clip_of(world.halves(film)[1] if is_half else film)
    shape = shape_of(clip, modules)
    assert (shape.frames, shape.height, shape.width) == (5 if is_half else 9, 4, 4)
    (back,) = decode(encode([clip], modules), shape, clip.frame_rate, modules)
    assert back.frames_FHWC.shape == clip.frames_FHWC.shape
    assert back.sample_rate_hz == world.SAMPLE_RATE_HZ
    assert abs(back.audio_CN.shape[1] - clip.audio_CN.shape[1]) < 0.06 * world.SAMPLE_RATE_HZ


def test_a_clip_is_made_from_a_caption_and_half_of_one_is_made_anew(
    modules: Modules, film: world.Film, values: params.Params
):
    told = caption(world.puppet(5).describe(), film.phrases)
    (made,) = generate([told], [1], values.synthesize, modules)
    assert made.frames_FHWC.shape == film.frames_FHWC.shape
    clip = clip_of(film)
    region = half_region([clip], [film.mouth_box_F4], "second", values.inpaint, modules)
    settings = values.inpaint
    (anew,) = inpaint([clip], [told], region, [1], settings.sampling, settings.resamplings, modules)
    assert anew.frames_FHWC.shape == film.frames_FHWC.shape


def test_the_scorers_take_what_the_world_gives(opened, film: world.Film):
    judge = load_scorers(opened)
    assert judge.mouth(film.frames_FHWC).shape == (world.NUM_FRAMES, 5)
    assert judge.identity(film.frames_FHWC).shape == (24,)
    heard_N = film.audio_N[: len(film.audio_N) // 3 * 3].reshape(-1, 3)[:, :2].reshape(-1)
    assert judge.speech_opening(heard_N, world.NUM_FRAMES).shape == (world.NUM_FRAMES,)
    assert np.isfinite(judge.sync_distances(film.frames_FHWC, heard_N)).all()
    assert film.frames_FHWC.shape[1] == face.FRAME_SIZE
