"""Compiled programs that a session of tests leaves to the next. Compiling is half of a first run."""

import hashlib
import os
import platform
import shutil
import zlib
from pathlib import Path

ROOM = 1 << 30  # bytes, beyond which all are forgotten: most belong to code that has changed


def folder() -> Path:
    """Where programs of this kind of processor are kept. JAX tells versions and options apart, but not processors."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        features = [line for line in lines if line.startswith(("flags", "Features", "model name"))]
    except OSError:
        features = [platform.processor()]
    home = os.environ.get("CSN_JAX_CACHE") or Path.home() / ".cache" / "csn_jax"
    name = hashlib.sha256(repr((platform.machine(), features)).encode()).hexdigest()[:12]
    return Path(home) / "compiled_by_tests" / name


def lend(kept: Path, session: Path) -> None:
    """Copy the kept programs into the folder of a session."""
    session.mkdir(parents=True, exist_ok=True)
    for path in kept.glob("*-cache"):
        shutil.copyfile(path, session / path.name)


def keep(session: Path, kept: Path) -> None:
    """Keep the new programs of a session. Those that a killed process has cut off are not: JAX would warn of them for
    ever, since it never writes a program again."""
    kept.mkdir(parents=True, exist_ok=True)
    if sum(path.stat().st_size for path in kept.iterdir()) > ROOM:
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True, exist_ok=True)
    for path in session.glob("*-cache"):
        if not (kept / path.name).exists() and _is_whole(path.read_bytes()):
            half = kept / f".{path.name}.{os.getpid()}"
            shutil.copyfile(path, half)
            half.replace(kept / path.name)


def _is_whole(data: bytes) -> bool:
    """Whether zlib's checksum holds. Programs compressed by zstd, which newer Pythons have, are not recognised."""
    try:
        zlib.decompress(data)
    except zlib.error:
        return False
    return True
