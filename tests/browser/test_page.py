"""What a person does on the page, done in a real browser with real files."""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, Route, expect

from tests.audio import make, samples, tagged_mp3
from tests.browser.conftest import PASSWORD, PROJECT, Service
from tests.services import Tap, wait_for

Open = Callable[..., Page]
SignIn = Callable[..., tuple[Page, str]]
DONE = 40_000  # ms; conversions here take tenths of a second, on a busy machine more
PHONE = {"width": 360, "height": 740}


def choose(page: Page, *files: Path) -> None:
    page.locator("#files").set_input_files(list(files))


def card(page: Page, name: str) -> Locator:
    return page.locator("li.task").filter(has=page.get_by_role("heading", name=name, exact=True))


def reaches(page: Page, name: str, state: str) -> Locator:
    found = card(page, name)
    expect(found).to_have_attribute("data-state", state, timeout=DONE)
    return found


def convert(page: Page, *files: Path) -> None:
    choose(page, *files)
    page.get_by_role("button", name=re.compile(r"^Convert \d+ file")).click()


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {[node['html'][:120] for node in one['nodes']]}" for one in found]


class Line:
    """The page's line to the service, as slow as a test wants it."""

    def __init__(self, page: Page) -> None:
        self._session = page.context.new_cdp_session(page)
        self._session.send("Network.enable")

    def set(self, bytes_per_second: int = -1) -> None:
        """Slow uploads down; -1 makes them fast again."""
        self._session.send("Network.emulateNetworkConditions", {
            "offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_per_second})  # fmt: skip


def test_a_person_goes_the_whole_path(open_page: Open, service: Service, tmp_path: Path) -> None:
    """Sign up, drop two files, see the plan, convert, listen, download, convert again, delete: all of it on the page."""
    page = open_page()
    page.get_by_role("button", name="No account yet? Create one").click()
    page.get_by_label("User name").fill("Ana")
    page.get_by_label("E-mail").fill("ana@example.com")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill(PASSWORD)
    page.get_by_role("button", name="Create an account").click()
    page.get_by_role("heading", name="New conversion").wait_for()

    wav = make(tmp_path / "voice.wav", 3, 44_100, 2)
    page.get_by_label("Preset").select_option(label="Podcast: MP3, −16 LUFS, mono, 96 kbit/s")
    drop(page, wav, tagged_mp3(tmp_path / "tune.mp3", 2))
    expect(page.locator("#staged")).to_contain_text("Will be MP3, 96 kbit/s, 44.1 kHz, mono, 0:03")
    expect(page.locator("#staged")).to_contain_text("mp3 to mp3 loses a little quality")
    page.get_by_role("button", name="Convert 2 files").click()
    done = reaches(page, "voice.wav", "PROCESSED")
    reaches(page, "tune.mp3", "PROCESSED")
    expect(done).to_contain_text(re.compile(r"Result: MP3, 9\d kbit/s, 44.1 kHz, mono, 0:03"))
    expect(done).to_contain_text("−16 LUFS".replace("−", "-"))

    done.get_by_role("button", name="Listen to voice.wav", exact=True).click()
    audio = done.locator("audio")
    audio.wait_for()
    wait_for(lambda: audio.evaluate("player => player.readyState >= 3"), "the player can play")
    assert abs(audio.evaluate("player => player.duration") - 3) < 0.1

    wave = done.get_by_role("slider", name="Position in voice.wav")
    expect(wave).to_have_attribute("aria-valuemax", "3")
    box = wave.bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] * 0.6, box["y"] + box["height"] / 2)
    wait_for(lambda: audio.evaluate("player => player.currentTime") >= 1.7, "a click in the picture moves the player")
    audio.evaluate("player => player.pause()")
    wave.press("Home")
    expect(wave).to_have_attribute("aria-valuetext", re.compile("0:0[01] of 0:03"))

    with page.expect_download() as download:
        done.get_by_role("button", name="Download voice.wav", exact=True).click()
    assert download.value.suggested_filename == "voice.mp3"
    download.value.save_as(tmp_path / "result.mp3")
    assert abs(len(samples(tmp_path / "result.mp3", 8_000, 1, "s16le")) / 16_000 - 3) < 0.1
    with page.expect_download() as download:
        done.get_by_role("button", name="Download the original voice.wav").click()
    assert Path(download.value.path()).read_bytes() == wav.read_bytes()

    with page.expect_download() as download:
        page.get_by_role("button", name="Download all as zip").click()
    assert download.value.suggested_filename == "swnube.zip"
    with zipfile.ZipFile(download.value.path()) as archive:
        assert sorted(archive.namelist()) == ["tune.mp3", "voice.mp3"]
        assert archive.read("voice.mp3") == (tmp_path / "result.mp3").read_bytes()

    done.get_by_role("button", name="Convert voice.wav again").click()
    dialog = page.get_by_role("dialog", name="Convert voice.wav again")
    dialog.get_by_label("Convert to").select_option("flac")
    expect(dialog).to_contain_text("Will be FLAC")
    dialog.get_by_role("button", name="Convert").click()
    expect(done).to_contain_text("Result: FLAC", timeout=DONE)
    expect(dialog).to_have_count(0)
    expect(done.locator("audio")).to_have_count(0)  # the player of the former result is gone

    done.get_by_role("button", name="Delete voice.wav").click()
    page.get_by_role("button", name="Keep it").click()
    expect(done).to_be_visible()
    done.get_by_role("button", name="Delete voice.wav").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(done).to_have_count(0)
    assert [task["name"] for task in service.tasks("ana@example.com")] == ["tune.mp3"]

    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert page.evaluate("sessionStorage.length + localStorage.length") == 0


