"""The command line: quick help, and for every mistake one sentence with the culprit and the choices, exit 2."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

import csn_jax
from csn_jax import cli, evaluate, train
from csn_jax.config import VARIANTS

VERBS = ("train", "evaluate", "embed", "search", "adapt", "port", "report")


def run(verb, monkeypatch, capsys, *argv: str) -> tuple[int, str]:
    """Run a verb as its module does; its exit status and what it told on standard error."""
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [verb.__name__, *argv])
    with pytest.raises(SystemExit) as end:
        cli.run(verb.main)
    return end.value.code, capsys.readouterr().err


def assert_told(status: int, told: str, expected: int, *parts: str) -> None:
    """Exit status, one sentence after `error: ` on the last line, and the parts that it must hold."""
    *progress, sentence = told.strip().splitlines()
    assert status == expected, told
    assert "Traceback" not in told and all("error" not in line for line in progress), told
    assert sentence.startswith("error: ")
    for part in parts:
        assert part in sentence, f"{part!r} is not in: {sentence}"
    assert tiny.is_one_sentence(sentence.removesuffix(".")), sentence


@pytest.mark.parametrize("verb", VERBS)
def test_help_imports_nothing_heavy_and_is_quick(verb):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{verb}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('csn_jax.{verb}', run_name='__main__')\n"
        "finally:\n"
        "    print(sorted({'jax', 'flax', 'tensorflow', 'numpy', 'orbax'} & set(sys.modules)), file=sys.stderr)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and done.stderr == "[]\n"
    assert done.stdout.startswith(f"usage: python -m csn_jax.{verb}")
    assert ("--out" if verb == "report" else "--workdir") in done.stdout
    # A quarter of a second of work; the processor's time, since the clock also measures who else is running.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_help_shows_every_field_with_its_meaning_and_default():
    text = tiny.command("train", "--help").stdout
    for word in (
        "--config.variant",
        "specialists",
        "--config.data.train-triplets".replace("-t", "_t"),
        "(default: 0.2)",
    ):
        assert word in text
    assert "Prints" not in text and "Decay factor" not in text


@pytest.mark.parametrize("verb", VERBS)
def test_help_into_a_closed_pipe_is_quiet(verb):
    """`--help | head -1`, at its worst: the reader has left before the first byte."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", f"csn_jax.{verb}", "--help"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


TRAIN_MISTAKES = {
    "unknown field": (["--config.lerning_rate=1"], ["--config.lerning_rate=1", "did you mean --config.learning_rate?"]),
    "unknown deep field": (
        ["--config.data.sources=x"],
        ["--config.data.sources=x", "did you mean --config.data.source?"],
    ),
    "unknown flag": (["--wrokdir=x"], ["--wrokdir=x", "did you mean --workdir?"]),
    "stray word": (["glyphs"], ["glyphs", "--help"]),
    "variant": (["--config.variant=lerned"], ["'lerned'", "did you mean learned?", *VARIANTS]),
    "backbone": (["--config.backbone.name=resnet"], ["'resnet'", "small", "vgg", "resnet18_csn"]),
    "source": (["--config.data.source=glyph"], ["'glyph'", "did you mean glyphs?", "fonts"]),
    "feed": (["--config.feed=disk"], ["'disk'", "tfdata", "device"]),
    "not a number": (["--config.steps=many"], ["--config.steps", "'many'"]),
    "value missing": (["--config.steps"], ["--config.steps"]),
    "batch of none": (["--config.batch_size=0"], ["config.batch_size is 0", "at least 1"]),
    "negative steps": (["--config.steps=-3"], ["config.steps is -3", "at least 1"]),
    "learning rate": (["--config.learning_rate=0"], ["config.learning_rate is 0.0", "above 0"]),
    "batch too large": (["--config.batch_size=201"], ["config.batch_size is 201", "200 training triplets"]),
    "condition": (["--config.data.conditions", "fnot"], ["'fnot'", "character, font"]),
    "condition twice": (["--config.data.conditions", "font", "font"], ["font font", "once"]),
    "split_by": (["--config.data.split_by=fonts"], ["'fonts'", "did you mean font?", "character, font"]),
    "size": (["--config.preprocess.size=64"], ["config.preprocess.size is 64", "32"]),
    "channels": (
        ["--config.preprocess.mean", "0.1", "0.2", "0.3", "--config.preprocess.std", "1", "1", "1"],
        ["config.preprocess.mean has 3 values", "1 channel"],
    ),
    "dimensions": (["--config.backbone.embedding_dim=1"], ["embedding_dim is 1", "2 conditions"]),
    "no font folder": (["--config.data.source=fonts"], ["config.data.path is ''", "folder of font files"]),
    "absent font folder": (
        ["--config.data.source=fonts", "--config.data.path=/no/such"],
        ["config.data.path is '/no/such'", "no folder"],
    ),
    "no preset file": (["--config=absent.py"], ["absent.py", "FILE.py[:FUNCTION]"]),
    "no Python file": (["--config=setup.cfg"], ["setup.cfg", "no Python file"]),
    "preset twice": (["--config=a.py", "--config=b.py"], ["--config is given twice"]),
    "preset of nothing": (["--config"], ["--config needs a preset"]),
}


