"""jit with the compiler options that help a platform, where the installed compiler knows them, and with its programs
kept for the next start."""

import hashlib
import os
import platform
from functools import lru_cache
from pathlib import Path

import jax
import jax.numpy as jnp

from csn_jax.runtime.workdir import cache_folder

# jaxlib 0.10 sends float32 convolutions to YNNPACK, whose weight gradient is many times slower than Eigen's on CPUs.
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}


@lru_cache
def compiler_options(platform: str) -> dict[str, str] | None:
    """Options for `jax.jit(compiler_options=...)`. Never through XLA_FLAGS: an unknown flag there ends the process,
    an unknown option here raises, and that is how an older or newer compiler is found out."""
    options = {"cpu": CPU_OPTIONS}.get(platform)
    return options if options and accepted(options) else None


def accepted(options: dict[str, str]) -> bool:
    """Whether the installed compiler takes these options."""
    try:
        jax.jit(lambda x: x + 1, compiler_options=options)(jnp.zeros(()))
    except (jax.errors.JaxRuntimeError, ValueError):
        return False
    return True


@lru_cache
def keep_programs() -> None:
    """Have JAX keep what it compiles in the cache folder, unless the user has said where, or that it should not
    (JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE). A damaged entry is compiled again, and where the folder
    cannot be written nothing is kept; JAX warns of either."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or jax.config.jax_compilation_cache_dir:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled" / _processor()))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # many small ones make a start slow too


def _processor() -> str:
    """A digest of the processor's abilities: a home folder can be shared by machines that differ in them, and JAX takes
    a program of another one for its own."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        told = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    except OSError:
        told = [platform.processor()]
    return hashlib.sha256(repr((platform.machine(), told)).encode()).hexdigest()[:12]


def jit(function, **arguments):
    """`jax.jit` with the default platform's options. Nothing is compiled before it is called."""
    keep_programs()
    return jax.jit(function, compiler_options=compiler_options(jax.default_backend()), **arguments)
