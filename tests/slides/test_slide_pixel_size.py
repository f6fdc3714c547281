"""um/px: where they are looked for and in which order, what is a guess, and what contradicts what."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image
from slide_files import draw_slide, write_pyramid
from tiff_kinds import HALF, PIXELS, QUARTER, RGB, TILED, write_pages, write_subifds

from spider_tools.cohorts.many import segment_slide
from spider_tools.slide_files.reader import open_slide
from spider_tools.slide_files.slide_error import SlideError
from spider_tools.slides.settings import SlideSettings

TAGS = "the TIFF's resolution tags"
APERIO = "Aperio Image Library v11.2.1 \n332x252 (64x64) RGB|AppMag = {power}|MPP = {mpp}"


def resolution(um, unit="CENTIMETER"):
    """Tags for um/px."""
    per_unit = {"INCH": 25400, "CENTIMETER": 10000, "NONE": 1}[unit] / um
    return {"resolution": (per_unit, per_unit), "resolutionunit": unit}


def ome(size=None, unit=None, power=None, image=(332, 252)):
    """OME-XML as Bio-Formats writes it."""
    units = "" if unit is None else f'PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}"'
    sizes = "" if size is None else f'PhysicalSizeX="{size}" PhysicalSizeY="{size}" {units}'
    lens = "" if power is None else f'<Instrument><Objective ID="O" NominalMagnification="{power}"/></Instrument>'
    return (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'{lens}<Image ID="Image:0" Name="x"><Pixels DimensionOrder="XYCZT" SizeX="{image[0]}" SizeY="{image[1]}" '
        f'SizeZ="1" SizeT="1" SizeC="3" Type="uint8" {sizes}><Channel SamplesPerPixel="3"/><TiffData IFD="0"/>'
        "</Pixels></Image></OME>"
    )


def tiles(path, text=None, **options):
    """A pyramid that OpenSlide knows as a generic TIFF, whose tags it then reads itself."""
    options = {"resolutionunit": "NONE", **options}
    return write_pages(
        path, PIXELS, QUARTER, each=[{"description": text}, {"subfiletype": 1}], **RGB, **TILED, **options
    )


def strips(path, text=None, **options):
    """What OpenSlide does not read."""
    return write_pages(path, PIXELS, description=text, **{**RGB, "resolutionunit": "NONE", **options})


def set_text(path, text):
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["ImageDescription"].overwrite(text)
    return path


# Written how, and (um/px, where it stands).
SOURCES = {
    "tags in cm": (lambda p: strips(p, **resolution(0.25)), 0.25, TAGS),
    "tags in inches": (lambda p: strips(p, **resolution(0.25, "INCH")), 0.25, TAGS),
    "tags, big endian": (lambda p: strips(p, byteorder=">", **resolution(0.5)), 0.5, TAGS),
    "tags, level 0 not first": (
        lambda p: write_pages(p, QUARTER, PIXELS, each=[resolution(1), resolution(0.25)], **RGB, **TILED),
        0.25,
        TAGS,
    ),
    "ImageJ in um": (
        lambda p: tifffile.imwrite(p, PIXELS, imagej=True, resolution=(4, 4), metadata={"unit": "um"}) or p,
        0.25,
        f"{TAGS} in ImageJ's unit",
    ),
    "ImageJ in Java's spelling": (
        lambda p: tifffile.imwrite(p, PIXELS, imagej=True, resolution=(2, 2), metadata={"unit": "\\u00B5m"}) or p,
        0.5,
        f"{TAGS} in ImageJ's unit",
    ),
    "ImageJ in mm": (
        lambda p: tifffile.imwrite(p, PIXELS, imagej=True, resolution=(4000, 4000), metadata={"unit": "mm"}) or p,
        0.25,
        f"{TAGS} in ImageJ's unit",
    ),
    "OME without a unit": (lambda p: strips(p, ome(0.25)), 0.25, "its OME-XML"),
    "OME in SubIFDs": (lambda p: write_subifds(p, PIXELS, HALF), 0.5, "its OME-XML"),
    "OME in tiles": (lambda p: tiles(p, ome(0.25)), 0.25, "its OME-XML"),
    "Aperio's text in tiles": (lambda p: tiles(p, "made from a.svs|MPP = 0.2527|x"), 0.2527, "Aperio's text in it"),
    "Aperio's text in strips": (
        lambda p: strips(p, APERIO.format(power=20, mpp="0.4990")),
        0.499,
        "Aperio's text in it",
    ),
    "Aperio's text with a comma": (lambda p: strips(p, "AppMag = 40|MPP = 0,25"), 0.25, "Aperio's text in it"),
    "Aperio's slide with tags": (
        lambda p: set_text(
            tiles(p, APERIO.format(power=20, mpp="0.5000"), **resolution(0.5)), APERIO.format(power=20, mpp="")
        ),
        0.5,
        TAGS,
    ),
    "72 dpi and OME": (lambda p: tiles(p, ome(0.25), resolution=(72, 72), resolutionunit="INCH"), 0.25, "its OME-XML"),
    "96 dpi and Aperio's text": (
        lambda p: strips(p, "|MPP = 0.25|", resolution=(96, 96), resolutionunit="INCH"),
        0.25,
        "Aperio's text in it",
    ),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_guess_is_found_and_named(tmp_path, kind, caplog):
    write, um, source = SOURCES[kind]
    slide = open_slide(write(tmp_path / "s.tif"))
    assert slide.mpp == pytest.approx((um, um), rel=1e-4)
    assert (slide.mpp_source, slide.mpp_is_guess) == (source, True)
    assert f"{slide.mpp[0]:g} x {slide.mpp[1]:g} um/px at level 0 is a guess, from {source}: " in slide.warnings[0]
    assert f"s.tif: {slide.warnings[0]}" in caplog.messages


@pytest.mark.parametrize(
    ("unit", "per_um"),
    [
        *(("\u00b5m", 1), ("\u03bcm", 1), ("um", 1), ("nm", 1000), ("mm", 1e-3), ("cm", 1e-4), ("m", 1e-6)),
        *(("\u212b", 1e4), ("\u00c5", 1e4), ("in", 1 / 25400), ("pm", 1e6), ("thou", 1 / 25.4)),
    ],
)
def test_units_of_ome(tmp_path, unit, per_um):
    path = strips(tmp_path / "s.tif", ome(f"{0.25 * per_um:.12g}", unit).encode())
    assert open_slide(path).mpp == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize("unit", ["pixel", "reference frame", "parsec", ""])
def test_what_is_no_length_says_nothing(tmp_path, unit):
    with pytest.raises(SlideError, match="does not say its um/px"):
        open_slide(strips(tmp_path / "s.tif", ome(0.25, unit)))


@pytest.mark.parametrize(
    "write",
    [
        lambda p: strips(p, **resolution(0.25, "NONE")),
        lambda p: tiles(p, **resolution(0.25, "NONE")),
        lambda p: strips(p, ome(0)),
        lambda p: strips(p, ome(-0.25)),
        lambda p: strips(p, ome("inf")),
        lambda p: strips(p, ome("a quarter")),
        lambda p: strips(p, ome(0.25).replace("PhysicalSizeY=", "SizeOfY=")),
        lambda p: strips(p, "MPP = 0|COMPP = 0.25"),
        lambda p: strips(p, "Aperio \n46000x32914 -> 332x252|MPP = 0.25"),
        lambda p: strips(p, resolution=((0, 1), (0, 1)), resolutionunit="INCH"),
        lambda p: tifffile.imwrite(p, PIXELS, imagej=True, resolution=(4, 4), metadata={"unit": "pixel"}) or p,
    ],
)
def test_without_any_the_usual_values_are_named(tmp_path, write):
    with pytest.raises(
        SlideError,
        match=r"s\.tif does not say its um/px\. Give it as --mpp: usually 0\.25 for a scan at 40x, 0\.5 at 20x\.$",
    ):
        open_slide(write(tmp_path / "s.tif"), mpp_from_objective=True)


@pytest.mark.parametrize("dpi", [72, 96, 150, 300, 600, 1200])
@pytest.mark.parametrize("write", [tiles, strips])
def test_dots_per_inch_of_a_printer_are_no_um_per_px(tmp_path, write, dpi):
    path = write(tmp_path / "s.tif", resolution=(dpi, dpi), resolutionunit="INCH")
    with pytest.raises(SlideError, match=rf"{25400 / dpi:g} x .* um/px is absurd \(.*--mpp: usually 0\.25 for a scan"):
        open_slide(path)
    assert open_slide(path, 0.5).warnings == ()


def test_openslide_comes_first_and_is_no_guess(tmp_path, caplog):
    path = tiles(tmp_path / "s.tif", ome(0.26), **resolution(0.25))
    slide = open_slide(path)
    assert slide.mpp == pytest.approx((0.25, 0.25))
    assert (slide.mpp_source, slide.mpp_is_guess, slide.warnings) == ("OpenSlide's properties", False, ())
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("options", "um"),
    [
        ({"text": ome(0.26).replace("<OME ", "<!--|MPP = 0.27|--><OME "), **resolution(0.25)}, 0.25),
        ({"text": ome(0.26).replace("<OME ", "<!--|MPP = 0.27|--><OME ")}, 0.26),
    ],
)
def test_the_order_of_the_others(tmp_path, options, um):
    assert open_slide(strips(tmp_path / "s.tif", **options)).mpp == pytest.approx((um, um))


CONTRADICTIONS = {
    "tags, OME": (lambda p: strips(p, ome(0.5), **resolution(0.25)), TAGS, "its OME-XML"),
    "OpenSlide, OME": (lambda p: tiles(p, ome(0.5), **resolution(0.25)), "OpenSlide's properties", "its OME-XML"),
    "OpenSlide, Aperio's text": (
        lambda p: tiles(p, "x|MPP = 0.5", **resolution(0.25)),
        "OpenSlide's properties",
        "Aperio's text in it",
    ),
    "Aperio's slide, its tags": (
        lambda p: tiles(p, APERIO.format(power=40, mpp=0.25), **resolution(0.5)),
        "OpenSlide's properties",
        TAGS,
    ),
    "just beyond a tenth": (lambda p: strips(p, ome(0.25 * 1.11), **resolution(0.25)), TAGS, "its OME-XML"),
    "one axis": (
        lambda p: strips(p, ome(0.25), resolution=(4e4, 2e4), resolutionunit="CENTIMETER"),
        TAGS,
        "its OME-XML",
    ),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_sources_that_contradict_each_other_are_refused_with_both_unless_the_user_decides(tmp_path, kind):
    write, first, second = CONTRADICTIONS[kind]
    path = write(tmp_path / "s.tif")
    with pytest.raises(
        SlideError, match=rf"s\.tif contradicts itself: .* by {first}, .* by {second}, .* --mpp, or in the"
    ):
        open_slide(path)
    slide = open_slide(path, mpp=0.25)
    assert slide.mpp == (0.25, 0.25)
    assert any("contradicts the given 0.25 um/px" in warning for warning in slide.warnings)


def test_a_difference_below_a_tenth_is_none(tmp_path):
    assert open_slide(strips(tmp_path / "s.tif", ome(0.25 * 1.09), **resolution(0.25))).mpp == pytest.approx(
        (0.25,) * 2
    )


def test_a_given_value_wins_and_what_contradicts_it_is_told(tmp_path, caplog):
    path = write_pyramid(tmp_path / "a.svs", draw_slide(300, 230), 0.5, description="aperio")
    slide = open_slide(path, 0.25)
    assert (slide.mpp, slide.own_mpp, slide.mpp_is_guess) == ((0.25, 0.25), (0.5, 0.5), False)
    (told,) = slide.warnings
    assert told.startswith("The file contradicts the given 0.25 um/px: 0.5 x 0.5 by OpenSlide's properties, ")
    assert f"a.svs: {told}" in caplog.messages
    assert open_slide(path, 0.52).warnings == ()


POWERS = {
    "Aperio's text": lambda p, power: strips(p, f"x|AppMag = {power}|y"),
    "OME-XML": lambda p, power: write_pages(p, PIXELS, description=ome(power=power), **RGB, **TILED),
    "OpenSlide's properties": lambda p, power: tiles(p, f"Aperio Image Library v11\n332x252|AppMag = {power}"),
}


@pytest.mark.parametrize("place", POWERS)
@pytest.mark.parametrize("power", [40, 20, 5])
def test_the_objective_power_is_taken_where_the_user_wants_that(tmp_path, place, power):
    path = POWERS[place](tmp_path / "s.tif", power)
    with pytest.raises(SlideError, match=rf"usually 0\.25.*{power:g}x, --mpp_from_objective takes {10 / power:g}\.$"):
        open_slide(path, mpp_from_objective=False)
    with pytest.raises(SlideError, match=r"0\.5 at 20x\.$"):
        open_slide(path)  # of a caller that has no such flag
    slide = open_slide(path, mpp_from_objective=True)
    assert slide.mpp == (10 / power, 10 / power)
    assert (slide.mpp_source, slide.mpp_is_guess) == (f"its objective power in {place}, {power}x", True)
    assert open_slide(path, 10 / power, True).warnings == ()


def test_um_per_px_are_taken_before_any_power(tmp_path):
    path = strips(tmp_path / "s.tif", "AppMag = 20|x", **resolution(0.45))
    assert open_slide(path, mpp_from_objective=True).mpp == pytest.approx((0.45, 0.45))


def test_powers_that_contradict_each_other_are_refused(tmp_path):
    text = ome(power=20).replace("<OME ", "<!--|AppMag = 40|--><OME ")
    with pytest.raises(SlideError, match=r"contradicts itself: 0\.5 x 0\.5 um/px by .*20x, 0\.25 x 0\.25 by .*40x"):
        open_slide(strips(tmp_path / "s.tif", text), mpp_from_objective=True)


@pytest.mark.parametrize("power", ["0", "-20", "1e9", "nan", "many"])
def test_an_absurd_power_is_none(tmp_path, power):
    with pytest.raises(SlideError, match=r"0\.5 at 20x\.$"):
        open_slide(strips(tmp_path / "s.tif", ome(power=power)), mpp_from_objective=True)


@pytest.mark.parametrize(
    ("mpp", "power", "is_odd"), [(0.5, 40, True), (0.25, 20, True), (0.26, 40, False), (0.35, 20, False)]
)
@pytest.mark.parametrize("given", [False, True])
def test_a_power_that_does_not_go_with_um_per_px_is_warned_of(tmp_path, mpp, power, is_odd, given):
    text = APERIO.format(power=power, mpp=mpp)
    path = tiles(tmp_path / "s.svs", text)
    slide = open_slide(path, mpp if given else None)
    assert slide.mpp == (mpp, mpp)
    expected = f"{mpp} um/px at level 0 does not go with its objective power in OpenSlide's properties, {power}x, where"
    assert [warning.startswith(expected) for warning in slide.warnings] == [True] * is_odd


def test_px_that_are_not_square_are_refused(tmp_path):
    with pytest.raises(SlideError, match=r"0\.25 x 0\.5 um/px, expected square pixels"):
        open_slide(strips(tmp_path / "s.tif", resolution=(4e4, 2e4), resolutionunit="CENTIMETER"))


def run(path, model_folder, tmp_path, **settings):
    options = SlideSettings(str(model_folder), tmp_path / "R", num_workers=0, **settings)
    result = segment_slide(path, options)
    folder = tmp_path / "R" / result.name
    return result, json.loads((folder / "slide.json").read_text()), (folder / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_an_ome_tiff_is_mapped_by_the_um_per_px_of_its_xml(tmp_path, model_folder, caplog):
    path = write_subifds(tmp_path / "s.ome.tif", PIXELS, HALF, QUARTER, compression="deflate")
    result, marker, report = run(path, model_folder, tmp_path)
    assert result.status == "done"
    said = "0.5 x 0.5 (a guess, from its OME-XML)"
    assert marker["facts"]["um/px at level 0"] == said
    assert marker["request"]["mpp_guessed_from"] == "its OME-XML"
    assert marker["request"]["read_by"] == "tifffile"
    assert "is a guess, from its OME-XML" in marker["facts"]["Doubts"]
    assert said in report
    assert report.index("is a guess, from its OME-XML") < report.index("<img")
    assert "is a guess, from its OME-XML" in caplog.text
    assert run(path, model_folder, tmp_path)[0].status == "skipped"
    confirmed, marker, report = run(path, model_folder, tmp_path, mpp=0.5)
    assert (confirmed.status, confirmed.embedded) == ("done", 0)
    assert marker["facts"]["um/px at level 0"] == "0.5 x 0.5 (given, not read from the file)"
    assert "a guess" not in marker["facts"].get("Doubts", "")


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_the_objective_power_is_a_setting(tmp_path, model_folder):
    path = POWERS["OME-XML"](tmp_path / "s.tif", 20)
    with pytest.raises(ValueError, match=r"--mpp_from_objective takes 0\.5"):
        run(path, model_folder, tmp_path)
    marker = run(path, model_folder, tmp_path, mpp_from_objective=True)[1]
    assert marker["facts"]["um/px at level 0"] == "0.5 x 0.5 (a guess, from its objective power in OME-XML, 20x)"


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_what_openslide_says_changes_no_request(tmp_path, model_folder, slide_file):
    marker = run(slide_file, model_folder, tmp_path)[1]
    assert not {"mpp_guessed_from", "read_by"} & marker["request"].keys()
    assert marker["facts"]["um/px at level 0"] == "0.5 x 0.5"
    assert "Doubts" not in marker["facts"]


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerator")
def test_a_plain_image_that_is_given_its_um_per_px_changes_no_request(tmp_path, model_folder):
    Image.fromarray(np.ascontiguousarray(PIXELS)).save(tmp_path / "s.png")
    marker = run(tmp_path / "s.png", model_folder, tmp_path, mpp=0.5)[1]
    assert not {"mpp_guessed_from", "read_by"} & marker["request"].keys()