@pytest.mark.parametrize("name", TRAIN_MISTAKES)
def test_a_mistake_in_train_is_one_sentence(name, tmp_path, monkeypatch, capsys):
    """And claims no workdir: the corrected command trains there."""
    flags, parts = TRAIN_MISTAKES[name]
    argv = [*tiny.ARGUMENTS, "--config.feed=device", f"--workdir={tmp_path}", *flags]
    assert_told(*run(train, monkeypatch, capsys, *argv), 2, *parts)
    assert not (tmp_path / "config.json").exists() and not (tmp_path / "checkpoints").exists()


PRESETS = """
from csn_jax import Config

def default():
    return Config(steps=7)

def tiny():
    return Config(steps=8)

def wrong():
    return 3

def broken():
    raise KeyError("fnot")

def hungry(size):
    return Config()

_private = default
"""


def test_presets_give_the_config_that_flags_override(tmp_path):
    (tmp_path / "mine.py").write_text(PRESETS)
    for argv, steps in (
        ([f"--config={tmp_path}/mine.py"], 7),
        ([f"--config={tmp_path}/mine.py:tiny"], 8),
        (["--config.seed=5", "--config", f"{tmp_path}/mine.py:tiny"], 8),
        (["--config.steps=9", f"--config={tmp_path}/mine.py:tiny"], 9),
    ):
        config = cli.parse(train.Args, argv, "train").config
        assert config.steps == steps and config.seed == (5 if "--config.seed=5" in argv else 0)


