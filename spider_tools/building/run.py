"""The building of a data set: label, choose, cut, and show what was done."""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Optional

import numpy as np
from tqdm import tqdm

from ..data.splits import read_class_mapping
from ..files import file_sha256, read_json_object, replacing, require_writable, write_text
from ..flags import as_json
from ..output_folder import only_run_in
from ..processes import process_pool
from ..suggestions import is_suggestion
from .card import make_card
from .cases import Case, find_cases
from .choosing import choose, choose_splits
from .cutting import Cut, context_of, cut_slide, patch_name
from .labelling import LabelledSlide, label_slide, open_case, read_case
from .pictures import contact_sheet, overlay
from .settings import BuildSettings

logger = logging.getLogger(__name__)

IMAGES, METADATA, CARD = "images", "metadata.json", "README.md"
_REQUEST = ".request.json"  # what the folder is made from, while it is unfinished and after
_PLACES = ("output_dir", "annotations", "class_mapping", "num_workers", "push_to_hub", "hub_public", "hub_replace")


def build_dataset(sources: Sequence[str], settings: BuildSettings) -> dict[str, Any]:
    """Build a data set in the SPIDER layout from slides and annotations.

    A killed run goes on where it was, with the same slides, annotations and settings.

    Args:
        sources: Slides, folders of slides and manifests, see `cases.find_cases`.
        settings: See there.

    Returns:
        `regions` by class and split, `patches`, and `remarks`, a sentence each.

    Raises:
        ValueError: A slide, annotation or setting cannot be used, or the folder holds another data set.
        OSError: A file cannot be read or written.
    """
    require_writable(settings.output_dir, "--output_dir")
    cases = [case for case in find_cases(sources, settings) if case.annotations or _is_all_one_class(case, settings)]
    with only_run_in(settings.output_dir), _workers(settings, len(cases)) as run:
        mapping = _mapping(cases, settings)
        slides = list(run(label_slide, [(case, settings, mapping) for case in cases], "labelling"))
        _keep_request(settings, cases, slides)
        rows = choose(slides, settings)
        splits = choose_splits(cases, slides, rows, settings)
        cuts = list(_cut(run, settings, cases, slides, rows))
        records = _records(settings, cases, slides, rows, splits, cuts)
        remarks = [*(r for slide in slides for r in slide.remarks), *_of_losses(cuts)]
        for remark in remarks:
            logger.warning("%s", remark)
        _write_pictures(run, settings, cases, slides, rows, records)
        shown = {k: v for k, v in as_json(settings).items() if k not in _PLACES and v is not None}
        card = make_card(settings.output_dir.resolve().name, records, shown, remarks)
        write_text(settings.output_dir / CARD, card)
        write_text(settings.output_dir / METADATA, json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    return _summary(records, settings, remarks)


def _is_all_one_class(case: Case, settings: BuildSettings) -> bool:
    if case.fully_annotated and settings.unannotated is not None:
        raise ValueError(f"{case.task.name} is annotated fully and has no annotations: an empty file would say so.")
    logger.warning("%s has no annotations and is left out.", case.task.name)
    return False


@contextmanager
def _workers(settings: BuildSettings, slides: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """`run(function, arguments of each call, title)`: what the calls return, in their order, side by side."""
    count = min(settings.num_workers, slides)
    if count <= 1:
        yield lambda function, calls, title: (function(*call) for call in tqdm(calls, desc=title, unit="slide"))
        return
    with process_pool(count, " or pass a lower --num_workers", get_context("spawn")) as pool:

        def run(function: Callable, calls: Sequence[tuple], title: str) -> Iterator[Any]:
            futures = [pool.submit(function, *call) for call in calls]
            for future in tqdm(futures, desc=title, unit="slide"):
                yield future.result()

        yield run


def _mapping(cases: Sequence[Case], settings: BuildSettings) -> dict[str, Optional[str]]:
    """The class mapping, all of whose classes somebody has drawn."""
    if settings.class_mapping is None:
        return {}
    mapping = read_class_mapping(settings.class_mapping)
    drawn = {a.class_name for case in cases for a in read_case(case, open_case(case, settings)[0]).annotations}
    unknown = sorted(set(mapping) - drawn)
    if unknown:
        known = sorted(name for name in drawn if not is_suggestion(name))
        raise ValueError(f"The class mapping names {unknown}, which nobody has drawn; there are {known}.")
    return mapping


def _keep_request(settings: BuildSettings, cases: Sequence[Case], slides: Sequence[LabelledSlide]) -> None:
    """Refuse a folder that was begun with something else; remember what this one is made from."""
    asked = {name: value for name, value in as_json(settings).items() if name not in _PLACES}
    if settings.class_mapping is not None:
        asked["class_mapping"] = read_class_mapping(settings.class_mapping)
    for case, slide in zip(cases, slides):
        drawings = [file_sha256(path) for path in case.annotations]
        told = [slide.identity, drawings, case.patient, case.split, case.fully_annotated, list(slide.mpp)]
        asked[f"slide {slide.name}"] = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    path = settings.output_dir / _REQUEST
    if path.is_file():
        before = read_json_object(path)
        asked = json.loads(json.dumps(asked))
        changed = sorted(name for name in before.keys() | asked.keys() if before.get(name) != asked.get(name))
        if changed:
            raise ValueError(
                f"{settings.output_dir} was begun with other {', '.join(changed[:5])}: choose another --output_dir, or "
                "remove it."
            )
    elif any(path for path in settings.output_dir.iterdir() if not path.name.startswith(".")):
        raise ValueError(f"{settings.output_dir} holds files of something else: choose another --output_dir.")
    write_text(path, json.dumps(asked, indent=1, sort_keys=True) + "\n")
    (settings.output_dir / IMAGES).mkdir(exist_ok=True)


def _cut(
    run: Callable[..., Iterable[Any]],
    settings: BuildSettings,
    cases: Sequence[Case],
    slides: Sequence[LabelledSlide],
    rows: Sequence[np.ndarray],
) -> Iterator[Cut]:
    images = settings.output_dir / IMAGES
    for unfinished in images.glob(".*"):
        unfinished.unlink()
    calls = [
        (case, settings, slide.positions[own], images) for case, slide, own in zip(cases, slides, rows) if len(own)
    ]
    yield from run(cut_slide, calls, "cutting")


def _records(
    settings: BuildSettings,
    cases: Sequence[Case],
    slides: Sequence[LabelledSlide],
    rows: Sequence[np.ndarray],
    splits: Sequence[str],
    cuts: Sequence[Cut],
) -> list[dict[str, Any]]:
    """The content of metadata.json; a region whose centre is lost is none."""
    lost = {name for cut in cuts for name in cut.lost}
    records: list[dict[str, Any]] = []
    for case, slide, own, split in zip(cases, slides, rows, splits):
        found = (_record(settings, case, slide, row, lost) for row in own.tolist())
        records += [{**record, "split": split} for record in found if record is not None]
    if not records:
        raise ValueError("No patch has a class: see --min_coverage, --max_other, --patch_size and --stride.")
    return records


def _record(
    settings: BuildSettings, case: Case, slide: LabelledSlide, row: int, lost: Collection[str]
) -> Optional[dict[str, Any]]:
    """One region without its split, None if its centre is lost."""

    def name_of(place: tuple[int, int]) -> str:
        return patch_name(slide.name, *place, settings.suffix)

    place = (int(slide.positions[row, 0]), int(slide.positions[row, 1]))
    if name_of(place) in lost:
        return None
    around = {key: name_of(other) for key, other in context_of(slide.lattice, place).items()}
    return {
        "slide_id": slide.name,
        **({"patient_id": case.patient} if case.patient is not None else {}),
        "image_name": name_of(place),
        "context_info": {key: name for key, name in around.items() if name not in lost},
        "class": slide.classes[row],
        "coverage": round(float(slide.coverage[row]), 3),
        "corner_level0": [round(float(value), 2) for value in slide.corners_level0[row]],
    }


def _of_losses(cuts: Sequence[Cut]) -> list[str]:
    return [f"{cut.name}: {len(cut.lost)} patches cannot be read and are left out." for cut in cuts if cut.lost]


def _write_pictures(
    run: Callable[..., Iterable[Any]],
    settings: BuildSettings,
    cases: Sequence[Case],
    slides: Sequence[LabelledSlide],
    rows: Sequence[np.ndarray],
    records: Sequence[dict[str, Any]],
) -> None:
    classes = sorted({record["class"] for record in records})
    for number, name in enumerate(classes, start=1):
        own = [record for record in records if record["class"] == name]
        patches = [(record["slide_id"], settings.output_dir / IMAGES / record["image_name"]) for record in own]
        sheet = contact_sheet(f"{name}: {len(own):,} regions of {len({r['slide_id'] for r in own})} slides", patches)
        _save(sheet, settings.output_dir / "contact_sheets" / f"{number:02d}_{_file_name(name)}.png")
    calls = [(case, settings, slide, own, classes) for case, slide, own in zip(cases, slides, rows)]
    for slide, picture in zip(slides, run(overlay, calls, "drawing")):
        _save(picture, settings.output_dir / "overlays" / f"{slide.name}.png")


def _save(picture: Any, path: Path) -> None:
    with replacing(path) as unfinished:
        picture.save(unfinished, format="png")


def _file_name(name: str) -> str:
    """A class name as part of a file's."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:80]


def _summary(records: Sequence[dict[str, Any]], settings: BuildSettings, remarks: Sequence[str]) -> dict[str, Any]:
    regions: dict[str, dict[str, int]] = {}
    for record in records:
        counts = regions.setdefault(record["class"], {})
        counts[record["split"]] = counts.get(record["split"], 0) + 1
    patches = sum(1 for path in (settings.output_dir / IMAGES).iterdir() if not path.name.startswith("."))
    return {"regions": regions, "patches": patches, "remarks": list(remarks)}
