"""The first start of csn_jax itself, which compiles everything."""

from csn_jax.suites import startup


def make(words, tiny):
    """words: network."""
    return startup.make(tiny, backbone=words[0], cold=True)
