"""port export --format=stablehlo and onnx: files that other runtimes run, compared with Model.embed."""

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
from safetensors.numpy import load_file, save_file
from test_cli import assert_message, run

import csn_jax
from csn_jax import port
from csn_jax.config import STAGES, VITS, BackboneConfig, Config, DataConfig, PreprocessConfig
from csn_jax.core.steps import initial_state
from csn_jax.model.network import build_network, network_of, pretrained
from csn_jax.model.run import open_run
from csn_jax.port import exporting, onnx_graph
from csn_jax.runtime.record import Condition, Record, read_record
from csn_jax.runtime.whole import write_run

NOISE = 6e-6  # of float32 embeddings, as between this package and PyTorch
NAMES = ("colour", "heel height é")
NONE = {"train": 0, "validation": 0, "test": 0}
# Height and width differ, so that swapping them shows: the linear layers of small and vgg depend on positions.
SHAPES = {
    "small": (24, 40, 3),
    "vgg": (32, 48, 1),
    "resnet18_csn": (48, 32, 3),
    "resnet18": (32, 48, 3),
    "resnet50": (48, 32, 3),
    "projection": (11,),
    "hidden projection": (11,),
    "efficientnet_lite0": (32, 48, 3),
}


LARGE = ("vgg", "resnet18", "resnet50", "efficientnet_lite0")  # or slow to compile


def untrained(workdir: Path, which: str, dtype: str = "float32", names=NAMES, dim: int = 10) -> Path:
    """A workdir whose network has random parameters and running statistics, none at its initial value."""
    rng, shape = np.random.default_rng(dim), SHAPES[which]
    name = which.split()[-1]
    channels = shape[-1] if len(shape) == 3 else 1
    config = Config(
        backbone=BackboneConfig(name, embedding_dim=dim, dtype=dtype, hidden=7 * which.startswith("hidden")),
        data=DataConfig("imported", conditions=names),
        preprocess=PreprocessConfig(32, mean=(0.5, 0.4, 0.3)[:channels], std=(0.2, 0.25, 0.3)[:channels]),
    )
    record = Record(
        source="imported",
        conditions=tuple(Condition(name, "categorical") for name in names),
        input_shape=shape,
        items=NONE,
        triplets=NONE,
    )

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
    write_run(workdir, config, record, initial_state(params, statistics, beta, network.optimizer))
    return workdir


def untrained_maps(workdir: Path, which: str, raw: tuple[str, ...] = (), unit: bool = True) -> Path:
    """A workdir of maps: over vectors if `which` is vectors, else over a backbone's embedding. All of it is random, and
    the conditions of `raw` keep the vectors themselves."""
    over_vectors, rng = which == "vectors", np.random.default_rng(5)
    untrained(workdir, "projection" if over_vectors else which)
    run = open_run(workdir)
    plan = {"axes": 7 * over_vectors, "rank": 4, "pulls": [1e-3, 0.0] if over_vectors else [0.0]}
    config = dataclasses.replace(run.config, variant="maps")
    kept = {"unit": unit, "conditions": list(raw), "scale": 1.5} if over_vectors else None
    record = dataclasses.replace(run.record, maps=plan, raw=kept)
    state, network = run.restore()[1], network_of(config, record)
    beta = rng.normal(size=network.masks.beta.shape).astype(np.float32)
    params, statistics = (state.params["backbone"], state.statistics)
    if over_vectors:
        shapes = {name: leaf.shape for name, leaf in network.state.statistics.items()}
        statistics = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        statistics["kept"][0, 3], statistics["unit"] = 0, np.array(unit)  # a map of three rows
        params = {}
    shutil.rmtree(workdir)
    write_run(workdir, config, record, initial_state(params, statistics, beta, network.optimizer))
    return workdir


def with_raw(workdir: Path, names: tuple[str, ...]) -> Path:
    """The workdir of a projection, in which conditions keep the raw geometry."""
    record = json.loads((workdir / "data.json").read_text())
    record["raw"] = {"unit": True, "conditions": list(names), "scale": 0.7}
    (workdir / "data.json").write_text(json.dumps(record))
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
    assert np.ptp(expected, axis=0).min() > 0 or len(expected) == 1  # each input has another embedding
    assert np.abs(found - expected).max() <= noise * np.abs(expected).max()