@pytest.mark.parametrize(
    ("function", "parts"),
    [
        ("tniy", ["'tniy'", "did you mean tiny?", "default, tiny, wrong, broken, hungry"]),
        ("_private", ["no preset '_private'"]),
        ("Config", ["no preset 'Config'"]),
        ("wrong", ["wrong() returns a int", "Config"]),
        ("broken", ["broken() fails (KeyError: 'fnot')"]),
        ("hungry", ["hungry() fails (TypeError: hungry() missing 1 required"]),
    ],
)
def test_a_mistake_in_a_preset_is_one_sentence(function, parts, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(PRESETS)
    told = run(train, monkeypatch, capsys, f"--config={tmp_path}/mine.py:{function}")
    assert_told(*told, 2, f"--config={tmp_path}/mine.py:{function}", *parts)


def test_a_preset_file_may_have_types_of_its_own(tmp_path):
    """dataclasses look their fields' types up in the module, by its name."""
    (tmp_path / "typed.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom csn_jax import Config\n"
        "@dataclass\nclass Choice:\n    steps: int = 7\n"
        "def default(): return Config(steps=Choice().steps)\n"
    )
    assert cli.load_preset(f"{tmp_path}/typed.py").steps == 7


@pytest.mark.parametrize("text", ["def default(:", "import no_such_module", "1 / 0"])
def test_a_preset_file_that_cannot_run_is_one_sentence(text, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(text)
    told = run(train, monkeypatch, capsys, f"--config={tmp_path}/mine.py")
    assert_told(*told, 2, f"{tmp_path}/mine.py cannot be run (")


def test_a_preset_out_of_range_is_one_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text("from csn_jax import Config\ndef default(): return Config(variant='lerned')")
    told = run(train, monkeypatch, capsys, f"--config={tmp_path}/mine.py")
    assert_told(*told, 2, "config.variant is 'lerned'", "did you mean learned?")


def test_font_folders_without_a_font_and_with_broken_ones(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CSN_JAX_CACHE", str(tmp_path / "cache"))
    fonts = tmp_path / "fonts"
    fonts.mkdir()
    (fonts / "readme.txt").write_text("no font")
    argv = [
        *tiny.ARGUMENTS,
        f"--workdir={tmp_path / 'run'}",
        "--config.data.source=fonts",
        f"--config.data.path={fonts}",
    ]
    assert_told(*run(train, monkeypatch, capsys, *argv), 2, f"{fonts} holds no font file", ".ttf")
    for name in ("a.ttf", "b.otf", "c.ttf"):
        (fonts / name).write_bytes(b"no font either")
    told = run(train, monkeypatch, capsys, *argv)
    assert_told(*told, 2, f"config.data.path={fonts} has 0 different usable faces in 3 fonts", "3 fonts: ")
    for name in ("a", "b", "c"):
        assert f"left out font {name}" in told[1]


def test_another_config_in_the_workdir_is_refused_by_its_fields(finished, monkeypatch, capsys):
    before = tiny.contents(finished)
    argv = [
        *tiny.ARGUMENTS,
        f"--workdir={finished}",
        "--config.seed=4",
        "--config.feed=device",
        "--config.loss.margin=0.3",
    ]
    told = run(train, monkeypatch, capsys, *argv)
    assert_told(*told, 2, str(finished), "config.seed: 0, now 4", "config.loss.margin: 0.2, now 0.3")
    assert tiny.contents(finished) == before


EVALUATE_MISTAKES = {
    "workdir missing": ([], ["--workdir"]),
    "split": (["--workdir=x", "--split=tset"], ["'tset'", "did you mean test?", "train", "validation"]),
    "unknown flag": (["--workdir=x", "--wrkdir=y"], ["--wrkdir=y", "did you mean --workdir?"]),
    "absent": (["--workdir=/no/such"], ["/no/such has no config.json", "--workdir of a run"]),
    "no run": ([f"--workdir={Path(__file__).parent}"], ["has no config.json"]),
    "nobody's home": (["--workdir=~nosuchuser/x"], ["~NAME", "no such user"]),
    "endless name": ([f"--workdir=/{'a' * 300}"], ["aaa", "too long for a path"]),
}


@pytest.mark.parametrize("name", EVALUATE_MISTAKES)
def test_a_mistake_in_evaluate_is_one_sentence(name, monkeypatch, capsys):
    flags, parts = EVALUATE_MISTAKES[name]
    assert_told(*run(evaluate, monkeypatch, capsys, *flags), 2, *parts)


def no_data(folder):
    (folder / "data.json").unlink()


def no_checkpoint(folder):
    shutil.rmtree(folder / "checkpoints")


def empty_checkpoints(folder):
    no_checkpoint(folder)
    (folder / "checkpoints").mkdir()


def changed(name, **fields):
    def change(folder):
        raw = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(raw | fields))

    return change


def broken(name, text):
    return lambda folder: (folder / name).write_text(text)


def best_of(folder) -> Path:
    return folder / "checkpoints" / str(json.loads((folder / "results.json").read_text())["step"])


def zeroed(folder):
    largest = max((path for path in best_of(folder).rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(bytes(largest.stat().st_size))


def emptied(folder):
    for path in best_of(folder).rglob("d/*"):
        os.truncate(path, 0)


WORKDIR_MISTAKES = {
    "config.json no JSON": (broken("config.json", "{"), 2, ["config.json is not JSON"]),
    "config.json field": (
        changed("config.json", lerning_rate=1),
        2,
        ["config.lerning_rate is no field", "learning_rate"],
    ),
    "config.json type": (changed("config.json", steps="many"), 2, ["config.json: config.steps is 'many'"]),
    "data.json gone": (no_data, 2, ["has no data.json"]),
    "data.json no JSON": (broken("data.json", "nonsense"), 2, ["data.json is damaged"]),
    "data.json fields": (broken("data.json", "{}"), 2, ["data.json is damaged"]),
    "other items": (changed("data.json", items_sha256="77"), 2, ["trained on other data", "items_sha256 is 77"]),
    "other triplets": (changed("data.json", triplets_sha256={}), 2, ["trained on other data", "triplets_sha256 is {}"]),
    "no checkpoint": (no_checkpoint, 2, ["has no checkpoint yet", "csn_jax.train"]),
    "empty checkpoints": (empty_checkpoints, 2, ["has no checkpoint yet"]),
    "another model": (
        changed("config.json", backbone={"embedding_dim": 9}),
        2,
        ["params/backbone/fc/bias is float32[8] there and float32[9] by config.json"],
    ),
    "best zeroed": (zeroed, 1, ["checkpoints/", "is damaged: "]),
    "best emptied": (emptied, 1, ["checkpoints/", "is damaged: "]),
    "best gone": (lambda folder: shutil.rmtree(best_of(folder)), 1, ["lacks the best checkpoint"]),
}


@pytest.mark.parametrize("name", WORKDIR_MISTAKES)
def test_a_damaged_workdir_is_one_sentence_to_evaluate_and_load(name, finished, tmp_path, monkeypatch, capsys):
    damage, status, parts = WORKDIR_MISTAKES[name]
    folder = shutil.copytree(finished, tmp_path / "run")
    damage(folder)
    assert_told(*run(evaluate, monkeypatch, capsys, f"--workdir={folder}"), status, str(folder), *parts)
    if "other" not in name:
        with pytest.raises(csn_jax.UserError if status == 2 else csn_jax.MachineError):
            csn_jax.load(folder)


@pytest.mark.parametrize("name", ["config.json no JSON", "data.json no JSON", "other items"])
def test_a_damaged_workdir_is_one_sentence_to_train(name, finished, tmp_path, monkeypatch, capsys):
    damage, status, parts = WORKDIR_MISTAKES[name]
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "results.json").unlink()
    damage(folder)
    argv = [*tiny.ARGUMENTS, "--config.feed=device", f"--workdir={folder}"]
    assert_told(*run(train, monkeypatch, capsys, *argv), status, str(folder), *parts)


def test_damage_is_quiet_but_for_the_sentence(finished, tmp_path):
    """In a process of its own, where Orbax's threads could write to standard error past Python."""
    folder = shutil.copytree(finished, tmp_path / "run")
    emptied(folder)
    done = tiny.command("evaluate", f"--workdir={folder}")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: checkpoint ") and done.stderr.count("\n") == 1


def test_a_missing_tensorflow_is_told_before_anything_is_written(tmp_path):
    """By a module of that name whose import fails; the device feed needs none."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "tensorflow.py").write_text("raise ImportError('No module named tensorflow')")
    done = tiny.command("train", *tiny.ARGUMENTS, f"--workdir={tmp_path / 'run'}", PYTHONPATH=str(tmp_path / "fake"))
    assert_told(done.returncode, done.stderr, 2, "TensorFlow cannot be imported", "--config.feed=device")
    assert os.listdir(tmp_path / "run") == [".lock"]


def test_interrupts_and_stops_have_their_exit_status(monkeypatch, capsys):
    """130 after Ctrl-C, 143 after either signal, 1 when the machine failed, and no traceback."""

    def ends_with(error):
        def main(_):
            raise error

        monkeypatch.setattr(sys, "argv", ["train"])
        with pytest.raises(SystemExit) as end:
            cli.run(main)
        return end.value.code, capsys.readouterr().err

    assert ends_with(KeyboardInterrupt())[0] == 130
    status, told = ends_with(csn_jax.Stopped(15, 70))
    assert status == 143 and told == "stopped by signal 15 at step 70; the same command goes on from there\n"
    assert ends_with(csn_jax.Stopped(signal.SIGUSR1))[0] == 143
    assert ends_with(csn_jax.MachineError("no room")) == (1, "error: no room\n")
    with pytest.raises(ZeroDivisionError):  # a bug is not dressed up
        cli.run(lambda _: 1 / 0)
    for error in (RuntimeError("a bug"), OSError(5, "Input/output error")):
        with pytest.raises(type(error)):
            ends_with(error)


def test_the_default_workdir_is_the_config_s_own(monkeypatch):
    """Two configs never share a folder; the same command finds its own again."""
    seen = []
    monkeypatch.setattr("csn_jax.train.loop.train_and_evaluate", lambda config, workdir: seen.append(workdir) or 1 / 0)
    for argv in ([], ["--config.seed=1"], []):
        with pytest.raises(ZeroDivisionError):
            train.main(argv)
    assert seen[0] == seen[2] != seen[1] and seen[0].startswith("runs/glyphs-learned-")


@pytest.mark.parametrize(
    "environment", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-8"}, {"FORCE_COLOR": "1"}]
)
def test_typos_are_one_sentence_in_every_terminal(environment):
    """tyro draws another box for each."""
    done = tiny.command("evaluate", "--wrkdir=x", "--workdir=y", **environment)
    assert done.returncode == 2
    assert done.stderr == (
        "error: unrecognized options: --wrkdir=x (did you mean --workdir?); see python -m csn_jax.evaluate --help.\n"
    )


def test_one_sentence_survives_a_box_that_looks_otherwise():
    """Another tyro may draw its errors otherwise; the text must still come through."""
    assert (
        cli.one_sentence("Unknown option --x\nin two lines", "prog")
        == "unknown option --x in two lines; see prog --help."
    )
    assert cli.one_sentence("", "prog") == "; see prog --help."


def test_commands_spare_the_import_of_keras():
    use = "lambda argv: (__import__('tensorflow'), print('tensorflow' in sys.modules, 'keras' in sys.modules))"
    code = f"import sys; from csn_jax import cli; cli.run({use})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True False\n", done.stderr
