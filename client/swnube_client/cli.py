"""The command line: what is asked, what is shown, and with which exit code it ends."""

import argparse
import contextlib
import getpass
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import platformdirs
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from swnube_client import __version__
from swnube_client.api import Api, Task, sentence_of
from swnube_client.batch import DONE, FAILED, Batch, Item, Journal, Plan, free_name
from swnube_client.errors import ClientError, Interrupted, LocalTrouble, NotSignedIn, ServiceTrouble, UsageError
from swnube_client.options import SHORT, SWITCHES, allowed, checked, target_named
from swnube_client.session import Sessions

INTERRUPTED = 130
_DEFAULT_URL = "http://localhost:5000"
_EPILOGUE = """exit codes: 0 all is done; 1 a file could not be converted; 2 wrong use; 3 not signed in; 4 the service
cannot be reached; 5 a file here cannot be read or written; 130 Ctrl-C (go on with: swnube resume)

environment: SWNUBE_URL, SWNUBE_EMAIL, SWNUBE_PASSWORD for login and signup; SWNUBE_HOME, a folder for session and journals"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    asked = _parser().parse_args(arguments)
    screen = Console(stderr=True, quiet=asked.quiet, highlight=False)
    try:
        return int(asked.run(Terminal(asked, screen), asked))
    except ClientError as error:
        return Terminal(asked, screen).fail(error)
    except (Interrupted, KeyboardInterrupt):
        screen.print("Interrupted. What was sent goes on at the service; fetch it with: swnube resume")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swnube", description="Convert audio files with a SWNube service.", epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"swnube {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON, one object a line")
    common.add_argument("--quiet", action="store_true", help="show no progress and no words, only results and errors")
    common.add_argument("--patience", type=float, default=300, metavar="SECONDS",
                        help="how long a failing call is repeated (300)")  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[..., int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, parents=[common])
        added.set_defaults(run=run)
        return added

    for name, run, text in (("login", log_in, "Sign in."), ("signup", sign_up, "Make an account and sign in.")):
        entrance = command(name, run, text)
        entrance.add_argument("--url", help=f"the service's address (SWNUBE_URL, else {_DEFAULT_URL})")
        entrance.add_argument("--email", help="SWNUBE_EMAIL, else asked for")
    entrance.add_argument("--user", help="the new account's user name; asked for if not given")
    command("logout", log_out, "Sign out, here and at the service.")

    convert_ = command("convert", convert, "Convert files: upload, wait, download.")
    convert_.add_argument("files", nargs="+", type=Path)
    _add_wish(convert_)
    convert_.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="where results go (beside each file)")
    convert_.add_argument("-j", "--jobs", type=int, default=4, choices=range(1, 17), metavar="N",
                          help="transfers side by side, 1 to 16 (4)")  # fmt: skip
    convert_.add_argument("--overwrite", action="store_true", help="replace files that are there, instead of numbering")
    convert_.add_argument("--no-wait", action="store_true", help="only upload; fetch later with: swnube resume")
    resume_ = command("resume", resume, "Go on with what was interrupted: upload the rest, wait, download.")
    resume_.add_argument("-j", "--jobs", type=int, default=4, choices=range(1, 17), metavar="N")
    resume_.add_argument("--forget", action="store_true", help="drop what was interrupted instead")

    list__ = command("list", list_, "List your files at the service, newest first.")
    list__.add_argument("--state", help="UPLOADED, PROCESSING, PROCESSED, FAILED, separated by commas")
    list__.add_argument("--name", help="only names that contain this")
    list__.add_argument("--max", type=int, default=50)
    download_ = command("download", download, "Download results, or originals.")
    download_.add_argument("tasks", nargs="+", type=int, metavar="TASK")
    download_.add_argument("-o", "--output", type=Path, default=Path(), metavar="FOLDER")
    download_.add_argument("--original", action="store_true")
    download_.add_argument("--overwrite", action="store_true")
    again_ = command("again", again, "Convert files at the service again.")
    again_.add_argument("tasks", nargs="+", type=int, metavar="TASK")
    _add_wish(again_)
    delete_ = command("delete", delete, "Delete files at the service, original and result.")
    delete_.add_argument("tasks", nargs="+", type=int, metavar="TASK")
    formats_ = command("formats", formats, "Show what can be converted into what; of one format, all options.")
    formats_.add_argument("format", nargs="?")
    formats_.add_argument("--url")
    return parser


def _add_wish(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", required=True, metavar="FORMAT", help="see: swnube formats")
    wish = parser.add_argument_group("options of the conversion", "what each format takes: swnube formats FORMAT")
    for short, name in SHORT.items():
        wish.add_argument(f"--{short}", dest=f"option:{name}", metavar="N", help=name)
    for short, name in SWITCHES.items():
        wish.add_argument(f"--{short}", dest=f"option:{name}", action="store_const", const=False, help=f"{name}: false")
    wish.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="any other, by its own name")


class Terminal:
    """What all commands share: where things are kept, and how results and errors are told."""

    def __init__(self, asked: argparse.Namespace, screen: Console) -> None:
        home = os.environ.get("SWNUBE_HOME")
        try:
            folder = Path(home) if home else Path(platformdirs.user_config_dir("swnube", appauthor=False))
            self.journals = Path(home or platformdirs.user_state_dir("swnube", appauthor=False)) / "batches"
            self.sessions = Sessions(folder)
        except OSError as error:
            raise LocalTrouble(f"{error.filename}: {error.strerror}.") from error
        self.screen = screen
        self.json = bool(asked.json)
        self.api = Api(self.sessions, asked.patience)

    def tell(self, body: Mapping[str, Any], text: str) -> None:
        """One result, to standard output."""
        sys.stdout.write((json.dumps(body, ensure_ascii=False) if self.json else text) + "\n")
        sys.stdout.flush()

    def fail(self, error: ClientError) -> int:
        """What ended the command, to standard error."""
        if self.json:
            sys.stdout.write(json.dumps({"error": str(error), "exitCode": error.exit_code}, ensure_ascii=False) + "\n")
        sys.stderr.write(f"swnube: {error}\n")
        return error.exit_code

    def options(self, asked: argparse.Namespace) -> tuple[str, dict[str, Any]]:
        """The format and options that were asked for, as this service has them."""
        catalogue = self.api.formats()
        target = target_named(catalogue, asked.to)
        named = {name.partition(":")[2]: value for name, value in vars(asked).items()
                 if name.startswith("option:") and value is not None}  # fmt: skip
        for pair in asked.option:
            name, equals, value = pair.partition("=")
            if not equals:
                raise UsageError(f"--option takes NAME=VALUE, not {pair!r}.")
            named[name] = value
        return target, checked(catalogue, target, named)


# ---------------------------------------------------------------------------------------------------- who is there


def log_in(terminal: Terminal, asked: argparse.Namespace) -> int:
    url, email = _who(asked)
    session = terminal.sessions.begin(terminal.api.http, url, email, _password("Password: "))
    terminal.tell({"email": session.email, "url": url}, f"Signed in to {url} as {session.email}.")
    return 0


def sign_up(terminal: Terminal, asked: argparse.Namespace) -> int:
    url, email = _who(asked)
    user = asked.user or _ask("User name: ")
    password = _password("Password: ")
    repeated = os.environ.get("SWNUBE_PASSWORD") or _password("Password again: ")
    body = {"user": user, "email": email, "password1": password, "password2": repeated}
    try:
        answer = terminal.api.http.post(f"{url}/api/auth/signup", json=body)
    except Exception as error:
        raise ServiceTrouble(f"{url} cannot be reached: {error}.") from error
    if answer.status_code != 200:
        raise UsageError(sentence_of(answer)) if answer.status_code == 400 else ServiceTrouble(sentence_of(answer))
    terminal.sessions.begin(terminal.api.http, url, email, password)
    terminal.tell({"email": email, "url": url}, f"Your account is made; you are signed in to {url} as {email}.")
    return 0


def log_out(terminal: Terminal, _asked: argparse.Namespace) -> int:
    terminal.sessions.end(terminal.api.http)
    terminal.tell({"signedOut": True}, "Signed out.")
    return 0


def _who(asked: argparse.Namespace) -> tuple[str, str]:
    url = (asked.url or os.environ.get("SWNUBE_URL") or _DEFAULT_URL).rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url!r} is no address: it begins with http:// or https://.")
    return url, asked.email or os.environ.get("SWNUBE_EMAIL") or _ask("E-mail: ")


def _password(prompt: str) -> str:
    """From the environment or the terminal, never from the command line, where every user of the machine can read it."""
    if given := os.environ.get("SWNUBE_PASSWORD"):
        return given
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    return getpass.getpass(prompt)


def _ask(prompt: str) -> str:
    sys.stderr.write(prompt)
    sys.stderr.flush()
    if not (text := sys.stdin.readline().strip()):
        raise UsageError(f"{prompt.rstrip(': ')} is needed.")
    return text


# ------------------------------------------------------------------------------------------------------ converting


def convert(terminal: Terminal, asked: argparse.Namespace) -> int:
    target, options = terminal.options(asked)
    extension = terminal.api.formats()["outputs"][target]["extension"]
    items = []
    for path in asked.files:
        source = path.absolute()
        if not source.is_file():
            raise LocalTrouble(f"{path}: there is no such file.")
        name = f"{source.stem}.{extension}"
        items.append(Item(str(source), str((asked.output or source.parent).absolute() / name)))
    session = terminal.api.session
    plan = Plan(session.url, session.email, target, options, asked.overwrite, items)
    with contextlib.ExitStack() as stack:
        if asked.overwrite and (clash := {item.target for item in items} & {item.source for item in items}):
            raise UsageError(f"{min(clash)} would replace its own original: name another folder with --output.")
        journal = Journal.new(terminal.journals)
        stack.enter_context(journal.held())
        return _run(terminal, journal, plan, asked.jobs, wait=not asked.no_wait)


def resume(terminal: Terminal, asked: argparse.Namespace) -> int:
    worst, count = 0, 0
    for journal in Journal.all(terminal.journals):
        with journal.held() as ours:
            if not ours or not journal.path.exists():
                continue
            if asked.forget:
                journal.forget()
                count += 1
                continue
            try:
                plan = journal.read()
            except (ValueError, TypeError, KeyError):
                raise LocalTrouble(
                    f"{journal.path} cannot be understood; drop it with: swnube resume --forget"
                ) from None
            session = terminal.api.session
            if (plan.url, plan.email) != (session.url, session.email):
                terminal.screen.print(escape(f"Left alone: a batch of {plan.email} at {plan.url}."))
                continue
            count += 1
            worst = max(worst, _run(terminal, journal, plan, asked.jobs))
    if not count:
        terminal.screen.print("There is nothing to go on with.")
    return worst


def _run(terminal: Terminal, journal: Journal, plan: Plan, jobs: int, *, wait: bool = True) -> int:
    with Bars(terminal) as bars:
        for item in plan.items:
            bars.add(item)
        Batch(terminal.api, journal, plan, bars, jobs, wait=wait).run()
    if not wait:
        waiting = sum(item.state not in (DONE, FAILED) for item in plan.items)
        terminal.screen.print(f"{waiting} uploaded. Fetch the results with: swnube resume")
    return max((item.exit_code for item in plan.items), default=0)


class Bars:
    """Progress bars on standard error where that is a terminal, and a line per file that ended on standard output."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        columns = (
            TextColumn("{task.fields[name]}"),
            BarColumn(),
            TextColumn("{task.fields[phase]}"),
            TimeRemainingColumn(),
        )
        shown = terminal.screen.is_terminal and not terminal.screen.quiet
        self._progress = Progress(*columns, console=terminal.screen, disable=not shown, transient=True)
        self._bars: dict[int, TaskID] = {}

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def add(self, item: Item) -> None:
        name = escape(Path(item.source).name)
        self._bars[id(item)] = self._progress.add_task("", name=name, phase=item.state, total=100)

    def moves(self, item: Item, phase: str, done: float, total: float) -> None:
        self._progress.update(self._bars[id(item)], completed=done, total=total or 1, phase=phase)

    def ends(self, item: Item) -> None:
        self._progress.update(self._bars[id(item)], visible=False)
        body = {name: value for name, value in asdict(item).items() if name not in ("since", "exit_code")}
        text = f"{item.source} -> {item.target}" if item.state == DONE else f"{item.source}: {item.error}"
        self._terminal.tell(body, text)


