"""A first start of csn_jax, with an empty cache of compiled programs."""

from csn_jax.benchmark.suites import startup


def make(words, tiny):
    """words: network."""
    return startup.make(tiny, backbone=words[0], cold=True)
