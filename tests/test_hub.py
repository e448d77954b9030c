"""Backbones from the hub: which files, which commit, tokens, mirrors, offline and stopped downloads."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants as hub_constants
import numpy as np
import pytest
from doubles import hub as hub_double
from doubles import miniature

from dubmill.artifacts.store import Backbone
from dubmill.config import params as params_module
from dubmill.errors import (
    BackboneMismatchError,
    InvalidArtifactError,
    InvalidParamsError,
    ServiceUnavailableError,
    UsageError,
)
from dubmill.model.load import PIPELINE, UPSAMPLER
from dubmill.model.loras import DISTILLED, DISTILLED_FOLDER, load_for_sampling
from dubmill.worlds import hub
from dubmill.worlds.materialize import materialize

ROOT = Path(__file__).parents[1]
FIRST, SECOND = "a" * 40, "b" * 40
REPO = "studio/ltx-2-tiny"
CHUNK_BYTES = hub_constants.DOWNLOAD_CHUNK_SIZE


@pytest.fixture(scope="module")
def pipeline_files(tmp_path_factory):
    """The miniature's folder as a repository has it: with a whole-model checkpoint, another format and a picture."""
    folder = tmp_path_factory.mktemp("files")
    miniature.modules(folder)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    extra = {"ltx-2-dev.safetensors": b"x" * 1000, "vae/diffusion_pytorch_model.bin": b"y" * 1000}
    return {**files, **extra, "README.md": b"card", "media/sample.mp4": b"z", ".gitattributes": b"*"}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub on the loopback interface, which the client takes for the real one; its cache is empty."""
    served = hub_double.Hub()
    process, url = hub_double.start(served)
    _use_endpoint(monkeypatch, url)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    served.url = url
    yield served
    process.shutdown()
    process.server_close()


def _use_endpoint(monkeypatch, url):
    """What HF_ENDPOINT does when huggingface_hub is imported."""
    monkeypatch.setattr(hub_constants, "ENDPOINT", url)
    monkeypatch.setattr(hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def _on_retry(monkeypatch, action):
    """Call `action` when the client waits before it tries a broken download again."""
    clock = SimpleNamespace(sleep=action, time=time.time, monotonic=time.monotonic)
    monkeypatch.setattr("huggingface_hub.file_download.time", clock)


def params_for(repo=REPO, revision="main", **changes):
    nano = params_module.load(ROOT / "params.yaml").backbone
    values = {"source": "hub", "repo": repo, "revision": revision, "architecture": "ltx-2-19b"}
    return nano.model_copy(update=values | changes)


def names_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_only_the_pipelines_files_are_fetched(server, pipeline_files, tmp_path):
    """A whole-model checkpoint lies at the root of published repositories: 40 GB that nothing reads."""
    server.add(REPO, FIRST, pipeline_files)
    backbone = materialize(params_for(), tmp_path / "backbone")
    got = names_in(backbone.path / PIPELINE)
    assert "ltx-2-dev.safetensors" not in got
    assert not [name for name in got if name.endswith((".bin", ".md", ".mp4")) or name.startswith(".")]
    assert got == {name for name in pipeline_files if hub.is_wanted(name, hub.PIPELINE_FILES)}
    assert not [path for path in server.downloads() if path.endswith(("ltx-2-dev.safetensors", ".bin"))]


def test_one_revision_has_one_digest_wherever_and_however_it_is_named(server, pipeline_files, tmp_path):
    """The client's cache files carry times; and `main` is another name of the same commit."""
    server.add(REPO, FIRST, pipeline_files)
    by_branch = materialize(params_for(), tmp_path / "one")
    by_commit = materialize(params_for(revision=FIRST), tmp_path / "other")
    assert by_branch.digest == by_commit.digest
    assert by_branch.info["revision"] == by_branch.lineage.params["revision"] == FIRST
    server.add(REPO, SECOND, {**pipeline_files, "vae/config.json": pipeline_files["vae/config.json"] + b"\n"})
    assert materialize(params_for(), tmp_path / "later").digest != by_branch.digest
    assert Backbone.open(by_branch.path).digest == by_branch.digest


