"""The command line: the front door, help, flags, presets, and one line with the fix for every failure."""

import configparser
import gc
import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import tiny

import csn_jax
from csn_jax import __main__ as door
from csn_jax import cli, evaluate, teach, train
from csn_jax.cli.flags import flags_of
from csn_jax.cli.presets import preset_files, preset_words
from csn_jax.config import VARIANTS, Config
from csn_jax.runtime.writer import next_step

ROOT = Path(__file__).parents[1]
COMMANDS = door.COMMANDS
HELPS = [*([name] for name in COMMANDS if name != "port"), ["port", "import"], ["port", "export"]]


def run(command, monkeypatch, capsys, *argv: str) -> tuple[int, str]:
    """Run a command as its module does; its exit status and what it printed on standard error."""
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [command.__name__, *argv])
    with pytest.raises(SystemExit) as end:
        cli.run(command.main)
    return end.value.code, capsys.readouterr().err


def assert_message(status: int, printed: str, expected: int, *words: str) -> None:
    """Exit status, one sentence after `error: ` on the last line, and the words that must occur in it."""
    *progress, sentence = printed.strip().splitlines()
    assert status == expected, printed
    assert "Traceback" not in printed and all("error" not in line for line in progress), printed
    assert sentence.startswith("error: ")
    for word in words:
        assert word in sentence, f"{word!r} is not in: {sentence}"
    assert tiny.is_one_sentence(sentence.removesuffix(".")), sentence


def front_door(*argv: str, **environment: str) -> subprocess.CompletedProcess:
    """`csn_jax ...` in a process of its own."""
    command = [sys.executable, "-m", "csn_jax", *argv]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300)


def printed(capsys, *argv: str) -> str:
    """What `csn_jax ...` prints, in this process."""
    capsys.readouterr()
    try:
        door.main(argv)
    except SystemExit as end:
        assert not end.code
    output = capsys.readouterr()
    assert output.err == ""
    return output.out


def test_the_front_door_lists_every_command_on_one_line():
    done = front_door()
    assert done.returncode == 0 and done.stderr == "" and front_door("--help").stdout == done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z][^\n]+\.$", done.stdout, flags=re.MULTILINE), name
    assert "--completion" in done.stdout
    packages = {path.parent.name for path in (ROOT / "csn_jax").glob("*/__main__.py")}
    assert packages - {"suites"} == set(COMMANDS)


def test_the_front_door_prints_the_version():
    assert front_door("--version").stdout == f"csn_jax {csn_jax.__version__}\n"


def test_the_console_script_is_the_front_door():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    name, target = setup["options.entry_points"]["console_scripts"].strip().split(" = ")
    module, function = target.split(":")
    assert name == "csn_jax" and getattr(import_module(module), function) is door.run


@pytest.mark.parametrize("argv", [["--help"], ["--wrokdir=x"], ["--workdir=/no/such"]])
def test_a_command_behind_the_front_door_is_the_command(argv):
    """The same output and exit status as `python -m csn_jax.COMMAND`."""
    behind, direct = front_door("evaluate", *argv), tiny.command("evaluate", *argv)
    assert (behind.returncode, behind.stdout, behind.stderr) == (direct.returncode, direct.stdout, direct.stderr)
    assert behind.returncode == (0 if argv == ["--help"] else 2)


DOOR_MISTAKES = {
    "unknown command": (["trian"], ["'trian'", "did you mean train?", "evaluate, embed", "csn_jax --help"]),
    "unknown option": (["--versoin"], ["'--versoin'", "csn_jax --help"]),
    "unknown shell": (["--completion=bsh"], ["bsh", "did you mean bash?", "bash, zsh, fish"]),
    "shell missing": (["--completion"], ["--completion", "bash, zsh, fish"]),
    "unknown action": (["port", "improt"], ["'improt'", "did you mean import?", "export"]),
}


@pytest.mark.parametrize("name", DOOR_MISTAKES)
def test_a_mistake_at_the_front_door_is_one_sentence(name, monkeypatch, capsys):
    argv, words = DOOR_MISTAKES[name]
    assert_message(*run(door, monkeypatch, capsys, *argv), 2, *words)


