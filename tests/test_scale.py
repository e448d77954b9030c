"""Several processes and several tasks: the figures do not depend on their number, and who is stopped loses little."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from doubles import miniature, noise_pairs
from doubles.cluster_jobs import DISRUPTED, ClusterJobs
from doubles.deaths import dying_at
from doubles.dubbing_server import free_port
from safetensors.torch import load_file

from dubmill import adapters, media
from dubmill.artifacts.draft import ShardSlice
from dubmill.artifacts.files import LOSSES_FILE
from dubmill.cluster import jobs, kubernetes
from dubmill.config import params as parameters
from dubmill.config.params import SynthesizeParams
from dubmill.errors import DiskFullError, InvalidParamsError, UnsupportedTextError, UsageError
from dubmill.faces import Face
from dubmill.generation.sampling import Region
from dubmill.launching import run_task, train_on_all_gpus, train_together
from dubmill.model.load import load
from dubmill.prompting import generate_prompts, over_articulated
from dubmill.steps import inpaint as inpaint_module
from dubmill.steps import synthesize as synthesize_module
from dubmill.steps import train as train_module
from dubmill.steps.train import train
from dubmill.training import optimizer as optimizing
from dubmill.training import trainer as training

ROOT = Path(__file__).parents[1]
PARAMS = noise_pairs.PARAMS.model_copy(update={"dropout": 0.0, "batch_size": 3, "accumulate": 2, "num_steps": 4})
LOOKED_AT = PARAMS.model_copy(update={"validation": PARAMS.validation.model_copy(update={"every_steps": 2})})
GLOO = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def latents(mini_backbone, mini, tmp_path_factory):
    return noise_pairs.latents(mini_backbone, mini, tmp_path_factory.mktemp("latents") / "latents")


@pytest.fixture(scope="module")
def alone(mini_backbone, latents, tmp_path_factory):
    """What one process makes."""
    return train(mini_backbone, latents, LOOKED_AT, tmp_path_factory.mktemp("alone") / "adapter")


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch):
    for name, value in GLOO.items():
        monkeypatch.setenv(name, value)


def losses(adapter):
    rows = [json.loads(line) for line in (adapter.path / LOSSES_FILE).read_text().splitlines()]
    return [[row["video"], row["audio"]] for row in rows]


def weights_held(capfd):
    """How many weights the first process of a training said it holds, and of how many."""
    held, of_all = re.search(r"process 1 of 2 holds (\d+) of (\d+) weights", capfd.readouterr().err).groups()
    return int(held), int(of_all)


def same_weights(one, other):
    mine, theirs = (load_file(adapter.path / adapters.WEIGHTS) for adapter in (one, other))
    assert mine.keys() == theirs.keys()
    # Adam turns the last bit of a tiny gradient into a step: the mean difference tells, not the largest
    gaps = torch.stack([(mine[name] - theirs[name]).abs().mean() for name in mine])
    moved = torch.stack([mine[name].abs().mean() for name in mine if "lora_B" in name])
    assert gaps.max() < 1e-3 * moved.mean()


def same_dubs(one, other):
    """The training pair that both dubbed after the last step, but for a rounding here and there."""
    name = f"validation-{PARAMS.num_steps:08d}-0.mp4"
    frames = [
        media.read(adapter.path / name, frame_rate=None, sample_rate_hz=24000).frames_FHWC.astype(float)
        for adapter in (one, other)
    ]
    assert np.abs(frames[0] - frames[1]).mean() < 1


def nodes_of_a_trainjob(command, num_nodes):
    """Runs the command of a TrainJob on `num_nodes` nodes, with the variables that Kubeflow Trainer's torch plugin sets."""
    assert command[0] == "torchrun"
    shared = {"PET_NNODES": str(num_nodes), "PET_NPROC_PER_NODE": "1", "PET_MASTER_ADDR": "127.0.0.1"}
    shared["PET_MASTER_PORT"] = str(free_port())
    program = [sys.executable, "-m", "torch.distributed.run", *command[1:]]
    nodes = [
        subprocess.Popen(program, env={**os.environ, **shared, "PET_NODE_RANK": str(rank)}) for rank in range(num_nodes)
    ]
    return max(node.wait() for node in nodes)