def test_a_folder_has_one_digest_wherever_it_lies(pipeline_files, tmp_path):
    digests = []
    for place in ("here", "there/deep"):
        for name, data in pipeline_files.items():
            path = tmp_path / place / "tiny" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        backbone = materialize(
            params_for(repo=str(tmp_path / place / "tiny"), revision="local"), tmp_path / place / "out"
        )
        assert backbone.info["repo"] == "tiny"
        digests.append(backbone.digest)
    assert digests[0] == digests[1]


def test_an_upsampler_of_another_repository_is_put_into_the_backbone(server, pipeline_files, tmp_path):
    other = {
        "latent_upsampler/config.json": b"{}",
        "latent_upsampler/model.safetensors": b"w" * 99,
        "vae/x.json": b"{}",
    }
    server.add(REPO, FIRST, pipeline_files)
    server.add("studio/upsampler", SECOND, other)
    backbone = materialize(params_for(upsampler="studio/upsampler@main"), tmp_path / "backbone")
    assert names_in(backbone.path / PIPELINE / UPSAMPLER) == {"config.json", "model.safetensors"}
    assert not (backbone.path / PIPELINE / "vae" / "x.json").exists()
    assert backbone.lineage.params["upsampler"] == f"studio/upsampler@{SECOND}"


def test_without_an_upsampler_and_a_distilled_lora_the_lineage_is_as_before_these_parameters(
    server, pipeline_files, tmp_path
):
    server.add(REPO, FIRST, pipeline_files)
    assert not {"upsampler", "distilled_lora"} & set(materialize(params_for(), tmp_path / "backbone").lineage.params)


@pytest.mark.parametrize("prefix", ["transformer.", "diffusion_model."])
def test_a_distilled_lora_of_another_repository_or_a_file_is_put_into_the_backbone(
    server, pipeline_files, tmp_path, prefix
):
    """`diffusion_model.` is the prefix of Lightricks' own names."""
    data = miniature.lora_file(prefix=prefix)
    server.add(REPO, FIRST, pipeline_files)
    server.add("studio/loras", SECOND, {"few.safetensors": data, "other.safetensors": b"w" * 99})
    file = tmp_path / "own.safetensors"
    file.write_bytes(data)
    fetched = materialize(params_for(distilled_lora="studio/loras@main:few.safetensors"), tmp_path / "fetched")
    copied = materialize(params_for(distilled_lora=str(file)), tmp_path / "copied")
    assert fetched.lineage.params["distilled_lora"] == f"studio/loras@{SECOND}:few.safetensors"
    assert copied.lineage.params["distilled_lora"] == f"own.safetensors@{hashlib.sha256(data).hexdigest()}"
    for backbone, name in ((fetched, "few.safetensors"), (copied, "own.safetensors")):
        assert names_in(backbone.path / PIPELINE / DISTILLED_FOLDER) == {name}
        modules = load_for_sampling(backbone, "distilled")
        assert DISTILLED in modules.transformer.transformer_blocks[0].attn1.to_q.lora_A


@pytest.mark.parametrize(
    ("data", "error", "what"),
    [
        (miniature.lora_file(width=48), BackboneMismatchError, "2 of the 2 tensors"),
        (miniature.lora_file(layer="transformer_blocks.9.attn1.to_q"), BackboneMismatchError, "blocks.9"),
        (miniature.lora_file(prefix="unet."), BackboneMismatchError, "0 tensors"),
        (b"no safetensors", InvalidArtifactError, "cannot be read"),
    ],
)
def test_a_distilled_lora_of_another_model_is_refused_before_the_backbone_is_sealed(
    server, pipeline_files, tmp_path, data, error, what
):
    server.add(REPO, FIRST, pipeline_files)
    (tmp_path / "wrong.safetensors").write_bytes(data)
    with pytest.raises(error, match=what):
        materialize(params_for(distilled_lora=str(tmp_path / "wrong.safetensors")), tmp_path / "backbone")
    assert not (tmp_path / "backbone" / "manifest.json").exists()


