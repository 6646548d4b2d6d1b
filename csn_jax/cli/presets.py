"""Presets: Python files whose functions return a Config. The package brings some, which are known by their names."""

import ast
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from csn_jax.config import Config
from csn_jax.errors import UserError
from csn_jax.text import did_you_mean

FOLDER = Path(__file__).with_name("configs")  # in a checkout a link to configs/, in a wheel the files


def preset_files() -> dict[str, Path]:
    """The presets of the package by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.py"))}


def preset_words() -> list[str]:
    """What can be given as --config without a file: NAME, and NAME:FUNCTION for each further function."""
    words = []
    for name, path in preset_files().items():
        functions = [node.name for node in ast.parse(path.read_bytes()).body if isinstance(node, ast.FunctionDef)]
        words += [name, *(f"{name}:{each}" for each in functions if each != "default" and not each.startswith("_"))]
    return words


def load_preset(reference: str) -> Config:
    """The Config that NAME[:FUNCTION] or FILE.py[:FUNCTION] returns; FUNCTION is `default` unless named. A UserError
    when the name, the file, the function or its result is not what it should be."""
    name, _, function = reference.partition(":")
    function, known = function or "default", preset_files()
    path = known.get(name) or Path(name).expanduser()
    if path.suffix != ".py" or not path.is_file():
        problem = f"{name} does not exist" if path.suffix == ".py" else f"{name!r} is not a preset or a Python file"
        stem = did_you_mean(path.stem, known)
        raise UserError(f"--config={reference}: {problem}{stem}; give {', '.join(known)}, or FILE.py[:FUNCTION].")
    spec = importlib.util.spec_from_file_location(f"preset_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look up their types
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"--config={reference}: {name} cannot be run ({type(error).__name__}: {error}).") from error
    presets: dict[str, Callable[[], Config]] = {
        name: value
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    }
    if function not in presets:
        near = did_you_mean(function, presets)
        raise UserError(f"--config={reference}: {name} has no preset {function!r}{near}; it has {', '.join(presets)}.")
    try:
        config = presets[function]()
    except Exception as error:
        raise UserError(f"--config={reference}: {function}() fails ({type(error).__name__}: {error}).") from error
    if not isinstance(config, Config):
        raise UserError(f"--config={reference}: {function}() returns a {type(config).__name__}; it should be a Config.")
    config.validate()
    return config
