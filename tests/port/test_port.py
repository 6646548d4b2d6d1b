"""port: released checkpoints embed as in PyTorch, exports come back bit for bit, untrusted files are refused."""

import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
import torch_reference as reference
from oracles import assert_close, flat
from safetensors.numpy import load_file, save_file
from test_cli import assert_message, run
from torch import nn

import csn_jax
from csn_jax import cli, evaluate, port, train
from csn_jax.backbones.tensors import to_tensors
from csn_jax.config import BackboneConfig, Config, DataConfig, PreprocessConfig
from csn_jax.config.typed import flags
from csn_jax.model.network import build_network, pretrained
from csn_jax.model.run import open_run
from csn_jax.port.model_card import model_card

FORMATS = {"zip": {}, "old": {"_use_new_zipfile_serialization": False}}
NOISE = 6e-6  # of float32 embeddings, measured between the two libraries
SHORT = ("--config.steps=2", "--config.eval_every=2", "--config.log_every=1")
COUNTER = "num_batches_tracked"  # of each batch norm; PyTorch before 0.4.1 has none


class ConditionalSimNet(nn.Module):
    """The released model without its outermost module: a backbone, and a row of `masks` per condition."""

    def __init__(self, n_conditions, dim):
        super().__init__()
        self.embeddingnet = reference.ResNet18CSN(dim)
        self.masks = nn.Embedding(n_conditions, dim)
        nn.init.normal_(self.masks.weight, 0.9, 0.7)


class Tripletnet(nn.Module):
    def __init__(self, n_conditions=4, dim=64):
        super().__init__()
        torch.manual_seed(n_conditions)
        self.embeddingnet = ConditionalSimNet(n_conditions, dim)
        for name, buffer in self.named_buffers():  # running statistics as after training
            if "running" in name:
                buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.normal_(0, 0.2)


def release(path, model, form="zip", counters=True):
    state = {name: tensor for name, tensor in model.state_dict().items() if counters or not name.endswith(COUNTER)}
    checkpoint = {"epoch": 51, "state_dict": state, "best_prec1": 0.89}
    torch.save(checkpoint, path, **FORMATS[form])
    return path


def do(*words):
    port.main([str(word) for word in words])


def saved(workdir, step=0):
    """The record of a checkpoint, which holds the SHA-256 of each of its arrays."""
    return json.loads((workdir / f"checkpoints/{step}/meta/metadata").read_text())["record"]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """(model, checkpoint, the workdir that it was imported into)."""
    folder, model = tmp_path_factory.mktemp("released"), Tripletnet()
    path = release(folder / "csn.pth.tar", model)
    do("import", path, f"--workdir={folder / 'run'}")
    return model, path, folder / "run"


@pytest.fixture(scope="module")
def exported(released):
    """The folder that the released checkpoint's workdir was exported to."""
    folder = released[2].parent / "a/csn"
    do("export", f"--workdir={released[2]}", f"--out={folder}")
    return folder


@pytest.fixture(scope="module")
def glyphs(finished, tmp_path_factory):
    """The folder that a trained run was exported to. Copy it to change it."""
    folder = tmp_path_factory.mktemp("exported") / "glyphs"
    do("export", f"--workdir={finished}", f"--out={folder}")
    return folder


def test_a_released_checkpoint_embeds_as_in_pytorch(released):
    """Within float32 noise: embeddings, masks as applied, distances under every condition."""
    model, path, workdir = released
    names = set(torch.load(path, weights_only=True)["state_dict"])
    assert len(names) == 93 and {name.split(".")[2] for name in names if "fc" in name} == {"fc_embed"}
    pixels = np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = torch.tensor(((pixels / 255 - mean) / std).astype(np.float32)).permute(0, 3, 1, 2)
    with torch.no_grad():
        theirs = model.eval().embeddingnet.embeddingnet(x)
    ours = csn_jax.load(workdir)
    embeddings = ours.embed(pixels)
    assert_close({"embeddings": embeddings}, {"embeddings": theirs.numpy()}, NOISE)
    assert ours.conditions == ("class", "closure", "gender", "heel")
    beta = model.embeddingnet.masks.weight.detach()
    assert (beta < 0).any() and np.array_equal(ours.masks, F.relu(beta).numpy())
    for row, condition in enumerate(ours.conditions):
        mask = F.relu(beta[row])
        expected = F.pairwise_distance(theirs[:1] * mask, theirs[1:] * mask, eps=1e-6).numpy()
        assert_close({"d": ours.distance(embeddings[:1], embeddings[1:], condition)}, {"d": expected}, 1e-5)


