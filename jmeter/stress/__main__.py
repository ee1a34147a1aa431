"""The command line: see `jmeter/run --help`."""

import argparse
import os
import platform
import shlex
import signal
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jmeter.stress import engine, report, results, song
from jmeter.stress.scenarios import FOLDER, SCENARIOS, Scenario
from jmeter.stress.trouble import CannotRun

BUILD = FOLDER.parent / "build" / "jmeter"
PASSED, FAILED, NOT_RUN = 0, 1, 2
PROPERTIES = ("host", "port", "protocol", "users", "ramp", "loops", "format", "email", "password")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What the person asks for; ends the process with 2 when that makes no sense."""
    parser = argparse.ArgumentParser(
        prog="jmeter/run",
        description="Runs stress plans against a running service and writes a report. "
        "Exit code: 0 within the limits, 1 not within them, 2 could not run.",
    )
    parser.add_argument("plans", nargs="+", metavar="PLAN", choices=[*SCENARIOS, "all", "gui"],
                        help=f"{', '.join(SCENARIOS)}; all of them: all; `gui PLAN` opens it in JMeter's window")  # fmt: skip
    parser.add_argument("--host", help="where the service is (localhost)")
    parser.add_argument("--port", type=int, help="its port (5000)")
    parser.add_argument("--protocol", choices=["http", "https"], help="(http)")
    parser.add_argument("--users", type=int, help="people at the same time")
    parser.add_argument("--ramp", type=int, help="seconds over which they arrive")
    parser.add_argument("--loops", type=int, help="rounds of each")
    parser.add_argument("--format", help="what to convert to (ogg)")
    parser.add_argument("--audio", type=Path, help=f"the file to upload (made: {song.SECONDS} s of mp3, 2.98 MB)")
    parser.add_argument("--email", help="browse: whom to log in as")
    parser.add_argument("--password", help="of that account, or of those that the plans make")
    parser.add_argument("-J", dest="more", action="append", default=[], metavar="NAME=VALUE",
                        help="any other property of a plan or of JMeter")  # fmt: skip
    parser.add_argument("--smoke", action="store_true", help="a few users with a short file: does it work at all?")
    parser.add_argument("--max-error-percent", type=float, default=results.Limits().error_percent, metavar="PERCENT",
                        help="limit for each row of the table (%(default)s)")  # fmt: skip
    parser.add_argument("--max-p95-ms", type=int, default=results.Limits().p95_ms, metavar="MS",
                        help="limit for the 95%% line of each request (%(default)s)")  # fmt: skip
    parser.add_argument("--max-processed-p95-ms", type=int, metavar="MS",
                        help="limit for the 95%% line of the time to PROCESSED (none)")  # fmt: skip
    parser.add_argument("--out", type=Path, help="the report's folder (build/jmeter/<time>)")
    parser.add_argument("--no-dashboard", action="store_true", help="without JMeter's own HTML dashboard")
    parser.add_argument("--heap", default="768m", help="memory for JMeter from Maven (%(default)s)")
    asked = parser.parse_args(argv)
    if any("=" not in pair for pair in asked.more):
        parser.error("-J takes NAME=VALUE")
    if "gui" in asked.plans and (asked.plans[0] != "gui" or len(asked.plans) != 2 or asked.plans[1] == "all"):
        parser.error(f"gui takes one plan: {', '.join(SCENARIOS)}")
    if any(
        number is not None and number < least for number, least in ((asked.users, 1), (asked.loops, 1), (asked.ramp, 0))
    ):
        parser.error("--users and --loops are 1 or more, --ramp 0 or more")
    return asked


def properties(asked: argparse.Namespace, scenario: Scenario, audio: Path) -> dict[str, str]:
    """The -J properties of one plan: what was asked, over what a smoke run takes, over the plan's defaults."""
    named = {name: str(value) for name in PROPERTIES if (value := getattr(asked, name)) is not None}
    more = dict(pair.split("=", 1) for pair in asked.more)
    smoke = scenario.smoke if asked.smoke else {}
    return {"host": "localhost", "port": "5000", "protocol": "http", "audio": str(audio), **smoke, **named, **more}


