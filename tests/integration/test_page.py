"""The web page in a real browser, in front of services that run."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from tests.running_gateway import RunningGateway
from tests.running_stack import RunningStack

CHROMIUM = shutil.which("chromium")
TIMEOUT_MS = 60_000
SCREENSHOTS = Path("out/screenshots")

if CHROMIUM is None:
    missing = "Chromium is missing: apt-get install chromium"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing, allow_module_level=True)


@pytest.fixture(scope="module")
def gateway(turbo_stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("page")
    with RunningGateway.start(turbo_stack.target, folder, doors="page") as gateway:
        yield gateway


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    flags = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, gateway: RunningGateway) -> Iterator[Page]:
    """The page as it opens; it must ask no other machine for anything, and log no error."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(TIMEOUT_MS)
    asked: list[str] = []
    faults: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("response", lambda answer: faults.append(answer.url) if answer.status >= 400 else None)
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.goto(gateway.url("page"))
    page.get_by_label("Music Caption").wait_for()
    page.get_by_text("GiB free").wait_for()  # it has asked all that it asks at its start
    yield page
    page.close()
    hosts = {urlsplit(url).netloc for url in asked if urlsplit(url).scheme.startswith("http")}
    assert hosts == {urlsplit(gateway.url("page")).netloc}
    assert faults == []


def take_screenshot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


def until_pictures_are_there(page: Page) -> None:
    """The waveform and the spectrogram of each take."""
    page.wait_for_function(
        "(pictures => pictures.length >= 2 && pictures.every(picture => picture.naturalWidth > 0))"
        "([...document.querySelectorAll('figure img')])"
    )


def status(page: Page) -> Locator:
    return page.get_by_label("Generation Status")


def until_status(page: Page, start: str, part: str = "") -> None:
    script = """([start, part]) => [...document.querySelectorAll('textarea')].some(
        t => t.value.startsWith(start) && `${t.value}\n`.includes(part))"""
    page.wait_for_function(script, arg=[start, part])


def order(page: Page, caption: str, duration_s: int) -> None:
    page.get_by_label("Music Caption").fill(caption)
    page.get_by_role("spinbutton", name="Audio Duration").fill(str(duration_s))
    page.get_by_role("button", name="Generate Music").click()


def until_it_has_looked(page: Page) -> None:
    """Waits until the page has just looked at the machine, as it does every few seconds.

    Gradio logs an error where a page is left that still waits for an answer.
    """
    # This is how Gradio ends the stream of answers once it has all of them.
    page.wait_for_event("requestfailed", lambda request: "/queue/data" in request.url)


def test_a_song_is_heard_before_it_is_finished_and_survives_a_reload(page: Page, tmp_path: Path) -> None:
    take_screenshot(page, "fresh")
    sounds: list[str] = []
    page.on("request", lambda request: sounds.append(request.url) if "/audio?" in request.url else None)
    page.evaluate(
        "window.heard = []; new MutationObserver(([change]) => heard.push(change.target.textContent))"
        ".observe(document.querySelector('.heard-only'), { childList: true })"
    )
    order(page, "calm harp, evening", 180)
    page.wait_for_selector("audio.take")
    page.wait_for_function("document.querySelector('audio.take').currentTime > 0.2")
    assert status(page).input_value().startswith("Decoder: ")
    assert len(sounds) == 1
    picked = page.get_by_label("Past songs").input_value()
    assert picked.startswith("in work · ")
    assert picked.endswith(" · calm harp, evening")
    take_screenshot(page, "running")
    until_status(page, "Done in ")
    heard = page.evaluate("heard")
    assert len(heard) == len({told.partition(":")[0] for told in heard})  # each stage once
    assert [told.partition(":")[0] for told in heard][-3:-1] == ["Decoder", "Writing the files."]
    assert heard[-1].startswith("Done in ")
    links = page.locator("figure:has(audio.take) a")
    links.first.wait_for()
    assert page.locator("figcaption").inner_text().endswith(", 180.0 s")
    assert not page.evaluate("document.querySelector('audio.take').paused")
    page.evaluate("document.querySelector('audio.take').pause()")
    page.wait_for_function(
        "(player => player.duration > 179 && player.duration < 182 && player.currentTime > 0.2)"
        "(document.querySelector('audio.take'))"
    )
    assert links.all_inner_texts() == ["mp3", "flac", "wav16", "wav24", "wav32", "opus", "aac"]
    with page.expect_download() as download:
        links.first.click()
    assert download.value.suggested_filename.startswith("calm-harp-evening-seed-")
    until_pictures_are_there(page)
    take_screenshot(page, "finished")

    until_it_has_looked(page)
    page.reload()
    page.get_by_text("GiB free").wait_for()
    history = page.get_by_label("Past songs")
    history.click()
    page.get_by_role("option").filter(has_text="calm harp, evening").first.click()
    page.get_by_role("button", name="Restore settings").click()
    until_status(page, "The settings are back")
    assert page.get_by_label("Music Caption").input_value() == "calm harp, evening"
    assert page.get_by_role("spinbutton", name="Audio Duration").input_value() == "180"
    assert page.get_by_label("Seed").input_value() != "-1"
    page.get_by_role("button", name="Show").click()
    page.locator("figure .details a").first.wait_for()

    page.get_by_label("Music Caption").fill("something else")
    song = tmp_path / "song.mp3"
    download.value.save_as(song)
    page.set_input_files("#restore-file input[type=file]", song)
    page.wait_for_function("document.querySelector('#field-caption textarea').value === 'calm harp, evening'")


