"""Adam and the schedules of its learning rate."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import optax

from csn_jax.backbones import HEAD, frozen_part, stage_of
from csn_jax.config import STAGES, BackboneConfig, Config

KERNELS = ("kernel", "filter")  # weights of linear layers and convolutions


@lru_cache(maxsize=16)  # equal ones share compiled programs
def make_optimizer(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """Adam(0.9, 0.999, 1e-8) under the config's schedule; without weight decay, as in the reference, unless
    `fine_tune.weight_decay` asks for AdamW.

    Updates of the backbone, except its last linear layer, are multiplied by `backbone.learning_rate_ratio`, and by
    `fine_tune.layer_decay` once per stage below that layer. `fine_tune.clip` bounds the gradient's norm before Adam.
    """
    tune, schedule = config.fine_tune, make_schedule(config, steps_per_epoch)
    if tune.weight_decay:
        adam = optax.adamw(schedule, b1=0.9, b2=0.999, eps=1e-8, weight_decay=tune.weight_decay, mask=_decayed(config))
    else:
        adam = optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-8)
    if tune.clip:
        adam = optax.chain(optax.clip_by_global_norm(tune.clip), adam)

    def update(*arguments):
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an int power, which strict JAX refuses
            updates, state = adam.update(*arguments)
        scale = _scale_of(config.backbone, tune.layer_decay)
        if config.backbone.learning_rate_ratio != 1 or tune.layer_decay != 1:
            modules = updates["backbone"].items()
            scaled = {name: optax.tree.scale(scale(name), tree) for name, tree in modules}
            updates = updates | {"backbone": scaled}
        return updates, state

    return optax.GradientTransformation(adam.init, update)


def _scale_of(config: BackboneConfig, layer_decay: float) -> Callable[[str], float]:
    """A function of a module's name: the factor on its updates."""
    stages = (*STAGES.get(config.name, ()), HEAD)

    def scale(module: str) -> float:
        if module == HEAD:
            return 1.0
        stage = stage_of(module)  # networks without stages have one below the last layer
        depth = len(stages) - 1 - stages.index(stage) if stage in stages else 1
        return config.learning_rate_ratio * layer_decay**depth

    return scale


def _decayed(config: Config) -> Callable[[Any], Any]:
    """A function of parameters: which of them have weight decay. Kernels of the backbone that are not frozen."""
    frozen = frozen_part(config.backbone)

    def decayed(params: Any) -> Any:
        def decays(path: tuple[Any, ...], _: Any) -> bool:
            return path[0].key == "backbone" and path[-1].key in KERNELS and not frozen(path[1].key)

        return jax.tree_util.tree_map_with_path(decays, params)

    return decayed


def make_schedule(config: Config, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate at a step counted from 0.

    `exponential` is the reference's: learning_rate * schedule_decay ** epoch. Epochs count from 1, so even the first is
    decayed. `cosine` goes from learning_rate to 0 at the last step. In the first `fine_tune.warmup` steps the rate is a
    rising share of this.
    """
    schedule, warmup = _schedule(config, steps_per_epoch), config.fine_tune.warmup
    if not warmup:
        return schedule
    return lambda step: schedule(step) * jnp.minimum(1.0, (jnp.asarray(step) + 1).astype(float) / warmup)


def _schedule(config: Config, steps_per_epoch: int) -> optax.Schedule:
    if config.schedule == "cosine":
        return optax.cosine_decay_schedule(config.learning_rate, config.steps)

    def exponential(step: jax.Array) -> jax.Array:
        epoch = step // steps_per_epoch + 1
        return config.learning_rate * config.schedule_decay ** jnp.asarray(epoch).astype(float)

    return exponential
