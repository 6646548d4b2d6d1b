"""port: released checkpoints embed as in PyTorch, exports come back bit for bit, hostile files are refused."""

import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
import torch_reference as reference
from oracles import assert_close, flat
from safetensors.numpy import load_file, save_file
from test_cli import assert_told, run
from torch import nn

import csn_jax
from csn_jax import cli, evaluate, port, train
from csn_jax.config import BackboneConfig, Config, DataConfig, PreprocessConfig, flags

FORMATS = {"zip": {}, "old": {"_use_new_zipfile_serialization": False}}
NOISE = 6e-6  # of float32 embeddings, measured between the two libraries
SHORT = ("--config.steps=2", "--config.eval_every=2", "--config.log_every=1")


class ConditionalSimNet(nn.Module):
    """The released model's outside: a backbone and, for each condition, a row of `masks`."""

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
        for name, buffer in self.named_buffers():  # running statistics as after a training
            if "running" in name:
                buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.normal_(0, 0.2)


COUNTER = "num_batches_tracked"  # of each batch norm; PyTorch before 0.4.1 has none


def release(path, model, form="zip", counters=True):
    state = {name: tensor for name, tensor in model.state_dict().items() if counters or not name.endswith(COUNTER)}
    checkpoint = {"epoch": 51, "state_dict": state, "best_prec1": 0.89}
    torch.save(checkpoint, path, **FORMATS[form])
    return path


def do(*words):
    port.main([str(word) for word in words])


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """(model, checkpoint, the workdir that it was imported into)."""
    folder, model = tmp_path_factory.mktemp("released"), Tripletnet()
    path = release(folder / "csn.pth.tar", model)
    do("import", path, f"--workdir={folder / 'run'}")
    return model, path, folder / "run"


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)


def torch_embeddings(model, pixels):
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = torch.tensor(((pixels / 255 - mean) / std).astype(np.float32)).permute(0, 3, 1, 2)
    with torch.no_grad():
        return model.eval().embeddingnet.embeddingnet(x)


def test_a_released_checkpoint_embeds_as_in_pytorch(released, pixels):
    """Within float32 noise: embeddings, masks as applied, distances under every condition."""
    model, _, workdir = released
    ours, theirs = csn_jax.load(workdir), torch_embeddings(model, pixels)
    embeddings = ours.embed(pixels)
    assert_close({"embeddings": embeddings}, {"embeddings": theirs.numpy()}, NOISE)
    assert ours.conditions == ("class", "closure", "gender", "heel")
    beta = model.embeddingnet.masks.weight.detach()
    assert (beta < 0).any() and np.array_equal(ours.masks, F.relu(beta).numpy())
    for row, condition in enumerate(ours.conditions):
        mask = F.relu(beta[row])
        expected = F.pairwise_distance(theirs[:1] * mask, theirs[1:] * mask, eps=1e-6).numpy()
        assert_close({"d": ours.distance(embeddings[:1], embeddings[1:], condition)}, {"d": expected}, 1e-5)


RELEASED = {"93 keys": (93, "zip", True), "78 keys": (78, "old", False)}


@pytest.mark.parametrize("name", RELEASED)
def test_the_released_names_are_imported_embedded_and_exported(name, pixels, tmp_path):
    """As newer and older PyTorch write them: the last layer is `fc_embed`, some of the raw beta are negative."""
    n, form, counters = RELEASED[name]
    model = Tripletnet()
    path = release(tmp_path / "csn.pth.tar", model, form, counters)
    names = set(torch.load(path, weights_only=True)["state_dict"])
    assert len(names) == n and any(key.endswith(COUNTER) for key in names) == counters
    last = "embeddingnet.embeddingnet.fc_embed."
    assert {f"{last}weight", f"{last}bias", "embeddingnet.masks.weight"} <= names
    assert {key.split(".")[2] for key in names if "fc" in key} == {"fc_embed"}
    do("import", path, f"--workdir={tmp_path / 'run'}")
    embeddings = csn_jax.load(tmp_path / "run").embed(pixels)
    assert_close({"embeddings": embeddings}, {"embeddings": torch_embeddings(model, pixels).numpy()}, NOISE)
    do("export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}")
    tensors = load_file(tmp_path / "out/model.safetensors")
    beta = model.embeddingnet.masks.weight.detach().numpy()
    assert (beta < 0).any() and tensors.pop("masks.weight").tobytes() == beta.tobytes()
    expected = {  # torchvision's names
        key.replace("fc_embed", "fc"): tensor.numpy()
        for key, tensor in model.embeddingnet.embeddingnet.state_dict().items()
        if not key.endswith(COUNTER)
    }
    assert {"fc.weight", "fc.bias"} <= {*expected}
    assert_close(tensors, expected, 0)
    do("import", tmp_path / "out", f"--workdir={tmp_path / 'again'}")
    assert saved(tmp_path / "again") == saved(tmp_path / "run")


