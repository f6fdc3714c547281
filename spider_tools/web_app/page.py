"""The page itself: two tabs, what happens on a click, and two endpoints for programs."""

from pathlib import Path
from typing import Any, Optional

from .answer_html import as_text
from .answering import Answers
from .model import AppModel
from .settings import AppSettings
from .slide_maps import SLIDE

TITLE = "SPIDER: what tissue is this?"
STYLE = Path(__file__).with_name("page.css")
_SYSTEM_FONTS = ("system-ui", "sans-serif")
_SYSTEM_MONO = ("ui-monospace", "monospace")
_MODEL = {"concurrency_id": "model", "concurrency_limit": 1}  # one question at a time, whatever it is
_SHOWN_CLASSES = 6
_ATTENTION = (
    "The outlined patch is named. The greener a patch, and the larger its percentage, the more the model looked at it."
)


def make_theme(gradio: Any) -> Any:
    """Colours, and fonts that every machine has: none is fetched."""
    return gradio.themes.Default(primary_hue="emerald", neutral_hue="slate", font=_SYSTEM_FONTS, font_mono=_SYSTEM_MONO)


def make_page(gradio: Any, model: AppModel, settings: AppSettings, work: Path, examples: list[tuple[Path, str]]) -> Any:
    """The page as gradio's Blocks, not launched yet.

    Args:
        gradio: The library.
        model: Answers.
        settings: Bounds.
        work: Folder for what is made on the way.
        examples: Images to try, and their captions.
    """
    answers = Answers(gradio, model, settings, work, [path for path, _ in examples])
    age = round(60 * settings.keep_minutes)
    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(max(1, min(300, age)), age)) as page:
        gradio.HTML(_head(model), elem_id="head")
        with gradio.Tabs():
            with gradio.Tab("Region"):
                _region_tab(gradio, answers, model, settings, examples)
            with gradio.Tab("Slide"):
                _slide_tab(gradio, answers, settings)
            with gradio.Tab("About"):
                gradio.HTML(_about(model, settings))
        _endpoints(gradio, answers)
    for block in page.blocks.values():
        _take_uploads_alone(gradio, block)
    page.queue(max_size=settings.max_waiting, default_concurrency_limit=1, api_open=False)
    return page


def _region_tab(
    gradio: Any, answers: Answers, model: AppModel, settings: AppSettings, examples: list[tuple[Path, str]]
) -> None:
    with gradio.Row():
        with gradio.Column(scale=2, min_width=300):
            file = _upload(gradio, "Region", "region-file")
            _note(gradio, f"{model.region}, or larger, as PNG, JPEG or TIFF; at most {settings.max_upload_mb:g} MB.")
            mpp = gradio.Number(model.model.config.mpp, label="um/px of the image", elem_id="region-mpp")
            without = gradio.Checkbox(False, label="classify without full context (smaller images)")
            button = gradio.Button("Classify", variant="primary", elem_id="classify")
            _note(gradio, "Or click drawn tissue, which is no patient's:")
            gallery = _gallery(gradio, examples)
        with gradio.Column(scale=3, min_width=300):
            told = gradio.HTML(_invitation("Upload a region, or click a drawn one."), elem_id="region-told")
            how = "calibrated" if model.is_calibrated else "as the training left them, not calibrated"
            with gradio.Column(visible=False) as answer:
                label = gradio.Label(
                    num_top_classes=_SHOWN_CLASSES,
                    label=f"Class of the central patch; probabilities {how}",
                    elem_id="label",
                )
                picture = _picture(gradio, "attention", "jpeg")
                _note(gradio, _ATTENTION)
    shown = [told, label, picture, answer]
    button.click(answers.region, [file, mpp, without], shown, api_visibility="private", **_MODEL)

    def try_example(event: gradio.SelectData) -> Any:
        return answers.example(event.index)

    gallery.select(try_example, None, shown, api_visibility="private", **_MODEL)


