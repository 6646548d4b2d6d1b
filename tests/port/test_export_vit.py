"""Vision transformers of a tiny size: exported files, folders and checkpoints embed as the model does."""

import numpy as np
import pytest
import test_export
from test_export import NOISE, SHAPES, check_onnx, check_stablehlo, exported, untrained

import csn_jax
from csn_jax import backbones
from csn_jax.config import VITS, VitShape
from csn_jax.port import importing

NAME = "vit_tiny_16"  # in the place of this size
TINY = dict(zip(("patch", "width", "depth", "heads", "hidden"), (8, 16, 2, 2, 24), strict=True))
FLAVOURS = {
    "vit": VitShape("vit", **TINY),
    "vit_mean": VitShape("vit", **TINY, registers=2, mean=True),
    "dinov2": VitShape("dinov2", **TINY, registers=2, swiglu=True),
    "clip": VitShape("clip", **TINY, projection=12),
    "siglip": VitShape("siglip", **TINY),
}


@pytest.fixture
def workdir(request, tmp_path, monkeypatch):
    """A run whose network has the flavour of the test's parameter."""
    monkeypatch.setitem(VITS, NAME, FLAVOURS[request.param])
    monkeypatch.setitem(SHAPES, NAME, (16, 24, 3))
    backbones.build.cache_clear()  # it knows the name by another shape
    yield untrained(tmp_path / "run", NAME)
    backbones.build.cache_clear()


def slow(flavour: str):
    return pytest.param(flavour, marks=pytest.mark.slow)


@pytest.mark.parametrize("workdir", [one if one == "dinov2" else slow(one) for one in FLAVOURS], indirect=True)
def test_onnx(workdir, tmp_path):
    path = exported(workdir, "onnx", tmp_path / "model.onnx")
    check_onnx(path, csn_jax.load(workdir), SHAPES[NAME], noise=2 * NOISE)


@pytest.mark.slow
@pytest.mark.parametrize("workdir", ["clip"], indirect=True)
def test_stablehlo(workdir, tmp_path):
    check_stablehlo(exported(workdir, "stablehlo", tmp_path / "model"), csn_jax.load(workdir), SHAPES[NAME])


@pytest.mark.parametrize("workdir", ["dinov2"], indirect=True)
def test_a_folder_has_timms_names_and_comes_back(workdir, tmp_path):
    exported(workdir, "safetensors", tmp_path / "folder")
    tensors = test_export.load_file(tmp_path / "folder/model.safetensors")
    assert {"cls_token", "reg_token", "pos_embed", "blocks.1.ls2.gamma", "patch_embed.proj.weight"} < set(tensors)
    assert tensors["pos_embed"].shape == (1, 6, 16)
    importing.import_folder(tmp_path / "folder", tmp_path / "again")
    x = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)
    model, again = csn_jax.load(workdir), csn_jax.load(tmp_path / "again")
    assert model.sha256 == again.sha256 and model.embed(x).tobytes() == again.embed(x).tobytes()
