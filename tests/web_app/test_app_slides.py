"""A slide on the page: the map that segment_slide makes of it, or one sentence, and nothing left behind."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from slide_files import draw_slide, write_pyramid

from spider_tools.cohorts.many import segment_slide
from spider_tools.files import read_json_object
from spider_tools.slides.settings import SlideSettings
from spider_tools.web_app import answering
from spider_tools.web_app.answering import Answers
from spider_tools.web_app.settings import AppSettings
from spider_tools.web_app.slide_maps import map_upload

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


class Refused(Exception):  # noqa: N818
    def __init__(self, message, print_exception):
        super().__init__(message)


@pytest.fixture
def slide_file(tmp_path):
    return write_pyramid(tmp_path / "slide.tif", draw_slide(300, 230, seed=1), 0.5)


@pytest.fixture
def answers(app_model, tmp_path):
    """What happens on clicks, with the little of gradio that it needs."""
    (tmp_path / "work").mkdir()
    gradio = SimpleNamespace(update=lambda visible: visible, Error=Refused)
    return Answers(gradio, app_model, AppSettings("m", max_upload_mb=2), tmp_path / "work", [])


def test_the_map_is_that_of_segment_slide(app_model, slide_file, tmp_path, knowing_folder):
    answer = map_upload(slide_file, None, tmp_path / "work", app_model, AppSettings("m"))
    segment_slide(slide_file, SlideSettings(str(knowing_folder), tmp_path / "R", num_workers=0))
    assert answer.composition == read_json_object(tmp_path / "R" / "slide" / "composition.json")
    assert answer.overview.read_bytes() == (tmp_path / "R" / "slide" / "overview.png").read_bytes()
    assert answer.report.name == "slide.report.html"
    assert "<title>slide: tissue map</title>" in answer.report.read_text()
    assert answer.warnings == read_json_object(tmp_path / "R" / "slide" / "slide.json")["warnings"]
    largest = next(iter(answer.composition["classes"]))
    assert answer.rows[0][0] == largest
    assert answer.rows[0][3].endswith("%")


def test_a_click_gives_the_results_and_then_removes_them(answers, slide_file, tmp_path, plain_pictures):
    clicked = answers.slide(str(slide_file), None, lambda *_, **__: None)
    told, overview, table, report, frame, shown = next(clicked)
    assert shown is True
    assert "unlike what the model has learnt from" in told
    assert Image.open(overview).format == "PNG"
    assert "<table>" in table
    assert "<iframe" in frame
    assert report.endswith("slide.report.html")
    assert next(clicked, None) is None
    assert list((tmp_path / "work").iterdir()) == []


def test_a_program_gets_the_same_and_errors_as_errors(answers, slide_file, tmp_path, plain_pictures):
    overview, composition, report = next(answers.map(str(slide_file), 0))
    assert composition["classes"]
    assert composition["warnings"]
    assert overview.endswith(".png")
    assert report.endswith(".html")
    with pytest.raises(Refused, match=r"absurd.*Give the true value in the field um/px"):
        next(answers.map(str(slide_file), 100))
    with pytest.raises(Refused, match=r"upload a slide in one file"):
        next(answers.map(None, 0))
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.mrxs", b"x", r"a.mrxs is one of the many files of a slide \(MRXS\).*pyramidal TIFF"),
        ("a.vms", b"x", r"a.vms is one of the many files of a slide \(VMS\)"),
        ("a.dcm", b"x", r"a.dcm is one of the many files of a slide \(DCM\)"),
        ("a.csv", b"slide\n/etc/passwd\n", "a.csv is a list, not a slide"),
        ("a.txt", b"/etc/passwd\n", "a.txt is a list, not a slide"),
        ("a.svs", b"not a slide", "a.svs is neither a slide that OpenSlide reads nor an image"),
        ("a.svs", b"", "a.svs is empty"),
        ("a.svs", bytes(2_000_001), "a.svs has 2.0 MB, expected 2 MB at most"),
        ("con.svs", b"x", r"con.svs gives the name 'con'.*Windows cannot have"),
        (".svs", b"x", "hidden"),
    ],
)
def test_what_is_no_slide_is_refused_in_one_sentence(answers, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    told, overview, *_, shown = next(answers.slide(str(tmp_path / name), 0, lambda *_, **__: None))
    assert (overview, shown) == (None, False)
    with pytest.raises(Refused, match=message) as refused:
        next(answers.map(str(tmp_path / name), 0))
    assert str(tmp_path) not in str(refused.value)
    assert str(tmp_path) not in told
    assert list((tmp_path / "work").iterdir()) == []


def test_an_image_needs_its_um_per_px(answers, tmp_path, plain_pictures):
    Image.fromarray(draw_slide(300, 230, seed=1)).save(tmp_path / "slide.png")
    told = next(answers.slide(str(tmp_path / "slide.png"), 0, lambda *_, **__: None))[0]
    assert "slide.png does not say its um/px. Give it in the field um/px" in told
    assert next(answers.slide(str(tmp_path / "slide.png"), 0.5, lambda *_, **__: None))[-1] is True


def test_bombs_and_slides_of_too_many_patches_are_refused(app_model, slide_file, tmp_path, bomb, answers):
    (tmp_path / "bomb.png").write_bytes(bomb)
    told = next(answers.slide(str(tmp_path / "bomb.png"), 0.5, lambda *_, **__: None))[0]
    assert "bomb.png is a plain image of more than" in told
    message = r"has \d+ patches with tissue and their context \(300 x 230 px at 0.5 um/px\), expected 5 at most"
    with pytest.raises(ValueError, match=message):
        map_upload(slide_file, None, tmp_path / "work", app_model, AppSettings("m", max_patches=5))
    pixels = np.full((28 * 6, 28 * 6, 3), 250, np.uint8)
    wide = write_pyramid(tmp_path / "wide.tif", pixels, 0.5)
    with pytest.raises(ValueError, match="has 36 patches, glass included"):
        map_upload(wide, None, tmp_path / "work", app_model, AppSettings("m", max_patches=1))


@pytest.mark.parametrize("given", ["0.5", True, [0.5], {"mpp": 0.5}])
def test_what_programs_send_for_a_number_is_refused_in_words(answers, slide_file, region_file, given):
    with pytest.raises(Refused, match="The um/px must be a number, got"):
        next(answers.map(str(slide_file), given))
    with pytest.raises(Refused, match="The um/px must be a number, got"):
        answers.classify(str(region_file), given, False)


@pytest.mark.parametrize("given", [99, "a", None])
def test_an_example_that_is_not_there_is_refused_in_words(answers, given):
    told, *others = answers.example(given)
    assert "no fault of the file" in told
    assert others == [None, None, False]


def test_a_slide_is_mapped_although_its_upload_is_removed_meanwhile(answers, slide_file, monkeypatch, plain_pictures):
    usual = answering.map_upload

    def after_removal(path, *rest):
        slide_file.unlink()
        return usual(path, *rest)

    monkeypatch.setattr(answering, "map_upload", after_removal)
    _, composition, _ = next(answers.map(str(slide_file), 0))
    assert composition["classes"]
