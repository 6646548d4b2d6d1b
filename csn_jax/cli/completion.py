"""Scripts that complete the command `csn_jax` in bash, zsh and fish.

A script holds all words itself, so that a press of the tab key starts no Python. completion.bash and completion.zsh
call a function written here, which sets $flags and $values; a value stands as --flag=value.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote

from csn_jax.cli.flags import Flag
from csn_jax.cli.presets import preset_words
from csn_jax.errors import UserError
from csn_jax.text import did_you_mean

SHELLS = ("bash", "zsh", "fish")
OPTIONS = ("--help", "--version", "--completion=")
Commands = Mapping[str, tuple[str, Mapping[str, Sequence[Flag]]]]


def completion(shell: str, commands: Commands) -> str:
    """The script for a shell; a UserError when it is not one of SHELLS. `commands`: for each command what it does, and
    its flags by action; a command without actions has the action ""."""
    if shell not in SHELLS:
        near = did_you_mean(shell, SHELLS)
        raise UserError(f"--completion={shell}: unknown shell{near}; choose one of {', '.join(SHELLS)}.")
    if shell == "fish":
        return "\n".join(["# Completion of csn_jax. Use: csn_jax --completion fish | source", *_fish(commands), ""])
    head = f'# Completion of csn_jax. Use: eval "$(csn_jax --completion {shell})"'
    lines = [f"    {key}) flags={quote(flags)} values={quote(values)} ;;" for key, flags, values in _cases(commands)]
    script = Path(__file__).with_suffix(f".{shell}").read_text()
    return "\n".join([head, "_csn_jax_words() {", '    case "$1 $2" in', *lines, "    esac", "}", script])


def _cases(commands: Commands) -> Iterator[tuple[str, str, str]]:
    """(pattern of command and action, flags, values)."""
    for command, (_, actions) in commands.items():
        for action, flags in actions.items():
            yield f"{command}\\ {action or '*'}", *map(" ".join, _words(flags))
        if "" not in actions:
            yield f"{command}\\ *", " ".join([*actions, "--help"]), ""
    yield "*", " ".join([*commands, *OPTIONS]), " ".join(f"--completion={name}" for name in SHELLS)


def _words(flags: Sequence[Flag]) -> tuple[list[str], list[str]]:
    """(flags, with = where a value follows; values as --flag=value)."""
    names, values = ["--help"], []
    if any(flag.name.startswith("config.") for flag in flags):
        names += ["--help-all", "--config="]
        values += [f"--config={word}" for word in preset_words()]
    for flag in flags:
        names.append(f"--{flag.name}" + ("" if flag.kind is bool or flag.many else "="))
        values += [f"--{flag.name}={choice}" for choice in flag.choices if choice]
    return names, values


def _fish(commands: Commands) -> Iterator[str]:
    start = "complete -c csn_jax -n"
    for name in OPTIONS:
        values = f" -x -a {quote(' '.join(SHELLS))}" if name.endswith("=") else ""
        yield f"{start} __fish_use_subcommand -l {name.strip('-=')}{values}"
    for command, (text, actions) in commands.items():
        yield f"{start} __fish_use_subcommand -f -a {command} -d {quote(text)}"
        within = f"__fish_seen_subcommand_from {command}"
        for action, flags in actions.items():
            where = f"{within}; and __fish_seen_subcommand_from {action}" if action else within
            if action:
                unseen = f"{within}; and not __fish_seen_subcommand_from {' '.join(actions)}"
                yield f"{start} {quote(unseen)} -f -a {action}"
            names, values = _words(flags)
            texts = {flag.name: flag.text for flag in flags}
            for name in (name.strip("-=") for name in names):
                choices = [word.partition("=")[2] for word in values if word.startswith(f"--{name}=")]
                more = f" -a {quote(' '.join(choices))}" if choices else ""
                more += (" -x" if choices and name != "config" else " -r") if f"--{name}=" in names else ""
                summary = texts.get(name, "").partition(". ")[0].rstrip(".")[:70]
                more += f" -d {quote(summary)}" if summary else ""
                yield f"{start} {quote(where)} -l {name}{more}"
