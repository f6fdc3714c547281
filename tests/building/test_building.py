"""From drawn fields and annotations to a data set that the loader reads."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import warm_python
from building_slides import PATCH, box, feature, field, write_field, write_geojson
from PIL import Image
from tiny_spider import ROOT

from spider_tools.building.run import build_dataset
from spider_tools.building.settings import BuildSettings
from spider_tools.data.loading import load_regions
from spider_tools.data.settings import DataSettings

# A field of 320 x 256 px is a lattice of 8 rows and 10 columns of 32 px.
LEFT = feature("Fat", box(0, 0, 96, 64))  # rows 0-1, columns 0-2
RIGHT = feature("Wart", box(192, 128, 320, 256))  # rows 4-7, columns 6-9
HOLED = feature("Nevus", [*box(128, 0, 192, 64), *box(128, 0, 160, 32)])  # rows 0-1, columns 4-5 but for (0, 4)


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate("abcd"):
        write_field(tmp_path, name, [LEFT, RIGHT, HOLED], seed=i)
    return tmp_path


def build(folder, out="out", slides=None, **fields):
    options = {
        "annotations": (str(folder / "annotations"),),
        "mpp": 0.5,
        "patch_size": PATCH,
        "num_workers": 0,
        **fields,
    }
    options.setdefault("test_fraction", 0.25)
    settings = BuildSettings(output_dir=folder / out, **options)
    return build_dataset([str(slides or folder / "slides")], settings)


def records_of(folder, out="out"):
    return json.loads((folder / out / "metadata.json").read_text())


def places(records, slide, name):
    """`{(row, column)}` of the patches of a class on a slide."""
    own = [r["image_name"] for r in records if r["slide_id"] == slide and r["class"] == name]
    return {tuple(int(part) for part in image.split(".")[0].rsplit("_", 2)[1:]) for image in own}


def test_patches_get_the_class_that_covers_them_by_hand(folder):
    build(folder, image_format="png")
    records = records_of(folder)
    assert places(records, "a", "Fat") == {(r, c) for r in (0, 1) for c in (0, 1, 2)}
    assert places(records, "a", "Wart") == {(r, c) for r in (4, 5, 6, 7) for c in (6, 7, 8, 9)}
    assert places(records, "a", "Nevus") == {(0, 5), (1, 4), (1, 5)}
    assert {r["class"] for r in records} == {"Fat", "Wart", "Nevus"}
    assert {r["coverage"] for r in records} == {1.0}


def test_context_is_that_of_the_lattice_and_beyond_the_slide_there_is_no_key(folder):
    build(folder, image_format="png")
    record = next(r for r in records_of(folder) if r["image_name"] == "a_00001_00000.png")
    expected = {
        f"{i}_{j}": f"a_{i - 1:05d}_{j - 2:05d}.png" for i in range(1, 5) for j in range(2, 5) if (i, j) != (2, 2)
    }
    assert record["context_info"] == expected
    assert record["corner_level0"] == [0.0, 32.0]


def test_files_hold_the_pixels_of_the_slide_each_once(folder):
    build(folder, image_format="png")
    records = records_of(folder)
    named = {name for r in records for name in [r["image_name"], *r["context_info"].values()]}
    files = {path.name for path in (folder / "out" / "images").iterdir()}
    assert files == named
    pixels = field(1)
    for name in ("b_00000_00002.png", "b_00006_00009.png"):
        row, column = (int(part) for part in name.split(".")[0].split("_")[1:])
        tile = pixels[row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH]
        assert np.array_equal(np.asarray(Image.open(folder / "out" / "images" / name)), tile)


def test_the_loader_reads_it(folder):
    build(folder)
    data = load_regions(DataSettings(dataset=str(folder / "out"), patch_size=PATCH, validation_fraction=0))
    assert data.class_names == ["Fat", "Nevus", "Wart"]
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 75, "test": 25}
    assert data.patches.read("a_00000_00000.jpg").shape == (PATCH, PATCH, 3)


@pytest.mark.parametrize(
    ("minimum", "other", "expected"),
    [(0.5, 0.1, {(0, 1), (0, 2)}), (0.8, 0.1, {(0, 1)}), (0.5, 0.45, {(0, 0), (0, 1), (0, 2)})],
)
def test_coverage_decides_and_other_classes_spoil(tmp_path, minimum, other, expected):
    # Fat covers 60% of (0, 0), all of (0, 1) and 70% of (0, 2); Wart covers the other 40% of (0, 0).
    drawn = [feature("Fat", box(12.8, 0, 86.4, 32)), feature("Wart", box(0, 0, 12.8, 32))]
    drawn.append(feature("Wart", box(160, 160, 288, 256)))
    for i, name in enumerate("ab"):
        write_field(tmp_path, name, drawn, seed=i)
    build(tmp_path, min_coverage=minimum, max_other=other, test_fraction=0.5)
    assert places(records_of(tmp_path), "a", "Fat") == expected


def test_half_a_stride_gives_patches_between(folder):
    build(folder, stride=16)
    at = places(records_of(folder), "a", "Fat")
    # Corners in steps of 16 px; of the 96 x 64 px a patch of 32 px covers half or more up to 16 px beyond.
    assert at == {(r, c) for r in range(4) for c in range(6)} - {(3, 5)}  # a quarter at the corner
    record = next(r for r in records_of(folder) if r["image_name"] == "a_00002_00003.jpg")
    assert record["context_info"]["2_3"] == "a_00002_00005.jpg"
    assert record["context_info"]["1_2"] == "a_00000_00003.jpg"


def test_what_nobody_outlined_is_a_class_only_where_all_is_outlined(folder):
    slides = folder / "slides.csv"
    rows = [f"slides/{name}.png,{'yes' if name in 'ab' else 'no'}" for name in "abcd"]
    slides.write_text("\n".join(["slide,fully_annotated", *rows]))
    ignored = [feature("Ignore*", box(0, 224, 64, 256)), feature("Suggested: Fat", box(64, 224, 96, 256))]
    unnamed = feature("", box(96, 224, 128, 256))
    write_geojson(folder / "annotations" / "a.geojson", [LEFT, RIGHT, HOLED, *ignored, unnamed])
    pixels = field(0)
    pixels[96:128, 96:160] = 255  # glass at row 3, columns 3 and 4
    Image.fromarray(pixels).save(folder / "slides" / "a.png")
    build(folder, slides=slides, unannotated="Stroma")
    records = records_of(folder)
    stroma = places(records, "a", "Stroma")
    drawn = set().union(*(places(records, "a", name) for name in ("Fat", "Wart", "Nevus")))
    assert stroma & (drawn | {(7, 0), (7, 1), (7, 2), (7, 3)}) == set()
    assert (3, 3) not in stroma
    assert {(0, 4), (3, 0), (7, 4), (6, 0)} <= stroma
    assert {r["slide_id"] for r in records if r["class"] == "Stroma"} == {"a", "b"}
    assert not any("Suggested" in r["class"] for r in records)


def test_classes_are_renamed_merged_and_dropped(folder):
    (folder / "map.json").write_text(json.dumps({"Fat": "Soft", "Nevus": "Soft", "Wart": None}))
    built = build(folder, class_mapping=folder / "map.json")
    assert set(built["regions"]) == {"Soft"}
    (folder / "map.json").write_text(json.dumps({"Fatt": "Soft"}))
    with pytest.raises(
        ValueError, match=r"names \['Fatt'\], which nobody has drawn; there are \['Fat', 'Nevus', 'Wart'\]"
    ):
        build(folder, "other", class_mapping=folder / "map.json")


def test_limits_leave_fewer_regions_and_fewer_files(folder):
    build(folder, max_regions_per_class=8, max_per_annotation=3)
    records = records_of(folder)
    for name in ("Fat", "Wart", "Nevus"):
        counts = [len(places(records, slide, name)) for slide in "abcd"]
        assert counts == [2, 2, 2, 2]


def test_slides_at_other_um_per_px_are_resampled_or_refused(folder):
    build(folder, mpp=0.25)  # twice as fine: the lattice is 4 rows and 5 columns
    assert places(records_of(folder), "a", "Wart") == {(2, 3), (2, 4), (3, 3), (3, 4)}
    with pytest.raises(ValueError, match=r"0\.62 x 0\.62 um/px .* coarser than --target_mpp 0\.5.*--upsample"):
        build(folder, "coarse", mpp=0.62)
    build(folder, "enlarged", mpp=1.0, upsample=True)
    assert places(records_of(folder, "enlarged"), "a", "Fat") == {(r, c) for r in range(4) for c in range(6)}


def test_several_processes_build_the_same(folder):
    build(folder)
    build(folder, "shared", num_workers=2)
    assert records_of(folder, "shared") == records_of(folder)
    for path in (folder / "out" / "images").iterdir():
        assert (folder / "shared" / "images" / path.name).read_bytes() == path.read_bytes()


def test_the_card_counts_and_the_pictures_show(folder):
    write_geojson(folder / "annotations" / "a.geojson", [LEFT, RIGHT, HOLED, feature("Wart", box(0, 0, 40, 20))])
    built = build(folder)
    card = (folder / "out" / "README.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in card.splitlines() if line.startswith("| ")}
    counts = built["regions"]["Nevus"]
    total = counts["train"] + counts["test"]
    assert rows["Nevus"] == f"| Nevus | {counts['train']} | {counts['test']} | {total} |"
    assert "'Fat' and 'Wart' overlap on" in card
    assert str(folder) not in card
    sheets = sorted(path.name for path in (folder / "out" / "contact_sheets").iterdir())
    assert sheets == ["01_Fat.png", "02_Nevus.png", "03_Wart.png"]
    overlays = {path.name for path in (folder / "out" / "overlays").iterdir()}
    assert overlays == {"a.png", "b.png", "c.png", "d.png"}
    with Image.open(folder / "out" / "overlays" / "b.png") as picture:
        shown = np.asarray(picture).astype(int)
    plain = field(1).astype(int)
    assert np.abs(shown[10:20, 10:20] - plain[10:20, 10:20]).mean() > 5  # a patch of fat is tinted
    assert np.array_equal(shown[100:120, 20:60], plain[100:120, 20:60])


def test_a_finished_folder_is_left_and_another_data_set_is_refused(folder):
    build(folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "out" / "images").iterdir()}
    build(folder)
    assert {path: path.stat().st_mtime_ns for path in (folder / "out" / "images").iterdir()} == before
    with pytest.raises(ValueError, match="was begun with other min_coverage"):
        build(folder, min_coverage=0.9)
    write_geojson(folder / "annotations" / "b.geojson", [LEFT, HOLED, RIGHT])
    with pytest.raises(ValueError, match="was begun with other slide b"):
        build(folder)
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("do not touch")
    with pytest.raises(ValueError, match="holds files of something else"):
        build(folder, "mine")


def test_a_damaged_slide_and_damaged_annotations_stop_in_words(folder):
    shutil.copy(folder / "annotations" / "a.geojson", folder / "keep")
    (folder / "annotations" / "a.geojson").write_text("{")
    with pytest.raises(ValueError, match=r"a\.geojson cannot be used"):
        build(folder)
    shutil.copy(folder / "keep", folder / "annotations" / "a.geojson")
    (folder / "slides" / "b.png").write_bytes((folder / "slides" / "b.png").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"b\.png"):
        build(folder, "again")
    assert not (folder / "out" / "metadata.json").exists()


def test_a_class_name_never_leaves_the_folder(folder):
    names = ["../../Fat", "a/b\\c", "<script>"]
    for name in "abcd":
        drawn = [feature(names[0], box(0, 0, 96, 64)), feature(names[1], box(192, 128, 320, 256))]
        write_geojson(folder / "annotations" / f"{name}.geojson", [*drawn, feature(names[2], box(128, 0, 192, 64))])
    build(folder)
    assert {r["class"] for r in records_of(folder)} == set(names)
    assert {path.parent for path in folder.rglob("*Fat.png")} == {folder / "out" / "contact_sheets"}
    assert "<script>" not in (folder / "out" / "README.md").read_text()


# --- The script


def script(folder, *words, **options):
    command = [sys.executable, str(ROOT / "build_dataset.py"), "--slides", str(folder / "slides")]
    command += ["--annotations", str(folder / "annotations"), "--output_dir", str(folder / "out"), "--mpp", "0.5"]
    return [*command, "--patch_size", str(PATCH), "--test_fraction", "0.25", *words], {"cwd": folder, **options}


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path):
    for i, name in enumerate("abc"):
        write_field(tmp_path, name, [feature("Fat", box(0, 0, 400, 480))], seed=i, size=(480, 480))
    command, options = script(tmp_path, "--image_format", "png", "--num_workers", "0", "--stride", "16")
    child = warm_python.start(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **options)
    images = tmp_path / "out" / "images"
    while child.poll() is None and not (images.is_dir() and sum(1 for _ in images.iterdir()) > 100):
        time.sleep(0.01)
    assert child.poll() is None, "it must be killed in the middle"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "out" / "metadata.json").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in images.iterdir() if not path.name.startswith(".")}
    again = warm_python.run(command, **options)
    assert again.returncode == 0, again.stderr
    assert all((images / name).stat().st_mtime_ns == then for name, then in kept.items())
    records = records_of(tmp_path)
    named = {name for r in records for name in [r["image_name"], *r["context_info"].values()]}
    assert {path.name for path in images.iterdir()} == named
    pixels = field(2, (480, 480))
    tile = np.asarray(Image.open(images / "c_00003_00007.png"))
    assert np.array_equal(tile, pixels[48:80, 112:144])


@pytest.mark.slow
def test_the_script_prints_what_it_made_and_a_mistake_is_one_sentence(folder):
    command, options = script(folder, "--num_workers", "0")
    done = warm_python.run(command, **options)
    assert done.returncode == 0, done.stderr
    assert "Nevus: 3 in test, 9 in train" in done.stdout
    assert "patches in" in done.stdout
    wrong = warm_python.run([*command, "--min_coverage", "0.9"], **options)
    assert wrong.returncode == 2
    assert wrong.stderr.strip().splitlines()[-1].startswith("build_dataset.py: error: ")
    assert "Traceback" not in wrong.stderr