def drop(page: Page, *files: Path) -> None:
    """Drop files onto the page as a file manager does."""
    handle = page.evaluate_handle(
        "files => { const all = new DataTransfer();"
        "for (const [name, bytes] of files) all.items.add(new File([new Uint8Array(bytes)], name)); return all; }",
        [[file.name, list(file.read_bytes())] for file in files],
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": handle})


def test_a_failure_is_told_in_a_sentence(sign_in: SignIn, tmp_path: Path) -> None:
    """A file that is no audio ends as failed with the reason; one of an unknown kind is refused before it is sent."""
    page, _ = sign_in()
    (tmp_path / "noise.mp3").write_bytes(b"this is not audio " * 100)
    (tmp_path / "letter.docx").write_bytes(b"x")
    (tmp_path / "empty.wav").write_bytes(b"")
    choose(page, tmp_path / "letter.docx", tmp_path / "empty.wav")
    expect(page.locator("#staged")).to_contain_text("Files of type docx cannot be read.")
    expect(page.locator("#staged")).to_contain_text("The file is empty.")
    expect(page.get_by_role("button", name="Convert", exact=True)).to_be_disabled()
    convert(page, tmp_path / "noise.mp3")
    failed = reaches(page, "noise.mp3", "FAILED")
    expect(failed.locator(".error").first).to_have_text(re.compile("not an audio or video file"))
    expect(failed.get_by_role("button", name="Download noise.mp3", exact=True)).to_be_hidden()


def test_errors_stand_beside_their_fields(open_page: Open, service: Service) -> None:
    """What is missing, different or taken is told at its field, which has the focus and is marked as wrong."""
    taken = service.account()
    page = open_page()
    page.get_by_role("button", name="Sign in", exact=True).click()
    for label in ("E-mail", "Password"):
        expect(page.get_by_label(label)).to_have_accessible_description("This is needed.")
    expect(page.get_by_label("E-mail")).to_be_focused()
    page.get_by_label("E-mail").fill(taken)
    page.get_by_label("Password").fill("not this one")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Password")).to_have_accessible_description("The e-mail or the password is wrong.")
    page.get_by_role("button", name="No account yet? Create one").click()
    page.get_by_label("User name").fill("Somebody")
    page.get_by_label("E-mail").fill(taken)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill("another")
    page.get_by_role("button", name="Create an account").click()
    expect(page.get_by_label("Password again")).to_have_accessible_description("The passwords differ.")
    page.get_by_label("Password again").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_label("E-mail")).to_have_accessible_description(re.compile("already"))
    expect(page.get_by_label("E-mail")).to_be_focused()
    assert violations(page) == []