def test_a_song_is_stopped(page: Page) -> None:
    page.get_by_role("button", name="Advanced").click()
    page.get_by_role("spinbutton", name="Steps").fill("200")
    order(page, "long drone", 600)
    until_status(page, "Diffusion: ")
    assert page.get_by_role("button", name="In work").is_disabled()
    page.get_by_role("button", name="Stop").click()
    until_status(page, "Stopped.")
    page.get_by_role("button", name="Generate Music").wait_for()
    take_screenshot(page, "stopped")
    page.get_by_label("Music Caption").fill("something else")
    page.get_by_role("spinbutton", name="Steps").fill("2")
    page.get_by_role("button", name="Restore settings").click()
    until_status(page, "The settings are back in the fields.")
    page.wait_for_function("document.querySelector('#field-caption textarea').value === 'long drone'")
    assert page.get_by_role("spinbutton", name="Steps").input_value() == "200"


def test_a_page_that_is_opened_anew_goes_on_with_the_song(page: Page, browser: Browser) -> None:
    page.get_by_role("button", name="Advanced").click()
    page.get_by_role("spinbutton", name="Steps").fill("200")
    order(page, "slow tide", 600)
    until_status(page, "Diffusion: ")
    other = browser.new_page()
    other.set_default_timeout(TIMEOUT_MS)
    other.goto(page.url)
    until_status(other, "Diffusion: ")
    other.wait_for_function(
        "seen => [...document.querySelectorAll('textarea')].some(t => t.value.startsWith('Diffusion: ') && "
        "t.value !== seen)",
        arg=status(other).input_value(),
    )
    other.get_by_role("button", name="Stop").click()
    for shown in (other, page):
        until_status(shown, "Stopped.")
        shown.locator("audio.take").wait_for(state="detached")
    other.close()


def test_what_is_wrong_is_said_in_words_at_its_field(page: Page, tmp_path: Path) -> None:
    page.get_by_role("button", name="Generate Music").focus()
    page.keyboard.press("Enter")
    until_status(page, "Music Caption: is empty")
    fault = page.locator("#field-caption .fault")
    fault.wait_for()
    assert fault.inner_text().startswith("is empty")
    assert fault.get_attribute("role") == "alert"
    assert page.get_by_label("Music Caption").get_attribute("aria-describedby") == fault.get_attribute("id")
    page.get_by_label("Music Caption").fill("jazz")
    fault.wait_for(state="detached")
    page.get_by_role("button", name="Advanced").click()
    page.get_by_label("LoRA adapters").fill("nobody")
    page.get_by_role("button", name="Generate Music").click()
    page.locator("#field-adapters .fault").get_by_text("'nobody' is not in").wait_for()
    page.get_by_label("LoRA adapters").fill("")
    page.get_by_label("Timesteps").fill("1, half")
    page.get_by_role("button", name="Advanced").click()
    page.locator("#field-timesteps").wait_for(state="hidden")
    page.get_by_role("button", name="Generate Music").click()
    page.locator("#field-timesteps .fault").wait_for()
    assert page.get_by_label("Timesteps").get_attribute("aria-invalid") == "true"
    page.get_by_label("Timesteps").fill("1, 0.5")
    assert page.get_by_label("Timesteps").get_attribute("aria-invalid") is None
    restored = tmp_path / "restored.json"
    restored.write_text('{"caption": "jazz", "key_scale": "H major"}')
    page.set_input_files("#restore-file input", restored)
    until_status(page, "The settings are back")
    page.get_by_role("button", name="Generate Music").click()
    page.locator("#field-key_scale .fault").get_by_text("is 'H major'; accepted").wait_for()
    page.get_by_role("radio", name="Cover (remix)").check()
    page.get_by_role("button", name="Generate Music").click()
    page.locator("#field-source .fault").wait_for()
    until_status(page, "Source audio: is empty; choose the audio")
    take_screenshot(page, "wrong")
    no_audio = tmp_path / "notes.txt"
    no_audio.write_text("no audio")
    page.set_input_files("#field-source input[type=file]", no_audio)
    page.locator("#field-source").get_by_text("notes").first.wait_for()
    page.get_by_role("button", name="Generate Music").click()
    page.locator("#field-source .fault").get_by_text("is no audio that can be read").wait_for()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """20 s of a tone that swells."""
    times = np.arange(20 * 48_000) / 48_000
    path = tmp_path / "source.wav"
    soundfile.write(path, np.sin(1_400 * times) * (0.3 + 0.2 * np.sin(times)), 48_000)
    return path


