"""report.html: one file with everything, whatever slides and classes are called."""

import re

import pytest
from report_page import Page

from spider_tools.slides import outputs, pictures
from spider_tools.slides.composition import make_composition
from spider_tools.slides.html_report import make_report


@pytest.fixture
def report(predictions, thumbnail):
    figures = {
        "overview.png": outputs.as_png(pictures.draw_overview(thumbnail, predictions, "s")),
        "heatmaps.png": outputs.as_png(pictures.draw_heatmaps(thumbnail, predictions, "s")),
    }
    facts = {"Model": "<script>alert(1)</script>", "Stride": 28}
    return make_report("a <b>slide</b>", make_composition(predictions), facts, ["It may be wrong."], figures)


def test_the_report_needs_no_other_file_and_escapes_names(report):
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)", report)
    assert report.count("data:image/png;base64,") == 2
    assert "<script" not in report
    assert "&lt;script&gt;alert(1)" in report
    assert "a &lt;b&gt;slide&lt;/b&gt;" in report
    assert "Fat &amp; &lt;oil&gt;" in report
    assert "not for diagnosis" in report
    assert "It may be wrong." in report


BAD_NAMES = ["<script>alert(1)</script>", "A & B", "'single' and \"double\"", "</td></table>", "{{ 7 * 7 }}", "&lt;"]


def composition_of(names):
    certain = [{"probability": 0.98, "center_level0": [12.0, 34.0]}]
    row = {"patches": 1, "area_mm2": 0.1, "percent_of_tissue": 50.0, "percent_unfamiliar": 12.5}
    row |= {"mean_probability": 0.5, "most_certain": certain}
    return {
        "tissue_mm2": 0.2,
        "cells_mm2": 0.3,
        "percent_left_out": 4.56,
        "percent_unfamiliar": None,
        "classes": {name: row for name in names},
    }


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_are_shown_as_they_are_and_never_become_part_of_the_page(name):
    text = make_report(name, composition_of([name, "Fat"]), {name: name}, [name], {"tissue.png": b"x"})
    page = Page(text)
    tame = Page(make_report("t", composition_of(["c", "Fat"]), {"k": "v"}, ["l"], {"tissue.png": b"x"}))
    assert page.tags == tame.tags
    assert f"{name}: tissue map" in page.texts
    order = sorted([name, "Fat"])
    assert re.findall(r'class="mark">(.*?)<', text) == [str(order.index(name) + 1), str(order.index("Fat") + 1)]
    assert page.texts.count(name) == 5  # heading, class, limit, and both cells of a setting


def test_numbers_are_rounded_for_people():
    composition = composition_of(["Fat"]) | {"tissue_mm2": 1234.567}
    composition["classes"]["Fat"] |= {"patches": 12345, "area_mm2": 1234.5678, "mean_probability": 0.51234}
    composition["classes"]["Fat"]["most_certain"] = [
        {"probability": 0.987 - place / 10, "center_level0": [12.3 + place, 300.4]} for place in range(5)
    ]
    texts = Page(make_report("t", composition, {}, [], {})).texts
    told = "1,234.57 mm² of tissue were classified, in 0.30 mm² of cells of the map; 4.6% of the tissue that was found"
    assert f"{told} is in none of them." in texts
    assert {"12,345", "1,234.568", "50.0%", "0.512"} <= set(texts)
    assert [text for text in texts if text.endswith(")") and ", 300" in text] == [
        "12, 300 (0.99)",
        "13, 300 (0.89)",
        "14, 300 (0.79)",
    ]


def test_a_class_that_is_nowhere_has_a_dash_for_its_places(report):
    assert report.count("&ndash;") == 1


def test_a_picture_that_the_report_has_no_place_for_is_refused():
    with pytest.raises(KeyError, match=r"other\.png"):
        make_report("t", composition_of(["Fat"]), {}, [], {"other.png": b""})