def test_settings_offer_what_the_format_takes(sign_in: SignIn, tmp_path: Path) -> None:
    """WAV has a bit depth and no bit rate, MP3 the reverse; a number out of range is told at its field and not sent."""
    page, _ = sign_in()
    form = page.locator("#settings")
    form.get_by_label("Convert to").select_option("wav")
    expect(form.get_by_label("Bit depth")).to_be_hidden()  # folded away until somebody wants to change it
    form.get_by_text("Sound quality").click()
    expect(form.get_by_label("Bit depth")).to_be_visible()
    expect(form.get_by_label("Bit rate (kbit/s)")).to_have_count(0)
    form.get_by_label("Convert to").select_option("mp3")
    expect(form.get_by_label("Bit depth")).to_have_count(0)
    form.get_by_label("Bit rate (kbit/s)").select_option("96")
    form.get_by_label("Variable quality").fill("12")
    choose(page, make(tmp_path / "a.wav", 1))
    page.get_by_role("button", name="Convert 1 file").click()
    expect(form.get_by_label("Variable quality")).to_have_accessible_description(re.compile("Must be from 0 to 9"))
    form.get_by_label("Variable quality").fill("2")
    page.get_by_role("button", name="Convert 1 file").click()
    expect(form.get_by_label("Variable quality")).to_have_accessible_description(re.compile("not both"))
    form.get_by_label("Preset").select_option(label="Phone ringtone: 30 s with fades")
    page.get_by_role("button", name="Convert 1 file").click()
    expect(reaches(page, "a.wav", "PROCESSED")).to_contain_text("Result: AAC in MP4")  # shorter than 30 s: all of it


def test_an_upload_shows_true_bytes_and_can_be_cancelled_and_sent_again(
    sign_in: SignIn, service: Service, tmp_path: Path
) -> None:
    """Over a slow line the bar moves by the bytes that left; cancelled, no task is there; sent again, it is converted."""
    page, email = sign_in()
    line = Line(page)
    line.set(100_000)
    convert(page, make(tmp_path / "long.wav", 12))
    bar = page.locator("#uploads progress")
    seen = {wait_for(lambda: bar.evaluate("bar => bar.value"), "the bar moves")}
    wait_for(lambda: seen.add(bar.evaluate("bar => bar.value")) or len(seen) >= 3, "the bar moves on")
    assert max(seen) < 100
    page.get_by_role("button", name="Cancel long.wav").click()
    expect(page.locator("#uploads")).to_contain_text("Cancelled.")
    assert service.tasks(email) == []
    line.set()
    page.get_by_role("button", name="Send long.wav again").click()
    reaches(page, "long.wav", "PROCESSED")
    expect(page.locator("#uploads")).to_be_hidden()
    assert len(service.tasks(email)) == 1


def test_a_lost_connection_is_told_and_made_good(sign_in: SignIn, service: Service, tmp_path: Path) -> None:
    """An upload that breaks in the middle goes again by itself when the line is back, once; the page says it is cut off."""
    with Tap(int(service.url.rpartition(":")[2])) as tap:
        page, email = sign_in(origin=f"http://127.0.0.1:{tap.port}")
        line = Line(page)
        line.set(100_000)
        convert(page, make(tmp_path / "long.wav", 12))
        wait_for(lambda: page.locator("#uploads progress").evaluate("bar => bar.value"), "the bar moves")
        tap.refuse()
        expect(page.locator("#uploads")).to_contain_text(re.compile("The connection broke after .* Trying again"))
        expect(page.locator("#connection")).to_contain_text("The connection is lost", timeout=DONE)
        line.set()
        tap.restore()
        reaches(page, "long.wav", "PROCESSED")
        expect(page.locator("#connection")).to_be_hidden()
        assert len(service.tasks(email)) == 1


def test_a_reload_in_the_middle_loses_nothing(sign_in: SignIn, tmp_path: Path) -> None:
    """After a reload the person is still signed in and the conversion goes on to its end on the page."""
    page, _ = sign_in()
    convert(page, make(tmp_path / "long.wav", 90))
    expect(card(page, "long.wav")).to_be_visible()
    page.reload()
    reaches(page, "long.wav", "PROCESSED")


