"""`make bench`: what the service does on this machine beside what bare ffmpeg, argon2 and the usual way do.

    python -m tests.bench [--only throughput,single,uploads,accounts,control,memory] [--rounds 3] [--json build/bench.json]

Everything runs here, PostgreSQL and Redis too, and both sides of each comparison in turn, run after run. Prints a table and
writes every figure to a JSON file; ends non-zero when a target is missed.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from tests.bench import accounts, control, conversions, memory, uploads
from tests.bench.figures import Report

PARTS = {
    "throughput": conversions.throughput,
    "single": conversions.single,
    "uploads": uploads.measure,
    "accounts": accounts.measure,
    "control": control.measure,
    "memory": memory.measure,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the figures go")
    asked = parser.parse_args()
    for name in (signal.SIGTERM, signal.SIGINT):  # whoever stops this early leaves no server behind
        signal.signal(name, lambda *_: sys.exit(130))
    report = Report(say)
    report.facts["cores"] = os.cpu_count()
    for part in asked.only.split(","):
        load = os.getloadavg()[0]
        report.facts[f"load before {part}"] = round(load, 2)
        say(f"\n{part} (load of the machine before it: {load:.1f})")
        PARTS[part](report, asked.rounds)
        report.write(asked.json)
    say(f"\nAll targets met: {'yes' if report.all_met else 'NO'}; figures in {asked.json}")
    return 0 if report.all_met else 1


def say(line: str) -> None:
    sys.stdout.write(line.rstrip() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
