"""Configs, data and checkpoints of different runs are refused with the difference, and no file changes."""

import json
import shutil

import pytest
import tiny

import csn_jax
from csn_jax.errors import MachineError, UserError


def edited(name, **changes):
    """config.json or data.json with other values, by names with `__` for nesting."""

    def edit(workdir):
        path = workdir / name
        content = json.loads(path.read_text())
        for field, value in changes.items():
            part = content
            *parents, last = field.split("__")
            for parent in parents:
                part = part[parent]
            part[last] = value
        path.write_text(json.dumps(content))

    return edit


def without(name):
    """Without a file or folder."""
    return lambda workdir: shutil.rmtree(workdir / name) if (workdir / name).is_dir() else (workdir / name).unlink()


def load(workdir):
    csn_jax.load(workdir)


def train(*flags):
    """Resume in a workdir without results."""
    return lambda workdir: tiny.train(workdir, *flags)


CASES = {
    "embedding size": (edited("config.json", backbone__embedding_dim=16), load, ("float32[8] in it", "float32[16]")),
    "another backbone": (
        edited("config.json", backbone__name="resnet18_csn"),
        load,
        ("conv1/kernel", "[3, 3, 32, 64] in it", "[7, 7, 1, 64]"),
    ),
    "image size": (lambda workdir: None, train("--config.preprocess.size=64"), ("config.preprocess.size: 32, now 64",)),
    "channels": (edited("data.json", input_shape=[32, 32, 3]), load, ("float32[5, 5, 1, 32]", "float32[5, 5, 3, 32]")),
    "number of conditions": (
        edited("data.json", conditions=[{"name": n, "kind": "categorical"} for n in ("character", "font", "third")]),
        load,
        ("float32[2, 8]", "float32[3, 8]"),
    ),
    "other masks": (lambda workdir: None, train("--config.variant=fixed"), ("config.variant: 'learned', now 'fixed'",)),
    "newer config": (edited("config.json", a_field_of_tomorrow=1), load, ("a_field_of_tomorrow is not a field",)),
    "value of another type": (edited("config.json", backbone__embedding_dim="many"), load, ("'many'",)),
    "no config": (without("config.json"), load, ("has no config.json",)),
    "no record of the data": (without("data.json"), load, ("has no data.json",)),
    "damaged record": (edited("data.json", conditions=7), load, ("data.json is damaged",)),
    "no checkpoint": (without("checkpoints"), load, ("checkpoint",)),
    "the best is gone": (lambda workdir: [shutil.rmtree(p) for p in best_of(workdir)], load, ("lacks the best",)),
    "another seed": (lambda workdir: None, train("--config.seed=5"), ("config.seed: 0, now 5",)),
    "another rate": (lambda workdir: None, train("--config.learning_rate=0.5"), ("learning_rate", "0.5", "0.002")),
    "another loss": (lambda workdir: None, train("--config.loss.margin=0.5"), ("loss.margin", "0.5", "0.2")),
    "other data": (edited("data.json", items_sha256="0" * 64), train(), ("trained on other data", "items_sha256")),
    "other triplets": (
        edited("data.json", triplets_sha256={"train": "1", "validation": "2", "test": "3"}),
        train(),
        ("trained on other data", "triplets_sha256"),
    ),
    "no workdir at all": (lambda workdir: shutil.rmtree(workdir), load, ("no config.json",)),
}


def best_of(workdir):
    """The folder of the best checkpoint, if it is not the newest."""
    steps = sorted((p for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    best = json.loads((steps[-1] / "meta" / "metadata").read_text())["record"]["best"]["step"]
    return [path for path in steps[:-1] if path.name == str(best)]


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_pair_is_one_sentence(finished, tmp_path, name):
    damage, use, parts = CASES[name]
    workdir = shutil.copytree(finished, tmp_path / "run")
    (workdir / "results.json").unlink()
    damage(workdir)
    before = tiny.contents(workdir) if workdir.exists() else {}
    with pytest.raises((UserError, MachineError)) as caught:
        use(workdir)
    message = str(caught.value)
    for part in parts:
        assert part in message, message
    assert tiny.is_one_sentence(message.removesuffix(".")), message
    after = tiny.contents(workdir) if workdir.exists() else {}
    assert {k: v for k, v in after.items() if k != ".lock"} == {k: v for k, v in before.items() if k != ".lock"}
