"""Makes the two pictures that README shows, from the page as it is: `make screenshots`.

    python -m tests.browser.screenshots docs/pictures

Music is made up by ffmpeg; nothing is drawn by hand, so the pictures never show what the page does not.
"""

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests import audio
from tests.browser.conftest import CHROMIUM_ARGUMENTS, PASSWORD, chromium_path, running_service

NAME, EMAIL = "Ana", "ana@example.com"


def song(path: Path, seconds: int, seed: int) -> Path:
    """A recording with loud and soft passages."""
    swell = f"0.25+0.75*abs(sin(2*PI*t/{7 + 3 * seed})*sin(2*PI*t/{31 + seed}))"
    tune = f"(0.5*sin(2*PI*{196 + 20 * seed}*t)+0.3*sin(2*PI*{294 + 20 * seed}*t)+0.2*(random({seed})-0.5))*({swell})"
    audio.run("-f", "lavfi", "-i", f"aevalsrc=0.8*{tune}:s=44100:d={seconds}", "-ac", "2", path)
    return path


def enter(browser: Browser, url: str, sign_up: bool, **options: object) -> Page:
    page = browser.new_context(locale="en-GB", device_scale_factor=1, **options).new_page()  # type: ignore[arg-type]
    page.goto(url)
    if sign_up:
        page.get_by_role("button", name="No account yet? Create one").click()
        page.get_by_label("User name").fill(NAME)
        page.get_by_label("E-mail").fill(EMAIL)
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_label("Password again").fill(PASSWORD)
        page.get_by_role("button", name="Create an account").click()
    else:
        page.get_by_label("E-mail").fill(EMAIL)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in", exact=True).click()
    page.locator("#settings select").first.wait_for()
    return page


def choose(page: Page, preset: str, *files: Path) -> None:
    page.get_by_label("Preset").select_option(label=preset)
    page.locator("#files").set_input_files(list(files))
    expect(page.locator("#staged .hint").last).to_contain_text("Will be", timeout=30_000)


def shoot(page: Page, path: Path) -> None:
    """A picture of the page, with few colours: as small as it can be and still true."""
    with tempfile.TemporaryDirectory() as name:
        raw = Path(name) / "raw.png"
        page.screenshot(path=raw, animations="disabled", caret="hide")
        palette = "split[a][b];[a]palettegen=max_colors=96:stats_mode=single[p];[b][p]paletteuse=dither=none"
        audio.run("-i", raw, "-vf", palette, "-frames:v", "1", "-compression_level", "9", path)
    sys.stdout.write(f"{path}: {path.stat().st_size / 1000:.0f} kB\n")


def main() -> None:
    """Make both pictures."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, running_service(Path(name)) as service, sync_playwright() as playwright:
        music = Path(name) / "music"
        music.mkdir()
        files = [song(music / "interview.wav", 95, 1), song(music / "field recording.flac", 140, 2)]
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=CHROMIUM_ARGUMENTS)
        page = enter(browser, service.url, True, viewport={"width": 1000, "height": 1000})
        choose(page, "Podcast: MP3, −16 LUFS, mono, 96 kbit/s", *files)
        page.get_by_role("button", name="Convert 2 files").click()
        for task in page.locator("li.task").all() or [page.locator("li.task").first]:
            expect(task).to_have_attribute("data-state", "PROCESSED", timeout=60_000)
        expect(page.locator("li.task[data-state=PROCESSED] .wave:visible")).to_have_count(2, timeout=60_000)
        wave = page.locator(".wave").first
        box = wave.bounding_box()
        assert box
        page.mouse.click(box["x"] + box["width"] * 0.37, box["y"] + box["height"] / 2)
        player = page.locator("audio").first
        player.wait_for()
        page.wait_for_function("document.querySelector('audio').currentTime > 1")
        player.evaluate("audio => audio.pause()")
        page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        choose(page, "Archive: FLAC, nothing is lost", song(music / "lecture.wav", 30, 3))
        page.set_viewport_size({"width": 1000, "height": 1240})
        page.mouse.move(5, 5)
        shoot(page, folder / "page.png")
        phone = enter(
            browser, service.url, False, viewport={"width": 390, "height": 780}, color_scheme="dark", is_mobile=True
        )
        expect(phone.locator("li.task")).to_have_count(2)
        phone.evaluate("document.querySelector('#list-title').scrollIntoView()")
        expect(phone.locator(".wave:visible").first).to_be_visible(timeout=60_000)
        shoot(phone, folder / "phone.png")
        browser.close()


if __name__ == "__main__":
    main()
