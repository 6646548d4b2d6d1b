"""Run the Python of stores.md from top to bottom: `python docs/stores.py FILE.parquet`, a file that embed wrote."""

import re
import sys
import tempfile
from pathlib import Path


def blocks(page: str) -> list[str]:
    """The page's blocks of Python."""
    return re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def main(file: str) -> None:
    from csn_jax import Index

    page = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        names = {"index": Index.open(file), "folder": Path(folder)}
        for block in blocks(page):
            exec(compile(block, "docs/stores.md", "exec"), names)  # noqa: S102


if __name__ == "__main__":
    main(sys.argv[1])
