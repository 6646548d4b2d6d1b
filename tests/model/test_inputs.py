"""What Model.embed takes: pictures as people have them, single inputs and columns; models in other processes."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import tiny
import torch
from PIL import Image

import csn_jax
from csn_jax import port
from csn_jax.data.images import decode_file
from csn_jax.model import inputs as module


@pytest.fixture(scope="module")
def model(shop_runs):
    return csn_jax.load(shop_runs / "pictures")


@pytest.fixture(scope="module")
def of_vectors(shop_runs):
    return csn_jax.load(shop_runs / "vectors")


@pytest.fixture(scope="module")
def paths(shop_runs):
    """A PNG, a JPEG and a WEBP."""
    return [shop_runs / name for name in ("images/000.png", "images/001.jpg", "images/002.webp")]


@pytest.fixture(scope="module")
def expected(model, paths):
    """The embeddings of the pixels that csn_jax embed decodes."""
    return model.embed(np.stack([decode_file((str(path), *model.form)) for path in paths]))


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def test_pictures_in_every_form_have_the_same_embeddings(model, paths, expected):
    texts = list(map(str, paths))
    forms = [paths, texts, tuple(paths), np.array(texts), np.array(texts, object), iter(paths)]
    forms += [
        pyarrow.array(texts),
        pyarrow.chunked_array([texts]),
        [*map(opened, paths)],
        [texts[0], *map(opened, paths[1:])],
    ]
    for form in forms:
        np.testing.assert_array_equal(model.embed(form), expected)
    np.testing.assert_array_equal(model.embed_files(paths), expected)
    np.testing.assert_array_equal(model.embed(paths, rows=[2, 0, 2]), expected[[2, 0, 2]])
    assert model.features(paths).shape == (3, model.features(paths[0]).shape[0])


def test_a_path_may_begin_with_the_home_folder(model, paths, expected, monkeypatch):
    monkeypatch.setenv("HOME", str(paths[0].parent))
    np.testing.assert_allclose(model.embed(f"~/{paths[0].name}"), expected[0], rtol=1e-5, atol=1e-6)


def test_many_files_are_decoded_in_workers(model, paths, expected, monkeypatch):
    monkeypatch.setattr(module, "FEW", 2)
    np.testing.assert_array_equal(model.embed([*paths, opened(paths[0])]), expected[[0, 1, 2, 0]])


def test_a_single_input_has_a_single_embedding(model, of_vectors, paths, expected):
    pixels = decode_file((str(paths[0]), *model.form))
    for single in (paths[0], str(paths[0]), opened(paths[0]), pixels):
        np.testing.assert_allclose(model.embed(single), expected[0], rtol=1e-5, atol=1e-6)
        assert model.embed(single).shape == (6,)
    vector = np.arange(12, dtype=np.float32)
    np.testing.assert_array_equal(of_vectors.embed(vector), of_vectors.embed(vector[None])[0])
    np.testing.assert_array_equal(model.embed_files(paths[0]), model.embed([paths[0]]))


def test_columns_of_vectors(of_vectors):
    """As pandas and Polars give them, as Arrow has them, and as tensors."""
    vectors = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32)
    expected = of_vectors.embed(vectors)
    column = np.empty(5, object)
    column[:] = list(vectors)
    flat = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(vectors.ravel()), 12)
    for form in (
        column,
        vectors.tolist(),
        pyarrow.array(list(vectors)),
        pyarrow.chunked_array([flat]),
        torch.tensor(vectors),
    ):
        np.testing.assert_allclose(of_vectors.embed(form), expected, rtol=1e-6)


def test_no_data_frame_library_is_imported():
    code = "import sys, csn_jax; csn_jax.Model, csn_jax.Index; print({'pandas', 'polars'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


REFUSED = {
    "nothing": (None, ["the inputs are None", "image paths"]),
    "a number": (3, ["the inputs are 3", "pixels [B, 16, 16, 3]"]),
    "a dictionary": ({"image": "a.png"}, ["the inputs are a dict"]),
    "a missing file": ("none.png", ["the image 'none.png' is missing"]),
    "missing files": ([f"{i}.png" for i in range(20)], ["'0.png' is missing", "19 more"]),
    "an address": ("https://shop.example/a.png", ["the address https://shop.example/a.png", "download"]),
    "a folder": (".", ["'.' is a folder"]),
    "a hole": (["a.png", None], ["None at position 1 among images"]),
    "bytes": (b"\x89PNG", ["the inputs", "bytes"]),
    "channels first": (np.zeros((2, 3, 16, 16), np.uint8), ["[2, 3, 16, 16]", "[B, 16, 16, 3]"]),
    "pictures of two sizes": ([np.zeros((4, 4, 3)), np.zeros((4, 5, 3))], ["the inputs are", "[B, 16, 16, 3]"]),
    "a column with a gap": (np.array([np.zeros((16, 16, 3)), None], object), ["no value at position 1"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_inputs(model, name):
    inputs, words = REFUSED[name]
    for function in (model.embed, model.features):
        with pytest.raises(csn_jax.UserError) as error:
            function(inputs)
        assert [word for word in words if word not in str(error.value)] == []
        assert tiny.is_one_sentence(str(error.value).removesuffix("."))


def test_pictures_for_a_model_of_vectors_and_odd_pictures(model, of_vectors, paths, tmp_path):
    for inputs in (paths[0], [paths[0]], opened(paths[0]), np.array(["a.png"])):
        with pytest.raises(csn_jax.UserError, match="vectors, not images; give floats"):
            of_vectors.embed(inputs)
    with pytest.raises(csn_jax.UserError, match="the 4 x 5 image has 32 bits per pixel"):
        model.embed(Image.new("F", (4, 5)))
    (tmp_path / "half.png").write_bytes(paths[0].read_bytes()[:120])
    with pytest.raises(csn_jax.UserError, match="image cannot be read"), Image.open(tmp_path / "half.png") as half:
        model.embed(half)
    with pytest.raises(csn_jax.UserError, match=r"half.png' is truncated"):
        model.embed(tmp_path / "half.png")
    for workdir in (3, None):
        with pytest.raises(csn_jax.UserError, match=f"the workdir is {workdir}; give the path"):
            csn_jax.load(workdir)


def test_distance_and_similarity_under_a_mixture(model):
    """Against loops of Python's floats."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=(3, 6)).astype(np.float32)
    for mixture in ({"category": 1, "colour": 0.5}, ["category", "colour"], {"category": 1, "colour": -3}, "colour"):
        weights = (
            mixture if isinstance(mixture, dict) else dict.fromkeys([mixture] if mixture == "colour" else mixture, 1)
        )
        naive = np.zeros((4, 3))
        for i, j in np.ndindex(4, 3):
            gaps = [float(a) - float(b) for a, b in zip(x[i], y[j], strict=True)]
            square = 0.0
            for name, weight in weights.items():
                square += weight * sum((float(m) * gap) ** 2 for m, gap in zip(model.mask(name), gaps, strict=True))
            naive[i, j] = np.copysign(abs(square) ** 0.5, square)
        np.testing.assert_allclose(model.similarity(x, y, mixture), -naive, rtol=1e-5)
        np.testing.assert_allclose(model.distance(x[:, None], y, mixture), naive, rtol=1e-4, atol=1e-5)
    assert model.similarity(x[0], y, "colour").shape == (1, 3)
    for wrong, words in (
        ({"coluor": 1}, r"'coluor' \(did you mean colour"),
        ({}, "no condition"),
        (5, "condition is 5"),
    ):
        with pytest.raises(csn_jax.UserError, match=words):
            model.distance(x, x, wrong)


