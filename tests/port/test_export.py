"""port export --format=stablehlo and onnx: files that other runtimes run, held to Model.embed."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
from jax import export
from test_cli import assert_told, run

import csn_jax
from csn_jax import port
from csn_jax.config import STAGES, BackboneConfig, Config, DataConfig, PreprocessConfig
from csn_jax.core.steps import initial_state
from csn_jax.model.network import build_network
from csn_jax.port import onnx_graph
from csn_jax.runtime.record import Record
from csn_jax.runtime.whole import write_run

NOISE = 6e-6  # of float32 embeddings, as between this package and PyTorch
NAMES = ("colour", "heel height é")
# Height and width differ, so that a swap of them shows; the linear layers of small and vgg see where things are.
SHAPES = {
    "small": (24, 40, 3),
    "vgg": (32, 48, 1),
    "resnet18_csn": (48, 32, 3),
    "resnet18": (32, 48, 3),
    "resnet50": (48, 32, 3),
    "projection": (11,),
    "hidden projection": (11,),
}


def untrained(workdir: Path, which: str, dtype: str = "float32", names=NAMES, dim: int = 10) -> Path:
    """A workdir of a network of which every parameter and running statistic is drawn, none as a fresh one has it."""
    rng, shape = np.random.default_rng(dim), SHAPES[which]
    name = which.split()[-1]
    channels = shape[-1] if len(shape) == 3 else 1
    config = Config(
        backbone=BackboneConfig(name, embedding_dim=dim, dtype=dtype, hidden=7 * which.startswith("hidden")),
        data=DataConfig("imported", conditions=names),
        preprocess=PreprocessConfig(32, mean=(0.5, 0.4, 0.3)[:channels], std=(0.2, 0.25, 0.3)[:channels]),
    )
    none = {"train": 0, "validation": 0, "test": 0}
    record = {
        "source": "imported",
        "conditions": [{"name": name, "kind": "categorical"} for name in names],
        "input_shape": list(shape),
        "items": none,
        "triplets": none,
    }

    def drawn(tree):
        spread = {"scale": (0.5, 1.5), "var": (0.5, 2), "mean": (-0.5, 0.5), "bias": (-0.5, 0.5)}
        return {
            name: drawn(leaf)
            if isinstance(leaf, dict)
            else rng.uniform(*spread[name], leaf.shape).astype(np.float32)
            if name in spread
            else leaf
            for name, leaf in tree.items()
        }

    network = build_network(config, shape, len(names), 0)
    params, statistics = drawn(network.state.params["backbone"]), drawn(network.state.statistics)
    beta = rng.normal(0.5, 0.7, (len(names), dim)).astype(np.float32)
    write_run(workdir, config, Record.from_object(record), initial_state(params, statistics, beta, network.optimizer))
    return workdir


def inputs(shape, n: int) -> np.ndarray:
    rng = np.random.default_rng(n)
    if len(shape) == 3:
        return rng.integers(0, 256, (n, *shape), dtype=np.uint8)
    return rng.normal(0, 0.3, (n, *shape)).astype(np.float32)


def exported(workdir: Path, form: str, out: Path) -> Path:
    port.main(["export", f"--workdir={workdir}", f"--format={form}", f"--out={out}"])
    return out


def assert_near(found: np.ndarray, expected: np.ndarray, noise: float = NOISE) -> None:
    assert found.shape == expected.shape and found.dtype == expected.dtype == np.float32
    assert np.ptp(expected, axis=0).min() > 0 or len(expected) == 1  # every input gives another embedding
    assert np.abs(found - expected).max() <= noise * np.abs(expected).max()


def check_onnx(path: Path, model: csn_jax.Model, shape, noise: float = NOISE) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["input"]
    assert [one.shape[1:] for one in session.get_inputs()] == [list(shape)]
    assert [one.name for one in session.get_outputs()] == ["embedding", "masks"]
    assert session.get_outputs()[1].shape == list(model.masks.shape)
    x = inputs(shape, 5)
    expected = model.embed(x)
    for n in (1, 2, 5):
        embedding, masks = session.run(None, {"input": x[:n]})
        assert_near(embedding, expected[:n], noise)
        assert masks.dtype == np.float32 and np.array_equal(masks, model.masks)
    assert json.loads(session.get_modelmeta().custom_metadata_map["conditions"]) == list(model.conditions)


def check_stablehlo(path: Path, model: csn_jax.Model, shape) -> None:
    program = export.deserialize(bytearray(path.read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu") and program.nr_devices == 1
    x = inputs(shape, 5)
    expected = model.embed(x)
    for n in (2, 5):  # each size is compiled anew
        assert_near(np.asarray(program.call(x[:n])), expected[:n])
    about = json.loads(Path(f"{path}.json").read_text())
    assert about["conditions"] == list(model.conditions)
    assert np.array_equal(np.array(about["masks"], np.float32), model.masks)


def test_every_backbone_is_tried():
    names = set(BackboneConfig.__annotations__["name"].__args__)
    assert {which.split()[-1] for which in SHAPES} == names == set(onnx_graph.NETWORKS) and set(STAGES) < names


@pytest.mark.parametrize(
    "which", [pytest.param(which, marks=pytest.mark.slow if which == "resnet50" else ()) for which in SHAPES]
)
def test_onnx_embeds_as_the_model(which, tmp_path):
    """Batches of several sizes, uint8 in, masks and names of conditions beside the embedding."""
    workdir = untrained(tmp_path / "run", which)
    path = exported(workdir, "onnx", tmp_path / "a/model.onnx")
    check_onnx(path, csn_jax.load(workdir), SHAPES[which])
    assert os.listdir(tmp_path / "a") == ["model.onnx"]
    saved = onnx.load(path)
    assert [(one.domain, one.version) for one in saved.opset_import] == [("", 17)] and saved.ir_version == 8
    dtype = saved.graph.input[0].type.tensor_type
    assert dtype.elem_type == (onnx.TensorProto.FLOAT if len(SHAPES[which]) == 1 else onnx.TensorProto.UINT8)
    assert dtype.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("which", ["small", "vgg", "projection", pytest.param("resnet18_csn", marks=pytest.mark.slow)])
def test_stablehlo_embeds_as_the_model(which, tmp_path):
    """Read back and run with batches of several sizes; the JSON beside it has masks and conditions."""
    workdir = untrained(tmp_path / "run", which)
    check_stablehlo(exported(workdir, "stablehlo", tmp_path / "m"), csn_jax.load(workdir), SHAPES[which])


def test_a_model_of_bfloat16_is_exported_in_float32(tmp_path):
    """As near as bfloat16 is, three digits."""
    workdir = untrained(tmp_path / "run", "small", "bfloat16")
    path = exported(workdir, "onnx", tmp_path / "m.onnx")
    check_onnx(path, csn_jax.load(workdir), SHAPES["small"], noise=2e-2)


@pytest.fixture(scope="module")
def specialists(tmp_path_factory):
    """Two networks of other sizes of embedding, as a workdir whose own folder has no checkpoint."""
    workdir = tmp_path_factory.mktemp("specialists") / "run"
    for name, dim in zip(NAMES, (6, 10), strict=True):
        untrained(workdir / name, "small", names=(name,), dim=dim)
    config = Config.from_json((workdir / NAMES[0] / "config.json").read_text())
    config = dataclasses.replace(config, variant="specialists", data=DataConfig("imported", conditions=NAMES))
    record = json.loads((workdir / NAMES[0] / "data.json").read_text())
    record |= {"conditions": [{"name": name, "kind": "set"} for name in NAMES]}
    write_run(workdir, config, Record.from_object(record), None)
    return workdir


@pytest.mark.parametrize("form", ["onnx", "stablehlo"])
def test_specialists_are_one_file(form, specialists, tmp_path):
    """Networks of the same names side by side, [B, C * D], and their block masks."""
    path, model = exported(specialists, form, tmp_path / "m"), csn_jax.load(specialists)
    assert model.masks.shape == (2, 16)
    {"onnx": check_onnx, "stablehlo": check_stablehlo}[form](path, model, SHAPES["small"])


def test_a_trained_run_by_the_command(finished, tmp_path):
    """As a user types it; what the file says of itself; the same bytes again."""
    for form in ("onnx", "stablehlo"):
        done = tiny.command("port", "export", f"--workdir={finished}", f"--format={form}", f"--out={tmp_path / form}")
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{tmp_path / form} takes uint8 batch x 32 x 32 x 1 and gives embeddings batch x 8\n"
        again = exported(finished, form, tmp_path / f"{form}-again")
        assert again.read_bytes() == (tmp_path / form).read_bytes()
    model = csn_jax.load(finished)
    check_onnx(tmp_path / "onnx", model, (32, 32, 1))
    check_stablehlo(tmp_path / "stablehlo", model, (32, 32, 1))
    program = export.deserialize(bytearray((tmp_path / "stablehlo").read_bytes())).mlir_module()
    assert "stablehlo.convolution" in program and ".py" not in program  # no paths of this machine
    told = {one.key: one.value for one in onnx.load(tmp_path / "onnx").metadata_props}
    beside = json.loads((tmp_path / "stablehlo.json").read_text())
    del beside["masks"]
    assert told == {name: value if isinstance(value, str) else json.dumps(value) for name, value in beside.items()}
    assert beside["model_sha256"] == model.sha256
    assert beside["kinds"] == ["categorical", "categorical"] and beside["step"] == model.step
    assert beside["input"]["dtype"] == "uint8" and "as source glyphs draws it" in beside["input"]["what"]


def test_the_distance_is_as_described(tmp_path):
    """An engineer who has nothing but the file's own words gets Model.distance."""
    workdir = untrained(tmp_path / "run", "projection")
    model = csn_jax.load(workdir)
    exported(workdir, "stablehlo", tmp_path / "m")
    about = json.loads((tmp_path / "m.json").read_text())
    masks, (x, y) = np.array(about["masks"]), np.float64(model.embed(inputs((11,), 2)))
    words = about["distance"].split(": ", 1)[1].split(", x and y")[0]
    for c, name in enumerate(about["conditions"]):
        told = eval(words, {"sqrt": np.sqrt, "sum": np.sum, "x": x, "y": y, "masks": masks, "c": c})
        np.testing.assert_allclose(told, model.distance(np.float32(x), np.float32(y), name), rtol=1e-5)