def test_two_nodes_that_share_batches_make_what_one_process_makes(
    mini_backbone, latents, alone, tmp_path, capfd, monkeypatch
):
    """An odd batch, two to an optimizer step: one node holds two samples, the other one. An emulated API runs the TrainJob."""
    (tmp_path / "namespace").write_text("dubmill")
    monkeypatch.setattr(kubernetes, "ACCOUNT", tmp_path)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(kubernetes, "TIMEOUT_SECONDS", 600)  # an answer comes when the nodes have ended
    monkeypatch.setenv("DUBMILL_TRAINING", jobs.JobSpec(2, "image", 1, 1, 0, "work", "/work").to_json())
    with ClusterJobs(lambda command, index: nodes_of_a_trainjob(command, 2)) as api:
        monkeypatch.setenv("DUBMILL_KUBERNETES", api.address)
        shared = train_on_all_gpus(mini_backbone, latents, LOOKED_AT, tmp_path / "ddp")
    held, of_all = weights_held(capfd)
    assert held == of_all
    np.testing.assert_allclose(losses(shared), losses(alone), rtol=1e-4)
    same_weights(shared, alone)
    same_dubs(shared, alone)
    assert not list(shared.path.glob("checkpoint-*"))


def test_two_processes_that_share_the_weights_go_on_from_one_processs_checkpoint_to_what_one_makes(
    mini_backbone, latents, alone, tmp_path, capfd
):
    """FSDP2: base and LoRA are spread over both; a checkpoint is whole, so that their number may change."""
    params = LOOKED_AT.model_copy(update={"parallel": "fsdp", "gradient_checkpointing": True})
    with dying_at(2):
        train(mini_backbone, latents, params, tmp_path / "fsdp")
    shared = train_together(mini_backbone, latents, params, tmp_path / "fsdp", num_processes=2)
    held, of_all = weights_held(capfd)
    assert held < 0.6 * of_all
    np.testing.assert_allclose(losses(shared), losses(alone), rtol=1e-4)
    same_weights(shared, alone)
    same_dubs(shared, alone)


class OnTheWay(Exception):
    """Raised in the place of a training that is not to begin."""


@pytest.mark.parametrize(("parallel", "moved"), [("fsdp", set()), ("ddp", {"LTX2VideoTransformer3DModel"})])
def test_weights_that_are_to_be_spread_never_go_whole_to_a_gpu(
    parallel, moved, mini_backbone, latents, tmp_path, monkeypatch
):
    """Trap: every process loads all of the model onto its GPU, and only then gives its share of it away."""

    class Two:
        is_main_process, process_index, num_processes = True, 0, 2
        main_process_first = nullcontext

    def begun(*_):
        raise OnTheWay

    gone = set()

    def to(module, device):
        if device.type == "cuda":
            gone.add(type(module).__name__)
        return module

    monkeypatch.setattr(train_module, "build_accelerator", lambda params: Two())
    monkeypatch.setattr(train_module, "Trainer", begun)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", to)
    with pytest.raises(OnTheWay):
        train(mini_backbone, latents, PARAMS.model_copy(update={"parallel": parallel}), tmp_path / "adapter")
    assert gone == moved


def test_a_batch_smaller_than_the_processes_is_refused():
    class Two:
        num_processes = 2

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training, "Accelerator", lambda **_: Two())
        with pytest.raises(InvalidParamsError, match="2 processes"):
            training.build_accelerator(PARAMS.model_copy(update={"batch_size": 1}))


def test_the_slices_of_a_batch_hold_all_of_its_weight(mini_backbone, latents, tmp_path):
    trainer = training.Trainer(load(mini_backbone), latents, PARAMS, tmp_path, training.build_accelerator(PARAMS))
    shares = []
    for rank in range(2):
        trainer.accelerator = type("Place", (), {"process_index": rank, "num_processes": 2})
        batch, *share, _ = trainer._sample(0, 0)
        shares.append(share)
        assert len(batch.target) == len(batch.text) == (2, 1)[rank]
    np.testing.assert_allclose(np.sum(shares, axis=0), 1, rtol=1e-6)