def completions(shell: str, line: str, script: Path) -> list[str]:
    """What a shell offers for a line with the cursor at its end, after it has read the script."""
    ask = {
        "bash": 'source "$1"; COMP_LINE=$2 COMP_POINT=${#2}; $(complete -p csn_jax | grep -o "_csn_jax") 2>&1;'
        ' printf "%s\\n" "${COMPREPLY[@]}"',
        "zsh": 'functions[compdef]=:; source "$1"; compadd() { shift $argv[(i)--]; print -l -- "$@"; }; _files() { : }'
        "; compset() { : }; words=(${(s: :)2}); [[ $2 == *' ' ]] && words+=(''); CURRENT=$#words; _csn_jax",
        "fish": "source $argv[1]; complete -C $argv[2] | string split -f 1 \\t",
    }[shell]
    command = {"bash": ["--norc", "-c", ask, "bash"], "zsh": ["-fc", ask, "zsh"], "fish": ["-N", "-c", ask]}[shell]
    done = subprocess.run([shell, *command, str(script), line], capture_output=True, text=True, timeout=60)
    assert done.stderr == "", done.stderr
    return done.stdout.split()


# A line, and words of which the completions must be exactly those (bash splits at = and : and returns the rest).
COMPLETIONS = {
    "csn_jax ex": ["explore"],
    "csn_jax --vers": ["--version"],
    "csn_jax --completion=": ["bash", "zsh", "fish"],
    "csn_jax train --config.st": ["--config.steps"],
    "csn_jax train --config.variant=le": ["learned", "learned_disjoint"],
    "csn_jax train --config=gly": ["glyphs", "glyphs:in_batch", "glyphs:tiny"],
    "csn_jax train --config=glyphs:in": ["glyphs:in_batch"],
    "csn_jax evaluate --split ": ["train", "validation", "test"],
    "csn_jax search --js": ["--json"],
    "csn_jax port e": ["export"],
    "csn_jax port import --cond": ["--conditions"],
    "csn_jax port export --format=o": ["onnx"],
}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_flags_and_presets(shell, tmp_path):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(front_door("--completion", shell).stdout)
    for line, expected in COMPLETIONS.items():
        offered = completions(shell, line, script)
        typed = line.rpartition(" ")[2]
        before = typed[: typed.rindex("=") + 1] if "=" in typed else ""
        if shell == "bash":
            expected = [word.removeprefix("glyphs:") for word in expected] if "glyphs:" in typed else expected
        else:
            expected = [before + word for word in expected]
        assert sorted(word.removesuffix("=") for word in offered) == sorted(expected), line


def test_completion_offers_every_flag_of_every_command(capsys):
    script = printed(capsys, "--completion=bash")
    for name in COMMANDS:
        module = import_module(f"csn_jax.{name}")
        kinds = getattr(module, "ACTIONS", None) or {"": module.Args}
        for action, kind in kinds.items():
            (line,) = (line for line in script.splitlines() if line.strip().startswith(f"{name}\\ {action or '*'})"))
            words = set(re.findall(r"--[\w.]+", line.partition("values=")[0]))
            assert {f"--{flag.name}" for flag in flags_of(kind)} <= words, f"{name} {action}"


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_help_imports_nothing_heavy_and_is_quick(command):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['csn_jax', *{command[1:]}, '--help']\n"
        "try:\n"
        f"    runpy.run_module('csn_jax.{command[0]}', run_name='__main__')\n"
        "finally:\n"
        "    print(sorted({'jax', 'flax', 'tensorflow', 'numpy', 'orbax'} & set(sys.modules)), file=sys.stderr)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and done.stderr == "[]\n"
    assert done.stdout.startswith(f"usage: csn_jax {' '.join(command)} ")
    # The processor's time, since the clock also measures who else is running.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def examples(text: str) -> list[str]:
    """The commands that a help text sets in."""
    return re.findall(r"^    (csn_jax .*)$", text.replace("\\\n", ""), flags=re.MULTILINE)


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_help_begins_with_a_purpose_and_two_examples_that_the_command_accepts(command, monkeypatch, capsys):
    text = printed(capsys, *command, "--help")
    _, purpose, example, *_ = text.split("\n\n")
    assert re.match(r"[A-Z]\w+ ", purpose) and purpose.endswith(".")
    shown = examples(text)
    assert len(shown) >= 2 and len(examples(example + "\n")) >= 2, "the examples follow the purpose"
    parsed = []
    parse = cli.parse

    def only_parse(*arguments, **options):
        parsed.append(parse(*arguments, **options))
        raise InterruptedError

    monkeypatch.setattr(cli, "parse", only_parse)
    for line in shown:
        words = shlex.split(line)
        assert words[1 : len(command) + 1] == command, line
        with pytest.raises(InterruptedError):
            door.main(words[1:])
    assert len(parsed) == len(shown)