def check_answers(base: str) -> None:
    """Any answer will do: only silence keeps a run from starting. Raises CannotRun."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = (
        False,
        ssl.CERT_NONE,
    )  # as JMeter: certificates are not what is tested
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting))
    try:
        direct.open(f"{base}/healthz", timeout=10).close()
    except urllib.error.HTTPError:
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise CannotRun(
            f"Nothing answers at {base} ({reason}). Start the service (`make run`), or say where it is: --host, --port."
        ) from None


def run(asked: argparse.Namespace, command: str) -> int:
    """Runs what was asked for and returns the exit code. Raises CannotRun."""
    if asked.plans[0] == "gui":
        scenario = SCENARIOS[asked.plans[1]]
        given = properties(asked, scenario, _audio(asked))
        return engine.open_window(engine.find(asked.heap), scenario.plan, given)
    scenarios = [SCENARIOS[name] for name in dict.fromkeys(SCENARIOS if "all" in asked.plans else asked.plans)]
    audio = _audio(asked)
    where = properties(asked, scenarios[0], audio)
    base = f"{where['protocol']}://{where['host']}:{where['port']}"
    check_answers(base)
    jmeter = engine.find(asked.heap)
    folder = (asked.out or BUILD / datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S")).resolve()
    limits = results.Limits(asked.max_error_percent, asked.max_p95_ms, asked.max_processed_p95_ms)
    runs = []
    for scenario in scenarios:
        given = properties(asked, scenario, audio)
        runs.append(one(scenario, jmeter, given, folder / scenario.name, limits, command, not asked.no_dashboard))
    report.write_summary(runs, folder)
    say("\n" + report.as_text(report.summary_table(runs)))
    say(f"Report: {folder / 'report.html'}")
    return PASSED if all(done.passed for done in runs) else FAILED


def one(
    scenario: Scenario, jmeter: engine.JMeter, given: dict[str, str], folder: Path, limits: results.Limits, command: str,
    dashboard: bool,
) -> report.Run:  # fmt: skip
    """Runs one plan, writes its report and returns what it says."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise CannotRun(f"{folder} is there already: name another folder with --out.") from None
    say(f"\n==> {scenario.title}")
    before, begun = os.getloadavg()[0], datetime.now(UTC)
    file = engine.run(jmeter, scenario.plan, folder, given, dashboard)
    audio = Path(given["audio"])
    file_fact = f"{audio.name}, {audio.stat().st_size:,} bytes" if given["audio"] else "made by the plan"
    settings = {**scenario.defaults, **given}
    facts = {
        "Command": command,
        "Begun": begun.isoformat(timespec="seconds"),
        "JMeter": str(jmeter),
        "Service": f"{settings['protocol']}://{settings['host']}:{settings['port']}",
        "Load": f"{settings['users']} users over {settings['ramp']} s; rounds of each: {settings['loops']}",
        "File": f"{file_fact}, to {settings.get('format', '—')}",
        "JMeter's machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
        "Its load average": f"{before:.2f} before, {os.getloadavg()[0]:.2f} after",
    }
    done = report.assess(scenario, folder, results.read(file), limits, scenario.samples(given), facts)
    report.write(done)
    say("\n" + report.as_text(report.aggregate_table(done)) + "\n" + report.as_text(report.verdict_table(done)))
    if failed := report.trouble_table(done):
        say(report.as_text(failed))
    for line in report.conversion_lines(done):
        say(line)
    say(f"{scenario.title}: {done.word}")
    return done


def command_line(asked: argparse.Namespace, argv: Sequence[str]) -> str:
    """What was typed, for the report, without the password."""
    shown = [argument.replace(asked.password, "…") if asked.password else argument for argument in argv]
    return shlex.join(["jmeter/run", *shown])


def _audio(asked: argparse.Namespace) -> Path:
    if asked.audio is not None:
        if not asked.audio.is_file():
            raise CannotRun(f"There is no file {asked.audio}.")
        return Path(asked.audio).resolve()
    return song.make(BUILD, song.SMOKE_SECONDS if asked.smoke else song.SECONDS)


def say(line: str) -> None:
    """Print at once, also into a file."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run, and say what keeps it from running."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    asked = arguments()
    try:
        return run(asked, command_line(asked, sys.argv[1:]))
    except CannotRun as trouble:
        sys.stderr.write(f"{trouble}\n")
        return NOT_RUN
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
