"""Count the functions and files that run between a command and its first training step.

    python tests/benchmarks/first_step.py [--checkout DIR] -- \\
        python sweeps/csm_temp.py --storage DIR

Every Python process of the command (the driver, Ray's actors and workers) records which functions
of `beamclip/` it enters. Give a storage that does not exist yet, so that preparation is counted
too. The script stops the command after the first training step.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_S = 900

RECORDER = """
import os, sys, threading, time

folder, package = os.environ["FIRST_STEP_TRACE"], os.environ["FIRST_STEP_PACKAGE"]
seen = set()
out = open(os.path.join(folder, f"{os.getpid()}.txt"), "a", buffering=1)

def record(frame, event, argument):
    code = frame.f_code
    if event != "call" or code in seen:
        return
    seen.add(code)
    if code.co_filename.startswith(package) and not code.co_name.startswith("<"):
        name = getattr(code, "co_qualname", code.co_name)
        out.write(f"{time.time()}\\t{code.co_filename}\\t{name}\\t{code.co_firstlineno}\\n")

sys.setprofile(record)
threading.setprofile(record)
"""


def main() -> None:
    """Run the command given after `--` and print the two counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkout", type=Path, default=Path(__file__).parents[2])
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    checkout = options.checkout.resolve()
    with tempfile.TemporaryDirectory() as folder:
        traces = Path(folder) / "traces"
        traces.mkdir()
        (Path(folder) / "sitecustomize.py").write_text(RECORDER)
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join([folder, str(checkout)])
        environment["FIRST_STEP_TRACE"] = str(traces)
        environment["FIRST_STEP_PACKAGE"] = str(checkout / "beamclip") + os.sep
        process = subprocess.Popen(
            options.command, cwd=checkout, env=environment, start_new_session=True
        )
        first = wait_for_step(process, traces)
        os.killpg(process.pid, signal.SIGINT)
        process.wait(120)
        entered = {(file, line) for at, file, _, line in entries(traces) if at <= first}
    print(f"{len(entered)} functions in {len({file for file, _ in entered})} files")


def wait_for_step(process: subprocess.Popen, traces: Path) -> float:
    """Return the time at which any process first entered `train_step`."""
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        steps = [at for at, _, name, _ in entries(traces) if name == "train_step"]
        if steps:
            return min(steps)
        if process.poll() is not None:
            sys.exit(f"the command ended with {process.returncode} before its first step")
        time.sleep(1)
    sys.exit(f"no training step within {LIMIT_S} s")


def entries(traces: Path) -> list[tuple[float, str, str, str]]:
    """Return (time, file, function, line) of every function entered so far."""
    rows = []
    for trace in traces.glob("*.txt"):
        for line in trace.read_text().splitlines():
            parts = line.split("\t")
            if len(parts) == 4:
                rows.append((float(parts[0]), parts[1], parts[2], parts[3]))
    return rows


if __name__ == "__main__":
    main()