@pytest.mark.parametrize(
    ("form", "parallel", "counters"),
    [("zip", True, True), ("zip", False, False), ("old", False, True), ("old", True, False)],
)
def test_every_form_of_a_checkpoint_gives_the_same_run(form, parallel, counters, released, tmp_path):
    """Either format of torch.save, with or without DataParallel, with or without counters of batches."""
    model, _, workdir = released
    path = release(tmp_path / "csn.pth.tar", nn.DataParallel(model) if parallel else model, form, counters)
    assert len(torch.load(path, weights_only=True)["state_dict"]) == (93 if counters else 78)
    do("import", path, f"--workdir={tmp_path / 'run'}")
    assert saved(tmp_path / "run")["leaves"] == saved(workdir)["leaves"]
    for name in ("config.json", "data.json"):
        texts = [(folder / name).read_text() for folder in (tmp_path / "run", workdir)]
        assert len({re.sub(r"[0-9a-f]{64}", "", text) for text in texts}) == 1


def test_the_last_layer_may_have_torchvisions_name(released, exported, tmp_path):
    """As in renamed weights, and in the files that this package exports."""
    model, _, workdir = released
    state = {name.replace("fc_embed", "fc"): tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    for source in (tmp_path / "x.pth", exported / "model.safetensors"):
        do("import", source, f"--workdir={tmp_path / source.suffix}")
        assert saved(tmp_path / source.suffix)["leaves"] == saved(workdir)["leaves"]


def test_an_export_has_torchvisions_names_and_the_same_values(released, exported):
    """Beside them the masks, before the rectifier."""
    model, tensors = released[0], load_file(exported / "model.safetensors")
    beta = model.embeddingnet.masks.weight.detach().numpy()
    assert (beta < 0).any() and tensors.pop("masks.weight").tobytes() == beta.tobytes()
    expected = {
        name.replace("fc_embed", "fc"): tensor.numpy()
        for name, tensor in model.embeddingnet.embeddingnet.state_dict().items()
        if not name.endswith(COUNTER)
    }
    assert {"conv1.weight", "layer2.0.downsample.1.running_var", "fc.weight", "fc.bias"} <= {*expected}
    assert_close(tensors, expected, 0)


def test_import_export_import_is_exact(released, exported, tmp_path):
    """Bit for bit: every array, config.json, data.json, and what a second export writes."""
    workdir = released[2]
    do("import", exported, f"--workdir={tmp_path / 'run'}")
    do("export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'b/csn'}")
    assert saved(tmp_path / "run") == saved(workdir)
    for name in ("config.json", "data.json"):
        assert (tmp_path / "run" / name).read_bytes() == (workdir / name).read_bytes()
    first, second = ({path.name: path.read_bytes() for path in out.iterdir()} for out in (exported, tmp_path / "b/csn"))
    assert first == second
    assert {*first} == {"model.safetensors", "config.json", "data.json", "README.md"}
    assert os.listdir(exported.parent) == ["csn"]


@pytest.mark.parametrize(("form", "parallel", "counters"), [("zip", False, True), ("old", True, False)])
def test_training_starts_from_a_released_checkpoint(form, parallel, counters, tmp_path):
    """Its backbone, the last layer too where the shape fits. The masks of the file are left out."""
    model = Tripletnet()
    path = release(tmp_path / "csn.pth.tar", nn.DataParallel(model) if parallel else model, form, counters)
    expected = reference.to_flax(model.embeddingnet.embeddingnet.state_dict())
    for dim in (64, 10):
        network, config = csn_network(path, dim)
        state, _, left_out, _ = pretrained(config, network)
        drawn, taken = flat(network.state.params["backbone"]), flat(state.params["backbone"])
        fresh = {leaf: drawn[leaf] for leaf in ("fc/kernel", "fc/bias")} if dim == 10 else {}
        assert_close(taken | flat(state.statistics), expected | fresh, 0)
        assert {*left_out} == {"masks.weight", *(["fc.weight", "fc.bias"] if dim == 10 else [])}
        assert np.array_equal(state.params["beta"], network.state.params["beta"])


def csn_network(init, dim):
    """(network, config) of training that starts from a file."""
    config = Config(
        backbone=BackboneConfig("resnet18_csn", embedding_dim=dim, init=str(init)),
        preprocess=PreprocessConfig(112, mean=(0.5,) * 3, std=(0.2,) * 3),
    )
    return build_network(config, (112, 112, 3), 2, 100), config


TWICE = {
    "of DataParallel": ("embeddingnet.embeddingnet.bn1.bias", "module.embeddingnet.embeddingnet.bn1.bias"),
    "masks": ("embeddingnet.masks.weight", "module.embeddingnet.masks.weight"),
    "without any prefix": ("embeddingnet.embeddingnet.conv1.weight", "conv1.weight"),
    "two last layers": ("embeddingnet.embeddingnet.fc_embed.bias", "embeddingnet.embeddingnet.fc.bias"),
}


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", TWICE)
def test_a_tensor_under_two_names_is_refused(name, first, tmp_path, monkeypatch, capsys):
    """By import and by config.backbone.init, in either order: which of the two is meant is unknown."""
    known, other = TWICE[name]
    state, path = broken_state(), tmp_path / "x.pth"
    more = {other: state[known] + 1}
    torch.save({"state_dict": more | state if first else state | more}, path)
    second, plain = known if first else other, re.sub("^.*net[.]", "", known).replace("fc_embed", "fc")
    words = "x.pth", f"tensor {plain} twice", second, "weights of one network"
    refused = run(port, monkeypatch, capsys, "import", str(path), f"--workdir={tmp_path / 'w'}")
    assert_message(*refused, 2, *words)
    assert not (tmp_path / "w").exists()
    network, config = csn_network(path, 8)
    with pytest.raises(csn_jax.UserError) as caught:
        pretrained(config, network)
    assert all(word in str(caught.value) for word in (*words, "config.backbone.init"))


def test_masks_without_the_rectifier(released, tmp_path):
    """Raw, as the reference's --test command applies them. The stored ones are raw either way."""
    model, path, workdir = released
    do("import", path, f"--workdir={tmp_path / 'run'}", "--unrectified")
    raw = csn_jax.load(tmp_path / "run")
    assert np.array_equal(raw.masks, model.embeddingnet.masks.weight.detach().numpy())
    assert saved(tmp_path / "run")["leaves"] == saved(workdir)["leaves"]
    do("export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}")
    do("import", tmp_path / "out", f"--workdir={tmp_path / 'again'}")
    assert np.array_equal(csn_jax.load(tmp_path / "again").masks, raw.masks)
    assert "--unrectified" in (tmp_path / "out/README.md").read_text()


def test_names_of_conditions(tmp_path):
    path = release(tmp_path / "x.pth", Tripletnet(2, 8))
    do("import", path, f"--workdir={tmp_path / 'a'}")
    do("import", path, f"--workdir={tmp_path / 'b'}", "--conditions", "colour", "shape")
    assert csn_jax.load(tmp_path / "a").conditions == ("condition_0", "condition_1")
    assert csn_jax.load(tmp_path / "b").conditions == ("colour", "shape")
    assert csn_jax.load(tmp_path / "b").masks.shape == (2, 8)


def test_an_imported_model_says_that_it_has_no_data(released, monkeypatch, capsys):
    workdir = released[2]
    assert_message(*run(evaluate, monkeypatch, capsys, f"--workdir={workdir}"), 2, "no data to train or measure it on")
    refused = run(train, monkeypatch, capsys, "--config.data.source=imported", f"--workdir={workdir}-other")
    assert_message(*refused, 2, "no data to train or measure it on", "csn_jax.load")


def test_a_trained_run_comes_back_finished(finished, glyphs, tmp_path, capsys):
    """The same embeddings, masks and results, bit for bit. Training it again has nothing to do."""
    do("import", glyphs, f"--workdir={tmp_path / 'run'}")
    here, there = csn_jax.load(finished), csn_jax.load(tmp_path / "run")
    x = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), dtype=np.uint8)
    assert here.conditions == there.conditions and here.step == there.step > 0
    assert here.masks.tobytes() == there.masks.tobytes() and here.embed(x).tobytes() == there.embed(x).tobytes()
    capsys.readouterr()
    evaluate.main([f"--workdir={tmp_path / 'run'}", "--json"])
    results = json.loads((finished / "results.json").read_text())
    assert json.loads(capsys.readouterr().out) == results
    assert tiny.train(tmp_path / "run") == results
    assert (tmp_path / "run/results.json").read_bytes() == (finished / "results.json").read_bytes()
    assert {"conv0/kernel", "bn0/mean", "fc/bias", "masks.weight"} <= {*load_file(glyphs / "model.safetensors")}