@pytest.mark.parametrize("columns", ["0", "1", "5", "60", "80", "1000", "many"])
def test_help_fits_the_terminal_and_ends_in_the_narrowest(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    for command in ("train", "search"):
        text = printed(capsys, command, "--help")
        width = max(40, int(columns) if columns.isdigit() and columns != "0" else 80)
        prose = [line for line in text.splitlines() if not line.startswith("    csn_jax ")]
        long = [line for line in prose if len(line) > min(width, 100) and " " in line.strip()]
        assert not long, long
        if width == 40:
            monkeypatch.setenv("COLUMNS", "40")
            assert text == printed(capsys, command, "--help")
            monkeypatch.setenv("COLUMNS", columns)


def test_help_shows_switches_bare_and_choices_and_defaults(capsys):
    text = printed(capsys, "search", "--help")
    assert re.search(r"^  --json +Print", text, flags=re.MULTILINE) and "True" not in text
    assert "(default: 10)" in text and "--condition CONDITION ..." in text
    assert "--split={train,validation,test}" in printed(capsys, "evaluate", "--help")


def test_the_help_of_train_shows_what_people_use_and_help_all_the_rest(capsys):
    short, whole = printed(capsys, "train", "--help"), printed(capsys, "train", "--help-all")
    flags = {flag.name for flag in flags_of(train.Args)}
    beside = {"help", "help-all", "config"}
    shown = {text: set(re.findall(r"^  --([\w.-]+)", text, flags=re.MULTILINE)) - beside for text in (short, whole)}
    assert shown[whole] == flags
    assert {"config.variant", "config.steps", "config.data.path", "config.loss.name"} < shown[short] < shown[whole]
    assert len(shown[short]) == 20 and "--help-all" in short
    assert "features, fonts, glyphs" in " ".join(short.split()) and "(default: 1200)" in whole
    for name in flags:  # each has a text of its own
        start = whole.index(f"  --{name}")
        entry = whole[start:].partition("\n  --")[0].partition("\n\n")[0]
        assert len(re.sub(r"--\S+|\(default: .*?\)|\.\.\.", "", entry).split()) >= 2, entry


@pytest.mark.parametrize("command", [[], *HELPS], ids=" ".join)
def test_help_into_a_closed_pipe_is_quiet(command):
    """`--help | head -1`, at its worst: the reader has left before the first byte."""
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "csn_jax", *command, "--help"]
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("stream", [">&-", "2>&-", "<&-", "<&- >&-", "<&- >&- 2>&-"])
def test_a_closed_stream_does_no_harm(stream, tmp_path):
    """As under cron and daemons. The next file opened must not take the place of the stream."""
    code = f"f = open({str(tmp_path / 'file')!r}, 'wb', 0); f.write(b'mine'); import os; os.write(1, b'x'); print('y')"
    code += "; import sys; sys.stdin.buffer" + ".read()" * ("<&-" in stream)
    program = f"from csn_jax import cli; cli.run(lambda argv: exec({code!r}))"
    done = subprocess.run(
        ["bash", "-c", f'exec "$@" {stream}', "-", sys.executable, "-c", program], capture_output=True
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_was_removed_under_the_shell(tmp_path, monkeypatch, capsys):
    """What needs it is one sentence. The line on what to do next does not need it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    assert_message(*run(teach, monkeypatch, capsys, "--index=x.parquet", "--condition=a", "--out=b"), 2, "was removed")
    next_step("python", "-c", "pass")
    assert "next: " in capsys.readouterr().err


def test_what_the_output_cannot_encode_is_escaped_and_stays_json():
    program = "import json; from csn_jax import cli; print_ = lambda argv: print(json.dumps(NAME, ensure_ascii=False))"
    name = "gr\u00fcn \u8272 \U0001f600"
    done = subprocess.run(
        [sys.executable, "-c", f"{program.replace('NAME', ascii(name))}; cli.run(print_)"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.stderr == "" and "\\u00fc" in done.stdout and json.loads(done.stdout) == name


SPELLINGS = {
    "after =": (["--k=3"], "k", 3),
    "as the next word": (["--k", "3"], "k", 3),
    "the last one counts": (["--k=3", "--k=4"], "k", 4),
    "switch": (["--json"], "json", True),
    "switch before a flag": (["--json", "--k=3"], "k", 3),
    "switch with a value": (["--json=True"], "json", True),
    "switch and a word": (["--json", "False", "--k=3"], "json", False),
    "several words": (["--condition", "a=1", "b=-0.5", "--k=3"], "condition", ("a=1", "b=-0.5")),
    "several flags": (["--condition=a", "--condition", "b", "c"], "condition", ("a", "b", "c")),
    "first after =": (["--condition=a", "b"], "condition", ("a", "b")),
    "a value with =": (["--filter=colour=red"], "filter", ("colour=red",)),
    "an empty value": (["--id="], "id", ""),
    "a value with a dash": (["--id=--x"], "id", "--x"),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_flags_are_read_in_every_usual_spelling(name):
    from csn_jax import search

    argv, field, value = SPELLINGS[name]
    assert getattr(cli.parse(search.Args, argv), field) == value


def test_settings_of_the_config_have_their_types():
    argv = ["--config.seed", "7", "--config.learning-rate=1e-3", "--config.preprocess.mean", "0.1", "0.2", "0.3"]
    argv += ["--config.preprocess.std", "1", "1", "1", "--config.data.skip_bad", "--config.data.conditions", "font"]
    config = cli.parse(train.Args, argv).config
    assert (config.seed, config.learning_rate, config.preprocess.mean) == (7, 1e-3, (0.1, 0.2, 0.3))
    assert config.data.skip_bad is True and config.data.conditions == ("font",) and config.steps == Config().steps


def test_the_folder_may_be_a_word(monkeypatch):
    assert cli.parse(evaluate.Args, ["runs/x"], positional=True).workdir == "runs/x"
    assert cli.parse(evaluate.Args, ["--workdir=runs/x"], positional=True).workdir == "runs/x"


TRAIN_MISTAKES = {
    "unknown field": (["--config.lerning_rate=1"], ["--config.lerning_rate=1", "did you mean --config.learning_rate?"]),
    "unknown deep field": (
        ["--config.data.sources=x"],
        ["--config.data.sources=x", "did you mean --config.data.source?"],
    ),
    "unknown flag": (["--wrokdir=x"], ["--wrokdir=x", "did you mean --workdir?", "csn_jax train --help"]),
    "flag without its group": (["--steps=5"], ["--steps=5", "did you mean --config.steps?"]),
    "setting without its group": (["--config.size=64"], ["did you mean --config.preprocess.size?"]),
    "flag of two groups": (["--seed=5"], ["--config.seed or --config.data.seed"]),
    "switch": (["--check=perhaps"], ["--check is 'perhaps'", "=True or =False"]),
    "stray word": (["glyphs"], ["glyphs", "did you mean --config=glyphs?", "--help"]),
    "variant": (["--config.variant=lerned"], ["'lerned'", "did you mean learned?", *VARIANTS]),
    "backbone": (["--config.backbone.name=resnet"], ["'resnet'", "small", "vgg", "resnet18_csn"]),
    "source": (["--config.data.source=glyph"], ["'glyph'", "did you mean glyphs?", "fonts"]),
    "feed": (["--config.feed=disk"], ["'disk'", "tfdata", "device"]),
    "not a number": (["--config.steps=many"], ["--config.steps", "'many'", "whole number"]),
    "value missing": (["--config.steps"], ["--config.steps needs a value"]),
    "value forgotten": (["--config.steps", "--config.seed=1"], ["--config.steps needs a value"]),
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
        ["config.data.path is '/no/such'", "not a folder"],
    ),
    "no preset file": (["--config=absent.py"], ["absent.py does not exist", "FILE.py[:FUNCTION]"]),
    "no Python file": (["--config=setup.cfg"], ["'setup.cfg'", "not a preset or a Python file"]),
    "unknown preset": (
        ["--config=featurs"],
        ["'featurs'", "did you mean features?", "fonts, glyphs, table, table_pretrained, tfds, zappos50k", "FILE.py"],
    ),
    "unknown function": (
        ["--config=glyphs:in_bath"],
        ["'in_bath'", "did you mean in_batch?", "default, in_batch, tiny"],
    ),
    "preset twice": (["--config=a.py", "--config=b.py"], ["--config is given twice"]),
    "preset of nothing": (["--config"], ["--config needs a preset", "glyphs"]),
}


@pytest.mark.parametrize("name", TRAIN_MISTAKES)
def test_a_mistake_in_train_is_one_sentence(name, tmp_path, monkeypatch, capsys):
    """And leaves nothing behind: no folder, no lock."""
    flags, words = TRAIN_MISTAKES[name]
    argv = [*tiny.ARGUMENTS, "--config.feed=device", f"--workdir={tmp_path / 'runs' / 'one'}", *flags]
    assert_message(*run(train, monkeypatch, capsys, *argv), 2, *words)
    assert os.listdir(tmp_path) == []


def test_a_failed_start_in_an_existing_folder_leaves_it_as_it_was(tmp_path, monkeypatch, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    argv = [*tiny.ARGUMENTS, f"--workdir={tmp_path}", "--config.feed=device", "--config.data.conditions", "fnot"]
    assert_message(*run(train, monkeypatch, capsys, *argv), 2, "'fnot'")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert os.listdir(tmp_path) == ["notes.txt"]  # and no lock


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

def _private():
    return Config()
"""


def test_presets_give_the_config_that_flags_override(tmp_path):
    (tmp_path / "mine.py").write_text(PRESETS)
    for argv, steps in (
        ([f"--config={tmp_path}/mine.py"], 7),
        ([f"--config={tmp_path}/mine.py:tiny"], 8),
        (["--config.seed=5", "--config", f"{tmp_path}/mine.py:tiny"], 8),
        (["--config.steps=9", f"--config={tmp_path}/mine.py:tiny"], 9),
    ):
        config = cli.parse(train.Args, argv).config
        assert config.steps == steps and config.seed == (5 if "--config.seed=5" in argv else 0)


def test_presets_of_the_package_go_by_name(tmp_path, monkeypatch):
    """In any folder, and equal to the file in configs/."""
    monkeypatch.chdir(tmp_path)
    names = [path.stem for path in sorted((ROOT / "configs").glob("*.py"))]
    assert list(preset_files()) == names and "features" in names
    for word in preset_words():
        name, _, function = word.partition(":")
        assert cli.load_preset(word) == cli.load_preset(f"{ROOT / 'configs' / name}.py:{function or 'default'}")
    assert {"glyphs:in_batch", "zappos50k:paper", "tfds"} < set(preset_words())
    (tmp_path / "mine.py").write_text(PRESETS)
    monkeypatch.setattr(cli.presets, "FOLDER", tmp_path)
    assert preset_words() == ["mine", "mine:tiny", "mine:wrong", "mine:broken", "mine:hungry"]


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
    printed = run(train, monkeypatch, capsys, f"--config={tmp_path}/mine.py:{function}")
    assert_message(*printed, 2, f"--config={tmp_path}/mine.py:{function}", *parts)


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
    printed = run(train, monkeypatch, capsys, f"--config={tmp_path}/mine.py")
    assert_message(*printed, 2, f"{tmp_path}/mine.py cannot be run (")


def test_a_preset_out_of_range_is_one_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text("from csn_jax import Config\ndef default(): return Config(variant='lerned')")
    printed = run(train, monkeypatch, capsys, f"--config={tmp_path}/mine.py")
    assert_message(*printed, 2, "config.variant is 'lerned'", "did you mean learned?")


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
    assert_message(*run(train, monkeypatch, capsys, *argv), 2, f"{fonts} holds no font file", ".ttf")
    for name in ("a.ttf", "b.otf", "c.ttf"):
        (fonts / name).write_bytes(b"no font either")
    printed = run(train, monkeypatch, capsys, *argv)
    assert_message(*printed, 2, f"config.data.path={fonts} has 0 different usable faces in 3 fonts", "3 fonts: ")
    for name in ("a", "b", "c"):
        assert f"left out font {name}" in printed[1]


def test_another_config_in_the_workdir_is_refused_by_its_fields(finished, monkeypatch, capsys):
    before = tiny.contents(finished)
    argv = [
        *tiny.ARGUMENTS,
        f"--workdir={finished}",
        "--config.seed=4",
        "--config.feed=device",
        "--config.loss.margin=0.3",
    ]
    printed = run(train, monkeypatch, capsys, *argv)
    assert_message(*printed, 2, str(finished), "config.seed: 0, now 4", "config.loss.margin: 0.2, now 0.3")
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
    assert_message(*run(evaluate, monkeypatch, capsys, *flags), 2, *parts)


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
        ["config.lerning_rate is not a field", "learning_rate"],
    ),
    "config.json type": (changed("config.json", steps="many"), 2, ["config.json: config.steps is 'many'"]),
    "data.json gone": (no_data, 2, ["has no data.json"]),
    "data.json no JSON": (broken("data.json", "nonsense"), 2, ["data.json is damaged"]),
    "data.json fields": (broken("data.json", "{}"), 2, ["data.json is damaged"]),
    "other items": (changed("data.json", items_sha256="77"), 2, ["trained on other data", "items_sha256 is 77"]),
    "other triplets": (changed("data.json", triplets_sha256={}), 2, ["trained on other data", "triplets_sha256 is {}"]),
    "no checkpoint": (no_checkpoint, 2, ["has no checkpoint yet", "csn_jax train"]),
    "empty checkpoints": (empty_checkpoints, 2, ["has no checkpoint yet"]),
    "another model": (
        changed("config.json", backbone={"embedding_dim": 9}),
        2,
        ["params/backbone/fc/bias is float32[8] in it and float32[9] by config.json"],
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
    assert_message(*run(evaluate, monkeypatch, capsys, f"--workdir={folder}"), status, str(folder), *parts)
    if "other" not in name:
        with pytest.raises(csn_jax.UserError if status == 2 else csn_jax.MachineError):
            csn_jax.load(folder)
    gc.collect()  # what Orbax left, while it is silenced


@pytest.mark.parametrize("name", ["config.json no JSON", "data.json no JSON", "other items"])
def test_a_damaged_workdir_is_one_sentence_to_train(name, finished, tmp_path, monkeypatch, capsys):
    damage, status, parts = WORKDIR_MISTAKES[name]
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "results.json").unlink()
    damage(folder)
    argv = [*tiny.ARGUMENTS, "--config.feed=device", f"--workdir={folder}"]
    assert_message(*run(train, monkeypatch, capsys, *argv), status, str(folder), *parts)