def test_a_checkpoint_with_torchvisions_name_of_the_last_layer_is_the_same(released, tmp_path):
    """Of weights that were renamed, and of files that this package exported."""
    model, _, workdir = released
    state = {name.replace("fc_embed", "fc"): tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    do("import", tmp_path / "x.pth", f"--workdir={tmp_path / 'a'}")
    do("export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}")
    do("import", tmp_path / "out/model.safetensors", f"--workdir={tmp_path / 'b'}")
    for name in ("a", "b"):
        assert saved(tmp_path / name)["leaves"] == saved(workdir)["leaves"]


@pytest.mark.parametrize("name", RELEASED)
@pytest.mark.parametrize("parallel", [False, True])
def test_training_starts_from_a_released_checkpoint(name, parallel, tmp_path):
    """Its backbone, last layer included where the shape fits; the masks of the file are left out."""
    from csn_jax.model.network import build_network, pretrained

    _, form, counters = RELEASED[name]
    model = Tripletnet()
    path = release(tmp_path / "csn.pth.tar", nn.DataParallel(model) if parallel else model, form, counters)
    expected = reference.to_flax(model.embeddingnet.embeddingnet.state_dict())
    for dim in (64, 10):
        config = Config(
            backbone=BackboneConfig("resnet18_csn", embedding_dim=dim, init=str(path)),
            preprocess=PreprocessConfig(112, mean=(0.5,) * 3, std=(0.2,) * 3),
        )
        network = build_network(config, (112, 112, 3), 4, 100)
        state, _, left_out = pretrained(config, network)
        drawn, taken = flat(network.state.params["backbone"]), flat(state.params["backbone"])
        fresh = {leaf: drawn[leaf] for leaf in ("fc/kernel", "fc/bias")} if dim == 10 else {}
        assert_close(taken | flat(state.statistics), expected | fresh, 0)
        assert {*left_out} == {"masks.weight", *(["fc.weight", "fc.bias"] if dim == 10 else [])}
        assert np.array_equal(state.params["beta"], network.state.params["beta"])


TWICE = {
    "of DataParallel": ("embeddingnet.embeddingnet.bn1.bias", "module.embeddingnet.embeddingnet.bn1.bias"),
    "masks": ("embeddingnet.masks.weight", "module.embeddingnet.masks.weight"),
    "without any prefix": ("embeddingnet.embeddingnet.conv1.weight", "conv1.weight"),
    "two last layers": ("embeddingnet.embeddingnet.fc_embed.bias", "embeddingnet.embeddingnet.fc.bias"),
}


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", TWICE)
def test_a_tensor_under_two_names_is_refused(name, first, tmp_path, monkeypatch, capsys):
    """By import and by config.backbone.init, in either order: which of them is meant cannot be known."""
    known, other = TWICE[name]
    state = broken_state()
    more = {other: state[known] + 1}
    torch.save({"state_dict": more | state if first else state | more}, tmp_path / "x.pth")
    second, plain = known if first else other, re.sub("^.*net[.]", "", known).replace("fc_embed", "fc")
    parts = f"x.pth has tensor {plain} twice, also as {second}", "give the weights of one network"
    told = run(port, monkeypatch, capsys, "import", str(tmp_path / "x.pth"), f"--workdir={tmp_path / 'w'}")
    assert_told(*told, 2, *parts)
    assert not (tmp_path / "w").exists()
    argv = [*tiny.ARGUMENTS, f"--workdir={tmp_path / 'w'}", f"--config.backbone.init={tmp_path / 'x.pth'}"]
    assert_told(*run(train, monkeypatch, capsys, *argv), 2, *parts)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("parallel", [False, True])
def test_both_formats_and_dataparallel_give_the_same_run(form, parallel, released, tmp_path):
    """Keys with or without `module.` in front, in either of torch.save's formats."""
    model, _, workdir = released
    path = release(tmp_path / "csn.pth.tar", nn.DataParallel(model) if parallel else model, form)
    do("import", path, f"--workdir={tmp_path / 'run'}")
    assert saved(tmp_path / "run")["leaves"] == saved(workdir)["leaves"]
    names = "config.json", "data.json"
    for name in names:
        ours, first = (
            re.sub(r"[0-9a-f]{64}", "", (folder / name).read_text()) for folder in (tmp_path / "run", workdir)
        )
        assert ours == first


def saved(workdir, step=0):
    """The record of a checkpoint, which holds the SHA-256 of each of its arrays."""
    return json.loads((workdir / f"checkpoints/{step}/meta/metadata").read_text())["record"]


def test_masks_without_the_rectifier(released, pixels, tmp_path):
    """Raw, as the reference's --test command applies them; the stored ones are raw either way."""
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


def test_import_export_import_is_exact(released, tmp_path):
    """Bit for bit: every array, config.json, data.json, and what a second export writes."""
    _, _, workdir = released
    do("export", f"--workdir={workdir}", f"--out={tmp_path / 'a/csn'}")
    do("import", tmp_path / "a/csn", f"--workdir={tmp_path / 'run'}")
    do("export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'b/csn'}")
    assert saved(tmp_path / "run") == saved(workdir)
    for name in ("config.json", "data.json"):
        assert (tmp_path / "run" / name).read_bytes() == (workdir / name).read_bytes()
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / side / "csn").iterdir()} for side in ("a", "b")
    )
    assert first == second
    assert {*first} == {"model.safetensors", "config.json", "data.json", "README.md"}
    assert os.listdir(tmp_path / "a") == ["csn"]


