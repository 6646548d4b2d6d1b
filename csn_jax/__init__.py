"""Conditional Similarity Networks in JAX: one embedding, many notions of similarity (Veit et al., CVPR 2017)."""

from csn_jax.runtime import starting

if starting.is_command():
    starting.guard()  # before the imports that take time

from typing import TYPE_CHECKING, Any  # noqa: E402

__version__ = "0.1.0"

if TYPE_CHECKING:
    from csn_jax.config import Config
    from csn_jax.data.images import preprocess
    from csn_jax.errors import MachineError, Stopped, UserError
    from csn_jax.model.model import Model
    from csn_jax.model.run import load
    from csn_jax.store.index import Index
    from csn_jax.train.loop import train_and_evaluate

# Looked up when first used, so that importing the package imports neither JAX nor TensorFlow.
_HOMES = {
    "Config": "csn_jax.config",
    "Index": "csn_jax.store.index",
    "MachineError": "csn_jax.errors",
    "Model": "csn_jax.model.model",
    "Stopped": "csn_jax.errors",
    "UserError": "csn_jax.errors",
    "load": "csn_jax.model.run",
    "preprocess": "csn_jax.data.images",
    "train_and_evaluate": "csn_jax.train.loop",
}
__all__ = [
    "Config",
    "Index",
    "MachineError",
    "Model",
    "Stopped",
    "UserError",
    "__version__",
    "load",
    "preprocess",
    "train_and_evaluate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'csn_jax' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