# ---------------------------------------------------------------------------------------------- what is there already


def list_(terminal: Terminal, asked: argparse.Namespace) -> int:
    query = {name: value for name in ("state", "name") if (value := getattr(asked, name))}
    tasks = terminal.api.tasks(order=1, max=asked.max, **query)
    if terminal.json:
        for task in tasks:
            terminal.tell(task, "")
        return 0
    table = Table(box=None, pad_edge=False)
    for title in ("task", "state", "name", "to", "bytes", "what"):
        table.add_column(title, no_wrap=title in ("task", "state"))
    for task in tasks:
        what = task["error"]["message"] if task["error"] else ""
        size = str(task["result"]["bytes"]) if task["result"] else ""
        table.add_row(str(task["id"]), task["state"], escape(task["name"]), task["newFormat"], size, escape(what))
    Console(highlight=False).print(table)
    return 0


def download(terminal: Terminal, asked: argparse.Namespace) -> int:
    for number in asked.tasks:
        task = terminal.api.task(number)
        if not asked.original and task["state"] != "PROCESSED":
            raise ClientError(f"Task {number} is {task['state']}: there is no result to download.")
        path = asked.output / _name_of(task, asked.original)
        if not asked.overwrite:
            path = free_name(path)
        terminal.api.download(task, path, lambda _done: None, original=asked.original)
        terminal.tell({"task": number, "target": str(path)}, str(path))
    return 0