def test_an_export_is_read_by_pytorch(released, tmp_path):
    """Under the names that a state dict of the backbone has; beside them the masks, before the rectifier."""
    model, _, workdir = released
    do("export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}")
    tensors = {name: torch.tensor(array) for name, array in load_file(tmp_path / "out/model.safetensors").items()}
    assert torch.equal(tensors.pop("masks.weight"), model.embeddingnet.masks.weight)
    for leaf in ("weight", "bias"):  # torchvision's name; the reference's class has another one
        tensors[f"fc_embed.{leaf}"] = tensors.pop(f"fc.{leaf}")
    fresh = reference.ResNet18CSN(64)
    missing, unexpected = fresh.load_state_dict(tensors, strict=False)
    assert unexpected == [] and all(name.endswith("num_batches_tracked") for name in missing)
    for (name, mine), (_, theirs) in zip(
        fresh.state_dict().items(), model.embeddingnet.embeddingnet.state_dict().items(), strict=True
    ):
        assert torch.equal(mine, theirs), name


def test_an_imported_model_says_that_it_has_no_data(released, monkeypatch, capsys):
    workdir = released[2]
    assert_told(*run(evaluate, monkeypatch, capsys, f"--workdir={workdir}"), 2, "has no data of its own")
    told = run(train, monkeypatch, capsys, "--config.data.source=imported", f"--workdir={workdir}-other")
    assert_told(*told, 2, "has no data of its own", "csn_jax.load")


def test_a_trained_run_comes_back_finished(finished, tmp_path, capsys):
    """Same embeddings and masks to the bit, the same results by evaluate, and training it again has nothing to do."""
    do("export", f"--workdir={finished}", f"--out={tmp_path / 'out'}")
    do("import", tmp_path / "out", f"--workdir={tmp_path / 'run'}")
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
    tensors = load_file(tmp_path / "out/model.safetensors")
    assert {"conv0/kernel", "bn0/mean", "fc/bias", "masks.weight"} <= {*tensors}


