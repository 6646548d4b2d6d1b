"""The page of csn_jax.explore that its browser tests share."""

import pytest
import showcase
from browsing import browser, visit  # noqa: F401  (fixtures)


@pytest.fixture(scope="module")
def shown():
    return showcase.items()


@pytest.fixture(scope="module")
def address(tmp_path_factory, shown):
    return showcase.write(tmp_path_factory.mktemp("explore") / "a page # of 100%", shown).as_uri()