def test_a_distilled_lora_that_is_neither_a_file_nor_in_a_repository_is_refused(server, pipeline_files, tmp_path):
    server.add(REPO, FIRST, pipeline_files)
    with pytest.raises(InvalidParamsError, match="repo@revision:file"):
        materialize(params_for(distilled_lora="gone.safetensors"), tmp_path / "backbone")


def test_another_file_of_the_same_name_makes_another_backbone(server, pipeline_files, tmp_path):
    server.add(REPO, FIRST, pipeline_files)
    file, digests = tmp_path / "own.safetensors", set()
    for layer in ("to_q", "to_k"):
        file.write_bytes(miniature.lora_file(layer=f"transformer_blocks.0.attn1.{layer}"))
        digests.add(materialize(params_for(distilled_lora=str(file)), tmp_path / "backbone").digest)
    assert len(digests) == 2


@pytest.mark.parametrize("lora", ["studio/loras@main:fwe.safetensors", "few.bin"])
def test_a_distilled_lora_that_did_not_arrive_is_refused_before_the_model_is_fetched(
    server, pipeline_files, tmp_path, monkeypatch, lora
):
    server.add(REPO, FIRST, pipeline_files)
    server.add("studio/loras", SECOND, {"few.safetensors": miniature.lora_file()})
    (tmp_path / "few.bin").write_bytes(miniature.lora_file())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidParamsError, match=lora):
        materialize(params_for(distilled_lora=lora), tmp_path / "backbone")
    assert not server.downloads()
    assert not (tmp_path / "backbone" / "manifest.json").exists()


def test_nano_ignores_the_names_of_a_distilled_lora(tmp_path):
    nano = params_module.load(ROOT / "params.yaml").backbone
    digests = [
        materialize(nano.model_copy(update={"distilled_lora": name}), tmp_path / name).digest
        for name in ("none", "few")
    ]
    assert digests[0] == digests[1]


def test_a_private_repository_needs_a_token_and_says_so(server, pipeline_files, tmp_path, monkeypatch):
    server.add(REPO, FIRST, pipeline_files)
    server.tokens[REPO] = "hf_secret"
    with pytest.raises(UsageError, match="HF_TOKEN"):
        materialize(params_for(), tmp_path / "backbone")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert materialize(params_for(), tmp_path / "backbone").info["revision"] == FIRST


def test_a_gated_repository_says_that_its_licence_has_to_be_accepted(server, pipeline_files, tmp_path):
    server.add(REPO, FIRST, pipeline_files)
    server.gated.add(REPO)
    with pytest.raises(UsageError, match="licence"):
        materialize(params_for(), tmp_path / "backbone")


@pytest.mark.parametrize(
    ("repo", "revision", "what"),
    [(REPO, "v9", "no such revision"), ("studio/none", "main", "no such repository"), ("a b/c", "main", "no name of")],
)
def test_what_is_not_there_is_named(server, pipeline_files, tmp_path, repo, revision, what):
    server.add(REPO, FIRST, pipeline_files)
    with pytest.raises(UsageError, match=what) as refused:
        materialize(params_for(repo=repo, revision=revision), tmp_path / "backbone")
    assert refused.value.where == f"{repo}@{revision}"


