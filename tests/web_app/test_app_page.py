"""The page as visitors meet it: in a real browser, through gradio's client, and at doors that must stay shut."""

import http.client
import json
import os
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import open_browser, resize, wait_for
from PIL import Image
from slide_files import draw_slide, write_pyramid
from tiny_spider import CLASS_NAMES, ROOT

from spider_tools.web_app import answering
from spider_tools.web_app.serving import running
from spider_tools.web_app.settings import AppSettings

pytestmark = [
    pytest.mark.slow,
    # Of gradio: how it reads its own tables of times, and what it opens to follow progress bars.
    pytest.mark.filterwarnings("ignore:.*(no_silent_downcasting|copy keyword is deprecated)"),
    pytest.mark.filterwarnings("ignore:.*unclosed file.*/dev/null.*:ResourceWarning"),
]

MB = 1_000_000


@pytest.fixture(scope="module")
def served(knowing_folder):
    """URL of the page, and the folder that gradio serves; both end with the tests of this file."""
    with running(AppSettings(str(knowing_folder), max_upload_mb=1, max_waiting=3)) as url:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        yield url, folder
    assert not folder.parent.exists()


@pytest.fixture(scope="module")
def url(served):
    return served[0]


# --- Doors


def ask(url, method, path, body=None, **headers):
    """Status and body of an answer to exactly this path; clients would tidy it up."""
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)) as connection:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_no_file_outside_the_served_folder_comes_out(served, knowing_folder):
    url, folder = served
    example = next((folder.parent / "work" / "examples").iterdir())
    cached = next(folder.rglob("drawn_*.jpg"))
    assert ask(url, "GET", f"/gradio_api/file={cached}")[0] == 200
    up = "/".join([".."] * 12)
    for path in (
        "/etc/passwd",
        f"{up}/etc/passwd",
        f"{folder}/{up}/etc/passwd",
        f"{folder}/../work/examples/{example.name}",
        f"{folder}/%2e%2e/work/examples/{example.name}",
        f"{folder}/..%2fwork%2fexamples%2f{example.name}",
        str(example),
        str(folder),
        f"{knowing_folder}/config.json".replace(" ", "%20"),
        f"{ROOT}/README.md",
        "README.md",
        "app.py",
        ".gradio/cached_examples/x",
        "/proc/self/environ",
        "file:///etc/passwd",
        "//etc/passwd",
        f"{url}config",
        "http://localhost:1/",
    ):
        for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/gradio_api/proxy="):
            status, body = ask(url, "GET", f"{route}{path}")
            assert status in (400, 403, 404, 405), (route, path, status)
            assert b"root:" not in body


def upload(url, content, name="x.png"):
    head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    return ask(url, "POST", "/gradio_api/upload", head + content + b"\r\n--b--\r\n", **kind)


def test_uploads_beyond_the_bound_are_refused_and_leave_nothing(served):
    url, folder = served
    assert upload(url, bytes(MB + 1))[0] in (400, 413)
    assert not [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > MB]
    for name in ("../../../escaped.png", "/etc/escaped.png", "..\\escaped.png", "a/../../escaped.png"):
        status, body = upload(url, bytes(10), name)
        assert status == 200
        (kept,) = json.loads(body)
        assert Path(kept).resolve().is_relative_to(folder.resolve())
        assert ".." not in Path(kept).parts


def test_what_is_long_or_needless_is_turned_away_at_the_door(served):
    url, folder = served
    kind = {"Content-Type": "application/json"}
    status, told = ask(url, "POST", "/gradio_api/call/classify", b'"' + bytes(MB) + b'"', **kind)
    assert (status, told) == (413, b"A request of 1,000,002 bytes has come, expected 1,000,000 bytes at most.")
    chunked = {"Transfer-Encoding": "chunked", **kind}
    assert ask(url, "POST", "/gradio_api/call/classify", iter([b" " * MB, b"1"]), **chunked)[0] >= 400
    assert ask(url, "GET", "/gradio_api/deep_link?session_hash=x")[0] == 404
    for path in ("/gradio_api/run/classify", "/gradio_api/api/classify", "/gradio_api/run/map"):
        assert ask(url, "POST", path, json.dumps({"data": [None, 0.5, False]}), **kind)[0] == 404
    statuses = [upload(url, bytes(MB - 1), f"{number}.png")[0] for number in range(11)]
    assert statuses[0] == 200
    assert statuses[-1] == 507
    assert statuses == sorted(statuses)
    for kept in folder.rglob("*.png"):
        kept.unlink()


