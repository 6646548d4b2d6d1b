"""Adam and the schedules of its learning rate."""

import jax
import jax.numpy as jnp
import optax

from csn_jax.backbones import HEAD
from csn_jax.config import Config


def make_optimizer(config: Config, steps_per_epoch: int) -> optax.GradientTransformation:
    """Adam(0.9, 0.999, 1e-8) without weight decay, as in the reference, under the config's schedule.

    Updates of the backbone, except its last linear layer, are multiplied by `backbone.learning_rate_ratio`.
    """
    ratio = config.backbone.learning_rate_ratio
    adam = optax.adam(make_schedule(config, steps_per_epoch), b1=0.9, b2=0.999, eps=1e-8)

    def update(*arguments):
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an int power, which strict JAX refuses
            updates, state = adam.update(*arguments)
        if ratio != 1:
            scaled = jax.tree.map(lambda update: ratio * update, updates["backbone"])
            updates = updates | {"backbone": scaled | {HEAD: updates["backbone"][HEAD]}}
        return updates, state

    return optax.GradientTransformation(adam.init, update)


def make_schedule(config: Config, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate at a step counted from 0.

    `exponential` is the reference's: learning_rate * schedule_decay ** epoch. Epochs count from 1, so even the first is
    decayed. `cosine` goes from learning_rate to 0 at the last step.
    """
    if config.schedule == "cosine":
        return optax.cosine_decay_schedule(config.learning_rate, config.steps)

    def exponential(step: jax.Array) -> jax.Array:
        epoch = step // steps_per_epoch + 1
        return config.learning_rate * config.schedule_decay ** jnp.asarray(epoch).astype(float)

    return exponential
