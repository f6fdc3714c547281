"""What is known of each slide before it is opened: its patient, its annotations, its split."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..annotations.reading import find_annotations
from ..data.tables import SPLITS
from ..patients import patients_or_slides
from ..plain_text import escaped
from ..slide_sources.finding import find_slides
from ..slide_sources.task import SlideTask
from .settings import BuildSettings

COLUMNS = ("patient", "annotations", "split", "fully_annotated")
_YES, _NO = ("yes", "true", "1"), ("no", "false", "0", "")


@dataclass(frozen=True)
class Case:
    """One slide to cut.

    Attributes:
        task: Of the slide.
        annotations: Files of its annotations, none if it has none.
        patient: Whom it is of, None where the manifest does not say.
        split: One of `data.tables.SPLITS`, None where it is to be chosen.
        fully_annotated: Whether what nobody outlined has the class `--unannotated`.
    """

    task: SlideTask
    annotations: tuple[Path, ...]
    patient: Optional[str]
    split: Optional[str]
    fully_annotated: bool

    @property
    def group(self) -> str:
        """What is never split: the patient, or the slide."""
        return patients_or_slides([self.patient], [self.task.name])[0]


def find_cases(sources: Sequence[str], settings: BuildSettings) -> list[Case]:
    """The slides that files, folders and manifests name, with what a manifest says of them.

    A manifest may have the columns patient, annotations (a path beside it), split and fully_annotated beside those of
    segment_slide.py.

    Raises:
        ValueError: A slide cannot be used, a cell is wrong, a patient has slides in two splits, only some slides have a
            split or a patient, there are fewer than two slides, or no slide has annotations.
    """
    cases = [_case(task, settings) for task in find_slides(sources, also=COLUMNS)]
    if len(cases) < 2:
        raise ValueError("There is one slide: train and test need two of different patients at least.")
    for what, has in (("split", lambda c: c.split is not None), ("patient", lambda c: c.patient is not None)):
        without = [case.task.name for case in cases if not has(case)]
        if without and len(without) < len(cases):
            raise ValueError(f"Some slides have a {what} in the manifest and others, as {without[0]!r}, have none.")
    _refuse_shared_patients(cases)
    if not any(case.annotations for case in cases):
        raise ValueError(
            "No slide has annotations: give --annotations FOLDER with a file named like each slide, or the column "
            "annotations of a manifest."
        )
    return cases


def _case(task: SlideTask, settings: BuildSettings) -> Case:
    where = f"The slide {escaped(task.name)}"
    if task.problem:
        raise ValueError(task.problem)
    cells = {name: task.more.get(name, "").strip() for name in COLUMNS}
    split = cells["split"].lower()
    if split and split not in SPLITS:
        raise ValueError(f"{where} has the split {cells['split']!r}, expected one of {', '.join(SPLITS)}.")
    if cells["fully_annotated"].lower() not in (*_YES, *_NO):
        raise ValueError(f"{where} has fully_annotated {cells['fully_annotated']!r}, expected yes or no.")
    return Case(
        task=task,
        annotations=_annotations(task, cells["annotations"], settings),
        patient=cells["patient"] or None,
        split=split or None,
        fully_annotated=settings.fully_annotated or cells["fully_annotated"].lower() in _YES,
    )


def _annotations(task: SlideTask, cell: str, settings: BuildSettings) -> tuple[Path, ...]:
    found = [find_annotations(Path(source), task.name) for source in settings.annotations]
    files = [path for path in found if path is not None]
    if cell:
        path = Path(task.manifest_folder or ".") / cell
        if not path.is_file():
            raise ValueError(f"The slide {escaped(task.name)} has the annotations {path}, which is no file.")
        files.insert(0, path)
    return tuple(files)


def _refuse_shared_patients(cases: Sequence[Case]) -> None:
    split_of: dict[str, Case] = {}
    for case in cases:
        first = split_of.setdefault(case.group, case)
        if first.split != case.split:
            raise ValueError(
                f"The manifest has {escaped(case.group)} in two splits: {escaped(first.task.name)} in {first.split}, "
                f"{escaped(case.task.name)} in {case.split}."
            )