def _name_of(task: Task, original: bool) -> str:
    """A file name from the service, kept from leading anywhere."""
    name = Path(str(task["name"]).replace("\\", "/")).name or "audio"
    return name if original else f"{Path(name).stem}.{task['convertedExt']}"


def again(terminal: Terminal, asked: argparse.Namespace) -> int:
    target, options = terminal.options(asked)
    for number in asked.tasks:
        terminal.tell(terminal.api.again(number, target, options), f"Task {number} is converted again, to {target}.")
    return 0


def delete(terminal: Terminal, asked: argparse.Namespace) -> int:
    for number in asked.tasks:
        terminal.api.delete(number)
        terminal.tell({"task": number, "deleted": True}, f"Task {number} is deleted.")
    return 0


def formats(terminal: Terminal, asked: argparse.Namespace) -> int:
    try:
        url = asked.url or terminal.sessions.read().url
    except NotSignedIn:
        url = os.environ.get("SWNUBE_URL") or _DEFAULT_URL
    catalogue = terminal.api.formats(url.rstrip("/"))
    if asked.format is None:
        if terminal.json:
            terminal.tell(catalogue, "")
            return 0
        for name, entry in catalogue["outputs"].items():
            terminal.tell({}, f"{name:6} {entry['title']}")
        terminal.tell({}, f"reads: {', '.join(catalogue['inputs'])}")
        return 0
    target = target_named(catalogue, asked.format)
    entry = catalogue["outputs"][target]
    short = {name: f"--{option}" for option, name in {**SHORT, **SWITCHES}.items()}
    if terminal.json:
        terminal.tell({target: entry}, "")
        return 0
    for name, spec in entry["options"].items():
        terminal.tell({}, f"{short.get(name, '--option ' + name + '='):14} {name}: {allowed(spec)}")
    return 0