def test_the_model_card_has_conditions_results_data_and_command(finished, glyphs):
    card = (glyphs / "README.md").read_text()
    results, record = (json.loads((finished / name).read_text()) for name in ("results.json", "data.json"))
    assert card.startswith("---\nlibrary_name: csn_jax\n---\n\n# glyphs\n")
    for name in ("character", "font"):
        low, high = results["ci95"]["by_condition"][name]
        line = next(line for line in card.splitlines() if line.startswith(f"{name} "))
        assert f"{results['triplet_error']['by_condition'][name]:.2%}" in line and f"{low:.2%} to {high:.2%}" in line
        assert f"| {name} | categorical |" in card
    for digest in (record["items_sha256"], *record["triplets_sha256"].values()):
        assert digest in card
    command = shlex.split(next(line for line in card.splitlines() if line.startswith("csn_jax train")))
    assert cli.parse(train.Args, command[2:], "train").config == tiny.config()


@pytest.mark.parametrize("licence", [None, "Apache 2.0"])
def test_the_model_card_names_the_weights_and_their_licence(finished, licence):
    run = open_run(finished)
    config = dataclasses.replace(run.config, backbone=dataclasses.replace(run.config.backbone, init="package:weights"))
    record = dataclasses.replace(run.record, init_sha256="5" * 64, init_licence=licence)
    card = model_card("name", dataclasses.replace(run, config=config, record=record), "")
    assert f"started from `package:weights`, weights of SHA-256 {'5' * 64}" in card
    assert f"Their licence: {licence or 'not known to csn_jax'}." in card
    assert "licence" not in model_card("name", run, "")