def test_bf16_trains_float32_weights_to_nearly_the_same_loss(mini_backbone, latents, alone, tmp_path):
    params = PARAMS.model_copy(update={"mixed_precision": "bf16"})
    AcceleratorState._reset_state(reset_partial_state=True)  # a process keeps its first precision
    try:
        half = train(mini_backbone, latents, params, tmp_path / "adapter")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    np.testing.assert_allclose(losses(half)[0], losses(alone)[0], rtol=0.02)
    assert losses(half)[0] != losses(alone)[0]
    assert {value.dtype for value in load_file(half.path / adapters.WEIGHTS).values()} == {torch.float32}


def test_the_8_bit_optimizer_is_refused_where_it_cannot_run(mini_backbone, latents, tmp_path, monkeypatch):
    params = PARAMS.model_copy(update={"optimizer": "adamw8bit"})
    with pytest.raises(InvalidParamsError, match="CUDA"):
        train(mini_backbone, latents, params, tmp_path / "adapter")
    monkeypatch.setattr(optimizing, "find_spec", lambda name: None)
    with pytest.raises(InvalidParamsError, match="bitsandbytes"):
        optimizing.build_optimizer({}, {}, params, torch.device("cuda"))


def test_weights_of_one_rate_share_a_group(mini_backbone, latents, tmp_path):
    """Trap: a group for every tensor costs a call of the optimizer for each."""
    params = PARAMS.model_copy(update={"learning_rate_groups": {r".*\.audio_(attn1|attn2|ff)\..*": 1e-6}})
    trainer = training.Trainer(load(mini_backbone), latents, params, tmp_path, training.build_accelerator(params))
    assert sorted(group["full_rate"] for group in trainer.optimizer.param_groups) == [1e-6, 1e-2]
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == len(trainer.lora)


TRAIN = (
    "import json, sys; from pathlib import Path; from dubmill import launching as L;"
    "from dubmill.artifacts.store import Backbone, LatentSet; from dubmill.errors import DubmillError\n"
    "args = (Backbone.open(sys.argv[1]), LatentSet.open(sys.argv[2]), L.TrainParams.model_validate_json(sys.argv[3]))\n"
    "try: L.train_together(*args, Path(sys.argv[4]), num_processes=2)\n"
    "except DubmillError as error: sys.exit(f'{error.exit_code} {error.sentence}')"
)


def started(command, out):
    """The process of a training, once it has written its first checkpoint."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(out.glob("checkpoint-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def last_step(out):
    return int(sorted(out.glob("checkpoint-*"))[-1].stem.split("-")[1])


def test_a_training_stopped_by_a_signal_keeps_its_last_step_says_so_and_goes_on(mini_backbone, latents, tmp_path):
    """SIGTERM, as Kubernetes sends it before a spot node goes; through the command, with a real process."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    params = PARAMS.model_copy(update={"num_steps": 400, "accumulate": 1, "checkpoint_every": 7})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values | {"train": params.model_dump()}))
    out = tmp_path / "adapter"
    words = ["--backbone", str(mini_backbone.path), "--latents", str(latents.path), "--out", str(out)]
    command = [
        sys.executable,
        "-m",
        "dubmill.cli.main",
        "step",
        "train",
        *words,
        "--params",
        str(tmp_path / "params.yaml"),
    ]
    process = started(command, out)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1].splitlines()
    assert process.returncode == 75
    assert "of 400, with a checkpoint; run" in said[-1]
    assert last_step(out) == len((out / LOSSES_FILE).read_text().splitlines())
    trainer = training.Trainer(load(mini_backbone), latents, params, out, training.build_accelerator(params))
    assert trainer.num_done == last_step(out)


