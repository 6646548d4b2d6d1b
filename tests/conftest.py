"""Strict by default: silent promotions raise, warnings are errors, and four fake devices stand for an accelerator."""

import atexit
import os
import shutil
import tempfile

# Before jax is imported: the number of devices is read once.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What one test compiles, the others and the commands that they start need not compile again.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="csn_jax_compiled_")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax
import pytest

atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The workdir of a finished tiny training on the device feed. Copy it to change it."""
    import tiny

    workdir = tmp_path_factory.mktemp("finished") / "run"
    tiny.train(workdir)
    return workdir


@pytest.fixture(scope="session")
def specialists(tmp_path_factory):
    """The workdir of finished tiny specialists. Copy it to change it."""
    import tiny

    workdir = tmp_path_factory.mktemp("specialists") / "run"
    tiny.train(workdir, "--config.variant=specialists")
    return workdir