def test_names_are_escaped_in_the_model_card(tmp_path):
    path = release(tmp_path / "x.pth", Tripletnet(3, 8))
    names = ["a|b # <img src=x>", "`c` [d](e)", "``` # out"]
    do("import", path, f"--workdir={tmp_path / 'run'}", "--conditions", *names)
    do("export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}")
    card = (tmp_path / "out/README.md").read_text()
    table = card[card.index("| condition |") : card.index("## Results")].splitlines()
    rows = (r"a\|b # \<img src=x\>", r"\`c\` \[d\](e)", r"\`\`\` # out")
    assert table[2:5] == [f"| {row} | categorical |" for row in rows]
    command = card[card.index("## How it was made") :].split("\n")
    assert command[2] == command[-2].strip() + "bash" == "````bash"  # longer than the name's own fence
    do("import", tmp_path / "out", f"--workdir={tmp_path / 'again'}")
    assert csn_jax.load(tmp_path / "again").conditions == tuple(names)


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(
            variant="fixed",
            learning_rate=0.1 + 0.2,
            backbone=BackboneConfig("resnet50", init="a b/$x.pth", freeze="layer2", learning_rate_ratio=0.1),
            data=DataConfig("table", path="it's é", conditions=("a b", "c"), skip_bad=True),
            preprocess=PreprocessConfig(64, True, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ),
    ],
)
def test_flags_make_the_very_config(config):
    words = shlex.split(shlex.join(flags(config)))
    assert cli.parse(train.Args, words, "train").config == config
    assert bool(words) == (config != Config())


