"""report.html in a real browser: what a reader moves, switches on and off, points at and prints."""

import re

import numpy as np
import pytest
from browser import open_browser, resize, wait_for
from slide_files import draw_slide
from slide_predictions import CLASS_NAMES, CLASSES, MPP, make_predictions

from spider_tools.slide_files.slide import Level, Slide
from spider_tools.slide_files.view import SlideView
from spider_tools.slides import outputs, pictures
from spider_tools.slides.colors import class_colors, class_numbers, looks_of
from spider_tools.slides.composition import make_composition
from spider_tools.slides.html_report import SlideMap, make_report
from spider_tools.slides.report_map import make_map
from spider_tools.slides.report_patches import patch_pictures
from spider_tools.slides.report_tiles import make_tiles

pytestmark = pytest.mark.slow

SIZE = (300, 348)  # level-0 px: a little more than the lattice
HOSTILE = "</script><script>document.title = 'run'</script><!--"
THRESHOLD = 2.0


class Drawn(Slide):
    """A slide in memory."""

    def __init__(self):
        self.mpp = MPP
        self.levels = (Level(SIZE, (1.0, 1.0)),)
        self.bounds = (0, 0, *SIZE)
        self.pixels = draw_slide(*SIZE, seed=5)

    def read_level(self, level, corner, size):
        return self.pixels[corner[1] : corner[1] + size[1], corner[0] : corner[0] + size[0]]


class Reader:
    """Somebody who reads the report."""

    def __init__(self, browser, path, predictions, slide):
        self.browser, self.path, self.predictions, self.slide = browser, path, predictions, slide

    def open(self, width=1300, height=1000):
        resize(self.browser, width, height)
        self.browser.get(f"file://{self.path}")
        wait_for(lambda: self.script("return document.getElementById('map').dataset.complete") == "true")

    def script(self, text, *arguments):
        return self.browser.execute_script(text, *arguments)

    def element(self, id):
        return self.browser.find_element("id", id)

    def text(self, id):
        return self.script("return document.getElementById(arguments[0]).textContent", id)

    def drawn(self):
        """Wait until the map is drawn anew and all of its pictures are there."""
        self.browser.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
        )
        wait_for(lambda: self.script("return document.getElementById('map').dataset.complete") == "true")

    def choose(self, name, value):
        self.browser.find_element("css selector", f"input[name={name}][value='{value}']").click()
        self.drawn()

    def slide_to(self, id, value):
        self.script(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event('input', {bubbles: true}))",
            id,
            value,
        )
        self.drawn()

    @property
    def um_per_px(self):
        return float(self.script("return document.getElementById('map').dataset.umPerPx"))

    def canvas_place(self, index, shift=(0.0, 0.0)):
        """Where the centre of a prediction's patch lies on the canvas of a whole slide, moved by um, in px of it."""
        width, height = self.script("const m = document.getElementById('map'); return [m.clientWidth, m.clientHeight]")
        center = self.predictions.centers_level0[index] * MPP
        middle = np.array(SIZE) * MPP / 2
        return (center + shift - middle) / self.um_per_px + np.array([width, height]) / 2

    def color_at(self, index, shift=(0.0, 0.0)):
        """Of the canvas, uint8 `(3,)`."""
        x, y = np.rint(self.canvas_place(index, shift)).astype(int).tolist()
        return self.pixels(x, y, 1, 1)[0, 0]

    def pixels(self, x, y, width, height):
        """Of the canvas, from a corner on, uint8 `(height, width, 3)`."""
        script = """const drawn = document.getElementById('map').getContext('2d');
        return [...drawn.getImageData(...arguments).data]"""
        return np.array(self.script(script, x, y, width, height)).reshape(height, width, 4)[..., :3]

    def point_at(self, index):
        from selenium.webdriver.common.action_chains import ActionChains

        canvas = self.element("map")
        x, y = self.canvas_place(index)
        middle = np.array([canvas.size["width"], canvas.size["height"]]) / 2
        offset = np.rint(np.array([x, y]) - middle).astype(int).tolist()
        mouse = ActionChains(self.browser, duration=0)
        mouse.move_to_element(self.element("zoom-out")).move_to_element_with_offset(canvas, *offset).perform()
        return self.text("pointed")


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """With predictions of which one in four is unfamiliar."""
    slide, predictions = Drawn(), make_predictions(CLASSES)
    count = len(predictions.positions)
    doubts = {"unfamiliarity": np.linspace(0.5, 2.5, count).astype(np.float32), "unfamiliarity_threshold": THRESHOLD}
    predictions = type(predictions)(**{**predictions.__dict__, **doubts})
    composition, looks = make_composition(predictions), looks_of(predictions)
    cells = predictions.map_of(np.ones(count, dtype=bool), False)
    tiles = make_tiles(slide, predictions.lattice, cells, 0.5)
    view = SlideView(slide, predictions.lattice.scale)
    slide_map = SlideMap(make_map(slide, predictions, tiles, looks), patch_pictures(view, predictions), composition)
    thumbnail = pictures.Thumbnail(slide.pixels, (SIZE[0] * MPP[0] / 1000, SIZE[1] * MPP[1] / 1000))
    figures = {"overview.png": outputs.as_png(pictures.draw_overview(thumbnail, predictions, "s"))}
    page = make_report(HOSTILE, composition, {HOSTILE: HOSTILE}, [HOSTILE], figures, [HOSTILE], looks, slide_map)
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(page, encoding="utf-8")
    with open_browser() as browser:
        reader = Reader(browser, path, predictions, slide)
        reader.open()
        yield reader


