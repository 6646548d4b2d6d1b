"""`csn_jax COMMAND ...` and `python -m csn_jax COMMAND ...`: the list of commands, and the door to each."""

import importlib
import textwrap
from collections.abc import Sequence

import csn_jax
from csn_jax import cli
from csn_jax.errors import UserError
from csn_jax.text import did_you_mean

COMMANDS = ("train", "evaluate", "embed", "beam", "search", "adapt", "teach", "explore", "report", "port", "benchmark")

USAGE = """\
usage: csn_jax COMMAND [OPTIONS]

{about}

commands:
{commands}

options:
  --help              Show this text. csn_jax COMMAND --help explains a command.
  --version           Print the version.
  --completion=SHELL  Print a script that completes commands, flags and presets.

completion, to add to ~/.bashrc, ~/.zshrc or ~/.config/fish/config.fish:
  eval "$(csn_jax --completion bash)"
  eval "$(csn_jax --completion zsh)"
  csn_jax --completion fish | source"""


def main(argv: Sequence[str]) -> None:
    """Run a command, or print what the options ask for."""
    word, _, value = argv[0].partition("=") if argv else ("--help", "", "")
    if word in COMMANDS:
        importlib.import_module(f"csn_jax.{argv[0]}").main(argv[1:])
    elif word in ("-h", "--help", "help"):
        print(usage())
    elif word == "--version":
        print(f"csn_jax {csn_jax.__version__}")
    elif word == "--completion":
        print(script(value or next(iter(argv[1:]), "")), end="")
    else:
        near = did_you_mean(argv[0], COMMANDS)
        raise UserError(f"unknown command {argv[0]!r}{near}; choose one of {', '.join(COMMANDS)}; see csn_jax --help.")


def usage() -> str:
    """The commands with a line each: the first line of their docstrings."""
    lines = [f"  {name:10} {summary(name)}" for name in COMMANDS]
    return USAGE.format(about=textwrap.fill(csn_jax.__doc__, 80), commands="\n".join(lines))


def summary(command: str) -> str:
    return importlib.import_module(f"csn_jax.{command}").__doc__.partition("\n")[0]


def script(shell: str) -> str:
    """The completion script of a shell."""
    from csn_jax.cli.completion import completion
    from csn_jax.cli.flags import flags_of

    commands = {}
    for name in COMMANDS:
        module = importlib.import_module(f"csn_jax.{name}")
        actions = getattr(module, "ACTIONS", None) or {"": module.Args}
        commands[name] = summary(name), {action: flags_of(kind) for action, kind in actions.items()}
    return completion(shell, commands)


def run() -> None:
    """The console script `csn_jax`."""
    cli.run(main)


if __name__ == "__main__":
    run()
