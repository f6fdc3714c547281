"""Slides in a form that nothing here decodes: which form, and what to do, not "damaged"."""

import numpy as np
import pytest
import tifffile
from slide_files import draw_slide, write_dicom, write_mirax, write_pyramid

from spider_tools.slide_files.reader import SlideError, open_slide

REMEDY = r"Convert it to a tiled pyramidal TIFF.*bioformats2raw.*vips"


def write_tiff(path, kind):
    if kind == "untiled":
        tifffile.imwrite(path, draw_slide(300, 230), photometric="rgb", compression="deflate")
        return path
    return write_pyramid(path, draw_slide(300, 230), 0.5, description=None if kind == "generic" else "aperio")


@pytest.mark.parametrize("kind", ["generic", "aperio", "untiled"])
@pytest.mark.parametrize(
    ("number", "name"),
    [(50002, "JPEGXL"), (34887, "LERC"), (50001, "WEBP"), (34892, "JPEG_LOSSY"), (4711, "an unknown method")],
)
def test_a_compression_that_nothing_decodes_is_named(tmp_path, kind, number, name):
    path = write_tiff(tmp_path / "s.svs", kind)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for page in file.pages:
            page.tags["Compression"].overwrite(number)
    with pytest.raises(SlideError, match=rf"s\.svs is of a kind that is unsupported: .*{name}, {number}.*{REMEDY}"):
        open_slide(path, mpp=0.5)


def test_an_unsupported_dicom_transfer_syntax_is_named(tmp_path):
    path = write_dicom(tmp_path / "s.dcm", draw_slide(128, 128), "1.2.3")
    content = path.read_bytes()
    old = b"1.2.840.10008.1.2.1\x00"
    path.write_bytes(content.replace(old, b"1.2.840.10008.1.2.5\x00", 1))
    with pytest.raises(
        SlideError, match=rf"s\.dcm is of a kind that is unsupported: .*1\.2\.840\.10008\.1\.2\.5.*{REMEDY}"
    ):
        open_slide(path)


def test_an_unsupported_image_format_of_mirax_is_named(tmp_path):
    path = write_mirax(tmp_path / "s.mrxs", np.full((128, 128, 3), 200, dtype=np.uint8), (0, 0), (256, 256))
    settings = tmp_path / "s" / "Slidedat.ini"
    settings.write_text(settings.read_text().replace("IMAGE_FORMAT=PNG", "IMAGE_FORMAT=JPEGXR"))
    with pytest.raises(SlideError, match=rf"s\.mrxs is of a kind that is unsupported: .*JPEGXR.*{REMEDY}"):
        open_slide(path)


def test_a_damaged_file_is_still_called_damaged(tmp_path):
    path = write_mirax(tmp_path / "s.mrxs", np.full((128, 128, 3), 200, dtype=np.uint8), (0, 0), (256, 256))
    (tmp_path / "s" / "Index.dat").write_bytes(b"01.02 nothing")
    with pytest.raises(SlideError, match=r"s\.mrxs is damaged or incomplete: "):
        open_slide(path)