@pytest.fixture(autouse=True)
def opened(reader):
    reader.open()


def off_the_mark(reader):
    """A shift in um from the centre of a cell, where its number stands, that stays in the cell."""
    return reader.predictions.lattice.stride * reader.predictions.lattice.scale[0] * MPP[0] * np.array([0.33, 0.2])


def test_the_page_runs_its_own_script_and_nothing_else(reader):
    assert reader.browser.title == f"{HOSTILE}: tissue map"
    assert reader.browser.find_element("tag name", "h1").text == HOSTILE
    reader.script("const s = document.createElement('script'); s.text = 'document.title = 1'; document.body.append(s)")
    assert reader.browser.title != "1"
    said = [entry["message"] for entry in reader.browser.get_log("browser")]
    assert len(said) == 1, said
    assert "Content Security Policy" in said[0]


def test_every_cell_has_the_colour_of_its_class_and_opacity_mixes_it_with_the_slide(reader):
    reader.slide_to("opacity", 100)
    shift, colors = off_the_mark(reader), class_colors(CLASS_NAMES)
    familiar = np.flatnonzero(~reader.predictions.is_unfamiliar)
    for index in familiar:
        name = CLASS_NAMES[reader.predictions.predicted[index]]
        assert reader.color_at(index, shift).tolist() == list(colors[name])
    index = familiar[0]
    full = reader.color_at(index, shift)
    reader.slide_to("opacity", 0)
    bare = reader.color_at(index, shift)
    reader.slide_to("opacity", 25)
    np.testing.assert_allclose(reader.color_at(index, shift), 0.25 * full + 0.75 * bare, atol=3)
    assert reader.text("opacity-value") == "25%"


def test_what_is_unfamiliar_is_hatched_and_nothing_else(reader):
    reader.slide_to("opacity", 100)
    corner = reader.predictions.lattice.stride * reader.predictions.lattice.scale[0] * MPP[0] * 0.42

    def colors_of(index):
        """Along the lower edge of a cell, below its number."""
        (left, y), (right, _) = (reader.canvas_place(index, (x, corner)) for x in (-corner, corner))
        line = reader.pixels(round(left), round(y), round(right - left), 1)[0]
        return len(np.unique(line, axis=0))

    for index in range(len(reader.predictions.positions)):
        assert (colors_of(index) > 1) == bool(reader.predictions.is_unfamiliar[index])
    reader.element("hatch").click()
    reader.drawn()
    assert colors_of(np.flatnonzero(reader.predictions.is_unfamiliar)[0]) == 1