def test_a_part_is_picked_on_the_waveform_and_made_anew(page: Page, source: Path, tmp_path: Path) -> None:
    page.get_by_label("Music Caption").fill("a guitar solo")
    page.get_by_role("radio", name="Repaint").check()
    page.set_input_files("#field-source input[type=file]", source)
    for name in ("start_s", "end_s"):
        assert page.locator(f"#field-{name} input").input_value() == ""
    wave = page.locator("#source-wave canvas.is-pickable")
    box = wave.bounding_box()
    assert box is not None

    def drag(start: float, end: float) -> None:
        y = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] * start, y)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * end, y, steps=5)
        page.mouse.up()

    def part() -> list[float]:
        return [float(page.locator(f"#field-{end} input").input_value()) for end in ("start_s", "end_s")]

    drag(0.5, 0.25)
    assert part() == pytest.approx([5.0, 10.0], abs=0.1)
    drag(0.5, 0.75)  # its end is moved
    assert part() == pytest.approx([5.0, 15.0], abs=0.1)
    page.mouse.click(box["x"] + box["width"] * 0.4, box["y"] + 10)  # a click picks nothing
    assert part() == pytest.approx([5.0, 15.0], abs=0.1)
    take_screenshot(page, "repaint")
    page.get_by_role("button", name="Generate Music").click()
    until_status(page, "Done in ")
    until_pictures_are_there(page)
    take_screenshot(page, "repainted")
    assert "20.0 s" in page.locator("figcaption").inner_text()

    drag(0.75, 1.1)  # to the end, which is left open
    assert page.locator("#field-end_s input").input_value() == ""
    page.get_by_role("radio", name="Cover (remix)").check()
    page.get_by_label("How close to the source").first.wait_for()
    page.locator("#source-wave canvas.is-drawn:not(.is-pickable)").wait_for()
    silence = tmp_path / "silence.wav"
    soundfile.write(silence, np.zeros(48_000), 48_000)
    page.get_by_role("button", name="Details").click()
    page.set_input_files("#field-reference input[type=file]", silence)
    page.locator("#field-reference").get_by_text("silence").first.wait_for()
    page.get_by_role("button", name="Generate Music").click()
    until_status(page, "Done in ", "\nreference: the audio is silent\n")
    take_screenshot(page, "cover")
    page.get_by_role("radio", name="Custom").check()
    wave.wait_for(state="hidden")


def test_the_page_takes_no_file_of_this_machine_that_was_not_uploaded(
    gateway: RunningGateway, tmp_path: Path
) -> None:
    """Whoever reaches the page may call what its buttons call with anything."""
    secret = tmp_path / f"{uuid.uuid4()}.json"
    secret.write_text('{"caption": "secret"}')
    told = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
    api = f"{gateway.url('page')}/en/gradio_api"
    with httpx.Client(timeout=60) as http:
        config = http.get(f"{gateway.url('page')}/en/config").json()
        parts = {part["id"]: part for part in config["components"]}
        asked: dict[int, list[Any]] = {}
        for call in config["dependencies"]:
            inputs = [parts[number] for number in call["inputs"]]
            if call["backend_fn"] and any("FileData" in json.dumps(part.get("api_info")) for part in inputs):
                asked[call["id"]] = [
                    told if "FileData" in json.dumps(part.get("api_info")) else part["props"].get("value")
                    for part in inputs
                ]
        assert len(asked) >= 2
        for number, data in asked.items():
            session = uuid.uuid4().hex
            body = {"fn_index": number, "session_hash": session, "data": data}
            assert http.post(f"{api}/queue/join", json=body).status_code == 200
            heard = http.get(f"{api}/queue/data", params={"session_hash": session}).text
            end = next(line for line in heard.splitlines() if "process_completed" in line)
            assert json.loads(end.removeprefix("data: "))["success"] is False
    assert list(gateway.log_path.parent.rglob(secret.name)) == []


