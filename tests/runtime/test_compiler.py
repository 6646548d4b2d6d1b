"""Compiler options: taken where the compiler knows them, left out where it does not."""

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