def test_reprs_are_short(model, glyph_index):
    assert repr(model) == "Model([16, 16, 3] -> [6], conditions category, colour, step 0)"
    index = csn_jax.Index.open(glyph_index)
    assert repr(index).startswith(f"Index({len(index.ids):,} items [8], conditions ") and len(repr(index)) < 200
    assert len(index) == len(index.ids)


def test_a_model_pickles(model, paths, expected, specialists):
    """Also with other masks, and specialists; a spawned process embeds the same."""
    wider = model.with_masks(("all",), np.ones((1, 6), np.float32))
    for own in (model, wider, csn_jax.load(specialists)):
        copied = pickle.loads(pickle.dumps(own))
        assert copied.conditions == own.conditions and copied.sha256 == own.sha256 and repr(copied) == repr(own)
        np.testing.assert_array_equal(copied.masks, own.masks)
        pixels = np.random.default_rng(0).integers(256, size=(2, *own.input_shape)).astype(np.uint8)
        np.testing.assert_array_equal(copied.embed(pixels), own.embed(pixels))


def test_a_model_goes_to_another_process(model, paths, expected, tmp_path):
    (tmp_path / "model").write_bytes(pickle.dumps(model))
    code = "import pickle, sys; model = pickle.load(open(sys.argv[1], 'rb')); print(model.embed(sys.argv[2]).tolist())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model"), str(paths[0])], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(eval(done.stdout), expected[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["finished", "specialists"])
def test_an_exported_folder_loads(kind, request, tmp_path):
    workdir, out = request.getfixturevalue(kind), tmp_path / "out"
    port.main(["export", f"--workdir={workdir}", f"--out={out}"])
    own, loaded = csn_jax.load(workdir), csn_jax.load(out)
    assert (loaded.conditions, loaded.step, loaded.sha256) == (own.conditions, own.step, own.sha256)
    np.testing.assert_array_equal(loaded.masks, own.masks)
    (out / "model.safetensors").unlink(missing_ok=True)
    shutil.rmtree(out / "character", ignore_errors=True)
    with pytest.raises(csn_jax.UserError):
        csn_jax.load(out)
