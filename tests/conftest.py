"""Strict by default: silent promotions raise, warnings are errors, and four fake devices stand for an accelerator.

The whole suite runs in two to four worker processes, a few named files or tests run in one. Workers, and the commands
that tests start, share the compiled programs and the trained runs of the session. The next session starts with the
programs of this one (tests/kept_programs.py).
"""

import atexit
import ctypes
import fcntl
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import kept_programs
import pytest

# Before jax is imported: the number of devices is read once.
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of LLVM: compilation takes half of the time
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers inherit what the first process sets here
    session = tempfile.mkdtemp(prefix="csn_jax_tests_")
    atexit.register(shutil.rmtree, session, ignore_errors=True)
    os.environ["CSN_JAX_TEST_SESSION"] = session
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(session, "compiled")
        # Otherwise the folder's name is in each program's key, and no other session finds the program.
        os.environ.setdefault("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "none")
        atexit.register(kept_programs.keep, Path(session, "compiled"), kept_programs.folder())  # before rmtree
        kept_programs.lend(kept_programs.folder(), Path(session, "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # many threads, each with memory that it never gives back
SESSION = Path(os.environ["CSN_JAX_TEST_SESSION"])

TENSORFLOW = (  # their files run in one worker: TensorFlow costs 10 s and 600 MB in each process
    "train/test_feeds.py",
    "train/test_in_batch_run.py",
    "data/sources/test_tfds.py",
    "runtime/test_writer.py",
)
LONGEST_FIRST = (  # so that no worker is left with a long file at the end; the first two among the slow tests
    "test_notebooks.py",
    "test_experiments.py",
    "train/test_loop.py",
    "core/test_parity.py",
    "train/test_end_to_end.py",
)
COMPAT = (  # a file or two of every part, all without PyTorch: what a newer Python or JAX may break
    "adapt/test_fit.py",
    "core/test_devices.py",
    "core/test_masks.py",
    "core/test_preprocess.py",
    "data/sources/test_glyphs.py",
    "data/sources/test_table.py",
    "data/sources/test_tfds.py",
    "data/test_cache.py",
    "data/test_workers.py",
    "embed/test_embed.py",
    "evaluate/test_triplet_error.py",
    "explore/test_explore.py",
    "report/test_report.py",
    "runtime/test_checkpoint.py",
    "runtime/test_compiler.py",
    "runtime/test_workdir.py",
    "search/test_search.py",
    "store/test_index.py",
    "test_cli.py",
    "test_config.py",
    "train/test_feeds.py",
    "train/test_loop.py",
    "train/test_signals.py",
)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two to four workers for the suite; none for named files or tests, which start sooner without."""
    named = [path for path in config.invocation_params.args if not str(path).startswith("-")]
    if any(Path(str(path).split("::")[0]).is_file() for path in named):
        return 0
    return min(4, max(2, len(os.sched_getaffinity(0)))) if hasattr(os, "sched_getaffinity") else 2


def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """A file to a worker, in the order of collection; the files that need TensorFlow all to the same one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "TensorFlow" if file.endswith(TENSORFLOW) else file

    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)  # before pytest looks at the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.partition("::")[0].endswith(COMPAT) and not item.get_closest_marker("slow"):
            item.add_marker("compat")

    def place(item: pytest.Item) -> int:
        file = item.nodeid.partition("::")[0]
        return next((i for i, name in enumerate(LONGEST_FIRST) if file.endswith(name)), len(LONGEST_FIRST))

    items.sort(key=place)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Make JAX strict, except in the process that only hands tests out."""
    if getattr(session.config.option, "numprocesses", 0) and "PYTEST_XDIST_WORKER" not in os.environ:
        return
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started by `&`: the commands of tests would ignore Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
    import jax

    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_finish() -> None:
    """Spare the garbage collector what has been imported: a pass over it takes half a second, and training asks for
    one."""
    gc.collect()
    gc.freeze()


ROOMY = 1 << 30  # bytes that a process may hold without forgetting


@pytest.fixture(autouse=True, scope="module")
def forget_programs() -> Iterator[None]:
    """After a file, drop its programs from a process that has grown: all of them together would take gigabytes.

    They are on disk. glibc returns the memory only when asked.
    """
    yield
    if not os.path.exists("/proc/self/statm"):
        return
    if int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > ROOMY:
        import jax

        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


def once(name: str, make: Callable[[Path], object]) -> Path:
    """A folder of the session, made by the first process that asks for it while the others wait."""
    folder, made = SESSION / name, SESSION / f"{name}.made"
    with open(SESSION / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def finished() -> Path:
    """The workdir of a finished tiny training on the device feed. Copy it to change it."""
    import tiny

    return once("finished", lambda folder: tiny.train(folder / "run", pictures=True)) / "run"


@pytest.fixture(scope="session")
def on_vectors() -> tuple[str, ...]:
    """Flags of the tiny run on vectors: for tests that are about the loop and not about the network."""
    import tiny

    return tiny.on_vectors(once("tables", tiny.on_vectors))


@pytest.fixture(scope="session")
def finished_on_vectors(on_vectors) -> Path:
    """The workdir of a finished tiny training on vectors. Copy it to change it."""
    import tiny

    return once("finished_on_vectors", lambda folder: tiny.train(folder / "run", *on_vectors)) / "run"


@pytest.fixture(scope="session")
def maps_on_vectors(on_vectors) -> Path:
    """The workdir of a finished tiny training of maps on vectors. Copy it to change it."""
    import tiny

    flags = (*on_vectors, *tiny.MAPS)
    return once("maps_on_vectors", lambda folder: tiny.train(folder / "run", *flags)) / "run"


@pytest.fixture(scope="session")
def specialists() -> Path:
    """The workdir of finished tiny specialists. Copy it to change it."""
    import tiny

    return once("specialists", lambda folder: tiny.train(folder / "run", "--config.variant=specialists")) / "run"


@pytest.fixture(scope="session")
def shop_runs() -> Path:
    """The shop's tables and untrained runs, as `shop.write_runs` writes them. Copy it to change it."""
    import shop

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CSN_JAX_CACHE", str(folder / "cache"))
            shop.write_runs(folder)

    return once("shop", make)


@pytest.fixture(scope="session")
def glyph_index(finished) -> Path:
    """The test items of `finished` as csn_jax embed stores them."""
    from csn_jax import embed

    def make(folder: Path) -> None:
        embed.main([f"--workdir={finished}", "--split=test", f"--out={folder / 'glyphs.parquet'}"])

    return once("glyph_index", make) / "glyphs.parquet"


@pytest.fixture
def optimized(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For a test that trains for longer than it compiles, by itself or in commands that it starts."""
    import jax

    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS", raising=False)
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