def test_specialists_come_back_as_one_model(specialists, tmp_path):
    do("export", f"--workdir={specialists}", f"--out={tmp_path / 'out'}")
    do("import", tmp_path / "out", f"--workdir={tmp_path / 'run'}")
    here, there = csn_jax.load(specialists), csn_jax.load(tmp_path / "run")
    x = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), dtype=np.uint8)
    assert here.conditions == there.conditions and there.masks.shape == (2, 16)
    assert here.embed(x).tobytes() == there.embed(x).tobytes()
    assert here.sha256 == there.sha256
    data = tmp_path / "out/data.json"
    record = json.loads(data.read_text())
    for name in ("../character", "..", "/tmp", "a/b", "."):
        record["conditions"][0]["name"] = name
        data.write_text(json.dumps(record))
        with pytest.raises(csn_jax.UserError, match="data.json: condition .* cannot name a file"):
            do("import", tmp_path / "out", f"--workdir={tmp_path / 'other'}")
    assert not (tmp_path / "other").exists()


class Attack:
    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.system, (f"touch {self.sentinel}",)


@pytest.mark.parametrize("form", FORMATS)
def test_a_checkpoint_that_holds_code_is_refused_and_not_run(form, tmp_path, monkeypatch, capsys):
    state = {name: Attack(tmp_path / "run") for name in ("embeddingnet.masks.weight",)}
    path = tmp_path / "csn.pth.tar"
    torch.save({"state_dict": Tripletnet().state_dict() | state}, path, **FORMATS[form])
    refused = run(port, monkeypatch, capsys, "import", str(path), f"--workdir={tmp_path / 'w'}")
    assert_message(*refused, 2, str(path), "posix.system", "not loaded")
    assert os.listdir(tmp_path) == ["csn.pth.tar"]


def broken_state(**changes):
    state = {name: value.clone() for name, value in Tripletnet(2, 8).state_dict().items()}
    for name, value in changes.items():
        name = next(key for key in state if key.endswith(name.replace("__", ".")))
        if value is None:
            del state[name]
        else:
            state[name] = value
    return state


# What a file holds, and the words of its refusal.
OTHER_CHECKPOINTS = {
    "no masks": (broken_state(masks__weight=None), ["no masks", "masks.weight"]),
    "masks of another rank": (broken_state(masks__weight=torch.ones(8)), ["no masks"]),
    "masks of whole numbers": (broken_state(masks__weight=torch.ones(2, 8).long()), ["no masks"]),
    "masks of NaN": (broken_state(masks__weight=torch.full((2, 8), float("nan"))), ["no masks"]),
    "masks without rows": (broken_state(masks__weight=torch.ones(0, 8)), ["no masks"]),
    "masks of another width": (
        broken_state(masks__weight=torch.ones(2, 9)),
        ["shape", "fc.bias [8]", "[9]", "fc.weight [8, 256]", "[9, 256]"],
    ),
    "a key less": (
        broken_state(layer1__0__bn1__bias=None, fc_embed__bias=None),
        ["missing", "fc.bias, layer1.0.bn1.bias"],
    ),
    "a key more": (broken_state() | {"fc2.bias": torch.ones(1)}, ["unexpected", "fc2.bias"]),
    "an ImageNet model": (reference.resnet18(10).state_dict(), ["no masks"]),
    "fewer dimensions than conditions": (Tripletnet(4, 3).state_dict(), ["embedding_dim is 3", "4 conditions"]),
}