def test_a_token_that_expired_is_renewed_unseen(sign_in: SignIn, service: Service, tmp_path: Path) -> None:
    """When the API refuses the access token, of the list and of an upload, a new one is fetched and the call repeated."""
    page, email = sign_in()
    refused: list[str] = []

    def spoil(route: Route) -> None:
        """Send the first request of each method with a token that the service does not know."""
        if route.request.method in refused:
            route.continue_()
        else:
            refused.append(route.request.method)
            route.continue_(headers={**route.request.headers, "authorization": "Bearer gone"})

    page.route(re.compile(r"/api/tasks(\?|$)"), spoil)
    with page.expect_response("**/api/auth/refresh") as renewal:
        page.get_by_label("State").select_option(label="All")
    assert renewal.value.status == 200
    with page.expect_response("**/api/auth/refresh"):
        convert(page, make(tmp_path / "a.wav", 1))
    reaches(page, "a.wav", "PROCESSED")
    assert sorted(refused) == ["GET", "POST"]
    assert len(service.tasks(email)) == 1


def test_a_session_that_was_ended_asks_to_sign_in(sign_in: SignIn, service: Service) -> None:
    """When the session is ended elsewhere, the page says so and asks for the password; nothing of it stays stored."""
    page, _ = sign_in()
    cookie = refresh_cookie(page)
    headers = {"X-Refresh-In": "cookie", "Cookie": f"swnube_refresh={cookie['value']}"}
    assert requests.post(f"{service.url}/api/auth/logout", headers=headers, timeout=10).status_code == 200
    page.get_by_label("Search by name").fill("x")
    expect(page.get_by_text("Your session has ended. Sign in again.")).to_be_visible()
    expect(page.locator("#workplace")).to_be_hidden()
    assert page.evaluate("sessionStorage.length + localStorage.length") == 0


def refresh_cookie(page: Page) -> dict[str, Any]:
    (cookie,) = page.context.cookies()
    return dict(cookie)


def test_no_script_can_read_a_token(sign_in: SignIn) -> None:
    """What survives a reload is in a cookie that scripts do not see; what they do see of the session is no secret."""
    page, email = sign_in()
    cookie = refresh_cookie(page)
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/api/auth")
    kept = page.evaluate("[document.cookie, Object.values(localStorage), Object.values(sessionStorage)]")
    assert kept == ["", [email], []]


def test_staying_signed_in_is_a_choice(sign_in: SignIn) -> None:
    """The cookie goes with the browser unless the person asked to stay; signing out in one tab ends it in all."""
    page, _ = sign_in()
    assert refresh_cookie(page)["expires"] == -1
    page, _ = sign_in(stay=True)
    assert refresh_cookie(page)["expires"] > 0
    other = page.context.new_page()
    other.goto(page.url)
    expect(other.get_by_role("heading", name="New conversion")).to_be_visible()
    other.get_by_role("button", name="Sign out").click()
    expect(page.get_by_text("You are signed out.")).to_be_visible()
    assert page.context.cookies() == []


def test_tabs_do_not_race_for_the_next_token(sign_in: SignIn) -> None:
    """Six tabs that all need a new token at once all get one, though each refresh token is good for one use."""
    page, _ = sign_in(stay=True)
    tabs = [page] + [page.context.new_page() for _ in range(5)]
    for tab in tabs:
        tab.goto(page.url, wait_until="commit")
    for tab in tabs:
        tab.locator("#settings select").first.wait_for()
        expect(tab.get_by_text("No files yet. Drop one above.")).to_be_visible()
    renew = "import('/static/js/api.js').then(api => { api.forgetAccess(); return api.token(); }).then(Boolean)"
    for tab in tabs:
        tab.evaluate(f"window.renewed = {renew}; null")
    assert all(tab.evaluate("window.renewed") for tab in tabs)


def test_names_are_text(sign_in: SignIn, tmp_path: Path) -> None:
    """Markup in a file's name and in its tags is shown as it is and never becomes part of the page."""
    page, _ = sign_in()
    name = "<img src=x onerror=document.title='owned'>.mp3"
    from mutagen.id3 import ID3, TIT2

    file = tagged_mp3(tmp_path / "plain.mp3")
    tags = ID3(file)
    tags.add(TIT2(encoding=3, text=["<img src=x onerror=document.title='owned'>"]))
    tags.save(file)
    page.locator("#files").set_input_files([{"name": name, "mimeType": "audio/mpeg", "buffer": file.read_bytes()}])
    expect(page.locator("#staged .name")).to_contain_text(name)
    page.get_by_role("button", name="Convert 1 file").click()
    done = page.locator("li.task")
    expect(done).to_have_attribute("data-state", "PROCESSED", timeout=DONE)
    done.get_by_role("button", name=re.compile("^Convert .* again")).click()
    expect(page.get_by_role("dialog")).to_contain_text("onerror")
    assert page.locator("main img, dialog img").count() == 0
    assert page.evaluate("document.querySelectorAll('[onerror]').length") == 0
    assert page.title() == "SWNube: audio conversion"


