"""Training pairs dubbed while an adapter trains: what is written, and that the training does not know of it."""

import os
import signal
from fractions import Fraction

import pytest
import torch
from doubles import miniature, noise_pairs
from doubles.deaths import dying_at
from doubles.noise_pairs import PARAMS

from dubmill import adapters, media
from dubmill.artifacts.files import LOSSES_FILE
from dubmill.artifacts.store import Adapter
from dubmill.config.training import ValidationParams
from dubmill.errors import InterruptedStepError, InvalidParamsError, UnsealedArtifactError
from dubmill.model import pipeline as model_pipeline
from dubmill.model.conditioning import patched_attention
from dubmill.model.load import load
from dubmill.model.loras import add_sampling_lora
from dubmill.steps.train import train
from dubmill.training import trainer as training

GUIDED = miniature.plain_sampling(2).model_copy(update={"video_guidance": 3.0, "video_stg": 1.0, "stg_blocks": [1]})
OFTEN = PARAMS.model_copy(update={"validation": ValidationParams(every_steps=2, num_clips=5, sampling=GUIDED)})
NAMES = [f"validation-{step:08d}-{pair}.mp4" for step in (2, 4, 6) for pair in (0, 1)]  # there are two pairs


@pytest.fixture(scope="module")
def latents(mini_backbone, mini, tmp_path_factory):
    return noise_pairs.latents(mini_backbone, mini, tmp_path_factory.mktemp("latents") / "latents")


@pytest.fixture(scope="module")
def adapter(mini_backbone, latents, tmp_path_factory):
    """Trained with dropout, and looked at every other step."""
    return train(mini_backbone, latents, OFTEN, tmp_path_factory.mktemp("validated") / "adapter")


def of(folder):
    return sorted(path.name for path in folder.glob("*.mp4"))


def test_every_so_many_steps_each_pair_is_dubbed_into_an_mp4_beside_its_reference_and_sealed(adapter):
    assert of(adapter.path) == NAMES
    assert set(NAMES) <= set(adapter.manifest.files)
    clip = media.read(adapter.path / NAMES[-1], frame_rate=None, sample_rate_hz=24000, channels=2)
    assert clip.frames_FHWC.shape == (17, 64, 2 * 96, 3)
    assert clip.frame_rate == Fraction(25)
    left, right = clip.frames_FHWC[:, :, :96], clip.frames_FHWC[:, :, 96:]
    assert (left != right).mean() > 0.5
    first, last = ((adapter.path / name).read_bytes() for name in (NAMES[0], NAMES[-2]))
    assert first != last, "the adapter has learnt in between"


