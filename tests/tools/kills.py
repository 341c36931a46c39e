"""Kills a run again and again at random moments, and compares it with one that was left alone.

    python -m tests.tools.kills FOLDER --kills=20 --seed=0

The run has one or two processes on the CPU. Each kill is SIGKILL or SIGTERM, of one of the processes or of all; some
come while a checkpoint is being written. Afterwards the same command must go on, and at the end the log must have each
step once, with the very numbers of the run that was left alone. Prints a row for each kill.
"""

import argparse
import dataclasses
import pathlib
import random
import re
import signal
import time

from tarvis_jax.train.metrics import read_metrics
from tests.parallel.processes import Run

COMPARED = ("loss", "grad_norm", "param_norm", "learning_rate")


NUM_STEPS = 90
MOMENTS = ("starting", "writing", "step", "step")


@dataclasses.dataclass(frozen=True)
class Kill:
    """What is done to a run, and when.

    Attributes:
      processes: of the run; one has two devices, two have one each.
      signal: SIGKILL or SIGTERM.
      target: number of the process that gets it; None: all.
      moment: "starting", "writing" (of a checkpoint) or "step".
      delay: seconds after the moment has come.
    """

    processes: int
    signal: signal.Signals
    target: int | None
    moment: str
    delay: float

    @classmethod
    def draw(cls, rng: random.Random) -> "Kill":
        processes, moment = rng.choice([1, 2, 2]), rng.choice(MOMENTS)
        return cls(
            processes,
            rng.choice([signal.SIGKILL, signal.SIGTERM]),
            rng.choice([None, *range(processes)]) if processes > 1 else 0,
            moment,
            rng.random() * {"starting": 30.0, "writing": 0.2, "step": 3.0}[moment],
        )

    def carry_out(self, run: Run, workdir: pathlib.Path) -> tuple[list[int], float, str]:
        """(exit statuses, seconds from the signal until all had ended, when it was)."""
        if self.moment != "starting":
            run.wait_until(lambda: "  lr  " in run.log())  # the header of the table of steps
        if self.moment == "writing":
            run.wait_until(lambda: is_writing(workdir))
        time.sleep(self.delay)
        was_writing, start = is_writing(workdir), time.monotonic()
        for process in run.processes if self.target is None else [run.processes[self.target]]:
            process.send_signal(self.signal)
        statuses = run.wait()
        last = ([step for step, *_ in curve(workdir)] or [0])[-1] if workdir.is_dir() else 0
        moment = "start" if self.moment == "starting" else f"step {last}"
        return statuses, time.monotonic() - start, moment + ", checkpoint half written" * was_writing


def is_writing(workdir: pathlib.Path) -> bool:
    """Whether there is a checkpoint that is not complete."""
    return any(workdir.glob("checkpoints/*tmp*"))


def curve(workdir: pathlib.Path) -> list[tuple]:
    """(step, numbers) of every entry of the log."""
    return [(entry["step"], *(entry[name] for name in COMPARED)) for entry in read_metrics(workdir)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    folder = flags.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(flags.seed)
    arguments = (
        f"--config=tests/parallel/tiny_run.py:{NUM_STEPS}",
        "--config.train.log_steps=3",  # what a kill finds between two entries must not be lost
    )

    def start(name: str, workdir: pathlib.Path, processes: int) -> Run:
        return Run(folder / name, workdir, folder / "cache", *arguments, count=processes, devices=2 // processes)

    whole, killed = folder / "whole", folder / "killed"
    assert start("log-whole", whole, 1).wait() == [0]
    print("| kill | processes | signal | sent to | when | exit statuses | ended after | next start from |", flush=True)
    print("|" + "---|" * 8, flush=True)
    row = ""
    for number in range(flags.kills + 1):
        kill = Kill.draw(rng)
        run = start(f"log-{number}", killed, kill.processes)
        if number == flags.kills:
            statuses = run.wait()
        else:
            statuses, seconds, moment = kill.carry_out(run, killed)
        resumed = re.search("resumed from step ([0-9]+)", run.log())
        if row and (resumed or "weights to start from" in run.log()):  # else it was killed before it came so far
            print(row + f" {f'step {resumed[1]}' if resumed else 'the beginning'} |", flush=True)
        elif row:
            print(row + " not seen: killed again before |", flush=True)
        if number < flags.kills:
            target = "all" if kill.target is None else f"process {kill.target}"
            cells = (number + 1, kill.processes, kill.signal.name, target, moment, statuses, f"{seconds:.1f} s")
            row = "| " + " | ".join(map(str, cells)) + " |"
    assert set(statuses) == {0}, run.log()[-3000:]
    expected, found = curve(whole), curve(killed)
    print(f"steps in the log: {len(found)}, in that of the run left alone: {len(expected)}")
    print("equal bit for bit" if found == expected else "DIFFERENT")


if __name__ == "__main__":
    main()
