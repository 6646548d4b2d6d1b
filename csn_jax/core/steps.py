"""The training and embedding steps that are compiled. Pure functions of arrays."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from csn_jax.backbones import Backbone
from csn_jax.config import LossConfig
from csn_jax.core.in_batch import in_batch_loss
from csn_jax.core.losses import csn_loss, maps_loss
from csn_jax.core.masks import rectify
from csn_jax.core.preprocess import Preprocess


class Batch(NamedTuple):
    """B conditional triplets. A role holds inputs [B, ...], or int32 [B] positions in an array of all items."""

    ITEMS = ("anchor", "positive", "negative")  # the columns that hold items

    anchor: Any
    positive: Any
    negative: Any
    condition: Any  # [B] int32
    valid: Any  # [B] bool; False marks the padding of a short batch


class LabelledBatch(NamedTuple):
    """B items with all their labels, for the in-batch losses."""

    ITEMS = ("item",)

    item: Any  # inputs [B, ...], or int32 [B] positions
    labels: Any  # [B, W] int32, as in core.label_codes; [B, C] if all conditions are categorical
    valid: Any  # [B] bool; False marks padding


class State(NamedTuple):
    """All that training changes, and all that a checkpoint holds."""

    step: Any  # [] int32, steps done
    params: Any  # {"backbone": tree, "beta": [C, D], or [P, C, r, D] of maps}
    statistics: Any  # the backbone's running statistics; of maps over vectors, axes and the best maps so far
    opt_state: Any


ROLES = ("anchor", "negative", "positive")  # in the reference's order


def make_train_step(
    backbone: Backbone,
    preprocess: Preprocess,
    optimizer: optax.GradientTransformation,
    loss: LossConfig,
    *,
    train_masks: bool,
    seed: int,
    shared_statistics: bool = False,
    pulls: tuple[float, ...] = (),
    kinds: Sequence[str] = (),
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
    """Build train_step(state, batch, items=None) -> (state, metrics), to be jitted with `state` donated.

    With the loss `triplet`, the batch is a Batch. With the others it is a LabelledBatch, which takes one forward pass.
    With `items` [N, ...], the batch holds positions in it. With `shared_statistics`, batch norm sees the three roles as
    one batch. With `pulls`, beta [P, C, r, D] holds maps in place of masks. `kinds` are those of the conditions, which
    the in-batch losses need; all are categorical by default. Metrics are scalars: the loss, its terms, the gradient's
    norm, and the batch's accuracy or, for the other losses, the share of active triplets (batch_all) or anchors
    (batch_hard).
    """
    in_batch = loss.name != "triplet"
    roles = LabelledBatch.ITEMS if in_batch else ROLES
    embed = (_embed_together if in_batch or shared_statistics else _embed_by_role)(backbone, preprocess)
    weights = {"margin": loss.margin, "embedding_weight": loss.embedding_weight, "mask_weight": loss.mask_weight}

    def triplet_terms(embeddings, masks, batch):
        named = dict(zip(ROLES, embeddings, strict=True))
        return csn_loss(**named, mask=masks[batch.condition], valid=batch.valid, **weights)

    def in_batch_terms(embeddings, masks, batch):
        return in_batch_loss(*embeddings, masks, batch.labels, batch.valid, name=loss.name, kinds=kinds, **weights)

    def map_terms(embeddings, maps, batch):
        named, settings = dict(zip(ROLES, embeddings, strict=True)), weights | {"pulls": pulls}
        del settings["mask_weight"]
        return maps_loss(**named, maps=maps, condition=batch.condition, valid=batch.valid, **settings)

    terms_of = map_terms if pulls else in_batch_terms if in_batch else triplet_terms
    applied = (lambda beta: beta) if pulls else rectify

    def train_step(state: State, batch: Batch | LabelledBatch, items: jax.Array | None = None):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        inputs = [getattr(batch, role) if items is None else items[getattr(batch, role)] for role in roles]

        def objective(params):
            embeddings, statistics = embed(params["backbone"], state.statistics, inputs, batch.valid, key)
            beta = params["beta"] if train_masks else jax.lax.stop_gradient(params["beta"])  # [C, D]
            terms = terms_of(embeddings, applied(beta), batch)
            return terms.total, (terms, statistics)

        (_, (terms, statistics)), gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": terms.total} | terms._asdict() | {"gradient_norm": optax.tree.norm(gradient)}
        del metrics["total"]
        return State(state.step + 1, params, statistics, opt_state), metrics

    return train_step


def _embed_by_role(backbone: Backbone, preprocess: Preprocess) -> Callable:
    """Forward passes in the reference's order: each role has its own batch statistics, and the running ones move three
    times. A scan over the roles is ten times slower on CPU."""

    def embed(params, statistics, inputs, valid, key):
        embeddings = []
        for i, x in enumerate(inputs):
            x = preprocess(x, jax.random.fold_in(key, i))
            y, statistics = backbone.apply(params, statistics, x, train=True, valid=valid)  # [B, D]
            embeddings.append(y)
        return embeddings, statistics

    return embed


def _embed_together(backbone: Backbone, preprocess: Preprocess) -> Callable:
    """One forward pass, so that batch statistics cannot reveal an item's role. With statistics by role they can: if a
    condition has few values, anchors and positives of a batch are alike and negatives differ, and the network learns
    that instead."""

    def embed(params, statistics, inputs, valid, key):
        # A triplet's items are adjacent, so that each device keeps its own triplets.
        n = len(inputs)
        x = jnp.stack(inputs, axis=1).reshape(-1, *inputs[0].shape[1:])  # [n B, ...]
        y, statistics = backbone.apply(params, statistics, preprocess(x, key), train=True, valid=jnp.repeat(valid, n))
        return list(jnp.moveaxis(y.reshape(len(valid), n, -1), 1, 0)), statistics

    return embed


def repeatable(train_step: Callable) -> Callable:
    """The train_step, which also takes K batches with one more axis in front, [K, B, ...], for K steps in one call. The
    metrics are then columns [K]."""

    def train_steps(state: State, batch: Batch | LabelledBatch, items: jax.Array | None = None):
        if batch.valid.ndim == 1:
            return train_step(state, batch, items)
        return jax.lax.scan(lambda state, batch: train_step(state, batch, items), state, batch)

    return train_steps


def make_embed_step(backbone: Backbone, preprocess: Preprocess) -> Callable[..., jax.Array]:
    """Build embed_step(params, statistics, inputs [B, ...]) -> [B, D], with running statistics, for jit."""

    def embed_step(params: Any, statistics: Any, inputs: jax.Array) -> jax.Array:
        embeddings, _ = backbone.apply(params["backbone"], statistics, preprocess(inputs), train=False)
        return embeddings

    return embed_step


def make_features_step(backbone: Backbone, preprocess: Preprocess) -> Callable[..., jax.Array]:
    """Build features_step(params, statistics, inputs [B, ...]) -> [B, F], the last linear layer's input, for jit."""

    def features_step(params: Any, statistics: Any, inputs: jax.Array) -> jax.Array:
        return backbone.features(params["backbone"], statistics, preprocess(inputs))

    return features_step


def initial_state(params: Any, statistics: Any, beta: jax.Array, optimizer: optax.GradientTransformation) -> State:
    """The state before the first step."""
    params = {"backbone": params, "beta": jnp.asarray(beta)}
    return State(jnp.zeros((), jnp.int32), params, statistics, optimizer.init(params))
