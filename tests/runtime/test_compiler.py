"""Compiler options: taken where the compiler knows them, left out where it does not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from csn_jax.runtime import compiler


@pytest.fixture(autouse=True)
def forget():
    compiler.compiler_options.cache_clear()
    yield
    compiler.compiler_options.cache_clear()


def test_our_options_are_known_to_this_compiler():
    """Fails on the day that a jaxlib drops one: then look whether its default is as fast."""
    assert compiler.accepted(compiler.CPU_OPTIONS)
    assert compiler.compiler_options("cpu") == compiler.CPU_OPTIONS


def test_an_unknown_option_falls_back_to_none(monkeypatch):
    """Never an error for the user: the program is compiled without."""
    assert not compiler.accepted({"xla_no_such_option": "1"})
    monkeypatch.setattr(compiler, "CPU_OPTIONS", {"xla_no_such_option": "1"})
    assert compiler.compiler_options("cpu") is None
    assert compiler.jit(lambda x: x + 1)(jnp.ones(())) == 2


def test_a_wrong_value_falls_back_too(monkeypatch):
    monkeypatch.setattr(compiler, "CPU_OPTIONS", {"xla_backend_optimization_level": "many"})
    assert compiler.compiler_options("cpu") is None


def test_other_platforms_get_no_option_of_the_cpu():
    assert compiler.compiler_options("gpu") is None and compiler.compiler_options("tpu") is None


def test_jit_passes_its_arguments_on():
    """Donation above all: the training state must not be held twice."""
    step = compiler.jit(lambda state, x: state + x, donate_argnums=0)
    state = jax.device_put(jnp.ones(4))
    assert (step(state, jnp.ones(4)) == 2).all() and state.is_deleted()


KEPT = """
import json, warnings
import jax, jax.numpy as jnp
from csn_jax.runtime import compiler

hits, told = [], []
jax.monitoring.register_event_listener(lambda event, **_: hits.append("cache_hits" in event))
warnings.showwarning = lambda message, *_: told.append(str(message))
program = compiler.jit(lambda x: jnp.linalg.eigh(jax.nn.relu(x) @ x.T)[0])
values = program(jnp.arange(90.0).reshape(9, 10)).tolist()
print(json.dumps([values, sum(hits), told, jax.config.jax_compilation_cache_dir]))
"""


def start(folder: Path, **environment: str) -> tuple:
    """(values, programs that were found, warnings, folder) of a process that compiles and runs something."""
    environment = {"CSN_JAX_CACHE": str(folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} | environment
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")} | environment
    done = subprocess.run([sys.executable, "-c", KEPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout))


def test_programs_are_kept_for_the_next_start(tmp_path):
    """The second start finds the first one's; with damaged entries it compiles again and gives the same."""
    values, found, told, folder = start(tmp_path / "cache")
    assert found == 0 and told == [] and Path(folder).parent == tmp_path / "cache" / "compiled"
    again, found, told, _ = start(tmp_path / "cache")
    assert again == values and found > 0 and told == []
    for entry in Path(folder).iterdir():
        data = bytearray(entry.read_bytes())
        data[len(data) // 2 :] = b"x" * len(data[len(data) // 2 :])
        entry.write_bytes(data)
    again, _, told, _ = start(tmp_path / "cache")
    assert again == values and told  # JAX says which entry it could not read


def test_no_folder_no_cache_no_error(tmp_path):
    (tmp_path / "cache").write_text("in the way")
    values, found, told, _ = start(tmp_path / "cache")
    assert len(values) == 9 and found == 0 and told


def test_a_place_that_the_user_named_is_left(tmp_path):
    assert start(tmp_path / "cache", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"))[3] == str(tmp_path / "mine")
    assert not (tmp_path / "cache").exists()