@pytest.mark.parametrize("name", OTHER_CHECKPOINTS)
def test_another_checkpoint_is_refused(name, tmp_path, monkeypatch, capsys):
    state, words = OTHER_CHECKPOINTS[name]
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    refused = run(port, monkeypatch, capsys, "import", str(tmp_path / "x.pth"), f"--workdir={tmp_path / 'w'}")
    assert_message(*refused, 2, *words)
    assert not (tmp_path / "w").exists()


def test_usage_errors_are_one_line(released, finished, glyphs, tmp_path, monkeypatch, capsys):
    """Each row: the words of a command, and the words of its message. No command writes anything."""
    _, checkpoint, taken = released
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/mine.txt").write_text("kept")
    unfinished, new = shutil.copytree(finished, tmp_path / "unfinished"), f"--workdir={tmp_path / 'new'}"
    (unfinished / "results.json").unlink()
    table = [
        ("import", ["csn_jax port import --help"]),
        ("imprt", ["'imprt'", "did you mean import?"]),
        ("import /no/such.pth", ["CHECKPOINT=/no/such.pth", "no such file"]),
        ("import x.onnx", ["CHECKPOINT=x.onnx", ".safetensors, .pth"]),
        (f"import {tmp_path}", ["no config.json", "port export"]),
        ("import x.pth --wrkdir=x", ["--wrkdir"]),
        (f"import {checkpoint} --workdir={taken}", [f"{taken} holds a model"]),
        (f"import {checkpoint} {new} --conditions a b", ["--conditions names a b", "4 masks"]),
        (f"import {checkpoint} {new} --conditions ../a b c d", ["'../a' cannot name a file"]),
        (f"import {glyphs} {new} --conditions a", ["leave out --conditions"]),
        ("export --workdir=x --out=y --format=onx", ["'onx'", "did you mean onnx?"]),
        ("export --workdir=/no/such --out=y", ["/no/such has no config.json"]),
        ("export --workdir=x", ["--out"]),
        (f"export --workdir={finished} --out={tmp_path / 'mine'}", [f"--out={tmp_path / 'mine'} holds mine.txt"]),
        (f"export --workdir={finished} --out={tmp_path / 'mine/mine.txt/x'}", ["cannot be written", "Not a directory"]),
        (f"export --workdir={unfinished} --out={tmp_path / 'new'}", ["no results.json", "training"]),
    ]
    before = {**tiny.contents(taken), ".lock": None}
    for argv, words in table:
        assert_message(*run(port, monkeypatch, capsys, *argv.split()), 2, *words)
    assert {**tiny.contents(taken), ".lock": None} == before
    assert {*os.listdir(tmp_path)} == {"mine", "unfinished"} and os.listdir(tmp_path / "mine") == ["mine.txt"]


