"""A script of the project as a process of its own, killed at a chosen moment, without the seconds that importing torch takes.

`multiprocessing`'s fork server imports it once; each run is a fork of it, which then does what `python SCRIPT …` does.
"""

import multiprocessing
import os
import runpy
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WARM = multiprocessing.get_context("forkserver")
WARM.set_forkserver_preload(["train_cls", "train_mlm", "fuzz", "torch._dynamo"])  # torch's optimizers import the last


@dataclass(frozen=True)
class Kill:
    """`signal`, sent `delay` seconds after the `nth` call of a function of this name; `again`, once it has answered. `hold`:
    that call waits for it.
    """

    signal: int
    function: str
    nth: int = 1
    delay: float = 0.0
    again: bool = False
    hold: bool = False


def run(script: str, flags: list[str], output: Path, kill: Kill | None = None) -> int:
    """What the script says goes into `output` -> its exit status; -9 is SIGKILL's, as in `subprocess`."""
    reached, reach = WARM.Pipe(duplex=False)
    process = WARM.Process(target=_become, args=(script, flags, output, kill, reach))
    process.start()
    reach.close()  # the other end is the child's
    try:
        reached.recv_bytes()
        time.sleep(kill.delay)
        os.kill(process.pid, kill.signal)
        if kill.again:
            while process.is_alive() and "stopping" not in output.read_text():
                time.sleep(0.001)
            os.kill(process.pid, kill.signal)
    except (EOFError, ProcessLookupError):
        pass  # it ended before
    process.join(timeout=120)
    status = process.exitcode
    process.kill()
    return status


def _become(script: str, flags: list[str], output: Path, kill: Kill | None, reach) -> None:
    calls = 0

    def watch(frame, event: str, _) -> None:
        nonlocal calls
        ours = frame.f_code.co_filename.startswith(str(ROOT))  # numpy has a function `save`, too
        if event == "call" and frame.f_code.co_name == kill.function and ours:
            calls += 1
            if calls == kill.nth:
                sys.setprofile(None)
                reach.send_bytes(b"!")
                time.sleep(60 * kill.hold)

    said = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.modules["matplotlib"] = None  # the curves take longer than these runs
    sys.argv = [script, *flags]
    if kill is not None:
        sys.setprofile(watch)
    runpy.run_path(str(ROOT / script), run_name="__main__")