def _slide_tab(gradio: Any, answers: Answers, settings: AppSettings) -> None:
    with gradio.Row():
        with gradio.Column(scale=2, min_width=300):
            file = _upload(gradio, "Slide", "slide-file")
            _note(
                gradio,
                f"{SLIDE[0].upper()}{SLIDE[1:]}; at most {settings.max_upload_mb:g} MB, and {settings.max_patches:,} "
                f"patches with tissue and their context. Files and results are removed after {settings.keep_minutes:g} "
                "minutes.",
            )
        with gradio.Column(scale=2, min_width=300):
            mpp = gradio.Number(
                0,
                label="um/px at full resolution",
                info="0 takes what the file says. PNG and JPEG never say it.",
                elem_id="slide-mpp",
            )
            button = gradio.Button("Map", variant="primary", elem_id="map")
    told = gradio.HTML(_invitation("Upload a small slide."), elem_id="slide-told")
    with gradio.Column(visible=False) as answer:
        overview = _picture(gradio, "overview", "png")
        table = gradio.HTML("", elem_id="composition")
        report = gradio.File(label="The report, in one HTML file to keep", interactive=False, elem_id="report-file")
        frame = gradio.HTML("", elem_id="report")
    tracked = gradio.Progress(track_tqdm=True)

    def map_slide(file: Optional[str], mpp: Optional[float], progress: Any = tracked) -> Any:
        yield from answers.slide(file, mpp, progress)

    results = [told, overview, table, report, frame, answer]
    button.click(map_slide, [file, mpp], results, api_visibility="private", show_progress_on=[told], **_MODEL)


def _endpoints(gradio: Any, answers: Answers) -> None:
    """What programs ask, through components that nobody sees."""
    with gradio.Row(visible=False):
        file, button = gradio.File(label="file"), gradio.Button()
        mpp, without = gradio.Number(0, label="mpp"), gradio.Checkbox(False, label="without_context")
        label, details = gradio.Label(label="probabilities"), gradio.JSON(label="details")
        composition, report = gradio.JSON(label="composition"), gradio.File(label="report")
        picture, overview = gradio.Image(label="picture", format="jpeg"), gradio.Image(label="overview")
    button.click(answers.classify, [file, mpp, without], [label, details, picture], api_name="classify", **_MODEL)
    button.click(answers.map, [file, mpp], [overview, composition, report], api_name="map", **_MODEL)


def _upload(gradio: Any, label: str, elem_id: str) -> Any:
    return gradio.File(label=label, elem_id=elem_id, height=160)


def _gallery(gradio: Any, examples: list[tuple[Path, str]]) -> Any:
    return gradio.Gallery(
        [(str(path), caption) for path, caption in examples],
        show_label=False,
        columns=3,
        height="auto",
        object_fit="cover",
        allow_preview=False,
        interactive=False,
        buttons=[],
        elem_id="examples",
    )


def _picture(gradio: Any, elem_id: str, kind: str) -> Any:
    return gradio.Image(
        show_label=False, format=kind, interactive=False, buttons=["download", "fullscreen"], elem_id=elem_id
    )


def _take_uploads_alone(gradio: Any, block: Any) -> None:
    """Have a component take files only, of which gradio asks every input, a number's too.

    It would download what stands at a URL, however much it is, and stop removing files at all once it has taken a
    folder for one.
    """
    usual = getattr(block, "async_move_resource_to_block_cache", None)
    if usual is None:
        return

    async def move(resource: Any) -> Any:
        if resource is not None and "://" in str(resource):
            raise gradio.Error("This app downloads nothing: upload the file itself.", print_exception=False)
        if resource is not None and not Path(resource).is_file():
            raise gradio.Error("Expected a file that was uploaded.", print_exception=False)
        return await usual(resource)

    block.async_move_resource_to_block_cache = move


def _note(gradio: Any, text: str) -> None:
    gradio.HTML(f'<p class="note">{text}</p>')


def _invitation(text: str) -> str:
    return f'<p class="told">{text}</p>'


def _head(model: AppModel) -> str:
    warnings = "".join(f'<p class="told unsure">{as_text(text)}</p>' for text in model.warnings)
    return (
        f"<h1>SPIDER</h1><p>Names the tissue of the central patch of a pathology region, and reads its surroundings to "
        f"do so. Model: <b>{as_text(model.name)}</b>, {len(model.model.config.class_names)} classes.</p>"
        f'<p class="note">For research only. Not a medical device, and not for diagnosis.</p>{warnings}'
    )


def _about(model: AppModel, settings: AppSettings) -> str:
    config = model.model.config
    commit = f" at commit {as_text(settings.revision)}" if settings.revision else ""
    limits = "".join(f"<p>{as_text(text)}</p>" for text in model.limits)
    names = ", ".join(as_text(name) for name in config.class_names)
    return (
        f"<p>Model: {as_text(model.name)}{commit}.</p>"
        f"<p>A region of {model.region} is a grid of {config.context_size} x {config.context_size} patches. Larger "
        "images are cut around their centre; nothing is resized, since that would change the magnification.</p>"
        f"{limits}<p>The model always answers with one of its classes: {names}.</p>"
        "<p>What you upload is read by this app alone, is shown to nobody else, and is removed after "
        f"{settings.keep_minutes:g} minutes. Do not upload what names a patient.</p>"
        "<p>Programs ask the endpoints /classify and /map, with the package gradio_client.</p>"
    )