def test_uploads_are_removed_after_a_while_and_examples_stay(knowing_folder):
    with running(AppSettings(str(knowing_folder), keep_minutes=0.01)) as url:
        (kept,) = json.loads(upload(url, b"12345")[1])
        assert Path(kept).read_bytes() == b"12345"
        wait_for(lambda: not Path(kept).exists())
        assert len(list(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("drawn_*.jpg"))) == 6


def test_more_questions_than_may_wait_are_turned_away(url, region_file, monkeypatch):
    begun, go = threading.Event(), threading.Event()

    def think(*_):
        begun.set()
        go.wait(20)
        raise ValueError("That was hard.")

    monkeypatch.setattr(answering, "classify_region", think)
    (path,) = json.loads(upload(url, region_file.read_bytes())[1])
    question = ("classify", {"path": path, "meta": {"_type": "gradio.FileData"}}, 0.5, False)
    try:
        first = begin(url, *question)
        assert begun.wait(20)
        others = [begin(url, *question) for _ in range(5)]
    finally:
        go.set()
    assert [status for status, _ in (first, *others)] == [200, 200, 200, 200, 503, 503]  # one is answered, three wait
    assert all("That was hard." in end(url, "classify", body) for _, body in (first, *others[:3]))


def test_a_port_that_is_taken_is_refused_with_what_to_do(url, knowing_folder):
    port = urlsplit(url).port
    with pytest.raises(OSError, match=f"No port {port} is free at 127.0.0.1: choose another one with --port"):
        with running(AppSettings(str(knowing_folder), port=port)):
            pass


def begin(url, name, *data):
    """Status and body of the answer to a question."""
    body = json.dumps({"data": data})
    return ask(url, "POST", f"/gradio_api/call/{name}", body, **{"Content-Type": "application/json"})


def call(url, name, *data):
    """What an endpoint's stream of events says last."""
    status, body = begin(url, name, *data)
    assert status == 200, body
    return end(url, name, body)


def end(url, name, begun):
    """What comes of a question, once it is answered."""
    return ask(url, "GET", f"/gradio_api/call/{name}/{json.loads(begun)['event_id']}")[1].decode()


