"""Several processes give the same bits as one with as many devices. They stop and resume together."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pair
import pytest
import tiny
from oracles import flat

from csn_jax.errors import UserError
from csn_jax.model.from_state import restore_target
from csn_jax.model.run import open_run
from csn_jax.runtime import hosts
from csn_jax.runtime.checkpoint import Checkpoints
from csn_jax.runtime.sharding import make_shardings


def test_the_forms_of_distributed():
    assert hosts.parse("") is None
    assert hosts.parse("auto") == (None, None, None)
    assert hosts.parse("10.0.0.1:1234,4,3") == ("10.0.0.1:1234", 4, 3)
    assert hosts.parse("[::1]:1234,1,0") == ("[::1]:1234", 1, 0)


FORMS = ("Auto", "host,2,0", ":80,2,0", "host:80", "host:80,2", "host:80,2,0,1", "host:x,2,0", "host:80,2,-1")
RANGES = ("host:80,2,2", "host:80,0,0", "host:0,2,1", "host:65536,2,1")


@pytest.mark.parametrize(
    ("text", "heartbeat", "words"),
    [(text, "", (f"--distributed={text} ", "cannot be read", "auto", "HOST:PORT,N,ID")) for text in FORMS]
    + [(text, "", (f"--distributed={text} ", "out of range", "0 <= ID < N")) for text in RANGES]
    + [("auto", text, (f"CSN_JAX_HEARTBEAT={text} ", "not a time", "whole seconds")) for text in ("soon", "0")],
)
def test_a_wrong_flag_or_time_is_refused(text, heartbeat, words, monkeypatch):
    monkeypatch.setenv("CSN_JAX_HEARTBEAT", heartbeat)
    with pytest.raises(UserError) as caught, hosts.joined(text):
        pass
    assert tiny.is_one_sentence(str(caught.value)) and all(word in str(caught.value) for word in words)


def test_one_process_alone_runs_the_work_itself():
    with hosts.joined(""):
        assert (hosts.count(), hosts.index(), hosts.is_first()) == (1, 0, True)
        assert hosts.on_first(lambda: (1, 2)) == (1, 2) == hosts.first_of_all(lambda: (1, 2))


def test_missing_processes_are_reported_after_the_start_up_time(tmp_path):
    """In one sentence; JAX would end the process with a page of text."""
    done = tiny.command("train", f"--workdir={tmp_path}", "--distributed=127.0.0.1:1,2,1", CSN_JAX_START_UP="1")
    message = done.stderr.splitlines()[0].removeprefix("error: ")
    assert done.returncode == 1 and tiny.is_one_sentence(message), done.stderr
    assert "--distributed=127.0.0.1:1,2,1: the 2 processes did not all join within 1 s" in message


def test_a_port_in_use_is_reported(tmp_path):
    """In one sentence; JAX would crash."""
    with socket.create_server(("", 0)) as taken:
        flag = f"--distributed=127.0.0.1:{taken.getsockname()[1]},2,0"
        done = tiny.command("train", f"--workdir={tmp_path}", flag, CSN_JAX_START_UP="1")
    message = done.stderr.splitlines()[0].removeprefix("error: ")
    assert done.returncode == 1 and tiny.is_one_sentence(message), done.stderr
    assert f"{flag}: process 0 cannot listen on that port" in message


def run(folder, name, kind, *more, **options):
    """The workdir of a finished run through launch/local.sh."""
    workdir = folder / name
    process = pair.launch(folder, workdir, kind, *more, **options)
    out, _ = process.communicate(timeout=500)
    assert process.returncode == 0, out
    return workdir


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pair")


@pytest.fixture(scope="module")
def two(folder):
    """The workdir of a run on two processes with two devices each. The other feed would import TensorFlow in both."""
    return run(folder, "two", "vectors", "--config.feed=device")


@pytest.fixture(scope="module")
def two_on_pictures(folder):
    return run(folder, "two_on_pictures", "pictures")


def differing(workdir, other, steps=pair.STEPS):
    """Which of log, results, data and last checkpoint differ. Its record holds the SHA-256 of every array."""
    names = ("metrics.jsonl", "results.json", "data.json", f"checkpoints/{steps}/meta/metadata")
    return [name for name in names if (workdir / name).read_bytes() != (other / name).read_bytes()]


@pytest.mark.slow  # four processes that import JAX
def test_two_processes_give_the_bits_of_one(two, folder):
    one = run(folder, "one", "vectors", "--config.feed=device", processes=1, devices=4)
    assert differing(two, one) == []
    assert (
        len((two / "metrics.jsonl").read_bytes().splitlines()) == 1 + 10 + 3
    )  # with step 0; only the first process writes


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["device", "tfdata"])
def test_two_processes_give_the_bits_of_one_on_pictures(two_on_pictures, folder, feed):
    """Whether each host gathers its own rows or has all items on its devices."""
    one = run(folder, f"one_{feed}", "pictures", f"--config.feed={feed}", processes=1, devices=4)
    assert differing(two_on_pictures, one) == []
    two = run(folder, f"two_{feed}", "pictures", f"--config.feed={feed}")
    assert differing(two, one) == []


@pytest.mark.slow
def test_specialists_and_in_batch_losses_on_two(folder):
    cases = {"specialists": ("--config.variant=specialists",)}
    cases["in_batch"] = ("--config.variant=learned", "--config.loss.name=batch_all")  # maps learn from triplets only
    for name, flags in cases.items():
        one = run(folder, f"one_{name}", "vectors", *flags, processes=1, devices=4)
        two = run(folder, f"two_{name}", "vectors", *flags)
        assert (one / "results.json").read_bytes() == (two / "results.json").read_bytes()


@pytest.mark.slow
def test_two_processes_evaluate_as_one(two, folder):
    """Only the first prints, and only the results."""
    command = [sys.executable, "-m", "csn_jax.evaluate", f"--workdir={two}", "--json"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    both = [
        subprocess.Popen(
            [*command, f"--distributed=127.0.0.1:{port},2,{i}"],
            env=pair.environment(folder, 2),
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    first, second = (process.communicate(timeout=300)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert json.loads(first) == json.loads((two / "results.json").read_text()) and second == ""


@pytest.mark.slow
def test_several_steps_in_one_call_on_two(folder):
    """As on accelerators: two processes give the same as one, each with its rows of the stacked batches."""
    runs = []
    for processes, devices in ((1, 4), (2, 2)):
        workdir = folder / f"several_on_{processes}"
        argv = [*pair.flags(folder, "vectors"), "--config.feed=device", f"--workdir={workdir}"]
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        program = "from csn_jax import cli, train; from csn_jax.train import loop; "
        program += "loop.steps_at_once = lambda config: 4; cli.run(train.main)"
        started = [
            subprocess.Popen(
                [sys.executable, "-c", program, *argv, f"--distributed=127.0.0.1:{port},{processes},{i}"],
                env=pair.environment(folder, devices),
            )
            for i in range(processes)
        ]
        assert [process.wait(timeout=300) for process in started] == [0] * processes
        runs.append(workdir)
    assert differing(*runs) == []


@pytest.mark.slow
def test_slurm_numbers_the_processes(two, folder):
    """--distributed=auto reads the variables that Slurm sets for each task."""
    workdir = folder / "slurm"
    command = [sys.executable, "-m", "csn_jax.train", *pair.flags(folder, "vectors"), f"--workdir={workdir}"]
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    tasks = [
        subprocess.Popen(
            [*command, "--distributed=auto"],
            env=pair.environment(folder, 2) | job | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
        )
        for i in range(2)
    ]
    assert [task.wait(timeout=300) for task in tasks] == [0, 0]
    assert differing(workdir, two) == []


def parameters(workdir):
    """(initial, last) parameters of a run, by name, restored on the devices of this process."""
    network = open_run(workdir).restore()[0]
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    state = checkpoints.restore(pair.STEPS, restore_target(network.state, make_shardings()))
    return flat(network.state.params), flat(state.params)


@pytest.mark.slow
def test_one_device_agrees_with_two_processes(two_on_pictures, folder):
    """Both restored here, on four devices of one process."""
    alone = run(folder, "alone", "pictures", processes=0, devices=1)
    (before, ours), (_, theirs) = parameters(two_on_pictures), parameters(alone)
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-6, err_msg=name)
    assert all(np.abs(value - before[name]).max() > 1e-4 for name, value in theirs.items())


def wait_for(condition, seconds=300):
    """Wait until a condition is true."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def training(process, workdir: Path, lines: int = 1):
    """Wait until a run of two processes has written `lines` lines. Returns its processes."""
    log = workdir / "metrics.jsonl"
    wait_for(lambda: process.poll() is not None or (log.exists() and log.read_bytes().count(b"\n") >= lines))
    assert process.poll() is None, process.communicate()[0]
    return pair.children(process)


