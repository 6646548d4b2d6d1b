"""jit with the compiler options that help a platform, where the installed compiler knows them."""

from functools import lru_cache

import jax
import jax.numpy as jnp

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


def jit(function, **arguments):
    """`jax.jit` with the default platform's options."""
    return jax.jit(function, compiler_options=compiler_options(jax.default_backend()), **arguments)
