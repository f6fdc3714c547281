"""A region on the page: what the model itself says of it, and one sentence for whatever cannot be a region."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_spider import CLASS_NAMES, PATCH_SIZE

from spider_tools.web_app.answer_html import familiarity_sentence, region_html, report_html, set_sentence
from spider_tools.web_app.attention_picture import draw_attention
from spider_tools.web_app.drawn_examples import write_examples
from spider_tools.web_app.model import AppModel
from spider_tools.web_app.refusals import checked_upload, sentence_of
from spider_tools.web_app.regions import classify_region, read_image
from spider_tools.web_app.settings import AppSettings

SIDE = 5 * PATCH_SIZE


def test_the_answer_is_what_the_model_says_by_itself(app_model, region_file, region_pixels, knowing_folder, load_model):
    answer = classify_region(region_file, 0.5, False, app_model)
    model = load_model(knowing_folder)
    inputs = app_model.image_processor(images=region_pixels, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs, output_attentions=True)
    assert list(answer.probabilities) == CLASS_NAMES
    np.testing.assert_allclose(list(answer.probabilities.values()), expected.logits[0].softmax(-1), rtol=1e-4)
    np.testing.assert_allclose(np.ravel(answer.context_attention), expected.context_attention[0], rtol=1e-3)
    assert answer.unfamiliarity == pytest.approx(float(expected.unfamiliarity[0]), rel=1e-4)
    assert answer.is_familiar is False
    assert answer.prediction_set == expected.prediction_sets(0.1)[0]
    assert answer.notes == []
    assert answer.as_json().keys() == {
        *("probabilities", "is_familiar", "unfamiliarity", "threshold", "prediction_set", "context_attention"),
        *("notes", "alpha"),
    }


def test_the_model_is_told_by_its_folders_name_alone(knowing_folder, app_model):
    assert app_model.name == "tiny & <knowing>"
    typed = f"{knowing_folder.parent}/./{knowing_folder.name}/"
    assert AppModel.load(AppSettings(typed)).name == "tiny & <knowing>"


def test_only_a_fitted_temperature_makes_probabilities_calibrated(app_model, monkeypatch):
    config = app_model.model.config
    assert not app_model.is_calibrated
    for record, temperature, expected in (
        ({"regions": 69}, 0.6, True),
        ({"regions": 69}, 1.0, False),
        ({"regions": 0, "reason": "too few"}, 0.6, False),
        (None, 0.6, False),
        ("odd", 0.6, False),
    ):
        monkeypatch.setattr(config, "calibration", record, raising=False)
        monkeypatch.setattr(config, "logit_temperature", temperature)
        assert app_model.is_calibrated is expected


@pytest.mark.parametrize(("mode", "suffix"), [("RGB", "jpg"), ("RGBA", "png"), ("L", "tif"), ("P", "png")])
def test_images_of_every_kind_are_taken(app_model, region_pixels, tmp_path, mode, suffix):
    path = tmp_path / f"region.{suffix}"
    Image.fromarray(region_pixels).convert(mode).save(path)
    assert len(classify_region(path, 0.5, False, app_model).probabilities) == 4


def test_a_larger_image_is_cut_around_its_centre_and_a_smaller_one_has_patches_missing(
    app_model, region_file, region_pixels, tmp_path
):
    exact = classify_region(region_file, 0.5, False, app_model)
    larger = np.full((SIDE + 20, SIDE + 40, 3), 200, np.uint8)
    larger[10 : 10 + SIDE, 20 : 20 + SIDE] = region_pixels
    Image.fromarray(larger).save(tmp_path / "larger.png")
    answer = classify_region(tmp_path / "larger.png", 0.5, False, app_model)
    assert answer.probabilities == pytest.approx(exact.probabilities, rel=1e-5)
    assert "cut from around its centre" in answer.notes[0]
    Image.fromarray(region_pixels[PATCH_SIZE:-PATCH_SIZE, PATCH_SIZE:-PATCH_SIZE]).save(tmp_path / "smaller.png")
    answer = classify_region(tmp_path / "smaller.png", 0.5, True, app_model)
    assert "Only 9 of 25 patches" in answer.notes[0]
    attention = np.array(answer.context_attention)
    assert attention[0].sum() == attention[:, 4].sum() == 0
    assert attention[1:4, 1:4].sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("size", "mpp", "without", "message"),
    [
        ((139, 140), 0.5, False, r"is 139 x 140 px .*expected 140 x 140 px at 0.5 um/px, or larger.*tick 'classify"),
        ((27, 200), 0.5, True, "That is less than one patch, of 28 px"),
        ((280, 280), 0.25, False, r"has 0.25 um/px, and the model reads 0.5.*280 x 280 px become 140 x 140"),
        ((140, 140), 0, False, "must be a number above 0, got 0"),
        ((140, 140), -1, False, "must be a number above 0, got -1"),
        ((140, 140), None, False, "must be a number above 0, got nothing"),
        ((140, 140), float("nan"), False, "must be a number above 0, got nan"),
        ((140, 140), float("inf"), False, "must be a number above 0, got inf"),
    ],
)
def test_what_is_no_region_is_refused_with_what_to_do(app_model, tmp_path, size, mpp, without, message):
    Image.new("RGB", size).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=message):
        classify_region(tmp_path / "x.png", mpp, without, app_model)


def test_files_that_are_no_image_are_refused_by_their_name(tmp_path, region_pixels, bomb):
    image = Image.fromarray(region_pixels)
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "bomb.png").write_bytes(bomb)
    image.save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    image.save(tmp_path / "pages.tif", save_all=True, append_images=[image])
    image.save(tmp_path / "image.gif")
    Image.new("F", (200, 200)).save(tmp_path / "floats.tif")
    for name, message in (
        ("text.png", "text.png is no image that can be read here: expected a PNG, JPEG or TIFF image"),
        ("bomb.png", r"bomb.png has more than 89,478,485 px"),
        ("cut.png", "cut.png cannot be used: .*truncated"),
        ("pages.tif", "pages.tif cannot be used: it holds several images"),
        ("image.gif", "image.gif is no image that can be read here"),
        ("floats.tif", "floats.tif cannot be used: its mode 'F' has no fixed range"),
    ):
        with pytest.raises(ValueError, match=message):
            read_image(tmp_path / name)


def test_uploads_are_bounded_and_must_be_there(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"12345")
    assert checked_upload(str(path), 5, "an image") == path
    with pytest.raises(ValueError, match=r"x.png has 0.0 MB, expected 4e-06 MB at most"):
        checked_upload(str(path), 4, "an image")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"x.png is empty: expected an image"):
        checked_upload(str(path), 5, "an image")
    with pytest.raises(ValueError, match="upload an image first"):
        checked_upload(None, 5, "an image")


def test_a_sentence_names_no_folder_of_this_machine_and_no_flag(tmp_path, caplog):
    path = str(tmp_path / "a.svs")
    told = sentence_of(ValueError(f"{path} does not say its um/px.\nGive it as --mpp: usually 0.25."), path)
    assert told == "a.svs does not say its um/px. Give it in the field um/px: usually 0.25."
    held = tmp_path / "work" / "tmp1" / "upload" / "a.svs"
    told = sentence_of(OSError(28, "No space left on device", str(held)), path, tmp_path / "work")
    assert told == "[Errno 28] No space left on device: 'a.svs'"
    told = sentence_of(KeyError(f"{path} secret"), path)
    assert "secret" not in told
    assert "fault" in told
    assert "secret" in caplog.text


def test_what_models_and_files_are_called_is_text_and_nothing_else(app_model, region_file):
    answer = classify_region(region_file, 0.5, False, app_model)
    answer.prediction_set[:] = ["<img src=x onerror=alert(1)>", "{{this}} ${1}"]
    shown = region_html(answer, ["<script>warned</script>"])
    assert "<img" not in shown
    assert "<script" not in shown
    assert "{" not in shown
    assert "&lt;img src=x onerror=alert(1)&gt;" in shown
    frame = report_html('a" onload="x', '<p title="{{x}}">report</p>')
    assert frame.count("<") == 2
    assert 'sandbox="allow-scripts"' in frame
    assert "{" not in frame
    assert "&quot; onload=" in frame
    assert report_html("large", "x" * 12_000_001) == ""


def test_the_sentences_say_how_far_to_believe_an_answer(app_model, region_file):
    answer = classify_region(region_file, 0.5, False, app_model)
    assert familiarity_sentence(answer).startswith("Unfamiliar: ")
    for field, value, start in (("is_familiar", True, "Familiar: "), ("is_familiar", None, "This model does not know")):
        assert familiarity_sentence(type(answer)(**{**vars(answer), field: value})).startswith(start)
    assert "every class is ruled out" in set_sentence([])
    assert set_sentence(["Fat", "Stroma"]).endswith("Fat, Stroma.")


def test_the_picture_outlines_the_centre_and_greens_what_was_looked_at():
    attention, mask = np.full((3, 3), 0.05), np.ones((3, 3), bool)
    attention[0, 2] = 0.6
    mask[2, 0] = False
    pixels = np.full((12, 12, 3), (200, 100, 150), np.uint8)
    picture = np.asarray(draw_attention(pixels, attention, mask, 4)).astype(int)
    assert picture.shape == (1000, 1000, 3)
    looked_at, hardly, missing = picture[150, 850], picture[150, 500], picture[850, 250]
    np.testing.assert_allclose(looked_at, [100, 102, 105], atol=2)  # half way to the green
    np.testing.assert_allclose(hardly, [192, 100, 146], atol=2)
    assert missing.min() > 200
    assert picture[333, 500].sum() == picture[500, 666].sum() == 0


def test_examples_are_drawn_the_same_each_time_and_fit_the_model(app_model, tmp_path):
    first, again = (write_examples(tmp_path / name, app_model) for name in ("a", "b"))
    assert [caption for _, caption in first] == [
        *("Gland healthy", "Gland invasive", "Inflammation", "Lymph node", "Mucus", "Strange colours")
    ]
    for (path, _), (other, _) in zip(first, again):
        assert path.read_bytes() == other.read_bytes()
        assert classify_region(path, 0.5, False, app_model).notes == []
