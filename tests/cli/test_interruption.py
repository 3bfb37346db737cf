"""What a signal does to a call, in processes of their own."""

import os
import signal
import subprocess
import sys
import time

import pytest
from calling import run_arguments

MAIN = "import sys; sys.argv[0] = 'depthprune'; from depthprune.cli.verbs import app, main; main()"
LINE = "interrupted: the same command goes on from the last finished step"
NAP = """
import signal, sys, time
from depthprune.cli.verbs import app, main
@app.command()
def nap():
    print("here", file=sys.stderr, flush=True)
    time.sleep(60)
sys.argv = ["depthprune", "nap"]
"""


def started(code: str, *arguments: str) -> subprocess.Popen:
    call = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_ignoring_nothing
    )


def _ignoring_nothing() -> None:
    """What a process in the background is started with would be ignored by its children, too."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_verb_with_its_line(number):
    process = started(f"{NAP}main()")
    assert process.stderr.readline() == "here\n"
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 128 + number, err
    assert err == f"{LINE}\n"


def test_a_signal_that_is_ignored_stays_so():
    process = started(f"{NAP}signal.signal(signal.SIGHUP, signal.SIG_IGN)\nmain()")
    assert process.stderr.readline() == "here\n"
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_run_that_goes_on(lab, number):
    process = started(MAIN, *run_arguments())
    while process.poll() is None and not (lab / "out" / "depthprune" / "scoring").exists():
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 128 + number, err
    assert err.splitlines()[-1] == LINE
    assert "Traceback" not in err
    assert not (lab / "out" / "depthprune" / "lock").exists()
    assert subprocess.run([sys.executable, "-c", MAIN, *run_arguments()]).returncode == 0


STUCK = """
import os, signal, depthprune.cli.interruption as interruption
interruption.PATIENCE = 0.1
read, write = os.pipe()
with interruption.interruptible():
    while True:
        try:
            print("here", flush=True)
            while True:
                os.read(read, 1)
        except BaseException:
            pass
"""


def test_a_process_that_does_not_let_go_is_ended_with_the_line():
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert err == f"{LINE}\n"


def test_a_forked_worker_ends_as_any_other_process_does():
    code = """
import os, signal, time, depthprune.cli.interruption as interruption
interruption.PATIENCE = 0.1
with interruption.interruptible():
    worker = os.fork()
    if worker == 0:
        time.sleep(60)
    os.kill(worker, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -signal.SIGTERM
    time.sleep(0.5)
print("whole")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.stdout == "whole\n", done.stderr