def test_pointing_tells_class_probability_unfamiliarity_and_place(reader):
    numbers = class_numbers(CLASS_NAMES)
    for index in (0, 5, len(reader.predictions.positions) - 1):
        told = reader.point_at(index)
        probabilities = reader.predictions.probabilities[index]
        first, second = np.argsort(-probabilities)[:2]
        assert f"{numbers[CLASS_NAMES[first]]} {CLASS_NAMES[first]}, probability {probabilities[first]:.3f}" in told
        assert f"then {numbers[CLASS_NAMES[second]]} {CLASS_NAMES[second]} {probabilities[second]:.3f}" in told
        assert f"entropy {reader.predictions.entropy[index]:.2f} nat" in told
        value = float(re.search(r"unfamiliarity ([\d.]+) \((un)?familiar\)", told)[1])
        assert value == pytest.approx(reader.predictions.unfamiliarity[index], rel=0.01)
        assert ("(unfamiliar)" in told) == bool(reader.predictions.is_unfamiliar[index])
        place = [int(number) for number in re.search(r"; x (\d+), y (\d+) px", told).groups()]
        np.testing.assert_allclose(place, reader.predictions.centers_level0[index], atol=1.5)


def test_classes_are_switched_off_and_on(reader):
    [index, *_] = np.flatnonzero(reader.predictions.predicted == 0)
    reader.slide_to("opacity", 100)
    shift = off_the_mark(reader)
    before = reader.color_at(index, shift)
    reader.choose("class", 0)
    assert not np.array_equal(reader.color_at(index, shift), before)
    assert "Nothing is shown here" in reader.point_at(index)
    left = int((reader.predictions.predicted != 0).sum())
    area = left * reader.predictions.cell_area_mm2
    assert reader.text("shown-area") == f"Shown: {area:.3f} mm² of tissue in {left} cells."
    reader.element("no-classes").click()
    assert "in 0 cells" in reader.text("shown-area")
    reader.element("all-classes").click()
    reader.drawn()
    np.testing.assert_array_equal(reader.color_at(index, shift), before)


def test_the_threshold_leaves_what_is_at_least_so_probable(reader):
    best = reader.predictions.probabilities.max(axis=1)
    for percent in (40, 60, 95, 0):
        reader.slide_to("threshold", percent)
        count = int((np.rint(best * 65535) / 65535 >= percent / 100).sum())
        assert f"in {count} cells" in reader.text("shown-area")
        assert reader.text("threshold-value") == f"{percent / 100:.2f}"


def test_outlines_leave_the_inside_as_it_is_and_hidden_leaves_all(reader):
    shift = off_the_mark(reader)
    inside = int(np.flatnonzero((reader.predictions.positions == [0, 1]).all(axis=1))[0])  # beside cells of its class
    reader.choose("mode", "hidden")
    bare = reader.color_at(inside, shift)
    upper = reader.color_at(inside, (shift[0], -reader.predictions.lattice.stride * 3 * MPP[1] / 2))
    reader.choose("mode", "outlines")
    np.testing.assert_array_equal(reader.color_at(inside, shift), bare)
    line = reader.color_at(inside, (shift[0], -reader.predictions.lattice.stride * 3 * MPP[1] / 2))
    assert not np.array_equal(line, upper)
    np.testing.assert_allclose(line, class_colors(CLASS_NAMES)["Stroma"], atol=40)


def test_entropy_and_unfamiliarity_are_brighter_where_there_is_more_of_them(reader):
    reader.slide_to("opacity", 100)
    shift = off_the_mark(reader)
    familiar = np.flatnonzero(~reader.predictions.is_unfamiliar)
    values = {"entropy": reader.predictions.entropy, "unfamiliarity": reader.predictions.unfamiliarity}
    for coloring, value in values.items():
        reader.choose("coloring", coloring)
        brightness = np.array([reader.color_at(index, shift) @ [0.3, 0.6, 0.1] for index in familiar])
        order = np.argsort(value[familiar])
        assert (np.diff(brightness[order]) > -1.5).all()
        shown = [
            e.get_attribute("data-coloring")
            for e in reader.browser.find_elements("class name", "scale")
            if e.is_displayed()
        ]
        assert shown == [coloring]


