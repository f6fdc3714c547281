import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from small_datasets import PATCH, pixels_of

from spider_tools.data.patches import FolderPatches
from spider_tools.data.tables import table_schema, write_table
from spider_tools.images import to_rgb


@pytest.fixture
def source(tmp_path):
    """Two records of a 3x3 context that share `b.png`; `gone.png` is in the second, in no third."""
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png", "c.png", "unused.png"):
        Image.fromarray(pixels_of(name)).save(tmp_path / "images" / name)
    grids = [["a.png", "b.png", *[None] * 7], [*[None] * 4, "c.png", "b.png", *[None] * 2, "gone.png"]]
    columns = [pa.array([5, 9]), *(pa.array([text] * 2, pa.string()) for text in ("s", None, "Fat", "test"))]
    schema = table_schema(3)
    batch = pa.record_batch([*columns, pa.array(grids, schema.field("patches").type)], schema=schema)
    write_table(tmp_path / "table.arrow", schema, [batch.slice(0, 1), batch.slice(1)])
    return FolderPatches(tmp_path / "images", PATCH, tmp_path / "table.arrow")


def test_a_patch_that_cannot_be_read_is_named_with_a_record(source):
    with pytest.raises(ValueError, match=r"The patch 'gone\.png' of record 9 of metadata\.json cannot be used"):
        source.read("gone.png")
    whole = (source.images / "b.png").read_bytes()
    (source.images / "b.png").write_bytes(whole[: len(whole) - 40])  # the header is good
    with pytest.raises(ValueError, match=r"The patch 'b\.png' of record 5 .*truncated"):
        source.read("b.png")
    Image.fromarray(pixels_of("x", 9, 7)).save(source.images / "c.png")
    with pytest.raises(ValueError, match=r"record 9 .*it is 7x9 px, expected 8x8 px"):
        source.read("c.png")
    (source.images / "unused.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"'unused\.png' of no record"):
        source.read("unused.png")


@pytest.mark.parametrize("name", ["../table.arrow", "/etc/passwd", "..", "", "a/../b.png"])
def test_a_name_that_is_a_path_is_refused(source, name):
    with pytest.raises(ValueError, match="expected the bare name of a file"):
        source.read(name)


def test_every_mode_becomes_rgb():
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8)
    stacked = np.repeat(gray[..., None], 3, axis=2)
    np.testing.assert_array_equal(to_rgb(Image.fromarray(gray)), stacked)
    np.testing.assert_array_equal(to_rgb(Image.fromarray(gray.astype(np.uint16) * 257)), stacked)
    color = pixels_of("x")
    np.testing.assert_array_equal(to_rgb(Image.fromarray(color[..., ::-1].copy())), color[..., ::-1])
    alpha = np.dstack([color, np.where(gray < 20, 0, 255).astype(np.uint8)])
    flattened = np.where(gray[..., None] < 20, 255, color)
    np.testing.assert_array_equal(to_rgb(Image.fromarray(alpha, "RGBA")), flattened)
    with pytest.raises(ValueError, match="'F' has no fixed range"):
        to_rgb(Image.fromarray(gray.astype(np.float32)))