def test_damage_is_quiet_but_for_the_sentence(finished, tmp_path):
    """In a process of its own, where Orbax's threads could write to standard error past Python."""
    folder = shutil.copytree(finished, tmp_path / "run")
    emptied(folder)
    done = tiny.command("evaluate", f"--workdir={folder}")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: checkpoint ") and done.stderr.count("\n") == 1


def test_a_missing_tensorflow_is_reported_before_anything_is_written(tmp_path):
    """A module of that name stands for it, whose import fails; the device feed needs none."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "tensorflow.py").write_text("raise ImportError('No module named tensorflow')")
    done = tiny.command("train", *tiny.ARGUMENTS, f"--workdir={tmp_path / 'run'}", PYTHONPATH=str(tmp_path / "fake"))
    assert_message(done.returncode, done.stderr, 2, "TensorFlow cannot be imported", "--config.feed=device")
    assert os.listdir(tmp_path) == ["fake"]


INTERRUPTED = [
    (["/x/csn_jax/embed/__main__.py", "--out=x"], "finished parts are kept: run the same command again to resume"),
    (["/bin/csn_jax", "train"], "run the same command again to resume"),
    (["/x/csn_jax/__main__.py", "search", "--id=train"], "nothing was changed"),
    (["/x/csn_jax/report/__main__.py", "train"], "nothing was written"),
]


def test_interrupts_and_stops_have_their_exit_status(monkeypatch, capsys):
    """130 after Ctrl-C, 143 after either signal, 1 when the machine failed, and no traceback."""

    def ends_with(error):
        def main(_):
            raise error

        monkeypatch.setattr(sys, "argv", ["train"])
        with pytest.raises(SystemExit) as end:
            cli.run(main)
        return end.value.code, capsys.readouterr().err

    assert ends_with(KeyboardInterrupt()) == (130, "interrupted; nothing was written\n")
    for argv, left in INTERRUPTED:
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as end:
            cli.run(lambda _: signal.raise_signal(signal.SIGINT))
        assert (end.value.code, capsys.readouterr().err) == (130, f"interrupted; {left}\n")
    broken_import = ImportError("numpy is broken")
    broken_import.__context__ = KeyboardInterrupt()
    assert ends_with(broken_import)[0] == 130
    assert ends_with(SystemExit(3)) == (3, "")
    status, printed = ends_with(csn_jax.Stopped(15, 70))
    assert status == 143 and printed == f"{csn_jax.Stopped(15, 70)}\n" and "step 70" in printed
    assert ends_with(csn_jax.Stopped(signal.SIGUSR1))[0] == 143
    assert ends_with(csn_jax.Stopped(signal.SIGINT, 7)) == (130, f"{csn_jax.Stopped(signal.SIGINT, 7)}\n")
    broken_import.__context__ = csn_jax.Stopped(15)
    assert ends_with(broken_import) == (143, f"{csn_jax.Stopped(15)}\n")
    assert ends_with(csn_jax.MachineError("no room")) == (1, "error: no room\n")
    with pytest.raises(ZeroDivisionError):  # a bug is not dressed up
        cli.run(lambda _: 1 / 0)
    for error in (RuntimeError("a bug"), OSError(22, "Invalid argument"), FileNotFoundError(2, "No such file", "f")):
        with pytest.raises(type(error)):
            ends_with(error)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (
            PermissionError(13, "Permission denied", "run/config.json"),
            2,
            ["run/config.json cannot be used (Perm"],
        ),
        (PermissionError(13, "Failed to open local file 'a.parquet'"), 2, ["'a.parquet'", "(Permission denied)"]),
        (OSError(30, "Read-only file system", "out/x"), 2, ["out/x", "(Read-only file system)", "another path"]),
        (IsADirectoryError(21, "Is a directory", "folder"), 2, ["folder", "(Is a directory)"]),
        (OSError(40, "Too many levels of symbolic links", "loop"), 2, ["loop", "symbolic links"]),
        (OSError(28, "No space left on device", "f.png"), 1, ["f.png", "(No space left on device)", "same command"]),
        (OSError(5, "Input/output error", "disk/f"), 1, ["disk/f", "(Input/output error)"]),
        (OSError(24, "Too many open files", "f"), 1, ["(Too many open files)"]),
        (OSError(28, "No space left on device"), 1, ["the output cannot be written (No space left on device)"]),
        (OSError(5, "Input/output error"), 1, ["the output cannot be written"]),  # a terminal that has gone
    ],
    ids=str,
)
def test_what_the_machine_refuses_is_one_sentence(error, status, words, monkeypatch, capsys):
    def main(_):
        raise error

    monkeypatch.setattr(sys, "argv", ["train"])
    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert_message(end.value.code, capsys.readouterr().err, status, *words)


@pytest.mark.parametrize("stream", [">/dev/full", "1</dev/null"])
@pytest.mark.parametrize("printed", ["1", "100_000"])  # within the buffer, and beyond it
def test_an_output_that_cannot_be_written_is_one_sentence(stream, printed):
    program = f"from csn_jax import cli; cli.run(lambda argv: print('x' * {printed}))"
    words = ["bash", "-c", f'exec "$@" {stream}', "-", sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True)
    assert_message(done.returncode, done.stderr, 1, "the output cannot be written")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("main", "status"), [("writer.say('x')", 0), ("1 / 0", 1), ("sys.exit(3)", 3)])
def test_nobody_needs_to_read_what_is_said(main, status):
    """A full or broken standard error changes no exit status."""
    program = f"import sys; from csn_jax import cli; from csn_jax.runtime import writer; cli.run(lambda argv: {main})"
    for stream in ("2>/dev/full", "2> >(exec true); sleep 0.2"):
        words = ["bash", "-c", f'"$@" {stream.partition(";")[0]}', "-", sys.executable, "-c", program]
        assert subprocess.run(words, capture_output=True).returncode == status


@pytest.mark.parametrize("module", ["csn_jax.embed", "csn_jax.config", "csn_jax.cli.flags", "numpy", "jaxlib._jax"])
@pytest.mark.parametrize("start", [["-mcsn_jax.embed"], ["-m", "csn_jax", "embed"]], ids=" ".join)
def test_ctrl_c_while_a_command_is_imported_is_one_line(module, start, tmp_path):
    """An interrupt at the import of a module: status 130 and no traceback."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Hook:\n"
        "    def find_spec(name, path, target=None):\n"
        f"        if name == {module!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Hook)\n"
    )
    flags = ["--workdir=w", "--table=t.csv", "--out=o.npz"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, *start, *flags], env=environment, capture_output=True, text=True)
    assert done.returncode == 130 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("interrupted; ")