def check_onnx(path: Path, model: csn_jax.Model, shape, noise: float = NOISE) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [(value.name, value.shape[1:]) for value in session.get_inputs()] == [("input", list(shape))]
    assert [value.name for value in session.get_outputs()] == ["embedding", "masks"]
    assert session.get_outputs()[1].shape == list(model.masks.shape)
    x = inputs(shape, 5)
    expected = model.view(model.embed(x))
    for n in (1, 2, 5):
        embedding, masks = session.run(None, {"input": x[:n]})
        assert_near(embedding, expected[:n], noise)
        assert masks.dtype == np.float32 and np.array_equal(masks, model.masks)
    assert json.loads(session.get_modelmeta().custom_metadata_map["conditions"]) == list(model.conditions)


def check_stablehlo(path: Path, model: csn_jax.Model, shape) -> None:
    program = export.deserialize(bytearray(path.read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu") and program.nr_devices == 1
    x = inputs(shape, 5)
    expected = model.view(model.embed(x))
    for n in (2, 5):  # each size compiles again
        assert_near(np.asarray(program.call(x[:n])), expected[:n])
    about = json.loads(Path(f"{path}.json").read_text())
    assert about["conditions"] == list(model.conditions)
    assert np.array_equal(np.array(about["masks"], np.float32), model.masks)


def test_every_backbone_is_tested():
    names = set(BackboneConfig.__annotations__["name"].__args__)
    assert names == set(onnx_graph.NETWORKS) and set(STAGES) < names
    assert {which.split()[-1] for which in SHAPES} == names - set(VITS)  # vision transformers: test_export_vit.py


def slow(which: str):
    return pytest.param(which, marks=pytest.mark.slow)


@pytest.mark.parametrize("which", [slow(which) if which in LARGE else which for which in SHAPES])
def test_onnx_embeds_as_the_model(which, tmp_path):
    """Batches of several sizes, uint8 in, masks and names of conditions beside the embedding."""
    workdir = untrained(tmp_path / "run", which)
    path = exported(workdir, "onnx", tmp_path / "a/model.onnx")
    check_onnx(path, csn_jax.load(workdir), SHAPES[which])
    assert os.listdir(tmp_path / "a") == ["model.onnx"]
    saved = onnx.load(path)
    assert [(opset.domain, opset.version) for opset in saved.opset_import] == [("", 17)] and saved.ir_version == 8
    dtype = saved.graph.input[0].type.tensor_type
    assert dtype.elem_type == (onnx.TensorProto.FLOAT if len(SHAPES[which]) == 1 else onnx.TensorProto.UINT8)
    assert dtype.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("which", ["small", "projection", slow("vgg"), slow("resnet18_csn")])
def test_stablehlo_embeds_as_the_model(which, tmp_path):
    """Batches of several sizes, and the JSON beside it with masks and conditions."""
    workdir = untrained(tmp_path / "run", which)
    check_stablehlo(exported(workdir, "stablehlo", tmp_path / "m"), csn_jax.load(workdir), SHAPES[which])


RAW = {"all learned": (), "one raw": NAMES[1:], "all raw": NAMES}


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("raw", RAW)
def test_maps_over_vectors_give_their_views(raw, unit, tmp_path):
    """From vectors, also of conditions that keep the raw geometry; the file's own formula gives Model.distance."""
    workdir = untrained_maps(tmp_path / "run", "vectors", RAW[raw], unit)
    model = csn_jax.load(workdir)
    assert model.maps.matrix.shape == ({"all learned": 7, "one raw": 3 + 11, "all raw": 11}[raw], 11)
    check_onnx(exported(workdir, "onnx", tmp_path / "m.onnx"), model, (11,))
    path = exported(workdir, "stablehlo", tmp_path / "m")
    check_stablehlo(path, model, (11,))
    about = json.loads((tmp_path / "m.json").read_text())
    assert about["variant"] == "maps" and "views of all conditions" in about["distance"]
    assert about["embedding"] == ["batch", model.masks.shape[1]]
    x = inputs((11,), 2)
    views = np.float64(export.deserialize(bytearray(path.read_bytes())).call(x))
    words, masks = about["distance"].split(": ", 1)[1].split(", x and y")[0], np.array(about["masks"])
    for c, name in enumerate(about["conditions"]):
        scope = {"sqrt": np.sqrt, "sum": np.sum, "x": views[0], "y": views[1], "masks": masks, "c": c}
        np.testing.assert_allclose(eval(words, scope), model.distance(x[0], x[1], name), rtol=1e-5)


@pytest.mark.parametrize("form", ["onnx", "stablehlo"])
def test_maps_over_a_network_give_their_views(form, tmp_path, capsys):
    workdir = untrained_maps(tmp_path / "run", "small")
    path, model = exported(workdir, form, tmp_path / "m"), csn_jax.load(workdir)
    assert model.masks.shape == (2, 8) and model.maps.matrix.shape == (8, 10) and not model.maps.unit
    assert f"{path} takes uint8 batch x 24 x 40 x 3 and gives views batch x 8\n" in capsys.readouterr().out
    {"onnx": check_onnx, "stablehlo": check_stablehlo}[form](path, model, SHAPES["small"])


@pytest.mark.parametrize("which", ["projection", "hidden projection"])
def test_masks_beside_raw_vectors_give_both(which, tmp_path):
    """[B, D + F]."""
    workdir = with_raw(untrained(tmp_path / "run", which), NAMES[:1])
    model = csn_jax.load(workdir)
    assert model.masks.shape == (2, 10 + 11)
    check_onnx(exported(workdir, "onnx", tmp_path / "m.onnx"), model, (11,))
    check_stablehlo(exported(workdir, "stablehlo", tmp_path / "m"), model, (11,))


@pytest.mark.parametrize("which", ["vectors", "small", "projection"])
def test_a_folder_of_maps_is_the_model(which, tmp_path):
    """Opened as it is, imported, and exported again: the same distances and files, bit for bit."""
    if which == "projection":
        workdir = with_raw(untrained(tmp_path / "run", which), NAMES[:1])
    else:
        workdir = untrained_maps(tmp_path / "run", which, NAMES[:1] if which == "vectors" else ())
    out, model, x = tmp_path / "out/m", csn_jax.load(workdir), inputs(SHAPES.get(which, (11,)), 4)
    exported(workdir, "safetensors", out)
    tensors = load_file(out / "model.safetensors")
    if which == "vectors":
        assert {name: leaf.shape for name, leaf in tensors.items()} == {
            "maps.weight": (2, 4, 7),
            "maps.error": (2,),
            "axes.weight": (7, 11),
            "axes.mean": (11,),
        }
    elif which == "small":
        assert tensors["maps.weight"].shape == (2, 4, 10) and "masks.weight" not in tensors
    port.main(["import", str(out), f"--workdir={tmp_path / 'again'}"])
    exported(tmp_path / "again", "safetensors", tmp_path / "second/m")
    e = model.embed(x)
    for folder in (out, tmp_path / "again"):
        there = csn_jax.load(folder)
        assert there.sha256 == model.sha256 and np.array_equal(there.masks, model.masks)
        assert np.array_equal(there.embed(x), e) and np.array_equal(there.view(e), model.view(e))
        for name in NAMES:
            assert np.array_equal(there.distance(e[:2], e[2:], name), model.distance(e[:2], e[2:], name))
    for name in ("model.safetensors", "config.json", "data.json", "README.md"):
        assert (out / name).read_bytes() == (tmp_path / "second/m" / name).read_bytes()
    card = " ".join((out / "README.md").read_text().split())
    if which != "projection":
        assert "one map, a matrix that applies to it, per condition" in card and "maps masks" not in card
    assert ("raw geometry serves colour." in card) == (which != "small")
    assert ("as they are" in card) == (which == "vectors")


def test_a_changed_folder_of_maps_is_refused(tmp_path):
    exported(untrained_maps(tmp_path / "run", "vectors"), "safetensors", tmp_path / "out")
    weights = tmp_path / "out/model.safetensors"
    tensors = load_file(weights)
    bad = np.full_like(tensors["axes.mean"], np.nan)
    for change in (
        {"axes.mean": bad},
        {"axes.weight": tensors["axes.weight"][:3]},
        {"maps.weight": tensors["maps.weight"].astype(np.int32)},
        {"masks.weight": bad},
    ):
        save_file(tensors | change, weights, {"step": "0"})
        with pytest.raises(csn_jax.UserError, match=r"maps.weight \[2, 4, 7\].*export the folder again"):
            csn_jax.load(tmp_path / "out")
    save_file(tensors, weights)
    with pytest.raises(csn_jax.UserError, match="numbered step"):
        csn_jax.load(tmp_path / "out")


def test_a_backbone_may_start_from_a_folder_of_maps(tmp_path):
    """As from one of masks: what is not of the network is left out."""
    exported(untrained_maps(tmp_path / "run", "small"), "safetensors", tmp_path / "out")
    run = open_run(tmp_path / "run")
    backbone = dataclasses.replace(run.config.backbone, init=str(tmp_path / "out/model.safetensors"))
    network, state = run.restore()
    started = pretrained(dataclasses.replace(run.config, backbone=backbone), network)
    assert started.left_out == ["maps.weight"]
    jax.tree.map(np.testing.assert_array_equal, started.state.params["backbone"], state.params["backbone"])


def test_a_model_of_bfloat16_is_exported_in_float32(tmp_path):
    """Within bfloat16 rounding."""
    workdir = untrained(tmp_path / "run", "small", "bfloat16")
    path = exported(workdir, "onnx", tmp_path / "m.onnx")
    check_onnx(path, csn_jax.load(workdir), SHAPES["small"], noise=2e-2)


@pytest.fixture(scope="module")
def specialists(tmp_path_factory):
    """A workdir of two networks whose embeddings differ in width. Its own folder has no checkpoint."""
    workdir = tmp_path_factory.mktemp("specialists") / "run"
    for name, dim in zip(NAMES, (6, 10), strict=True):
        untrained(workdir / name, "small", names=(name,), dim=dim)
    config = Config.from_json((workdir / NAMES[0] / "config.json").read_text())
    config = dataclasses.replace(config, variant="specialists", data=DataConfig("imported", conditions=NAMES))
    conditions = tuple(Condition(name, "set") for name in NAMES)
    write_run(workdir, config, dataclasses.replace(read_record(workdir / NAMES[0]), conditions=conditions), None)
    return workdir


@pytest.mark.parametrize("form", ["onnx", "stablehlo"])
def test_specialists_are_one_file(form, specialists, tmp_path):
    """Concatenated embeddings [B, C * D] and block masks."""
    path, model = exported(specialists, form, tmp_path / "m"), csn_jax.load(specialists)
    assert model.masks.shape == (2, 16)
    {"onnx": check_onnx, "stablehlo": check_stablehlo}[form](path, model, SHAPES["small"])


@pytest.mark.slow
def test_a_trained_run_is_exported_twice_to_the_same_bytes(finished, tmp_path, capsys):
    """StableHLO also from another process; and the file's metadata."""
    for form in ("onnx", "stablehlo"):
        exported(finished, form, tmp_path / form)
        line = f"{tmp_path / form} takes uint8 batch x 32 x 32 x 1 and gives embeddings batch x 8\n"
        assert capsys.readouterr().out == line
    exported(finished, "onnx", tmp_path / "onnx_again")
    words = ("export", f"--workdir={finished}", "--format=stablehlo", f"--out={tmp_path / 'stablehlo_again'}")
    done = tiny.command("port", *words)
    assert done.returncode == 0, done.stderr
    for form in ("onnx", "stablehlo"):
        assert (tmp_path / f"{form}_again").read_bytes() == (tmp_path / form).read_bytes()
    model = csn_jax.load(finished)
    check_onnx(tmp_path / "onnx", model, (32, 32, 1))
    check_stablehlo(tmp_path / "stablehlo", model, (32, 32, 1))
    program = export.deserialize(bytearray((tmp_path / "stablehlo").read_bytes())).mlir_module()
    assert "stablehlo.convolution" in program and ".py" not in program  # no paths of this machine
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "onnx").metadata_props}
    beside = json.loads((tmp_path / "stablehlo.json").read_text())
    del beside["masks"]
    assert metadata == {name: value if isinstance(value, str) else json.dumps(value) for name, value in beside.items()}
    assert beside["model_sha256"] == model.sha256
    assert beside["kinds"] == ["categorical", "categorical"] and beside["step"] == model.step
    assert beside["input"]["dtype"] == "uint8" and "as source glyphs draws it" in beside["input"]["what"]