def test_the_model_card_tells_conditions_results_data_and_command(finished, tmp_path):
    do("export", f"--workdir={finished}", f"--out={tmp_path / 'glyphs'}")
    card = (tmp_path / "glyphs/README.md").read_text()
    results, record = (json.loads((finished / name).read_text()) for name in ("results.json", "data.json"))
    assert card.startswith("---\nlibrary_name: csn_jax\n---\n\n# glyphs\n")
    for name in ("character", "font"):
        low, high = results["ci95"]["by_condition"][name]
        line = next(line for line in card.splitlines() if line.startswith(f"{name} "))
        assert f"{results['triplet_error']['by_condition'][name]:.2%}" in line and f"{low:.2%} to {high:.2%}" in line
        assert f"| {name} | categorical |" in card
    for digest in (record["items_sha256"], *record["triplets_sha256"].values()):
        assert digest in card
    command = shlex.split(next(line for line in card.splitlines() if line.startswith("python -m csn_jax.train")))
    assert cli.parse(train.Args, command[3:], "train").config == tiny.config()


def test_names_do_no_harm_in_the_model_card(tmp_path):
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


@pytest.fixture(scope="module")
def specialists(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("specialists") / "run"
    tiny.train(workdir, "--config.variant=specialists", *SHORT)
    return workdir


def test_specialists_come_back_as_one_model(specialists, tmp_path):
    do("export", f"--workdir={specialists}", f"--out={tmp_path / 'out'}")
    do("import", tmp_path / "out", f"--workdir={tmp_path / 'run'}")
    here, there = csn_jax.load(specialists), csn_jax.load(tmp_path / "run")
    x = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), dtype=np.uint8)
    assert here.conditions == there.conditions and there.masks.shape == (2, 16)
    assert here.embed(x).tobytes() == there.embed(x).tobytes()
    for name in here.conditions:
        assert saved(tmp_path / "run" / name, here.step)["leaves"].keys()
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
    told = run(port, monkeypatch, capsys, "import", str(path), f"--workdir={tmp_path / 'w'}")
    assert_told(*told, 2, f"{path} asks for posix.system", "it was not loaded")
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


NO_CHECKPOINTS = {
    "no masks": (broken_state(masks__weight=None), ["has no masks", "masks.weight"]),
    "masks of another rank": (broken_state(masks__weight=torch.ones(8)), ["has no masks"]),
    "masks of whole numbers": (broken_state(masks__weight=torch.ones(2, 8).long()), ["has no masks"]),
    "masks of NaN": (broken_state(masks__weight=torch.full((2, 8), float("nan"))), ["has no masks"]),
    "no masks at all": (broken_state(masks__weight=torch.ones(0, 8)), ["has no masks"]),
    "masks of another width": (
        broken_state(masks__weight=torch.ones(2, 9)),
        ["misshapen: fc.bias [8] and not [9], fc.weight [8, 256] and not [9, 256]"],
    ),
    "a key gone": (
        broken_state(layer1__0__bn1__bias=None, fc_embed__bias=None),
        ["missing: fc.bias, layer1.0.bn1.bias"],
    ),
    "a key more": (broken_state() | {"fc2.bias": torch.ones(1)}, ["unexpected: fc2.bias"]),
    "an ImageNet model": (reference.resnet18(10).state_dict(), ["has no masks"]),
    "fewer dimensions than conditions": (
        Tripletnet(4, 3).state_dict(),
        ["embedding_dim is 3", "4 conditions"],
    ),
}


@pytest.mark.parametrize("name", NO_CHECKPOINTS)
def test_another_checkpoint_is_refused_in_one_sentence(name, tmp_path, monkeypatch, capsys):
    state, parts = NO_CHECKPOINTS[name]
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    told = run(port, monkeypatch, capsys, "import", str(tmp_path / "x.pth"), f"--workdir={tmp_path / 'w'}")
    assert_told(*told, 2, *parts)
    assert not (tmp_path / "w").exists()


