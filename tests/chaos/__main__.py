"""`make chaos`: break a running service at random for some minutes and check the books; ends non-zero on any loss."""

import argparse
import signal
import sys

from tests.chaos.driver import run
from tests.chaos.stack import Stack


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to upload and break")
    parser.add_argument("--seed", type=int, default=1, help="what is chosen at random follows from it")
    parser.add_argument("--rate", type=float, default=4.0, help="uploads a second")
    parser.add_argument("--pause", type=float, default=5.0, help="seconds between two faults")
    asked = parser.parse_args()
    for name in (signal.SIGTERM, signal.SIGINT):  # whoever stops this early leaves no server behind
        signal.signal(name, lambda *_: sys.exit(130))
    with Stack(workers=2, sweepers=2) as stack:
        books = run(stack, asked.minutes * 60, asked.seed, asked.rate, asked.pause)
        sys.stdout.write(f"{asked.minutes:g} minutes, seed {asked.seed}\n\n{books.table()}\n")
    return 0 if books.balance() else 1


if __name__ == "__main__":
    sys.exit(main())