def test_the_distance_is_as_described(tmp_path):
    """The file's own formula gives Model.distance."""
    workdir = untrained(tmp_path / "run", "projection")
    model = csn_jax.load(workdir)
    exported(workdir, "stablehlo", tmp_path / "m")
    about = json.loads((tmp_path / "m.json").read_text())
    masks, (x, y) = np.array(about["masks"]), np.float64(model.embed(inputs((11,), 2)))
    words = about["distance"].split(": ", 1)[1].split(", x and y")[0]
    for c, name in enumerate(about["conditions"]):
        distance = eval(words, {"sqrt": np.sqrt, "sum": np.sum, "x": x, "y": y, "masks": masks, "c": c})
        np.testing.assert_allclose(distance, model.distance(np.float32(x), np.float32(y), name), rtol=1e-5)


def test_the_description_names_the_steps_of_decoding(tmp_path):
    """Those of data/images.py."""
    exported(untrained(tmp_path / "run", "small"), "stablehlo", tmp_path / "m")
    what = json.loads((tmp_path / "m.json").read_text())["input"]["what"]
    for words in ("red, green, blue", "EXIF", "shorter side to 32", "int(32 * long / short)", "central square"):
        assert words in what
    run = open_run(tmp_path / "run")
    padded = dataclasses.replace(run.config, preprocess=dataclasses.replace(run.config.preprocess, fit="pad"))
    what = exporting._input(dataclasses.replace(run, config=padded))
    assert "longer side to 32" in what and "white square of 32" in what and "central" not in what


