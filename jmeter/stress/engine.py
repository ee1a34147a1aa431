"""Apache JMeter itself: the one on the PATH, or the one that jmeter/pom.xml fetches."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jmeter.stress.scenarios import FOLDER
from jmeter.stress.trouble import CannotRun

OLDEST_JMETER = (5, 4)  # the plans' JSON assertions and extractors, and what JMeter writes, are as they are since then
OLDEST_JAVA = 8
POM = FOLDER / "pom.xml"
NEED_JAVA = (
    f"JMeter needs Java {OLDEST_JAVA} or newer. On Debian and Ubuntu: apt install default-jre-headless "
    "(default-jre for JMeter's GUI)."
)
NEED_MAVEN = (
    "There is no JMeter 5 on the PATH, and no Maven (mvn) to fetch one with. On Debian and Ubuntu: apt install maven; "
    "or install JMeter 5.6 from jmeter.apache.org and put its bin folder on the PATH."
)
# What a person's own jmeter.properties might have changed, and the report reads.
SAVED = {
    "output_format": "csv", "print_field_names": "true", "timestamp_format": "ms", "default_delimiter": ",",
    "bytes": "true", "sent_bytes": "true", "label": "true", "response_code": "true", "response_message": "true",
    "successful": "true", "assertion_results_failure_message": "true", "time": "true", "latency": "true",
    "connect_time": "true", "thread_counts": "true", "thread_name": "true", "data_type": "true", "url": "true",
    "idle_time": "true",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class JMeter:
    """How to start it, and which it is."""

    command: tuple[str, ...]
    version: str
    origin: str

    def __str__(self) -> str:
        return f"Apache JMeter {self.version} ({self.origin})"


def find(heap: str) -> JMeter:
    """The JMeter to use. Raises CannotRun, which says what to install."""
    java = _java()
    on_path = shutil.which("jmeter")
    if on_path is not None:
        version = _version([on_path])
        if version >= OLDEST_JMETER:
            return JMeter((on_path,), ".".join(map(str, version)), on_path)
        # Debian's is 2.13: its list of allowed classes forbids JMeter's own, so that it loads no plan at all.
        _say(
            f"{on_path} is JMeter {'.'.join(map(str, version)) or '?'}, which cannot load these plans: it is not used."
        )
    home, wanted = _fetched()
    return JMeter((java, f"-Xmx{heap}", "-jar", str(home / "bin" / "ApacheJMeter.jar")), wanted, "from Maven Central")


def _java() -> str:
    """The java to use. Raises CannotRun."""
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None:
        raise CannotRun(f"There is no Java. {NEED_JAVA}")
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, check=True, timeout=60).stderr
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotRun(f"{java} does not run ({error}). {NEED_JAVA}") from None
    match = re.search(r'version "(?:1\.)?(\d+)', said)
    if match is None or int(match[1]) < OLDEST_JAVA:
        raise CannotRun(f"{java} is too old: {said.splitlines()[0] if said else 'no version'}. {NEED_JAVA}")
    return java


def version_in(text: str) -> tuple[int, ...]:
    """The version in what `jmeter --version` prints: at the end of the last line of its big letters, or all alone."""
    match = re.search(r"(?:^|\s)(?:Version )?(\d+)\.(\d+)(?:\.(\d+))?(?:[-\s]|$)", text, re.MULTILINE)
    return tuple(int(part) for part in match.groups() if part is not None) if match else ()


def _version(command: Sequence[str]) -> tuple[int, ...]:
    with tempfile.TemporaryDirectory() as folder:  # it writes a jmeter.log where it is started
        try:
            done = subprocess.run(
                [*command, "--version"], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
                check=False,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return ()
    return version_in(_without_noise(done.stdout))


def _without_noise(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not _noise(line))


def _noise(line: str) -> bool:
    return "StatusConsoleListener" in line  # log4j on how JMeter configures it: nothing for whoever runs a plan


def _fetched() -> tuple[Path, str]:
    """The JMeter that Maven lays out in jmeter/target, fetched unless it is there: its home and version. Raises CannotRun."""
    version = re.findall(r"<jmeter\.version>(.+?)</jmeter\.version>", POM.read_text(encoding="utf-8"))[0]
    home = POM.parent / "target" / f"apache-jmeter-{version}"
    whole = home / "whole"  # the last thing that is made
    if whole.exists() and whole.stat().st_mtime >= POM.stat().st_mtime:
        return home, version
    maven = shutil.which("mvn")
    if maven is None:
        raise CannotRun(NEED_MAVEN)
    _say(f"Fetching JMeter {version} with Maven ...")
    shutil.rmtree(home, ignore_errors=True)
    done = subprocess.run(
        [maven, "--batch-mode", "--quiet", "--file", str(POM), "package"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode or not (home / "bin" / "ApacheJMeter.jar").exists():
        raise CannotRun(f"Maven could not fetch JMeter:\n{done.stdout.strip()[-2000:]}")
    (home / "lib" / "junit").mkdir(exist_ok=True)  # JMeter looks into it
    whole.touch()
    return home, version


def run(jmeter: JMeter, plan: Path, folder: Path, properties: Mapping[str, str], dashboard: bool) -> Path:
    """Runs a plan to its end and returns JMeter's result file. Raises CannotRun when there is none."""
    results = folder / "results.jtl"
    settings = {**{f"jmeter.save.saveservice.{name}": value for name, value in SAVED.items()}, **properties}
    # The dashboard's curves have one point each minute otherwise.
    settings["jmeter.reportgenerator.overall_granularity"] = "1000"
    command = [*jmeter.command, "-n", "-t", str(plan), "-l", str(results), "-j", str(folder / "jmeter.log")]
    command += ["-e", "-o", str(folder / "dashboard")] if dashboard else []
    command += [f"-J{name}={value}" for name, value in settings.items()]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        try:
            for line in process.stdout or ():
                if not _noise(line):
                    _say(line.rstrip())
        except BaseException:
            process.terminate()
            raise
    if process.returncode or not results.exists():
        raise CannotRun(f"JMeter ended with code {process.returncode}: see {folder / 'jmeter.log'}.")
    return results


def open_window(jmeter: JMeter, plan: Path, properties: Mapping[str, str]) -> int:
    """Opens a plan in JMeter's GUI, and returns its exit code when the window is closed."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*jmeter.command, "-t", str(plan), "-j", f"{folder}/jmeter.log"]
        return subprocess.call([*command, *(f"-J{name}={value}" for name, value in properties.items())])


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
