"""What the page says in words, as HTML in which names from models and files are text and nothing else."""

import html
from collections.abc import Sequence

from ..plain_text import escaped
from .regions import ALPHA, RegionAnswer
from .slide_maps import COLUMNS

_MOST_SHOWN = 12_000_000  # bytes of a report that is shown in the page; a larger one is there to download


def as_text(value: str) -> str:
    """Text for HTML; braces too, which gradio's templates would take for a place to fill in."""
    return html.escape(escaped(value)).replace("{", "&#123;").replace("}", "&#125;")


def refusal_html(sentence: str) -> str:
    """One sentence that says why there is no answer."""
    return f'<p class="told refused" role="alert">{as_text(sentence)}</p>'


def region_html(answer: RegionAnswer, warnings: Sequence[str]) -> str:
    """How far the answer can be believed.

    Args:
        answer: Of a region.
        warnings: Of the model.
    """
    kind = {True: "familiar", False: "refused", None: "unsure"}[answer.is_familiar]
    paragraphs = [(kind, familiarity_sentence(answer))]
    if answer.prediction_set is not None:
        paragraphs.append(("plain", set_sentence(answer.prediction_set)))
    paragraphs += [("unsure", note) for note in (*answer.notes, *warnings)]
    return _paragraphs(paragraphs)


def familiarity_sentence(answer: RegionAnswer) -> str:
    """Whether the region is like what the model has learnt from."""
    if answer.is_familiar is None:
        return "This model does not know what is familiar to it: it names one of its classes for anything at all."
    figures = f"(unfamiliarity {answer.unfamiliarity:.2f}, threshold {answer.threshold:.2f})"
    if answer.is_familiar:
        return f"Familiar: the region is like what the model has learnt from {figures}."
    return f"Unfamiliar: unlike what the model has learnt from {figures}; the name is a guess at best."


def set_sentence(names: Sequence[str]) -> str:
    """The classes that cannot be ruled out."""
    if not names:
        return f"At an error rate of {ALPHA:.0%}, every class is ruled out: none is plausible."
    # Of a class with few examples nobody knows what is improbable, so that it stays.
    return f"At an error rate of {ALPHA:.0%}, these cannot be ruled out, classes with few examples among them: " + (
        ", ".join(names) + "."
    )


def slide_html(warnings: Sequence[str]) -> str:
    """What a reader of the map must know first."""
    return _paragraphs([("unsure", warning) for warning in warnings])


def table_html(rows: Sequence[Sequence[str]]) -> str:
    """The composition of a slide; rows of `slide_maps.COLUMNS`."""
    head = "".join(f'<th scope="col">{as_text(column)}</th>' for column in COLUMNS)
    body = "".join(f"<tr>{''.join(f'<td>{as_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def report_html(title: str, report: str) -> str:
    """A report in a frame of its own, whose scripts see nothing of the page around it; "" if it is too large."""
    if len(report) > _MOST_SHOWN:
        return ""
    return (
        f'<iframe class="report" sandbox="allow-scripts" title="Report of {as_text(title)}" '
        f'srcdoc="{html.escape(report).replace("{", "&#123;").replace("}", "&#125;")}"></iframe>'
    )


def _paragraphs(told: Sequence[tuple[str, str]]) -> str:
    return "".join(f'<p class="told {kind}">{as_text(text)}</p>' for kind, text in told)