def test_base_models_add_what_is_done_with_single_tracks(
    browser: Browser, checkpoints: dict[str, Path], source: Path, tmp_path: Path
) -> None:
    with (
        RunningStack.start(checkpoints["base/diffusers"], tmp_path / "stack") as stack,
        RunningGateway.start(stack.target, tmp_path / "page", doors="page") as gateway,
    ):
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.goto(gateway.url("page"))
        page.get_by_role("radio", name="Complete a track").check()
        page.get_by_label("Tracks to add").wait_for()
        page.get_by_role("radio", name="Extract a track").check()
        page.get_by_label("Music Caption").fill("drums")
        page.set_input_files("#field-source input[type=file]", source)
        page.get_by_label("Track", exact=True).click()
        page.get_by_role("option", name="backing vocals").click()
        page.get_by_role("button", name="Advanced").click()
        page.get_by_role("spinbutton", name="Steps").fill("2")
        take_screenshot(page, "extract")
        page.get_by_role("button", name="Generate Music").click()
        until_status(page, "Done in ")
        jobs = httpx.get(f"{gateway.url('page')}/v1/jobs").json()["jobs"]
        settings = httpx.get(f"{gateway.url('page')}/v1/jobs/{jobs[0]['job_id']}/settings").json()
        assert (settings["task"], settings["track_name"]) == ("extract", "backing_vocals")
        page.close()


def test_the_machine_panel_keeps_itself_up_to_date(page: Page, turbo_stack: RunningStack) -> None:
    page.get_by_text("Longest song: 600 s, set by the model").wait_for()
    with turbo_stack.client() as client:
        client.generate("warm-up", duration_s=10, step_count=1)
    page.get_by_text(re.compile("Held by .*Decoder")).wait_for()
    turbo_stack.take_device("cpu")
    page.get_by_text("Held by nobody").wait_for()


def test_the_page_speaks_portuguese_and_keeps_what_was_typed(page: Page) -> None:
    page.get_by_label("Lyrics").fill("uma canção")
    page.get_by_role("button", name="Advanced").click()
    page.get_by_role("spinbutton", name="Steps").fill("12")
    until_it_has_looked(page)
    page.get_by_role("link", name="Português").click()
    page.get_by_label("Descrição da música").wait_for()
    page.get_by_role("button", name="Gerar música").wait_for()
    page.get_by_text("GiB livres").wait_for()
    assert page.evaluate("document.documentElement.lang") == "pt-BR"
    page.get_by_text("Solte o arquivo aqui").first.wait_for()
    page.wait_for_function("document.querySelector('#field-lyrics textarea').value === 'uma canção'")
    page.get_by_role("button", name="Avançado").click()
    assert page.get_by_role("spinbutton", name="Passos").input_value() == "12"
    page.get_by_role("button", name="Detalhes").click()
    assert page.get_by_label("Idioma do canto").input_value() == "português"
    take_screenshot(page, "portuguese")
    until_it_has_looked(page)
    page.get_by_role("link", name="English").click()
    page.get_by_label("Music Caption").wait_for()
    page.get_by_text("GiB free").wait_for()


def test_it_is_dark_where_that_is_wanted_and_fits_a_phone(page: Page) -> None:
    until_it_has_looked(page)
    page.goto(page.url + "?__theme=dark")
    page.get_by_text("GiB free").wait_for()
    take_screenshot(page, "dark")
    page.set_viewport_size({"width": 390, "height": 844})
    take_screenshot(page, "phone")
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 390
    page.get_by_label("Music Caption").focus()
    page.keyboard.press("Tab")
    outline = "getComputedStyle(document.activeElement).outline"
    assert page.evaluate(outline).endswith("solid 2px")


def test_with_a_key_the_page_asks_for_it(turbo_stack: RunningStack, tmp_path: Path) -> None:
    with RunningGateway.start(turbo_stack.target, tmp_path, doors="page", ACESTAGE_API_KEY="k3y") as gateway:
        url = gateway.url("page")
        assert httpx.get(f"{url}/health").status_code == 200
        for path in ("/", "/en/", "/en/gradio_api/info", "/v1/jobs"):
            assert httpx.get(url + path).status_code == 401
            for wrong in (b"Basic bWU6d3Jvbmc=", b"Basic %%%", "Basic kéy".encode(), b"Bearer k3y"):
                assert httpx.get(url + path, headers={"Authorization": wrong}).status_code == 401
        known = httpx.get(f"{url}/en/", auth=("me", "k3y"))
        assert known.status_code == 200
        assert "default-src 'self'" in known.headers["content-security-policy"]
        assert httpx.get(f"{url}/v1/jobs", auth=("me", "k3y")).json()["jobs"] == []
        assert httpx.get(f"{url}/", headers={"Host": "evil.example"}).status_code == 403