def test_endpoints_take_what_was_uploaded_and_no_other_file_nor_url(served):
    url, folder = served
    asked = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        other = f"http://127.0.0.1:{server.server_address[1]}/a.png"
        within = str(folder)  # of which gradio would take any folder for a file
        outside = ("/etc/passwd", str(ROOT / "README.md"), f"{folder}/../work/examples/drawn_mucus.jpg")
        for path in (*outside, other, within):
            file = {"path": path, "url": other, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
            questions = (("classify", (file, 0.5, False)), ("classify", (None, file, False)), ("map", (file, 0.5)))
            for name, data in (*questions, ("classify", (None, 0.5, file)), ("map", (None, file))):
                said = call(url, name, *data)
                assert said.startswith("event: error"), path
                assert ("This app downloads nothing" in said) == (path == other)
        server.shutdown()
    assert asked == []
    assert not list(folder.rglob("passwd"))


def test_programs_see_two_endpoints_and_get_answers_and_sentences(url, region_file, region_pixels, tmp_path):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    endpoints = json.loads(ask(url, "GET", "/gradio_api/info")[1])
    assert set(endpoints["named_endpoints"]) == {"/classify", "/map"}
    assert endpoints["unnamed_endpoints"] == {}
    client = Client(url, verbose=False, analytics_enabled=False, download_files=str(tmp_path))
    probabilities, details, picture = client.predict(handle_file(str(region_file)), api_name="/classify")
    assert {row["label"] for row in probabilities["confidences"]} == set(CLASS_NAMES)
    assert (details["is_familiar"], details["is_calibrated"]) == (False, False)
    assert Image.open(picture).size == (1000, 1000)
    Image.fromarray(region_pixels[:100]).save(tmp_path / "small.png")
    with pytest.raises(AppError, match=r"small.png is 140 x 100 px \(width x height\), expected 140 x 140 px"):
        client.predict(handle_file(str(tmp_path / "small.png")), 0.5, False, api_name="/classify")
    (tmp_path / "slide.mrxs").write_bytes(b"x")
    with pytest.raises(AppError, match=r"slide.mrxs is one of the many files of a slide"):
        client.predict(handle_file(str(tmp_path / "slide.mrxs")), api_name="/map")
    client.close()


# --- In the browser


class Visitor:
    """Somebody at the page."""

    def __init__(self, browser, url):
        self.browser, self.url = browser, url

    def open(self, width=1400, height=1000):
        resize(self.browser, width, height)
        self.browser.get(self.url)
        wait_for(lambda: self.all("#classify"))

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def script(self, text):
        return self.browser.execute_script(text)

    def upload(self, where, path):
        wait_for(lambda: self.all(f"#{where} input[type=file]"))[0].send_keys(str(path))
        wait_for(lambda: Path(path).stem[:5] in self.all(f"#{where}")[0].text)

    def click(self, selector):
        wait_for(lambda: [found for found in self.all(selector) if found.is_displayed()])[0].click()

    def told(self, where, word):
        """The sentences of a place, once they have a word in them and gradio no longer counts the seconds beside."""
        return wait_for(lambda: word in (text := self.all(f"#{where}")[0].text) and "processing |" not in text and text)

    def fits(self):
        """Whether the page is no wider than the window."""
        return self.script("return document.documentElement.scrollWidth <= window.innerWidth")


@pytest.fixture(scope="module")
def visitor(url):
    with open_browser() as browser:
        yield Visitor(browser, url)


@pytest.fixture
def at_page(visitor):
    visitor.open()
    return visitor


def test_an_uploaded_region_is_named_and_another_file_refused_in_a_sentence(at_page, region_file, tmp_path):
    at_page.upload("region-file", region_file)
    at_page.click("#classify")
    told = at_page.told("region-told", "Unfamiliar: ")
    assert "the name is a guess at best" in told
    assert at_page.all("#label h2")[0].text in CLASS_NAMES
    assert "probabilities as the training left them, not calibrated" in at_page.all("#label")[0].text
    wait_for(lambda: at_page.script("return document.querySelector('#attention img').naturalWidth") == 1000)
    at_page.open()
    (tmp_path / "words.png").write_text("not an image")
    at_page.upload("region-file", tmp_path / "words.png")
    at_page.click("#classify")
    assert at_page.told("region-told", "words.png") == (
        "words.png is no image that can be read here: expected a PNG, JPEG or TIFF image."
    )
    assert not at_page.all("#label h2")
    text = at_page.script("return document.body.innerText")
    assert "Traceback" not in text
    assert "Error" not in text


def test_a_click_without_a_file_says_what_is_missing(at_page):
    at_page.click("#classify")
    assert "upload a PNG, JPEG or TIFF image of 140 x 140 px" in at_page.told("region-told", "No file has come")


def test_a_drawn_region_is_answered_at_a_click_on_a_phone_too(visitor):
    visitor.open(400, 900)
    assert visitor.fits()
    visitor.click("#examples button.thumbnail-lg")
    visitor.told("region-told", "Unfamiliar: ")
    assert visitor.all("#label h2")[0].text in CLASS_NAMES
    assert visitor.fits()


def test_a_slide_becomes_a_map_with_its_report_in_a_frame_of_its_own(at_page, tmp_path):
    path = write_pyramid(tmp_path / "piece.tif", draw_slide(300, 230, seed=1), 0.5)
    at_page.click("button[role=tab]:nth-of-type(2)")
    at_page.upload("slide-file", path)
    at_page.click("#map")
    assert "unlike what the model has learnt from" in at_page.told("slide-told", "unlike")
    wait_for(lambda: at_page.script("return document.querySelector('#overview img').naturalWidth"))
    assert at_page.all("#composition tbody tr")
    assert "piece.report" in at_page.all("#report-file")[0].text
    frame = wait_for(lambda: at_page.all("#report iframe"))[0]
    at_page.browser.execute_script("arguments[0].scrollIntoView()", frame)  # browsers draw no frame that nobody sees
    at_page.browser.switch_to.frame(frame)
    wait_for(lambda: at_page.script("return document.getElementById('map').dataset.complete") == "true")
    assert at_page.script("return window.origin") == "null"  # it can neither read the page nor ask the app
    at_page.browser.switch_to.default_content()
    resize(at_page.browser, 400, 900)
    assert wait_for(at_page.fits)


def test_the_page_asks_nobody_else(at_page):
    at_page.click("#examples button.thumbnail-lg")
    at_page.told("region-told", "Unfamiliar: ")
    asked = at_page.script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert len(asked) > 10
    assert [name for name in asked if urlsplit(name).scheme != "data" and not name.startswith(at_page.url)] == []
    fonts = at_page.script("return getComputedStyle(document.querySelector('.gradio-container')).fontFamily")
    assert fonts.startswith("system-ui")
