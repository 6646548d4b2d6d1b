"""Worker processes that may die: an item costs only its own result."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from csn_jax.data import workers as isolated
from csn_jax.data.workers import WorkerDied, in_order, isolated_map, read_in_workers
from csn_jax.errors import MachineError


def behave(how):
    """The function of the workers: die in a given way, or return something."""
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "spin":
        while True:
            pass
    if isinstance(how, signal.Signals):
        os.kill(os.getpid(), how)
    if how == "memory":
        try:
            return len(bytearray(4 << 30))
        except MemoryError:
            return "refused"
    if how == "raise":
        raise ValueError("a bug in the function")
    if how == "end of file":
        raise EOFError("a truncated file")
    if how == "unpicklable":
        return lambda: None
    if how == "dies while sending":
        threading.Timer(0.3, os._exit, [5]).start()
        return bytes(50_000_000)
    if how == "pid":
        return os.getpid()
    if how == "threads":
        return os.environ["OPENBLAS_NUM_THREADS"]
    return how


def first_time_killed(marker):
    """Killed as by the kernel when memory runs out, but only once."""
    if not os.path.exists(marker):
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def children() -> set[int]:
    """Child processes that this one has not waited for, zombies included."""
    pids = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            pids.add(int(stat.parent.name))
    return pids


@pytest.fixture(autouse=True)
def no_child_is_left():
    """Each test here also checks that no worker outlives the call."""
    before = children()
    yield
    assert children() <= before


def test_items_are_made_when_a_worker_is_free():
    """Those of a generator may be large. Each comes once."""
    made = []

    def items():
        for number in range(9):
            made.append(number)
            yield number

    results = isolated_map(behave, items(), workers=2)
    first = next(results)
    assert len(made) <= 5
    assert sorted([first, *results]) == [(number, number) for number in range(9)] and made == list(range(9))
    assert list(isolated_map(behave, iter(()), workers=2)) == []


def test_deaths_cost_only_their_own_items():
    """Exit, kill, segmentation fault and an endless loop each cost one result, which says how. All others arrive."""
    items = [0, "exit", 1, signal.SIGKILL, 2, "segfault", 3, "spin", 4]
    results = dict(isolated_map(behave, items, workers=2, cpu_seconds=1))
    assert sorted(results) == list(range(len(items)))
    died = {items[i]: result.reason for i, result in results.items() if isinstance(result, WorkerDied)}
    assert died == {
        "exit": "ended its reader with exit status 3",
        signal.SIGKILL: "ended its reader with signal SIGKILL",
        "segfault": "ended its reader with signal SIGSEGV",
        "spin": "ended its reader with signal SIGXCPU",
    }
    assert [results[i] for i in (0, 2, 4, 6, 8)] == [0, 1, 2, 3, 4]


def test_death_in_the_middle_of_a_result_is_a_death():
    """A half-sent result neither raises in the parent nor counts as a result."""
    results = {}
    for position, result in isolated_map(behave, [0, "dies while sending", 1], workers=2):
        results[position] = result
        time.sleep(1)  # meanwhile the pipe is full and the sender dies at it
    assert results.pop(1).reason == "ended its reader with exit status 5"
    assert results == {0: 0, 2: 1}


def test_a_kill_from_outside_is_tried_again(tmp_path):
    """An item whose worker got SIGKILL is tried once more: the kernel kills when the machine is out of memory."""
    assert list(isolated_map(first_time_killed, [str(tmp_path / "marker")], workers=1)) == [(0, "done")]


@pytest.mark.parametrize("stop", isolated.STOPS)
def test_signals_meant_for_the_parent_do_not_kill_a_worker(stop):
    """Ctrl-C and the SIGTERM of a batch system reach all processes. Items are not blamed for them."""
    assert list(isolated_map(behave, [stop], workers=1)) == [(0, stop)]
    assert stop not in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # the parent still receives it


def test_memory_is_limited():
    """An item that needs 4 GB gets a MemoryError."""
    assert list(isolated_map(behave, ["memory"], workers=1)) == [(0, "refused")]


def test_large_results_arrive_whole():
    """Far larger than the buffer of a pipe."""
    items = [bytes([i]) * 20_000_000 for i in range(3)]
    assert [result for _, result in sorted(isolated_map(behave, items, workers=2))] == items


@pytest.mark.parametrize(
    "bug, text",
    [
        ("raise", "ValueError: a bug in the function"),
        ("end of file", "EOFError: a truncated file"),  # a closed pipe raises it too
        ("unpicklable", "ForkingPickler"),
    ],
)
def test_an_exception_of_the_function_is_raised_here(bug, text):
    """A bug neither blocks the parent nor counts as a bad item. The message holds the traceback of the worker."""
    with pytest.raises(RuntimeError, match=text):
        list(isolated_map(behave, [1, 2, bug, 3, 4, 5], workers=2))


def test_closing_the_iterator_ends_all_workers():
    """Busy workers too."""
    results = isolated_map(behave, ["pid", "spin", "pid"], workers=2)
    _, pid = next(results)
    assert pid in children()
    began = time.time()
    results.close()
    assert pid not in children() and time.time() - began < isolated.CPU_SECONDS / 2


def test_more_workers_than_items_and_no_items(monkeypatch):
    """Workers without items are not started."""
    started, start = [], isolated._start_worker
    monkeypatch.setattr(isolated, "_start_worker", lambda *args: started.append(1) or start(*args))
    assert list(isolated_map(behave, ["item"], workers=50)) == [(0, "item")]
    assert list(isolated_map(behave, [], workers=4)) == []
    assert len(started) == 1


def test_workers_have_one_thread():
    """Thread pools would use up their limited address space on a machine with many cores."""
    assert list(isolated_map(behave, ["threads"], workers=1)) == [(0, "1")]


@pytest.mark.parametrize("program", ["/bin/false", "/no/such/python"])
def test_a_worker_that_cannot_start_is_a_fault_of_the_machine(program, monkeypatch):
    """Reported once, not per item."""
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(MachineError, match="could not start"):
        list(isolated_map(behave, [1, 2], workers=2))


@pytest.mark.parametrize("how", ["file", "-m", "-c", "ulimit"])
def test_any_main_program_can_start_workers(how, tmp_path):
    """A script without a guard, a module, a command line, and a program with hard limits of a batch system."""
    code = (
        "import math\nfrom csn_jax.data.workers import isolated_map\nprint(sorted(isolated_map(math.sqrt, [1, 4], 2)))"
    )
    (tmp_path / "program.py").write_text(code)
    command = {
        "file": [sys.executable, "program.py"],
        "-m": [sys.executable, "-m", "program"],
        "-c": [sys.executable, "-c", code],
        "ulimit": ["bash", "-c", f"ulimit -t 15 && ulimit -v 1500000 && {sys.executable} program.py"],
    }[how]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("[(0, 1.0), (1, 2.0)]\n", "")


def test_workers_end_when_their_parent_is_killed(tmp_path):
    """After SIGKILL of the parent, no worker lives longer than its item takes."""
    code = (
        "import os, time; from csn_jax.data.workers import isolated_map\n"
        "for _, pid in isolated_map(eval, ['__import__(\"os\").getpid()', '__import__(\"time\").sleep(1)'], 1):\n"
        "    print(pid, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        time.sleep(0.2)
        parent.kill()
    deadline = time.time() + 20
    while Path(f"/proc/{worker}").exists() and _state(worker) != "Z":  # its new parent may wait for it late
        assert time.time() < deadline
        time.sleep(0.1)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def picture_or_fault(how):
    """A picture of a number, a fault for other text, or a death."""
    result = behave(how)
    return result if isinstance(result, str) else np.full((2, 2), result, np.uint8)


def test_pictures_come_in_order_and_faults_and_deaths_at_their_places():
    results = list(read_in_workers(picture_or_fault, [3, "is blank", "exit", 4], workers=2))
    assert [fault for _, fault in results] == [None, "is blank", "ended its reader with exit status 3", None]
    assert [None if picture is None else picture.tolist() for picture, _ in results] == [
        [[3, 3], [3, 3]],
        None,
        None,
        [[4, 4], [4, 4]],
    ]


def test_closing_pictures_ends_their_workers():
    pictures = read_in_workers(picture_or_fault, [1, "spin", 2], workers=2)
    next(pictures)
    began = time.time()
    pictures.close()  # no_child_is_left proves the rest
    assert time.time() - began < isolated.CPU_SECONDS / 2


def test_results_in_order_come_as_early_as_possible():
    came = []

    def pairs():
        for position in (2, 0, 1, 4, 3):
            came.append(position)
            yield position, f"result {position}"

    seen = [(result, len(came)) for result in in_order(pairs())]
    assert seen == [("result 0", 2), ("result 1", 3), ("result 2", 3), ("result 3", 5), ("result 4", 5)]