def test_closer_shows_the_slide_itself_and_whole_shows_all_of_it(reader):
    whole = reader.um_per_px
    reader.choose("mode", "hidden")
    for _ in range(3):
        reader.element("zoom-in").click()
    reader.drawn()
    assert reader.um_per_px == pytest.approx(whole / 1.4**3, rel=1e-4)
    width, height = reader.script("const m = document.getElementById('map'); return [m.width, m.height]")
    seen = reader.pixels(width // 2 - 150, height // 2 - 150, 300, 300)
    half = 150 * reader.um_per_px / np.array(MPP)
    (left, top), (right, bottom) = (np.array(SIZE) / 2 + sign * half for sign in (-1, 1))
    true = reader.slide.pixels[round(top) : round(bottom), round(left) : round(right)]
    np.testing.assert_allclose(seen.mean(axis=(0, 1)), true.mean(axis=(0, 1)), atol=6)
    reader.element("zoom-all").click()
    reader.drawn()
    assert reader.um_per_px == pytest.approx(whole)


def test_keys_move_and_zoom_and_what_is_at_the_centre_is_read_out(reader):
    from selenium.webdriver.common.keys import Keys

    canvas = reader.element("map")
    whole = reader.um_per_px
    canvas.send_keys("+")
    wait_for(lambda: reader.um_per_px == pytest.approx(whole / 1.4, rel=1e-4))
    before = reader.text("spoken")
    canvas.send_keys(Keys.ARROW_RIGHT)
    canvas.send_keys(Keys.ARROW_DOWN)
    after = reader.text("spoken")
    places = [[int(n) for n in re.search(r"x (-?\d+), y (-?\d+) px", text).groups()] for text in (before, after)]
    moved = 60 * reader.um_per_px / np.array(MPP)
    np.testing.assert_allclose(np.subtract(*places[::-1]), moved, atol=1)
    canvas.send_keys("0")
    wait_for(lambda: reader.um_per_px == pytest.approx(whole))


def test_the_mouse_drags_the_slide(reader):
    from selenium.webdriver.common.action_chains import ActionChains

    index = int(np.flatnonzero((reader.predictions.positions == [2, 2]).all(axis=1))[0])
    reader.element("zoom-in").click()
    reader.drawn()
    told = reader.point_at(index)
    chain = ActionChains(reader.browser, duration=0).click_and_hold().move_by_offset(70, 40).release()
    chain.perform()
    strip = r"; x .*"
    assert re.sub(strip, "", reader.text("pointed")) == re.sub(strip, "", told)  # the same cell is under the mouse


def test_a_picture_of_a_patch_leads_to_its_place(reader):
    for button in reader.browser.find_elements("css selector", "button.patch")[:3]:
        probability = re.search(r"[\d.]+", button.text)[0]
        alt = button.find_element("tag name", "img").get_attribute("alt")
        name, x, y = re.fullmatch(r"(.+) at x (\d+), y (\d+)", alt).groups()
        button.click()
        told = reader.text("pointed")
        assert f"{name}, probability {probability}" in told
        np.testing.assert_allclose(
            [int(n) for n in re.search(r"x (\d+), y (\d+) px", told).groups()], [int(x), int(y)], atol=1
        )


def test_everything_that_is_operated_has_a_name(reader):
    nameless = """return [...document.querySelectorAll('input, button, img, canvas, [tabindex]')].filter(
        (e) => !(e.labels?.length || e.textContent.trim() || e.getAttribute('alt') || e.getAttribute('aria-label'))
    ).map((e) => e.outerHTML.slice(0, 80))"""
    assert reader.script(nameless) == []


@pytest.mark.parametrize("width", [400, 700, 1400])
def test_the_page_fits_and_words_are_whole(reader, width):
    reader.open(width, 900)
    assert reader.script("return document.documentElement.scrollWidth") <= width
    broken = """return [...document.querySelectorAll('.name')].flatMap((e) => {
        const text = e.firstChild;
        return [...text.data.matchAll(/\\S+/g)].filter((word) => {
            const range = document.createRange();
            range.setStart(text, word.index);
            range.setEnd(text, word.index + word[0].length);
            return range.getClientRects().length > 1;
        }).map((word) => word[0]);
    })"""
    assert reader.script(broken) == []


def test_on_paper_there_are_pictures_and_no_controls(reader):
    visible = """return [...document.querySelectorAll('#map, .still img, .controls, .buttons')]
        .filter((e) => e.offsetParent).map((e) => e.id || e.className || e.tagName)"""
    assert set(reader.script(visible)) == {"map", "controls", "buttons"}
    reader.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert set(reader.script(visible)) == {"map", "IMG"}
    finally:
        reader.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_without_scripts_there_is_the_picture(reader):
    reader.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        reader.browser.get(f"file://{reader.path}")
        assert not reader.element("viewer").is_displayed()
        assert reader.browser.find_element("css selector", ".still img").is_displayed()
        assert reader.browser.find_element("tag name", "table").is_displayed()
    finally:
        reader.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