def test_the_list_is_searched_filtered_and_paged(sign_in: SignIn, service: Service, tmp_path: Path) -> None:
    """Twenty files a page, newest first; older and newer ones by buttons; by name and by state."""
    page, email = sign_in()
    bearer = service.token(email)
    body = make(tmp_path / "a.wav", 0.2, 8_000, 1).read_bytes()
    for number in range(23):
        requests.post(f"{service.url}/api/tasks", headers=bearer, timeout=10, data={
            "filename": f"take {number:02}.wav", "newFormat": "wav"}, files={"audio": body}).raise_for_status()  # fmt: skip
    page.reload()
    headings = page.locator("li.task h3")
    expect(headings).to_have_count(20)
    expect(headings.first).to_have_text("take 22.wav")
    page.get_by_role("button", name="Older").click()
    expect(headings).to_have_text(["take 02.wav", "take 01.wav", "take 00.wav"])
    expect(page.get_by_role("button", name="Older")).to_be_disabled()
    page.get_by_role("button", name="Newer").click()
    expect(headings).to_have_count(20)
    page.get_by_label("Search by name").fill("take 1")
    expect(headings).to_have_count(10)
    page.get_by_label("State").select_option(label="Failed")
    expect(page.get_by_text("No file matches.")).to_be_visible()


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="desktop"),
        pytest.param({"color_scheme": "dark"}, id="dark"),
        pytest.param({"viewport": PHONE, "has_touch": True, "is_mobile": True}, id="phone"),
        pytest.param({"locale": "es-CO"}, id="spanish"),
    ],
)
def test_everybody_can_use_it(sign_in: SignIn, open_page: Open, tmp_path: Path, options: dict[str, Any]) -> None:
    """axe finds nothing on any face of the page, and nothing is wider than the screen."""
    assert violations(open_page(**options)) == []
    page, _ = sign_in(**options)
    choose(page, make(tmp_path / "a.wav", 1))
    page.locator("#settings select").first.select_option("ogg")
    expect(page.locator("#staged .hint").last).to_contain_text("Ogg Vorbis")
    page.locator("summary").first.click()
    page.locator("summary").last.click()
    assert violations(page) == []
    page.locator("#staged button.main").click()
    done = reaches(page, "a.wav", "PROCESSED")
    done.locator("button").nth(1).click()
    done.locator("audio").wait_for()
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    done.locator("button").nth(4).click()
    page.locator("dialog").wait_for()
    assert violations(page) == []
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    expect(done.locator("button").nth(4)).to_be_focused()


def test_it_speaks_spanish(open_page: Open) -> None:
    """A Spanish browser gets Spanish, any other English; both languages have every text."""
    page = open_page(locale="es-MX")
    expect(page.get_by_role("heading", name="Iniciar sesión")).to_be_visible()
    expect(page.locator("html")).to_have_attribute("lang", "es")
    expect(open_page(locale="de-DE").locator("html")).to_have_attribute("lang", "en")
    english, spanish = page.evaluate(
        "import('/static/js/texts.js').then(({languages: {en, es}}) => [en, es].map(texts => Object.entries(texts)))"
    )
    assert [key for key, _ in english] == [key for key, _ in spanish]
    names = re.compile(r"\{\w+\}")
    assert [sorted(names.findall(text)) for _, text in english] == [sorted(names.findall(t)) for _, t in spanish]


def test_it_is_small_and_strict(service: Service) -> None:
    """All of the page is under 250 kB, its policy allows no inline script or style, and a second look costs a 304."""
    files = [
        file for file in (PROJECT / "flaskr" / "web").rglob("*") if file.suffix in (".js", ".css", ".html", ".svg")
    ]
    assert 0 < sum(file.stat().st_size for file in files) < 250_000
    answer = requests.get(service.url, timeout=10)
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\son\w+=", answer.text)
    first = requests.get(f"{service.url}/static/js/main.js", timeout=10)
    assert first.headers["Content-Type"].startswith("text/javascript")
    again = requests.get(
        f"{service.url}/static/js/main.js", headers={"If-None-Match": first.headers["ETag"]}, timeout=10
    )
    assert again.status_code == 304
