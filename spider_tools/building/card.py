"""The card of a data set, README.md: what it was made from, and how much of what there is."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import DatasetCardData

from .. import __version__
from ..data.tables import SPLITS
from ..plain_text import markdown_cell

_TEXT = """---
{data}
---

# {title}

Regions of tissue in the layout of [SPIDER](https://arxiv.org/abs/2503.02876): `metadata.json` names the class of a
central patch and the patches around it, `images/` holds every patch once, {patch_size} px at {mpp:g} um/px. Made by
spider_tools {version} from slides and their annotations. `contact_sheets/` shows patches of every class and `overlays/`
every slide: look at them before you train, wrong labels show at once.

## Regions

{regions}
## Slides

{slides}
{patients}
## Settings

{settings}
{remarks}"""


def make_card(
    title: str, records: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], remarks: Sequence[str]
) -> str:
    """The content of README.md.

    Args:
        title: Of the data set.
        records: Of metadata.json.
        settings: By name; where files lie is left out by the caller.
        remarks: What a reader has to know, a sentence each.
    """
    splits = [split for split in SPLITS if any(record["split"] == split for record in records)]
    patients = {record["patient_id"] for record in records if "patient_id" in record}
    per_patient = _counts("Patient", "patient_id", records, splits) if patients else ""
    data = DatasetCardData(task_categories=["image-classification"], tags=["pathology", "histology", "spider"])
    return _TEXT.format(
        data=data.to_yaml(),
        title=markdown_cell(title),
        patch_size=settings["patch_size"],
        mpp=settings["target_mpp"],
        version=__version__,
        regions=_counts("Class", "class", records, splits),
        slides=_counts("Slide", "slide_id", records, splits),
        patients=f"\n## Patients\n\n{per_patient}" if per_patient else "",
        settings=_table(["Setting", "Value"], [[name, value] for name, value in settings.items()]),
        remarks="\n## Remarks\n\n" + "".join(f"- {markdown_cell(remark)}\n" for remark in remarks) if remarks else "",
    )


def _counts(title: str, field: str, records: Sequence[Mapping[str, Any]], splits: Sequence[str]) -> str:
    """Regions by a field and by split, with their sum."""
    counts = Counter((record[field], record["split"]) for record in records)
    names = sorted({record[field] for record in records})
    rows = [[name, *(counts[name, split] for split in splits), sum(counts[name, s] for s in splits)] for name in names]
    total = ["all", *(sum(counts[name, split] for name in names) for split in splits), len(records)]
    return _table([title, *splits, "all"], [*rows, total])


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(markdown_cell(value) for value in line) + " |\n" for line in lines)