@pytest.mark.parametrize("attention", ["full", "self"])
def test_a_training_with_validation_is_bit_for_bit_the_one_without(
    attention, mini_backbone, latents, adapter, tmp_path
):
    """With dropout, which a transformer left in evaluation mode would not have, and with cached references."""
    looked_at = adapter
    if attention == "self":
        looked_at = train(
            mini_backbone, latents, OFTEN.model_copy(update={"reference_attention": "self"}), tmp_path / "looked-at"
        )
    plain = train(
        mini_backbone, latents, PARAMS.model_copy(update={"reference_attention": attention}), tmp_path / "plain"
    )
    assert not of(plain.path)
    assert of(looked_at.path) == NAMES
    one, other = ((made.path / LOSSES_FILE).read_bytes() for made in (plain, looked_at))
    assert one == other
    weights = [adapters.read_lora(made.path / adapters.WEIGHTS) for made in (plain, looked_at)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_validation_leaves_draws_modes_gradients_and_cached_references_as_they_were(mini_backbone, latents, tmp_path):
    params = OFTEN.model_copy(update={"reference_attention": "self"})
    trainer = training.Trainer(load(mini_backbone), latents, params, tmp_path, training.build_accelerator(params))
    transformer, seen = trainer.modules.transformer, {}

    def state():
        layers = [block.attn1.processor for block in transformer.transformer_blocks]
        return {
            "draws": torch.get_rng_state().tolist(),
            "modes": [module.training for module in transformer.modules()],
            "gradients": [(value.requires_grad, value.grad) for value in trainer.lora.values()],
            "references": [(id(layer), [part.sum().item() for part in layer.reference]) for layer in layers],
            "hooks": sum(len(module._forward_hooks) for module in transformer.modules()),
        }

    make = trainer.validation.dub_examples

    def watched(*args, **options):
        before = state()
        make(*args, **options)
        seen.update(before=before, after=state())

    trainer.validation.dub_examples = watched
    trainer.run(lambda row: None)
    assert any(seen["before"]["modes"])
    assert seen["before"] == seen["after"]


def test_a_validation_dub_has_the_distilled_lora_and_the_training_has_not(latents, mini_backbone, tmp_path):
    backbone = miniature.backbone(tmp_path / "backbone", distilled_lora=miniature.lora_file())
    modules = load(backbone)
    sampling = GUIDED.model_copy(update={"lora": "distilled"})
    params = PARAMS.model_copy(update={"validation": ValidationParams(every_steps=6, num_clips=1, sampling=sampling)})
    add_sampling_lora(modules, backbone, "distilled")
    trainer = training.Trainer(modules, latents, params, tmp_path, training.build_accelerator(params))
    layer = modules.transformer.transformer_blocks[0].attn1.to_q
    before, active = layer.lora_B["distilled"].weight.clone(), {"training": set(), "dub": set()}
    layer.register_forward_pre_hook(
        lambda module, args: active["training" if layer.training else "dub"].update(layer.active_adapters)
    )
    trainer.run(lambda row: None)
    assert active == {"training": {"dub"}, "dub": {"dub", "distilled"}}
    assert torch.equal(layer.lora_B["distilled"].weight, before)
    assert not [name for name in trainer.lora if "distilled" in name]
    assert not layer.lora_B["distilled"].weight.requires_grad


@pytest.mark.parametrize("attention", ["full", "self"])
def test_a_dub_in_the_midst_of_training_is_the_one_that_is_made_outside_of_it(
    attention, mini_backbone, latents, tmp_path
):
    """Trap: the layers are told twice how to read a reference, by the training and by the dub."""
    params = OFTEN.model_copy(update={"reference_attention": attention})
    trainer = training.Trainer(load(mini_backbone), latents, params, tmp_path, training.build_accelerator(params))
    trainer.modules.transformer.eval()
    with patched_attention(trainer.modules.transformer, trainer.layout):
        inside = trainer.validation._dub(0, lambda: False)
    outside = trainer.validation._dub(0, lambda: False)
    assert torch.equal(inside.video_BSD, outside.video_BSD)
    assert torch.equal(inside.audio_BLD, outside.audio_BLD)


def test_a_run_killed_between_two_validations_has_the_same_dubs_when_it_is_done(
    mini_backbone, latents, adapter, tmp_path
):
    with dying_at(5):
        train(mini_backbone, latents, OFTEN, tmp_path / "adapter")
    assert of(tmp_path / "adapter") == NAMES[:4]
    (tmp_path / "adapter" / NAMES[3]).unlink()  # as if it had been killed while it looked
    assert train(mini_backbone, latents, OFTEN, tmp_path / "adapter").digest == adapter.digest


def test_a_run_stopped_while_it_validates_saves_its_step_at_once_and_validates_when_it_resumes(
    mini_backbone, latents, adapter, tmp_path, monkeypatch
):
    step, steps = model_pipeline.denoising_step, []

    def asked_at_the_third(*args):
        steps.append(args)
        if len(steps) == 3:  # two steps a dub: in the second pair's
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args)

    monkeypatch.setattr(model_pipeline, "denoising_step", asked_at_the_third)
    with pytest.raises(InterruptedStepError, match="step 2"):
        train(mini_backbone, latents, OFTEN, tmp_path / "adapter")
    assert len(steps) == 3
    assert of(tmp_path / "adapter") == NAMES[:1]
    with pytest.raises(UnsealedArtifactError):
        Adapter.open(tmp_path / "adapter")
    monkeypatch.setattr(model_pipeline, "denoising_step", step)
    assert train(mini_backbone, latents, OFTEN, tmp_path / "adapter").digest == adapter.digest


def test_blocks_that_the_transformer_does_not_have_are_refused_before_the_first_step(mini_backbone, latents, tmp_path):
    sampling = GUIDED.model_copy(update={"stg_blocks": [29]})
    params = OFTEN.model_copy(update={"validation": OFTEN.validation.model_copy(update={"sampling": sampling})})
    with pytest.raises(InvalidParamsError, match="stg_blocks"):
        train(mini_backbone, latents, params, tmp_path / "adapter")