@pytest.mark.parametrize("command", [["-c"], ["-m", "timeit", "-n1", "-r1"]], ids=" ".join)
def test_a_program_that_imports_us_keeps_its_ctrl_c(command):
    code = "import csn_jax.cli, signal; print(signal.getsignal(2) is signal.default_int_handler)"
    assert "True" in subprocess.run([sys.executable, *command, code], capture_output=True, text=True).stdout


def test_the_default_workdir_is_the_config_s_own(monkeypatch):
    """Two configs never share a folder; the same command finds its own again."""
    seen = []
    monkeypatch.setattr("csn_jax.train.loop.train_and_evaluate", lambda config, workdir: seen.append(workdir) or 1 / 0)
    for argv in ([], ["--config.seed=1"], []):
        with pytest.raises(ZeroDivisionError):
            train.main(argv)
    assert seen[0] == seen[2] != seen[1] and seen[0].startswith("runs/glyphs-learned-")


def test_an_interrupt_inside_a_callback_is_not_lost():
    """JAX has a callback of the garbage collector, and Python drops an exception that is raised there."""
    program = (
        "import gc, os, signal, time\n"
        "from csn_jax import cli\n"
        "def main(argv):\n"
        "    gc.callbacks.append(lambda phase, info: os.kill(os.getpid(), signal.SIGINT))\n"
        "    gc.collect()\n"
        "    gc.callbacks.clear()\n"
        "    time.sleep(20)\n"
        "    print('went on')\n"
        "cli.run(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "interrupted; nothing was written\n"


@pytest.mark.slow
def test_commands_spare_the_import_of_keras():
    use = "lambda argv: (__import__('tensorflow'), print('tensorflow' in sys.modules, 'keras' in sys.modules))"
    code = f"import sys; from csn_jax import cli; cli.run({use})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True False\n", done.stderr