def test_images_are_prepared_as_described(tmp_path):
    """The description of a colour model names the steps of data/decode.py."""
    exported(untrained(tmp_path / "run", "small"), "stablehlo", tmp_path / "m")
    what = json.loads((tmp_path / "m.json").read_text())["input"]["what"]
    for words in ("red, green, blue", "EXIF", "shorter side to 32", "int(32 * long / short)", "central square"):
        assert words in what


def test_mistakes_are_one_sentence(finished, tmp_path, monkeypatch, capsys):
    def told(form, out, *parts, workdir=finished):
        argv = ("export", f"--workdir={workdir}", f"--format={form}", f"--out={out}")
        assert_told(*run(port, monkeypatch, capsys, *argv), 2, *parts)

    told("onx", tmp_path / "m", "'onx'", "did you mean onnx?")
    told("onnx", tmp_path / "m", "has no config.json", workdir=tmp_path / "none")
    (tmp_path / "there").write_text("kept")
    told("onnx", tmp_path / "there", f"--out={tmp_path / 'there'}", "is there already")
    told("stablehlo", tmp_path / "there/m", "cannot be written")
    (tmp_path / "m.json").write_text("kept")
    told("stablehlo", tmp_path / "m", f"{tmp_path / 'm.json'} is there already")
    monkeypatch.delitem(onnx_graph.NETWORKS, "small")
    told("onnx", tmp_path / "new", "backbone small has no ONNX graph", "--format=stablehlo")
    monkeypatch.setitem(sys.modules, "onnx", None)
    told("onnx", tmp_path / "new", "needs the package onnx", "pip install onnx")
    assert sorted(os.listdir(tmp_path)) == ["m.json", "there"]
    assert (tmp_path / "there").read_text() == (tmp_path / "m.json").read_text() == "kept"


def test_an_unfinished_run_is_not_exported(finished, tmp_path, monkeypatch, capsys):
    workdir = shutil.copytree(finished, tmp_path / "run")
    (workdir / "results.json").unlink()
    argv = ("export", f"--workdir={workdir}", "--format=onnx", f"--out={tmp_path / 'm'}")
    assert_told(*run(port, monkeypatch, capsys, *argv), 2, "has no results.json yet", "training to the end")


def test_the_whole_graph_is_one_device_and_needs_no_checkpoint(tmp_path):
    """The four fake devices of the tests leave no trace in the file, nor does the folder it came from."""
    workdir = untrained(tmp_path / "run", "projection")
    model = csn_jax.load(workdir)
    path = exported(workdir, "stablehlo", tmp_path / "m")
    (workdir / "checkpoints").rename(tmp_path / "elsewhere")
    assert jax.device_count() == 4
    check_stablehlo(path, model, (11,))
