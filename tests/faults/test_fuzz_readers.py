"""Short runs of fuzz_readers.py, in a file of their own because the program writes PyTorch archives."""

import pytest
import torch  # noqa: F401 - without PyTorch the program has nothing to feed; .ci/run leaves such files out elsewhere
from harness import report_of


@pytest.mark.parametrize(("inputs", "refused"), [(150, 20), pytest.param(300, 40, marks=pytest.mark.slow)])
def test_readers_read_damaged_files_or_refuse_them(inputs, refused):
    readers = {reader["reader"]: reader for reader in report_of("fuzz_readers", f"--inputs={inputs}")["readers"]}
    assert len(readers) == 20
    for reader in readers.values():
        assert reader["read"] >= 1 and reader["refused"] >= refused, reader
