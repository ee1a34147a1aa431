"""Starts the service with PostgreSQL and a folder, runs stress plans against it, and ends it.

    python -m tests.measure.stress [--tasks N] [--store gcs] login conversion capacity [-- options of jmeter/run]

The service is as `make run` has it, a worker process for each processor; JMeter asks the web tier directly. With
``--tasks`` the tables hold so many tasks before the plans begin, 1,000 of them of the account that `browse` looks with.
Ends with the exit code of `jmeter/run`.
"""

import argparse
import os
import signal
import subprocess
import sys

from tests.measure.many_tasks import fill
from tests.stack import PROJECT, Stack


def main() -> int:
    """Start, fill, run, end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the service ends with it
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", nargs="+")
    parser.add_argument("--tasks", type=int, default=0)
    parser.add_argument("--store", choices=["folder", "gcs"], default="folder")
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    asked, options = parser.parse_args(given[:end]), given[end + 1 :]
    cores = os.cpu_count() or 2
    settings = {"WEB_WORKERS": str(max(2, cores)), "WEB_THREADS": "16"}  # deploy/gunicorn.conf.py's own
    with Stack(database="postgres", store=asked.store, concurrency=cores, environment=settings) as stack:
        if asked.tasks:
            filled = fill(stack.environment["DATABASE_URL"], asked.tasks, min(1000, asked.tasks))
            options += ["--email", filled.email, "--password", filled.password]
        where = ["--host", "127.0.0.1", "--port", str(stack.web[0].port)]
        return subprocess.call([str(PROJECT / "jmeter" / "run"), *asked.plans, *where, *options])


if __name__ == "__main__":
    sys.exit(main())
