"""What happens on a click: an answer for the page, or a sentence instead; and the same for programs."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

from . import answer_html
from .model import AppModel
from .refusals import UPLOAD, checked_upload, sentence_of
from .regions import IMAGE, RegionAnswer, classify_region
from .settings import AppSettings
from .slide_maps import SLIDE, SlideMapAnswer, map_upload


class Answers:
    """The answers of one model.

    Args:
        gradio: The library.
        model: Answers.
        settings: Bounds.
        work: Folder for what is made on the way; gradio does not serve it.
        examples: Images to try, which lie there too.
    """

    def __init__(self, gradio: Any, model: AppModel, settings: AppSettings, work: Path, examples: list[Path]) -> None:
        self._gradio = gradio
        self._model = model
        self._settings = settings
        self._work = work
        self._examples = examples

    # --- For the page: what went wrong is a sentence in it

    def region(self, file: Optional[str], mpp: Optional[float], without_context: bool) -> tuple[Any, ...]:
        """Sentences, probabilities, picture, and whether the latter two are shown, of an uploaded region."""
        return self._region(lambda: self._classify(file, mpp, without_context), file)

    def example(self, number: int) -> tuple[Any, ...]:
        """The same of one of the images to try."""

        def classify() -> RegionAnswer:
            return classify_region(self._examples[number], self._model.model.config.mpp, False, self._model)

        return self._region(classify, None)

    def _region(self, classify: Callable[[], RegionAnswer], file: Optional[str]) -> tuple[Any, ...]:
        try:
            answer = classify()
        except Exception as error:
            return answer_html.refusal_html(self._sentence(error, file)), None, None, self._shown(False)
        told = answer_html.region_html(answer, self._model.warnings)
        return told, answer.probabilities, answer.picture, self._shown(True)

    def slide(self, file: Optional[str], mpp: Optional[float], progress: Callable) -> Iterator[tuple[Any, ...]]:
        """Sentences, overview, table, report to keep and to look at, and whether these are shown, of an uploaded slide.

        The results are removed once gradio has taken its copies, when it asks for more.
        """
        with tempfile.TemporaryDirectory(dir=self._work) as folder:
            try:
                answer = self._map(file, mpp, Path(folder), progress)
                report = answer_html.report_html(Path(str(file)).stem, answer.report.read_text(encoding="utf-8"))
            except Exception as error:
                yield answer_html.refusal_html(self._sentence(error, file)), None, "", None, "", self._shown(False)
                return
            told = answer_html.slide_html([*self._model.warnings, *answer.warnings])
            table = answer_html.table_html(answer.rows)
            yield told, str(answer.overview), table, str(answer.report), report, self._shown(True)

    # --- For programs: what went wrong is an error

    def classify(self, file: Optional[str], mpp: Optional[float], without_context: bool) -> tuple[Any, Any, Any]:
        """Classify a region.

        Args:
            file: PNG, JPEG or TIFF of the region.
            mpp: um per px of the image; 0 for the model's.
            without_context: Whether an image smaller than a region will do.

        Returns:
            Probabilities by class; familiarity, prediction set, context attention, notes, and whether the first are
            calibrated; the picture.
        """
        with self._refusing(file):
            answer = self._classify(file, _number(mpp) or self._model.model.config.mpp, without_context)
        details = {**answer.as_json(), "is_calibrated": self._model.is_calibrated}
        details["notes"] = [*answer.notes, *self._model.warnings]
        return answer.probabilities, details, answer.picture

    def map(self, file: Optional[str], mpp: Optional[float]) -> Iterator[tuple[Any, ...]]:
        """Map a slide.

        Args:
            file: The slide, in one file.
            mpp: um per px at full resolution; 0 for what the file says.

        Returns:
            The overview, the composition, and the report in HTML.
        """
        with tempfile.TemporaryDirectory(dir=self._work) as folder:
            with self._refusing(file):
                answer = self._map(file, mpp, Path(folder), lambda *_, **__: None)
            composition = {**answer.composition, "warnings": [*self._model.warnings, *answer.warnings]}
            yield str(answer.overview), composition, str(answer.report)

    def _classify(self, file: Optional[str], mpp: Optional[float], without_context: bool) -> RegionAnswer:
        path = checked_upload(file, self._settings.max_upload_bytes, f"{IMAGE} of {self._model.region}")
        return classify_region(path, _number(mpp), bool(without_context), self._model)

    def _map(self, file: Optional[str], mpp: Optional[float], folder: Path, progress: Callable) -> SlideMapAnswer:
        path = checked_upload(file, self._settings.max_upload_bytes, SLIDE)
        progress(0.02, desc="Opening the slide")
        return map_upload(_held(path, folder), _number(mpp) or None, folder, self._model, self._settings)

    def _shown(self, shown: bool) -> Any:
        return self._gradio.update(visible=shown)

    def _refusing(self, file: Optional[str]) -> "_Refusing":
        return _Refusing(self._gradio, lambda error: self._sentence(error, file))

    def _sentence(self, error: BaseException, file: Optional[str]) -> str:
        return sentence_of(error, file, self._work)


def _number(given: Any) -> Optional[float]:
    """What programs send as a number, which may be anything."""
    if given is None or (isinstance(given, (int, float)) and not isinstance(given, bool)):
        return given
    raise ValueError(f"The um/px must be a number, got {given!r:.60}.")


def _held(path: Path, folder: Path) -> Path:
    """The upload by a second name, which stays until the answer is there, whatever gradio removes meanwhile."""
    held = folder / UPLOAD / path.name
    held.parent.mkdir()
    try:
        os.link(path, held)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(path, held)
    return held


class _Refusing:
    """Turns whatever is raised inside into the error that gradio tells programs."""

    def __init__(self, gradio: Any, told: Callable[[BaseException], str]) -> None:
        self._gradio, self._told = gradio, told

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Optional[BaseException], traceback: Any) -> None:
        if isinstance(error, Exception):
            raise self._gradio.Error(self._told(error), print_exception=False) from error