def test_a_broken_connection_is_continued_where_it_broke(server, tmp_path, monkeypatch):
    data = np.random.default_rng(0).bytes(3 * CHUNK_BYTES)
    server.add(REPO, FIRST, {"transformer/model.safetensors": data, "model_index.json": b"{}"})
    server.broken_after = 2 * CHUNK_BYTES

    def mended(seconds):  # the client waits before it tries again
        server.broken_after = None

    _on_retry(monkeypatch, mended)
    hub.download(REPO, FIRST, tmp_path / "out", hub.PIPELINE_FILES)
    assert (tmp_path / "out" / "transformer" / "model.safetensors").read_bytes() == data
    ranges = [headers.get("Range") for _, path, headers in server.requests if path.startswith("/store/")]
    assert f"bytes={2 * CHUNK_BYTES}-" in ranges
    assert names_in(tmp_path / "out") == {"transformer/model.safetensors", "model_index.json"}


def test_a_stopped_download_keeps_its_finished_files(server, tmp_path, monkeypatch):
    """The client throws an unfinished file away when it is stopped, but fetches no finished one again."""
    files = {name: name.encode() * 1000 for name in ("transformer/model.safetensors", "vae/model.safetensors")}
    server.add(REPO, FIRST, files)
    first, second = files.values()
    server.missing = second

    def stop(seconds):
        raise KeyboardInterrupt

    _on_retry(monkeypatch, stop)
    with pytest.raises(KeyboardInterrupt):
        hub.download(REPO, FIRST, tmp_path / "out", hub.PIPELINE_FILES)
    server.missing = None
    num_before = len(server.stored(first))
    hub.download(REPO, FIRST, tmp_path / "out", hub.PIPELINE_FILES)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files} == files
    assert len(server.stored(first)) == num_before == 1


def test_a_hub_that_is_down_is_one_sentence_and_leaves_no_sealed_folder(server, pipeline_files, tmp_path):
    server.add(REPO, FIRST, pipeline_files)
    server.is_down = True
    with pytest.raises(ServiceUnavailableError) as refused:
        materialize(params_for(revision=FIRST), tmp_path / "backbone")
    assert "HF_TOKEN and HF_ENDPOINT" in refused.value.cure
    assert not (tmp_path / "backbone" / "manifest.json").exists()


def test_a_partial_folder_is_not_taken_for_the_whole_when_the_hub_is_down(server, tmp_path):
    """The client only warns, and returns the folder as it is."""
    (tmp_path / "out" / "transformer").mkdir(parents=True)
    (tmp_path / "out" / "transformer" / "config.json").write_text("{}")
    server.add(REPO, FIRST, {"transformer/config.json": b"{}", "transformer/model.safetensors": b"x"})
    server.is_down = True
    with pytest.raises(ServiceUnavailableError):
        hub.download(REPO, FIRST, tmp_path / "out", hub.PIPELINE_FILES)


def test_offline_the_cache_is_used_and_gives_the_same_digest(server, pipeline_files, tmp_path, monkeypatch):
    from huggingface_hub import snapshot_download

    server.add(REPO, FIRST, pipeline_files)
    online = materialize(params_for(), tmp_path / "online")
    snapshot_download(REPO, allow_patterns=list(hub.PIPELINE_FILES))
    monkeypatch.setattr(hub_constants, "HF_HUB_OFFLINE", True)
    num_requests = len(server.requests)
    offline = materialize(params_for(), tmp_path / "offline")
    assert offline.digest == online.digest
    assert len(server.requests) == num_requests
    with pytest.raises(ServiceUnavailableError):
        materialize(params_for(repo="studio/unseen"), tmp_path / "unseen")


def test_the_step_runs_against_a_mirror_with_a_token_from_the_environment(server, pipeline_files, tmp_path):
    """As a user sets it: HF_ENDPOINT and HF_TOKEN, read by a fresh process."""
    server.add(REPO, FIRST, pipeline_files)
    server.tokens[REPO] = "hf_secret"
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(json.dumps({"extends": "jdi-19b", "backbone": {"repo": REPO}}))
    environment = {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_secret", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "dubmill.cli.main", "step", "backbone", "--out", str(tmp_path / "backbone")]
    done = subprocess.run(
        [*command, "--params", str(ROOT / "params.yaml"), "--overlay", str(overlay)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Backbone.open(tmp_path / "backbone").info["revision"] == FIRST
