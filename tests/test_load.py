"""Loading a backbone: only the parts that are needed, on their devices, from a folder that is checked first."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from dubmill.errors import InvalidArtifactError
from dubmill.model.geometry import check_weights, measure_geometry
from dubmill.model.load import PARTS, PIPELINE, compute_dtype, load, load_folder


@pytest.fixture
def folder(mini_backbone, tmp_path):
    """A copy of the miniature's diffusers folder."""
    return shutil.copytree(mini_backbone.path / PIPELINE, tmp_path / "pipeline")


def weights_of(folder, part):
    (path,) = (folder / part).glob("*.safetensors")
    return path


def test_a_part_that_is_not_needed_is_not_read(folder):
    """Trap: loading the whole pipeline and dropping parts holds 62 GB for a step that needs 2."""
    for part in set(PARTS) - {"vae"}:
        weights_of(folder, part).unlink()
    modules = load_folder(folder, ["vae"])
    assert set(modules.parts) == {"vae"}
    with pytest.raises(AssertionError, match="transformer"):
        _ = modules.transformer


def test_the_geometry_is_read_without_any_weights(folder, mini_backbone):
    for part in PARTS:
        weights_of(folder, part).unlink()
    geometry, mel = measure_geometry(folder)
    assert geometry.to_dict() == mini_backbone.info["geometry"]
    assert mel.to_dict() == mini_backbone.info["mel"]


def test_weights_that_are_complete_pass(folder):
    check_weights(folder)


@pytest.mark.parametrize("part", ["transformer", "vae", "vocoder"])
def test_a_missing_tensor_is_refused_instead_of_being_random(folder, part):
    path = weights_of(folder, part)
    tensors = load_file(path)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(InvalidArtifactError, match=part):
        check_weights(folder)


@pytest.mark.parametrize("part", PARTS)
def test_a_file_that_was_cut_short_is_refused(folder, part):
    path = weights_of(folder, part)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InvalidArtifactError, match=part):
        check_weights(folder)


def test_a_missing_shard_of_an_index_is_refused(folder):
    index = {"weight_map": {"a": "diffusion_pytorch_model-00001-of-00002.safetensors"}}
    (folder / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidArtifactError, match="00001-of-00002"):
        check_weights(folder)


def test_a_ratio_on_which_vae_and_transformer_differ_is_refused(folder):
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "vae_scale_factors": [8, 16, 16]}))
    with pytest.raises(InvalidArtifactError, match="transformer expects"):
        measure_geometry(folder)


def test_a_class_of_another_library_is_not_imported(folder):
    """A fetched repository must not name code to run."""
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "vae": ["subprocess", "Popen"]}))
    with pytest.raises(InvalidArtifactError, match="vae"):
        load_folder(folder, ["vae"])


def test_on_a_gpu_all_parts_are_bf16_but_the_vocoder():
    """Trap: bf16 is known to harm the spectrum that LTX-2.3's vocoder extends."""
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert {part for part in PARTS if compute_dtype(part, gpu) == torch.float32} == {"vocoder"}
    assert {compute_dtype(part, cpu) for part in PARTS} == {torch.float32}


def test_a_manifest_of_another_geometry_is_refused(mini_backbone):
    wrong = {**mini_backbone.info, "geometry": {**mini_backbone.info["geometry"], "spatial": 16}}
    with pytest.raises(InvalidArtifactError, match="manifest"):
        load(type(mini_backbone)(mini_backbone.path, mini_backbone.manifest.model_copy(update={"info": wrong})))
