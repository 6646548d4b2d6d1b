"""Compiler options are used if the compiler knows them, and left out otherwise. Programs are cached."""

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
    """If this fails, a jaxlib has dropped an option. Check whether its default is as fast."""
    assert compiler.accepted(compiler.CPU_OPTIONS)
    assert compiler.compiler_options("cpu") == compiler.CPU_OPTIONS


def test_an_unknown_option_is_left_out(monkeypatch):
    """It is not an error for the user: the program is compiled without it."""
    assert not compiler.accepted({"xla_no_such_option": "1"})
    monkeypatch.setattr(compiler, "CPU_OPTIONS", {"xla_no_such_option": "1"})
    assert compiler.compiler_options("cpu") is None
    assert compiler.jit(lambda x: x + 1)(jnp.ones(())) == 2


def test_an_option_with_a_wrong_value_is_left_out(monkeypatch):
    monkeypatch.setattr(compiler, "CPU_OPTIONS", {"xla_backend_optimization_level": "many"})
    assert compiler.compiler_options("cpu") is None


def test_other_platforms_get_no_cpu_options():
    assert compiler.compiler_options("gpu") is None and compiler.compiler_options("tpu") is None


def test_jit_passes_its_arguments_on():
    """Above all donation: the training state must not exist twice."""
    step = compiler.jit(lambda state, x: state + x, donate_argnums=0)
    state = jax.device_put(jnp.ones(4))
    assert (step(state, jnp.ones(4)) == 2).all() and state.is_deleted()


KEPT = """
import json, warnings
import jax, jax.numpy as jnp
from csn_jax.runtime import compiler

hits, warned = [], []
jax.monitoring.register_event_listener(lambda event, **_: hits.append("cache_hits" in event))
warnings.showwarning = lambda message, *_: warned.append(str(message))
program = compiler.jit(lambda x: jnp.linalg.eigh(jax.nn.relu(x) @ x.T)[0])
values = program(jnp.arange(90.0).reshape(9, 10)).tolist()
print(json.dumps([values, sum(hits), warned, jax.config.jax_compilation_cache_dir]))
"""


def start(folder: Path, **environment: str) -> tuple:
    """(values, programs from the cache, warnings, folder) of a process that compiles and runs a program."""
    environment = {"CSN_JAX_CACHE": str(folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} | environment
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_COMPILATION")} | environment
    done = subprocess.run([sys.executable, "-c", KEPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout))


@pytest.mark.slow
def test_programs_are_cached_for_the_next_start(tmp_path):
    """The second start uses the cache. With damaged entries it compiles again, with the same values."""
    values, hits, warned, folder = start(tmp_path / "cache")
    assert hits == 0 and warned == [] and Path(folder).parent == tmp_path / "cache" / "compiled"
    again, hits, warned, _ = start(tmp_path / "cache")
    assert again == values and hits > 0 and warned == []
    for entry in Path(folder).iterdir():
        data = bytearray(entry.read_bytes())
        data[len(data) // 2 :] = b"x" * len(data[len(data) // 2 :])
        entry.write_bytes(data)
    again, _, warned, _ = start(tmp_path / "cache")
    assert again == values and warned  # JAX names the entry that it could not read


def test_without_a_folder_there_is_no_cache_and_no_error(tmp_path):
    (tmp_path / "cache").write_text("in the way")
    values, hits, warned, _ = start(tmp_path / "cache")
    assert len(values) == 9 and hits == 0 and warned


def test_a_cache_named_by_the_user_is_kept(tmp_path):
    assert start(tmp_path / "cache", JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"))[3] == str(tmp_path / "mine")
    assert not (tmp_path / "cache").exists()
