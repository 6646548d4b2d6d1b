"""A short run of fuzz_readers.py, in a file of its own as it writes PyTorch's archives."""

import torch  # noqa: F401 - without it the harness has nothing to feed; .ci/run leaves such files out on Python 3.12
from harness import report_of


def test_readers_take_damage_or_refuse_it():
    readers = {one["reader"]: one for one in report_of("fuzz_readers", "--inputs=150")["readers"]}
    assert len(readers) == 14
    for one in readers.values():
        assert one["read"] >= 1 and one["refused"] >= 20, one