def test_a_changed_export_is_refused(glyphs, tmp_path, monkeypatch, capsys):
    """Other masks, no step, a text for weights, a config of another network."""
    shutil.copytree(glyphs, tmp_path / "out")
    weights, config = tmp_path / "out/model.safetensors", tmp_path / "out/config.json"
    whole, tensors, text = weights.read_bytes(), load_file(weights), config.read_text()
    other = Config.from_json(text)
    other = dataclasses.replace(other, backbone=dataclasses.replace(other.backbone, name="vgg"))
    masks = {"masks.weight": np.ones((3, 8), np.float32)}
    for change, words in (
        (lambda: save_file(tensors | masks, weights, {"step": "8"}), ["masks [3, 8]", "step '8'", "masks [2, 8]"]),
        (lambda: save_file(tensors, weights), ["step ''"]),
        (lambda: weights.write_text("text"), [".safetensors file"]),
        (lambda: weights.unlink(), ["model.safetensors", "no such file"]),
        (lambda: config.write_text(other.to_json()), ["of a vgg", "missing", "unexpected"]),
    ):
        weights.write_bytes(whole)
        change()
        refused = run(port, monkeypatch, capsys, "import", str(tmp_path / "out"), f"--workdir={tmp_path / 'run'}")
        assert_message(*refused, 2, *words)
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_training_starts_from_weights_and_needs_them_only_once(glyphs, tmp_path):
    """Frozen, they are in the trained model bit for bit. A workdir with a checkpoint resumes without the file."""
    weights = glyphs / "model.safetensors"
    mine = shutil.copy(weights, tmp_path / "mine.safetensors")
    flags = (f"--config.backbone.init={mine}", "--config.backbone.freeze=all", *SHORT)
    first = tiny.train(tmp_path / "run", *flags)
    do("export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}")
    given, trained = load_file(weights), load_file(tmp_path / "out/model.safetensors")
    changed = {name for name, value in given.items() if value.tobytes() != trained[name].tobytes()}
    assert changed == {"fc/kernel", "fc/bias", "masks.weight"} and first["step"] == 2
    record = json.loads((tmp_path / "run/data.json").read_text())
    assert record["init_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    card = (tmp_path / "out/README.md").read_text()
    assert f"started from `{mine}`" in card and card.count(record["init_sha256"]) == 2
    os.unlink(mine)
    (tmp_path / "run/results.json").unlink()
    assert tiny.train(tmp_path / "run", *flags) == first
    csn_jax.load(tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints")
    (tmp_path / "run/results.json").unlink()
    with pytest.raises(csn_jax.UserError, match="no such file"):
        tiny.train(tmp_path / "run", *flags)
    tensors = load_file(weights)
    save_file(tensors | {"fc/bias": tensors["fc/bias"] + np.float32(1)}, mine)
    with pytest.raises(csn_jax.UserError, match="init_sha256 is "):
        tiny.train(tmp_path / "run", *flags)


def test_pretrained_values_are_where_training_begins(glyphs):
    """All of them, and a new last layer where its shape differs."""
    weights = glyphs / "model.safetensors"
    given = load_file(weights)
    for dim in (8, 10):
        config = tiny.config(f"--config.backbone.init={weights}", f"--config.backbone.embedding_dim={dim}")
        network = build_network(config, (32, 32, 1), 2, 100)
        state, _, left_out, _ = pretrained(config, network)
        tensors = to_tensors("small", state.params["backbone"], state.statistics)
        drawn = to_tensors("small", network.state.params["backbone"], network.state.statistics)
        for name, value in tensors.items():
            fresh = dim == 10 and name.startswith("fc/")
            assert np.array_equal(value, drawn[name] if fresh else given[name]), name
        assert {*left_out} == {"masks.weight", *(["fc/bias", "fc/kernel"] if dim == 10 else [])}
        assert np.array_equal(state.params["beta"], network.state.params["beta"]) and int(state.step) == 0


# The file of config.backbone.init, and the words of its refusal.
NO_WEIGHTS = {
    "absent": ("/no/such.pth", ["config.backbone.init=/no/such.pth", "no such file"]),
    "another suffix": ("weights.bin", ["config.backbone.init=weights.bin", "weight file"]),
    "hub": ("hf:resnet18", ["hf:resnet18", "hf:OWNER/NAME"]),
    "text": ("text.pth", ["text.pth", "PyTorch checkpoint"]),
    "code": ("code.pth", ["code.pth", "posix.system"]),
    "another network": ("other.pth", ["of a projection", "missing", "bn/bias", "unexpected", "conv1.weight"]),
}


def test_a_file_without_usable_weights_is_refused(on_vectors, tmp_path, monkeypatch, capsys):
    """The workdir stays free, and no code of a file runs."""
    (tmp_path / "text.pth").write_text("text")
    torch.save({"a": Attack(tmp_path / "sentinel")}, tmp_path / "code.pth")
    torch.save(reference.ResNet18CSN(8).state_dict(), tmp_path / "other.pth")
    argv = [*tiny.ARGUMENTS, "--config.feed=device", *on_vectors, f"--workdir={tmp_path / 'w'}"]
    for file, words in NO_WEIGHTS.values():
        path = tmp_path / file if (tmp_path / file).exists() else file
        assert_message(*run(train, monkeypatch, capsys, *argv, f"--config.backbone.init={path}"), 2, *words)
        assert not {"checkpoints", "config.json"} & {path.name for path in (tmp_path / "w").glob("*")}
    assert not (tmp_path / "sentinel").exists()
