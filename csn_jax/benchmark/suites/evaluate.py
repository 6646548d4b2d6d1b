"""Seconds for the error of 40,000 triplets over 20,000 items, from pixels; and time and memory of retrieval."""

from collections.abc import Callable

from csn_jax.benchmark.suites import Case, timed

ITEMS, TRIPLETS, SIZE, CONDITIONS = 20_000, 40_000, 32, 2
RETRIEVED, DIMENSIONS = 50_000, 64


def make(tiny: bool) -> Callable[[], float]:
    import jax
    import numpy as np

    from csn_jax.config import Config, PreprocessConfig
    from csn_jax.data.item_set import Condition, ItemSet
    from csn_jax.data.triplets import Triplets
    from csn_jax.evaluate.triplet_error import triplet_error
    from csn_jax.model.from_state import make_model, make_programs
    from csn_jax.model.network import build_network
    from csn_jax.runtime.sharding import make_shardings

    n, t = (100, 200) if tiny else (ITEMS, TRIPLETS)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (n, SIZE, SIZE, 1), np.uint8)
    triplets = Triplets(*rng.integers(0, n, (3, t), np.int32), condition=rng.integers(0, CONDITIONS, t, np.int32))
    conditions = tuple(Condition(name, "categorical") for name in "ab")
    items = ItemSet(pixels, np.arange(n).astype(str), {}, np.full(n, "test"), conditions)
    config = Config(preprocess=PreprocessConfig(size=SIZE))
    network, shardings = build_network(config, pixels.shape[1:], CONDITIONS, 1), make_shardings()
    state = jax.device_put(network.state, shardings.state)
    model = make_model(config, ["a", "b"], pixels.shape[1:], state, make_programs(network), shardings)

    def work() -> None:
        triplet_error(model.view_rows(pixels, np.arange(n)), model.masks, items, triplets)

    work()
    return timed(work)


def make_retrieval(tiny: bool) -> Callable[[], float]:
    """recall@k, R-precision and MAP@R with every item as a query, under each of four conditions."""
    import numpy as np

    from csn_jax.data.item_set import Condition, ItemSet
    from csn_jax.evaluate import retrieval

    n = 200 if tiny else RETRIEVED
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((n, DIMENSIONS), np.float32)
    masks = np.maximum(rng.normal(0.9, 0.7, (4, DIMENSIONS)), 0).astype(np.float32)
    labels = {name: rng.integers(0, 50, n).astype(str) for name in "abcd"}
    conditions = tuple(Condition(name, "categorical") for name in labels)
    items = ItemSet(np.zeros((n, 1), np.float32), np.arange(n).astype(str), labels, np.full(n, "test"), conditions)
    return timed(lambda: retrieval.results(embeddings, masks, items, "test", None))


THEIRS = {"PyTorch, three images per triplet": ("evaluate", ITEMS, TRIPLETS, SIZE, CONDITIONS)}
CASES = (
    Case(f"triplet error, {TRIPLETS:,} triplets over {ITEMS:,} items", make, THEIRS, "s"),
    Case(f"retrieval, {RETRIEVED:,} x {RETRIEVED:,} x 4 conditions", make_retrieval, {}, "s", once=True),
)