def test_two_processes_stopped_by_a_signal_stop_at_the_same_step_and_go_on_to_what_an_unbroken_run_makes(
    mini_backbone, latents, tmp_path
):
    """Trap: one leaves the loop a step before the other, which then waits for it until it is killed."""
    params, out = PARAMS.model_copy(update={"num_steps": 120, "accumulate": 1}), tmp_path / "adapter"
    words = [str(mini_backbone.path), str(latents.path), params.model_dump_json(), str(out)]
    process = started([sys.executable, "-c", TRAIN, *words], out)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert f"75 {out}: stopped by SIGTERM; run the step again" in said
    assert last_step(out) == len((out / LOSSES_FILE).read_text().splitlines()) < params.num_steps
    resumed = train_together(mini_backbone, latents, params, out, num_processes=2)
    unbroken = train_together(mini_backbone, latents, params, tmp_path / "unbroken", num_processes=2)
    assert losses(resumed) == losses(unbroken)
    assert resumed.digest == unbroken.digest


def test_a_full_disk_while_a_checkpoint_is_written_is_one_sentence_and_leaves_the_one_before(
    mini_backbone, latents, tmp_path, monkeypatch
):
    sync, calls = os.fsync, []

    def full_at_the_third(number):
        calls.append(number)
        if len(calls) == 3:  # the draft, the checkpoint of step 2, the one of step 4
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(number)

    params, out = PARAMS.model_copy(update={"num_steps": 6}), tmp_path / "adapter"
    monkeypatch.setattr(os, "fsync", full_at_the_third)
    with pytest.raises(DiskFullError, match="disk"):
        train(mini_backbone, latents, params, out)
    monkeypatch.setattr(os, "fsync", sync)
    assert [path.name for path in out.glob("*checkpoint*")] == ["checkpoint-00000002.safetensors"]
    assert (
        train(mini_backbone, latents, params, out).digest
        == train(mini_backbone, latents, params, tmp_path / "b").digest
    )


