"""What a manifest says of slides, patients, annotations and splits."""

import pytest
from building_slides import box, feature, write_field

from spider_tools.building.cases import find_cases
from spider_tools.building.settings import BuildSettings

FAT = [feature("Fat", box(0, 0, 64, 64))]


@pytest.fixture
def folder(tmp_path):
    for name in "abc":
        write_field(tmp_path, name, FAT)
    return tmp_path


def cases_of(folder, header, *rows, **fields):
    (folder / "slides.csv").write_text("\n".join([header, *rows]) + "\n")
    options = {"annotations": (str(folder / "annotations"),), "mpp": 0.5, **fields}
    return find_cases([str(folder / "slides.csv")], BuildSettings(output_dir=folder / "out", **options))


def test_a_manifest_names_patients_splits_and_what_is_annotated_fully(folder):
    cases = cases_of(
        folder,
        "slide,patient,split,fully_annotated",
        *("slides/a.png,P1,train,yes", "slides/b.png,P1,Train,no", "slides/c.png,P2,test,"),
    )
    assert [(c.patient, c.split, c.fully_annotated) for c in cases] == [
        *(("P1", "train", True), ("P1", "train", False), ("P2", "test", False))
    ]
    assert [c.group for c in cases] == ["patient P1", "patient P1", "patient P2"]
    assert [[p.name for p in c.annotations] for c in cases] == [["a.geojson"], ["b.geojson"], ["c.geojson"]]


def test_a_folder_of_slides_needs_no_manifest(folder):
    options = BuildSettings(output_dir=folder / "out", annotations=(str(folder / "annotations"),), mpp=0.5)
    cases = find_cases([str(folder / "slides")], options)
    assert [(c.task.name, c.patient, c.split) for c in cases] == [(name, None, None) for name in "abc"]
    assert len({c.group for c in cases}) == 3


def test_annotations_may_stand_in_the_manifest(folder):
    (folder / "annotations" / "a.geojson").rename(folder / "drawn-by-me.json")
    rows = ("slides/a.png,drawn-by-me.json", "slides/b.png,", "slides/c.png,annotations/c.geojson")
    cases = cases_of(folder, "slide,annotations", *rows, annotations=())
    assert [[p.name for p in c.annotations] for c in cases] == [["drawn-by-me.json"], [], ["c.geojson"]]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (
            "slide,patient,split",
            ["slides/a.png,P1,train", "slides/b.png,P1,test", "slides/c.png,P2,test"],
            "has patient P1 in two splits: a in train, b in test",
        ),
        ("slide,split", ["slides/a.png,train", "slides/b.png,"], "Some slides have a split .* 'b', have none"),
        ("slide,patient", ["slides/a.png,", "slides/b.png,P1"], "Some slides have a patient .* 'a', have none"),
        ("slide,split", ["slides/a.png,dev", "slides/b.png,train"], "a has the split 'dev', expected one of train"),
        (
            "slide,fully_annotated",
            ["slides/a.png,maybe", "slides/b.png,"],
            "fully_annotated 'maybe', expected yes or no",
        ),
        ("slide", ["slides/a.png"], "There is one slide"),
        ("slide,annotations", ["slides/a.png,no.json", "slides/b.png,"], r"annotations .*no\.json, which is no file"),
        ("slide,slide", ["slides/a.png,slides/b.png"], r"has the columns \['slide'\] twice"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(folder, header, rows, message):
    with pytest.raises(ValueError, match=message):
        cases_of(folder, header, *rows)


def test_slides_without_any_annotations_are_refused(folder):
    with pytest.raises(ValueError, match="No slide has annotations: give --annotations FOLDER"):
        cases_of(folder, "slide", "slides/a.png", "slides/b.png", annotations=())