def test_usage_errors_are_one_line(finished, tmp_path, monkeypatch, capsys):
    """Each row: format, output, the words of the message. No file is written or changed."""
    (tmp_path / "there").write_text("kept")
    (tmp_path / "m.json").write_text("kept")
    unfinished = shutil.copytree(finished, tmp_path / "run")
    (unfinished / "results.json").unlink()
    before = tiny.contents(tmp_path)

    def check(form, name, *words, workdir=finished):
        argv = ("export", f"--workdir={workdir}", f"--format={form}", f"--out={tmp_path / name}")
        assert_message(*run(port, monkeypatch, capsys, *argv), 2, *words)
        assert tiny.contents(tmp_path) == before

    check("onx", "new", "'onx'", "did you mean onnx?")
    check("onnx", "new", "no config.json", workdir=tmp_path / "none")
    check("onnx", "new", "no results.json", "training", workdir=unfinished)
    check("onnx", "there", f"--out={tmp_path / 'there'}", "exists", "new file")
    check("stablehlo", "there/m", "cannot be written")
    check("stablehlo", "m", f"{tmp_path / 'm.json'} exists")
    monkeypatch.delitem(onnx_graph.NETWORKS, "small")
    check("onnx", "new", "backbone small", "--format=stablehlo")
    monkeypatch.setitem(sys.modules, "onnx", None)
    check("onnx", "new", "package onnx", "pip install onnx")


def test_the_file_depends_on_neither_devices_nor_checkpoint(tmp_path):
    """The tests have four fake devices."""
    workdir = untrained(tmp_path / "run", "projection")
    model = csn_jax.load(workdir)
    path = exported(workdir, "stablehlo", tmp_path / "m")
    (workdir / "checkpoints").rename(tmp_path / "elsewhere")
    assert jax.device_count() == 4
    check_stablehlo(path, model, (11,))