def test_a_step_drafts_where_a_lost_pod_leaves_it_and_ends_where_it_should(
    mini_backbone, latents, tmp_path, monkeypatch
):
    monkeypatch.setenv("DUBMILL_WORK", str(tmp_path / "work"))
    opened, params = [mini_backbone, latents], PARAMS.model_copy(update={"num_steps": 3})
    with dying_at(2):
        run_task(train, [*opened, params], tmp_path / "first-pod")
    (draft,) = (one for one in (tmp_path / "work/drafts").iterdir() if one.is_dir())
    assert last_step(draft) == 2
    sealed = run_task(train, [*opened, params], tmp_path / "second-pod")
    assert sealed.path == tmp_path / "second-pod"
    assert not draft.exists()
    assert sealed.digest == train(mini_backbone, latents, params, tmp_path / "plain").digest


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Bank prompts: the miniature has no world."""
    from dubmill.steps.prompts import prompts

    values = parameters.load(ROOT / "params.yaml").prompts
    few = values.model_copy(update={"source": "bank", "num_train": 5, "num_heldout": 2, "languages": ["en", "es"]})
    return prompts(few, tmp_path_factory.mktemp("prompts") / "prompts")


SYNTHESIZE = SynthesizeParams(
    seed=1,
    num_frames=17,
    height=64,
    width=64,
    frame_rate=25.0,
    batch_size=2,
    sampling=miniature.plain_sampling(num_steps=1),
)


def test_tasks_that_share_the_shards_of_a_step_make_the_set_that_one_makes(mini_backbone, asked, tmp_path, monkeypatch):
    whole = synthesize_module.synthesize(mini_backbone, asked, SYNTHESIZE, tmp_path / "whole")
    for index in (1, 0, 2):
        draft = synthesize_module.synthesize(
            mini_backbone, asked, SYNTHESIZE, tmp_path / "parts", shard_slice=ShardSlice(index, 3)
        )
        assert not draft.is_sealed
    assert draft.missing(4, ShardSlice(0, 1)) == []
    monkeypatch.setattr(
        synthesize_module, "load_for_sampling", lambda *_: pytest.fail("there was nothing left to make")
    )
    sealed = synthesize_module.synthesize(mini_backbone, asked, SYNTHESIZE, tmp_path / "parts")
    assert sealed.digest == whole.digest


def test_a_task_whose_shards_are_made_by_pods_that_die_or_run_twice_seals_what_one_process_makes(
    mini_backbone, asked, tmp_path, monkeypatch
):
    """The pods of an emulated Indexed Job run the real command; index 0 dies once, index 1 runs twice."""
    from typer.testing import CliRunner

    from dubmill.cli.main import app

    whole = synthesize_module.synthesize(mini_backbone, asked, SYNTHESIZE, tmp_path / "whole")
    attempts: list[int] = []
    num_threads = torch.get_num_threads()

    def run_pod(command, index):
        torch.set_num_threads(num_threads)  # each Python thread has its own number, and sums depend on it
        attempts.append(index)
        if attempts == [0]:
            return DISRUPTED
        for _ in range(1 + (index == 1)):
            done = CliRunner().invoke(app, command[command.index("step") :], catch_exceptions=False)
        return done.exit_code

    (tmp_path / "namespace").write_text("dubmill")
    monkeypatch.setattr(kubernetes, "ACCOUNT", tmp_path)
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.0)
    monkeypatch.setenv("DUBMILL_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("DUBMILL_SHARDS", jobs.JobSpec(3, "image", 1, 1, 0, "work", "/work").to_json())
    with ClusterJobs(run_pod) as api:
        monkeypatch.setenv("DUBMILL_KUBERNETES", api.address)
        sealed = run_task(synthesize_module.synthesize, [mini_backbone, asked, SYNTHESIZE], tmp_path / "out")
    assert (attempts, sealed.digest) == ([0, 0, 1, 2], whole.digest)
    assert not list((tmp_path / "work" / "drafts").glob("*.inputs"))


def test_a_task_of_other_params_is_refused_and_one_that_starts_clears_nothing_of_another(
    mini_backbone, asked, tmp_path, monkeypatch
):
    monkeypatch.setattr(synthesize_module, "_generate", lambda prompts, params, modules: {})
    synthesize_module.synthesize(mini_backbone, asked, SYNTHESIZE, tmp_path / "parts", shard_slice=ShardSlice(0, 2))
    on_its_way = tmp_path / "parts/.shard-00001.tar.abcd.partial"
    on_its_way.write_bytes(b"half")
    synthesize_module.synthesize(mini_backbone, asked, SYNTHESIZE, tmp_path / "parts", shard_slice=ShardSlice(1, 2))
    assert on_its_way.exists()
    other = SYNTHESIZE.model_copy(update={"seed": 2})
    with pytest.raises(UsageError, match="other inputs"):
        synthesize_module.synthesize(mini_backbone, asked, other, tmp_path / "parts", shard_slice=ShardSlice(1, 2))
    assert synthesize_module.ClipSet.open(
        synthesize_module.synthesize(mini_backbone, asked, SYNTHESIZE, tmp_path / "parts").path
    )
    assert not on_its_way.exists()


@pytest.mark.parametrize(("shard", "more"), [("4/4", []), ("one", []), ("0/2", ["--again"])])
def test_a_shard_that_makes_no_sense_is_refused_before_anything_is_opened(shard, more, tmp_path):
    from typer.testing import CliRunner

    from dubmill.cli.main import app

    words = [
        "step",
        "synthesize",
        "--backbone",
        "none",
        "--prompts",
        "none",
        "--out",
        str(tmp_path),
        "--shard",
        shard,
        *more,
    ]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, UsageError)
    assert "--shard" in result.exception.sentence


INPAINT = parameters.load(ROOT / "params.yaml").inpaint.model_copy(
    update={"lip_augmentation_share": 0.5, "sampling": SYNTHESIZE.sampling, "resamplings": 1}
)


def test_the_second_pass_makes_a_new_mouth_to_the_sound_of_the_first(mini):
    """Lip augmentation: sound from the plain pass, picture from the over-articulated one, which is given that sound."""
    before = miniature.clip(num_frames=17, seed=1)
    shape = inpaint_module.shape_of(before, mini)
    mouth_BS = torch.zeros(1, shape.video_tokens, dtype=torch.bool)
    mouth_BS[:, 0] = True
    region = Region(mouth_BS, torch.ones(1, shape.audio, dtype=torch.bool))
    context = inpaint_module.encode_clips([before], mini)
    (voiced,) = inpaint_module.inpaint_clips([before], context, ["A person"], region, [3], SYNTHESIZE.sampling, 1, mini)
    jobs, inpaint_clips = [], inpaint_module.inpaint_clips

    def watched(clips, context, captions, region, *rest):
        jobs.append((clips[0], captions[0], region))
        return inpaint_clips(clips, context, captions, region, *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(inpaint_module, "inpaint_clips", watched)
        made = inpaint_module.articulate(before, voiced, "A person, very clearly", region, 3, INPAINT, mini)
    ((given, caption, seen),) = jobs
    assert caption == "A person, very clearly"
    assert np.array_equal(given.audio_CN, voiced.audio_CN)
    assert np.array_equal(given.frames_FHWC, before.frames_FHWC)
    assert torch.equal(seen.video_BS, region.video_BS)
    assert not seen.audio_BL.any()
    assert np.array_equal(made.audio_CN, voiced.audio_CN)
    assert not np.array_equal(made.frames_FHWC, voiced.frames_FHWC)


def test_its_share_of_the_training_clips_is_drawn_for_each_alone_and_never_of_those_kept_for_evaluation():
    values = parameters.load(ROOT / "params.yaml").prompts
    prompts = generate_prompts(
        values.model_copy(update={"source": "bank", "num_train": 200, "languages": ["en", "es"]})
    ).prompts
    chosen = {prompt.id for prompt in prompts if inpaint_module._is_articulated(prompt, INPAINT)}
    assert chosen <= {prompt.id for prompt in prompts if prompt.split == "train"}
    assert 70 < len(chosen) < 130
    more = INPAINT.model_copy(update={"lip_augmentation_share": 0.7})
    assert chosen < {prompt.id for prompt in prompts if inpaint_module._is_articulated(prompt, more)}
    none = INPAINT.model_copy(update={"lip_augmentation_share": 0.0})
    assert not any(inpaint_module._is_articulated(prompt, none) for prompt in prompts)


class Steady:
    """Stands in for a detector, which finds no face in noise: a mouth in the middle of every frame."""

    jitter_frames = 0

    def detect(self, frames_FHWC):
        _, height, width, _ = frames_FHWC.shape
        face, mouth = np.array([0.0, 0, width, height]), np.array([width / 4, height / 4, width / 2, height / 2])
        return [[Face(face, mouth)] for _ in frames_FHWC]


def test_clips_drawn_for_lip_augmentation_are_inpainted_twice_and_counted(mini_backbone, asked, tmp_path, monkeypatch):
    monkeypatch.setattr("dubmill.worlds.real.RealWorld.face_detector", lambda world: Steady())
    clips = synthesize_module.synthesize(mini_backbone, asked, SYNTHESIZE, tmp_path / "clips")
    plain, twice = (
        inpaint_module.inpaint(
            mini_backbone, clips, INPAINT.model_copy(update={"lip_augmentation_share": share}), tmp_path / str(share)
        )
        for share in (0.0, 1.0)
    )
    assert (plain.info["num_lip_augmented_clips"], twice.info["num_lip_augmented_clips"]) == (0, 5)
    for row in twice.rows:
        one, other = (some.clip(row.id, "counterpart") for some in (plain, twice))
        assert np.array_equal(one.audio_CN, other.audio_CN), "the sound is the first pass's"
        assert np.array_equal(one.frames_FHWC, other.frames_FHWC) == (row.split == "heldout")


def test_an_over_articulated_caption_keeps_the_form_and_the_nano_world_has_no_words_for_one():
    from dubmill.prompting.form import caption_faults

    values = parameters.load(ROOT / "params.yaml").prompts
    (prompt, *_) = generate_prompts(values.model_copy(update={"source": "bank", "languages": ["en", "es"]})).prompts
    said = over_articulated(prompt.caption_first_dubbed, prompt)
    assert said.startswith(prompt.caption_first_dubbed)
    assert not list(caption_faults(said, (prompt.first_dubbed, prompt.second)))
    with pytest.raises(UnsupportedTextError, match="set it to 0"):
        inpaint_module._is_articulated(generate_prompts(values).prompts[0], INPAINT)
