"""A process that stood still knows it afterwards, and for how long."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = """
import json, sys
from dataclasses import asdict
from tests.chaos.pulse import Pulse
with Pulse() as pulse:
    sys.stdout.write("begun\\n")
    sys.stdout.flush()
    sys.stdin.readline()
    while not pulse.faults:
        pass
sys.stdout.write(json.dumps([asdict(fault) for fault in pulse.faults]))
"""


def test_a_standstill_is_noticed_with_its_beginning_and_its_end() -> None:
    command = [sys.executable, "-c", CODE]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGSTOP)
        stopped = time.time()
        time.sleep(1.5)
        thawed = time.time()
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate("now\n", timeout=120)
    faults = json.loads(said)
    assert {fault["name"] for fault in faults} == {"stop_machine"}
    assert any(fault["at"] <= stopped + 0.1 and fault["until"] >= thawed - 0.1 for fault in faults), (faults, stopped, thawed)