MISTAKES = {
    "nothing to import": (["import"], ["csn_jax.port import --help"]),
    "a verb's typo": (["imprt"], ["unknown command 'imprt' (did you mean import?)", "import or export"]),
    "no such file": (["import", "/no/such.pth"], ["CHECKPOINT=/no/such.pth", "no such file"]),
    "no weight file": (["import", "x.onnx"], ["CHECKPOINT=x.onnx", ".safetensors, .pth"]),
    "a folder of another kind": (["import", str(Path(__file__).parent)], ["has no config.json", "port export wrote"]),
    "another flag": (["import", "x.pth", "--wrkdir=x"], ["--wrkdir=x"]),
    "format": (["export", "--workdir=x", "--out=y", "--format=onx"], ["'onx'", "did you mean onnx?"]),
    "no run": (["export", "--workdir=/no/such", "--out=y"], ["/no/such has no config.json"]),
    "out missing": (["export", "--workdir=x"], ["--out"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(name, monkeypatch, capsys):
    argv, parts = MISTAKES[name]
    assert_told(*run(port, monkeypatch, capsys, *argv), 2, *parts)


def test_folders_that_are_taken_or_unfinished(released, finished, tmp_path, monkeypatch, capsys):
    _, path, workdir = released
    before = tiny.contents(workdir)
    told = run(port, monkeypatch, capsys, "import", str(path), f"--workdir={workdir}")
    assert_told(*told, 2, f"{workdir} holds a model already")
    assert {**tiny.contents(workdir), ".lock": None} == {**before, ".lock": None}
    told = run(port, monkeypatch, capsys, "import", str(path), f"--workdir={tmp_path}", "--conditions", "a", "b")
    assert_told(*told, 2, "--conditions names a b", "has 4 masks")
    names = ("--conditions", "../a", "b", "c", "d")
    told = run(port, monkeypatch, capsys, "import", str(path), f"--workdir={tmp_path}", *names)
    assert_told(*told, 2, "condition '../a' cannot name a file")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("kept")
    told = run(port, monkeypatch, capsys, "export", f"--workdir={finished}", f"--out={tmp_path / 'out'}")
    assert_told(*told, 2, f"--out={tmp_path / 'out'} holds")
    assert os.listdir(tmp_path / "out") == ["mine.txt"]
    run_folder = shutil.copytree(finished, tmp_path / "run")
    (run_folder / "results.json").unlink()
    told = run(port, monkeypatch, capsys, "export", f"--workdir={run_folder}", f"--out={tmp_path / 'new'}")
    assert_told(*told, 2, "has no results.json yet", "training to the end")
    told = run(port, monkeypatch, capsys, "export", f"--workdir={finished}", f"--out={tmp_path / 'out/mine.txt/x'}")
    assert_told(*told, 2, "cannot be written (Not a directory)")
    do("export", f"--workdir={finished}", f"--out={tmp_path / 'good'}")
    told = run(port, monkeypatch, capsys, "import", str(tmp_path / "good"), "--conditions", "a")
    assert_told(*told, 2, "leave out --conditions")


def test_an_exported_folder_that_was_changed(finished, tmp_path, monkeypatch, capsys):
    """Other masks, no step, a text for weights, a config of another network."""
    do("export", f"--workdir={finished}", f"--out={tmp_path / 'out'}")
    weights = tmp_path / "out/model.safetensors"
    whole, tensors = weights.read_bytes(), load_file(weights)

    def told(*parts):
        status = run(port, monkeypatch, capsys, "import", str(tmp_path / "out"), f"--workdir={tmp_path / 'run'}")
        assert_told(*status, 2, *parts)
        assert not (tmp_path / "run").exists()

    save_file(tensors | {"masks.weight": np.ones((3, 8), np.float32)}, weights, {"step": "8"})
    told("has masks [3, 8] of step '8'", "are of masks [2, 8]")
    save_file(tensors, weights)
    told("of step ''")
    weights.write_text("text")
    told("is no whole .safetensors file")
    weights.unlink()
    told("model.safetensors: there is no such file")
    weights.write_bytes(whole)
    config = Config.from_json((tmp_path / "out/config.json").read_text())
    other = dataclasses.replace(config, backbone=dataclasses.replace(config.backbone, name="vgg"))
    (tmp_path / "out/config.json").write_text(other.to_json())
    told("is not of a vgg (missing: ", "unexpected: ")


def test_help_of_each_part_imports_nothing_heavy():
    code = (
        "import sys; from csn_jax import cli, port\n"
        "try:\n    cli.run(port.main)\n"
        "finally:\n    print({'jax', 'flax', 'numpy', 'torch', 'orbax'} & set(sys.modules), file=sys.stderr)\n"
    )
    for part, word in (("import", "--unrectified"), ("export", "--format")):
        done = subprocess.run([sys.executable, "-c", code, part, "--help"], capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr == "set()\n"
        assert done.stdout.startswith(f"usage: python -m csn_jax.port {part}") and word in done.stdout


@pytest.fixture(scope="module")
def weights(finished, tmp_path_factory):
    """A weight file for the tiny network: another run's export."""
    folder = tmp_path_factory.mktemp("weights")
    do("export", f"--workdir={finished}", f"--out={folder / 'out'}")
    return folder / "out/model.safetensors"


def test_training_starts_from_weights_and_needs_them_only_once(weights, tmp_path):
    """Frozen, they are in the trained model bit for bit; a workdir with a checkpoint goes on without the file."""
    mine = shutil.copy(weights, tmp_path / "mine.safetensors")
    flags = (f"--config.backbone.init={mine}", "--config.backbone.freeze=all", *SHORT)
    first = tiny.train(tmp_path / "run", *flags)
    do("export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}")
    given, trained = load_file(weights), load_file(tmp_path / "out/model.safetensors")
    changed = {name for name, value in given.items() if value.tobytes() != trained[name].tobytes()}
    assert changed == {"fc/kernel", "fc/bias", "masks.weight"} and first["step"] == 2
    record = json.loads((tmp_path / "run/data.json").read_text())
    assert record["init_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    os.unlink(mine)
    (tmp_path / "run/results.json").unlink()
    assert tiny.train(tmp_path / "run", *flags) == first
    csn_jax.load(tmp_path / "run")
    evaluate.main([f"--workdir={tmp_path / 'run'}"])
    shutil.rmtree(tmp_path / "run/checkpoints")
    (tmp_path / "run/results.json").unlink()
    with pytest.raises(csn_jax.UserError, match="there is no such file"):
        tiny.train(tmp_path / "run", *flags)
    tensors = load_file(weights)
    save_file(tensors | {"fc/bias": tensors["fc/bias"] + np.float32(1)}, mine)
    with pytest.raises(csn_jax.UserError, match="init_sha256 is "):
        tiny.train(tmp_path / "run", *flags)


def test_pretrained_values_are_where_training_begins(weights):
    """All of them, and a new last layer where its shape differs."""
    from csn_jax.backbones.tensors import to_tensors
    from csn_jax.model.network import build_network, pretrained

    given = load_file(weights)
    for dim in (8, 10):
        config = tiny.config(f"--config.backbone.init={weights}", f"--config.backbone.embedding_dim={dim}")
        network = build_network(config, (32, 32, 1), 2, 100)
        state, _, left_out = pretrained(config, network)
        tensors = to_tensors("small", state.params["backbone"], state.statistics)
        drawn = to_tensors("small", network.state.params["backbone"], network.state.statistics)
        for name, value in tensors.items():
            fresh = dim == 10 and name.startswith("fc/")
            assert np.array_equal(value, drawn[name] if fresh else given[name]), name
        assert {*left_out} == {"masks.weight", *(["fc/bias", "fc/kernel"] if dim == 10 else [])}
        assert np.array_equal(state.params["beta"], network.state.params["beta"]) and int(state.step) == 0


INIT_MISTAKES = {
    "absent": ("/no/such.pth", ["config.backbone.init=/no/such.pth: there is no such file"]),
    "another suffix": ("weights.bin", ["config.backbone.init=weights.bin is no weight file"]),
    "hub": ("hf:resnet18", ["hf:resnet18: give a repository as hf:OWNER/NAME"]),
    "text": ("text.pth", ["text.pth is no PyTorch checkpoint"]),
    "code": ("code.pth", ["code.pth asks for posix.system"]),
    "another network": ("other.pth", ["is not of a small (missing: bn0/bias", "unexpected: conv1.weight"]),
}


@pytest.mark.parametrize("name", INIT_MISTAKES)
def test_weights_that_are_none_leave_the_workdir_free(name, tmp_path, monkeypatch, capsys):
    file, parts = INIT_MISTAKES[name]
    (tmp_path / "text.pth").write_text("text")
    torch.save({"a": Attack(tmp_path / "sentinel")}, tmp_path / "code.pth")
    torch.save(reference.ResNet18CSN(8).state_dict(), tmp_path / "other.pth")
    path = tmp_path / file if (tmp_path / file).exists() else file
    argv = [*tiny.ARGUMENTS, "--config.feed=device", f"--workdir={tmp_path / 'w'}", f"--config.backbone.init={path}"]
    assert_told(*run(train, monkeypatch, capsys, *argv), 2, *parts)
    assert os.listdir(tmp_path / "w") == [".lock"] and not (tmp_path / "sentinel").exists()
