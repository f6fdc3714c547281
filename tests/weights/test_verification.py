"""Published checkpoints held against their own code: proven, refused, or marked; never silently wrong."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from published_checkpoint import SIDE
from published_sources import EXPRESSIBLE, INEXPRESSIBLE, REFUSED_BY_PIXELS, write_source

from spider_tools.drawn_tissue import draw_mosaics
from spider_tools.weights import import_spider as importing
from spider_tools.weights.import_spider import Trial, import_spider
from spider_tools.weights.reading import open_published
from spider_tools.weights.source_code import code_of, read_answer, write_request
from spider_tools.weights.verification import VerificationError

SOURCES = EXPRESSIBLE | INEXPRESSIBLE | REFUSED_BY_PIXELS
TRUSTED = Trial(trust_source_code=True)
# One process for all repositories: only a few tests below can afford one each.
RUN_ALL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import source_child
for folder in sys.argv[2:]:
    source_child.main(Path(folder))
"""


@pytest.fixture(scope="module")
def regions():
    return draw_mosaics(4, 5, SIDE)


@pytest.fixture(scope="module")
def new_regions():
    """Regions that no verification has seen."""
    return draw_mosaics(3, 5, SIDE, seed=99)


@pytest.fixture(scope="module")
def answered(tmp_path_factory, regions, new_regions):
    """`{name: (path, answer of its own code)}`; the last answers are to `new_regions`."""
    root = tmp_path_factory.mktemp("published")
    folders = {}
    for number, (name, recipe) in enumerate(SOURCES.items()):
        path = write_source(root / f"repository_{number}", recipe)
        folders[name] = (path, root / f"request_{number}")
        folders[name][1].mkdir()
        code = code_of(open_published(path, lambda tensors: True))
        write_request(code, [*regions, *new_regions], folders[name][1])
    requests = [str(request) for _, request in folders.values()]
    command = [sys.executable, "-c", RUN_ALL, requests[0]]  # where a copy of the child's script lies, alone
    run = subprocess.run([*command, *requests], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    return {name: (path, read_answer(request)) for name, (path, request) in folders.items()}


@pytest.fixture
def verified_import(monkeypatch, answered, regions):
    """`verified_import(name)`: an import whose child has answered already."""

    def run(name, **options):
        path, answer = answered[name]
        few = type(answer)(
            answer.pixel_values[: len(regions)],
            answer.logits[: len(regions)],
            answer.names[: len(regions)],
            answer.versions,
            answer.unfilled,
        )
        monkeypatch.setattr(importing, "run_source_code", lambda *_: few)
        return import_spider(path, trial=TRUSTED, **options)

    return run


def logits_on(imported, regions):
    pixels = imported.image_processor(list(regions), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return imported.model(pixel_values=pixels).logits


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_a_repository_that_can_be_expressed_is_proven_and_equals_its_own_code(
    verified_import, answered, new_regions, name
):
    imported = verified_import(name)
    theirs = answered[name][1].logits[-len(new_regions) :]
    assert (logits_on(imported, new_regions) - theirs).abs().max() < 1e-4
    assert theirs.std(dim=0).max() > 0.1
    record = imported.record
    assert (record["verified"], record["assumptions"]) == (True, [])
    assert record["proof"]["difference"] < 1e-4 * record["proof"]["spread"] + 1e-4
    assert set(record["proof"]["code"]) == {
        "configuration_published.py", "modeling_published.py", "processing_published.py"
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_without_proof_it_is_marked_and_never_looks_proven(answered, new_regions, name):
    """Most are wrong then, which is why they are marked."""
    imported = import_spider(answered[name][0])
    assert imported.record["verified"] is False
    assert len(imported.record["assumptions"]) >= 2
    assert "proof" not in imported.record
    assert imported.model.config.to_dict()["import"] == imported.record
    theirs = answered[name][1].logits[-len(new_regions) :]
    right = (logits_on(imported, new_regions) - theirs).abs().max() < 1e-4
    lucky = {"plain", "fresh pooler is not read", "trained pooler on the corner", "class token by hand",
             "two layers, three heads, in shards", "embedding before"}  # fmt: skip
    assert bool(right) == (name in lucky)


@pytest.mark.slow
@pytest.mark.parametrize("name", INEXPRESSIBLE)
def test_a_repository_that_cannot_be_expressed_is_refused_with_what_was_tried(verified_import, name):
    with pytest.raises(
        VerificationError, match="readings gives what its own code gives; the closest differs"
    ) as refusal:
        verified_import(name)
    lines = refusal.value.table.splitlines()
    differences = [float(line.split()[0]) for line in lines[1:-1]]
    assert differences == sorted(differences)
    assert min(differences) > 1e-3
    assert "row-major" in refusal.value.table


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED_BY_PIXELS)
def test_a_processor_that_does_something_else_is_refused(verified_import, name):
    with pytest.raises(ValueError, match="its own processor makes"):
        verified_import(name)


@pytest.mark.slow
def test_colours_are_read_off_its_own_processor(verified_import):
    processor = verified_import("colours of its own").image_processor
    assert processor.image_mean == pytest.approx([0.485, 0.456, 0.406], abs=1e-4)
    assert processor.image_std == pytest.approx([0.229, 0.224, 0.225], abs=1e-4)


@pytest.mark.slow
def test_heads_that_are_said_and_wrong_are_not_replaced(verified_import):
    assert verified_import("four heads unstated").model.config.head_num_attention_heads == 4
    assert verified_import("four heads unstated", heads=4).record["verified"]
    with pytest.raises(VerificationError, match="none of"):
        verified_import("four heads unstated", heads=2)


@pytest.mark.slow
def test_names_and_numbers_of_classes_must_be_the_same(monkeypatch, answered, regions):
    path, answer = answered["plain"]
    swapped = type(answer)(answer.pixel_values[:4], answer.logits[:4], [["Wart"]] * 4, answer.versions, [])
    monkeypatch.setattr(importing, "run_source_code", lambda *_: swapped)
    with pytest.raises(ValueError, match=r"its code calls \['Wart'\] what its class_names call"):
        import_spider(path, trial=TRUSTED)
    wide = type(answer)(answer.pixel_values[:4], torch.ones(4, 9), [None] * 4, answer.versions, [])
    monkeypatch.setattr(importing, "run_source_code", lambda *_: wide)
    with pytest.raises(ValueError, match="its code gives 9 logits, it names 3 classes"):
        import_spider(path, trial=TRUSTED)
    same = type(answer)(answer.pixel_values[:4], torch.ones(4, 3), [None] * 4, answer.versions, [])
    monkeypatch.setattr(importing, "run_source_code", lambda *_: same)
    with pytest.raises(ValueError, match="same logits for all regions, which proves nothing"):
        import_spider(path, trial=TRUSTED)


def test_mosaics_tell_patches_apart():
    first, second = draw_mosaics(2, 5, SIDE), draw_mosaics(2, 5, SIDE)
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
    tiles = first[0].reshape(5, SIDE, 5, SIDE, 3).transpose(0, 2, 1, 3, 4).reshape(25, -1)
    assert len(np.unique(tiles.mean(axis=1).round(1))) > 20