@contextlib.contextmanager
def launched(*arguments, **options):
    process = pair.launch(*arguments, **options)
    try:
        yield process
    finally:
        pair.end(process)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("to", ["all", "one"])
def test_a_signal_stops_both_at_one_step(folder, tmp_path, number, to):
    """The launcher passes SIGTERM to both. A process that gets SIGTERM or SIGUSR1 stops the other too."""
    if to == "all" and number == signal.SIGUSR1:
        pytest.skip("the launcher does not pass SIGUSR1 on")
    workdir = tmp_path / "run"
    longer = "--config.steps=2000"
    with launched(folder, workdir, "vectors", longer) as process:
        _, second = training(process, workdir)
        os.kill(process.pid if to == "all" else second, number)
        out, _ = process.communicate(timeout=180)
    assert process.returncode == 143, out
    assert out.count("stopped by signal 15 at step ") == 2, out
    saved = max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())
    assert f"at step {saved};" in out and saved < 2000


@pytest.mark.slow
def test_a_run_stopped_on_two_processes_resumes_on_one_and_back(folder, tmp_path):
    """Two processes with two devices, then one with four: the bits of an uninterrupted run."""
    workdir = tmp_path / "run"
    longer = ("--config.steps=600", "--config.eval_every=100", "--config.checkpoint_every=100")
    whole = run(folder, "whole", "vectors", *longer, processes=1, devices=4)
    for processes in (2, 1):
        lines = len(path.read_bytes().splitlines()) if (path := workdir / "metrics.jsonl").exists() else 0
        with launched(folder, workdir, "vectors", *longer, processes=processes, devices=4 // processes) as process:
            training(process, workdir, lines + 2)
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=180)
        assert process.returncode == 143, out
    process = pair.launch(folder, workdir, "vectors", *longer)
    out, _ = process.communicate(timeout=500)
    assert process.returncode == 0 and "resuming from step" in out, out
    assert differing(workdir, whole, 600) == []


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_killed_process_ends_the_other_and_the_relaunch_resumes(folder, two, tmp_path, which):
    workdir = tmp_path / "run"
    with launched(folder, workdir, "vectors") as process:
        pids = training(process, workdir, 3)
        os.kill(pids[which], signal.SIGKILL)
        killed = time.monotonic()
        wait_for(lambda: pids[1 - which] not in pair.children(process))
        assert time.monotonic() - killed < pair.HEARTBEAT + 10
        out, _ = process.communicate(timeout=500)  # the launcher starts both again
    assert process.returncode == 0 and "attempt 1 ended with status 13" in out, out
    assert differing(workdir, two) == []
