"""jit with the compiler options that help a platform, if the installed compiler knows them. Compiled programs are kept
for the next start."""

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
    """Options for `jax.jit(compiler_options=...)`. Not XLA_FLAGS: an unknown flag there ends the process, while an
    unknown option here raises, so an older or newer compiler is detected."""
    return CPU_OPTIONS if platform == "cpu" and accepted(CPU_OPTIONS) else None


def accepted(options: dict[str, str]) -> bool:
    """Whether the installed compiler takes these options."""
    try:
        jax.jit(lambda x: x + 1, compiler_options=options)(jnp.zeros(()))
    except (jax.errors.JaxRuntimeError, ValueError):
        return False
    return True


@lru_cache
def keep_programs() -> None:
    """Have JAX keep compiled programs in the cache folder, unless JAX_COMPILATION_CACHE_DIR or
    JAX_ENABLE_COMPILATION_CACHE says otherwise. JAX warns of a damaged entry, which it compiles again, and of a folder
    that cannot be written, where nothing is kept."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or jax.config.jax_compilation_cache_dir:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled" / _processor()))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # many small programs slow a start too


def _processor() -> str:
    """A digest of the processor's features. Machines with other processors may share a home folder, and JAX would load
    their programs."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        features = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    except OSError:
        features = [platform.processor()]
    return hashlib.sha256(repr((platform.machine(), features)).encode()).hexdigest()[:12]


def jit(function, **arguments):
    """`jax.jit` with the default platform's options. Nothing is compiled before the first call."""
    keep_programs()
    return jax.jit(function, compiler_options=compiler_options(jax.default_backend()), **arguments)
