"""handler.py, called as the toolkit of Inference Endpoints calls it."""

import io
import json
import os
import shutil
import sys
import threading

import endpoint_toolkit as toolkit
import numpy as np
import pytest
import torch
import warm_python
from endpoint_toolkit import SIDE, file_of, region, text_of
from huggingface_hub import ImageClassificationOutputElement
from made_up_limits import random_state
from PIL import Image
from tiny_spider import CLASS_NAMES, ROOT


@pytest.fixture(scope="module")
def knowing_handler(make_model, processor, tmp_path_factory):
    """Of a model that knows its limits, and finds about half of the regions of noise unfamiliar."""
    folder = tmp_path_factory.mktemp("knowing") / "knowing-endpoint"
    model = make_model()
    model.remember(familiarity_means=4, conformal_scores=19)
    random_state(model)
    with torch.no_grad():
        doubts = [model(**processor(images=region(seed), return_tensors="pt")).unfamiliarity.item() for seed in (0, 1)]
    model.config.unfamiliarity_threshold = sum(doubts) / 2
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    shutil.copy(ROOT / "handler.py", folder)
    order = (0, 1) if doubts[0] < doubts[1] else (1, 0)
    return toolkit.start(folder), model, order


@pytest.fixture(scope="module")
def expected(make_model, processor):
    """`expected(image, top_k=4)`: the answer, from the model and the processor themselves."""
    model = make_model()

    def answer(image, top_k=4, **options):
        with torch.no_grad():
            scores = model(**processor(images=image, return_tensors="pt", **options)).logits[0].softmax(-1).tolist()
        best = sorted(zip(scores, CLASS_NAMES), reverse=True)[:top_k]
        return [{"label": name, "score": pytest.approx(score, abs=1e-6)} for score, name in best]

    return answer


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_processor_that_leaves_bytes_gives_the_same_answers(endpoint_folder, tmp_path, monkeypatch, dtype):
    monkeypatch.setenv("SPIDER_ENDPOINT_DTYPE", dtype)
    usual = toolkit.start(endpoint_folder)
    folder = shutil.copytree(endpoint_folder, tmp_path / "of-bytes")
    fields = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(fields | {"do_rescale": False, "do_normalize": False}))
    expected = usual({"inputs": region()})
    found = toolkit.start(folder)({"inputs": region()})
    assert found == [{"label": entry["label"], "score": pytest.approx(entry["score"], abs=1e-5)} for entry in expected]


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "gif", "webp"])
def test_the_bytes_of_an_image_are_classified(handler, expected, kind):
    content = file_of(region(), kind)
    status, answer = toolkit.post(handler, content, f"image/{kind}")
    assert (status, answer) == (200, expected(Image.open(io.BytesIO(content)).convert("RGB")))
    assert toolkit.post(handler, content, f"image/{kind}", "top_k=2&allow_missing_context=false") == (200, answer[:2])
    assert handler({"inputs": content}) == handler({"inputs": bytearray(content)}) == answer
    parsed = ImageClassificationOutputElement.parse_obj_as_list(answer)
    assert [entry.label for entry in parsed] == [entry["label"] for entry in answer]


def in_lines(text):
    return "\n".join(text[i : i + 76] for i in range(0, len(text), 76)) + "\n"


@pytest.mark.parametrize("form", [str, in_lines, lambda text: " data:image/png;base64," + text])
def test_json_holds_images_in_base64(handler, expected, form):
    assert toolkit.post(handler, {"inputs": form(text_of(region()))}) == (200, expected(region()))


def test_a_batch_is_answered_as_its_images_are(handler, expected):
    images = [region(seed, side) for seed, side in ((0, 140), (1, 150), (2, 201), (3, 140))] * 3
    batch = {"inputs": [text_of(image) for image in images], "parameters": {"top_k": 3}}
    assert toolkit.post(handler, batch) == (200, [expected(image, 3) for image in images])
    assert toolkit.post(handler, {"inputs": [text_of(images[0])]}) == (200, [expected(images[0])])
    assert handler({"inputs": (images[0], file_of(images[1]))}) == [expected(images[0]), expected(images[1])]


def test_transparency_and_greys_are_what_the_processor_makes_of_them(handler, expected):
    clear = region().convert("RGBA")
    clear.putalpha(Image.fromarray(np.random.default_rng(9).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)))
    deep = Image.fromarray(np.random.default_rng(8).integers(0, 65536, (SIDE, SIDE), dtype=np.uint16))
    for image in (clear, deep, region().convert("L"), region().convert("P")):
        stored = Image.open(io.BytesIO(file_of(image)))
        assert toolkit.post(handler, {"inputs": text_of(image)}) == (200, expected(stored))


def test_a_small_image_needs_the_word_of_the_client(handler, expected):
    small = region(side=100)
    body = {"inputs": [text_of(region()), text_of(small)]}
    status, told = toolkit.post(handler, body)
    assert status == 400
    assert told["error"].startswith("inputs[1] is 100x100 px (height x width), expected at least 140x140 px.")
    allowed = {"allow_missing_context": True}
    answer = [expected(region()), expected(small, **allowed)]
    assert toolkit.post(handler, body | {"parameters": allowed}) == (200, answer)
    details = toolkit.post(handler, {"inputs": text_of(small), "parameters": allowed | {"details": True}})[1]
    assert details["context_patches"] == 9
    status, told = toolkit.post(handler, file_of(region(side=20)), "image/png", "allow_missing_context=true")
    assert (status, told["error"][:39]) == (400, "inputs is 20x20 px (height x width), sm")


def test_a_model_that_knows_nothing_of_its_limits_says_null(handler, expected):
    status, answer = toolkit.post(handler, {"inputs": text_of(region()), "parameters": {"details": True}})
    nothing = dict.fromkeys(("is_familiar", "unfamiliarity", "prediction_set", "alpha"))
    assert (status, answer) == (200, {"labels": expected(region()), **nothing, "context_patches": 25})
    told = toolkit.post(handler, {"inputs": text_of(region()), "parameters": {"details": True, "alpha": 0.2}})
    assert told == (400, {"error": 'The model has no prediction sets, so that "alpha" means nothing. Leave it out.'})


def test_what_is_unfamiliar_is_not_hidden(knowing_handler):
    handler, _, (known, unknown) = knowing_handler
    status, answer = toolkit.post(handler, {"inputs": [text_of(region(known)), text_of(region(unknown))]})
    assert status == 200
    assert [set(entry) for entry in answer[0]] == 4 * [{"label", "score"}]
    assert [entry["is_familiar"] for entry in answer[1]] == 4 * [False]
    assert ImageClassificationOutputElement.parse_obj_as_list(answer[1])[0].score == answer[1][0]["score"]


@pytest.mark.parametrize("alpha", [None, 0.3, "0.3"])
def test_details_are_all_that_the_model_says(knowing_handler, processor, alpha):
    handler, model, _ = knowing_handler
    images = [region(seed) for seed in (0, 1)]
    with torch.no_grad():
        outputs = model(**processor(images=images, return_tensors="pt"))
    parameters = {"details": True, "top_k": 1, "alpha": alpha, "function_to_apply": "softmax"}
    status, answer = toolkit.post(handler, {"inputs": list(map(text_of, images)), "parameters": parameters})
    assert status == 200
    for i, told in enumerate(answer):
        score = pytest.approx(outputs.logits[i].softmax(-1).max().item(), abs=1e-5)
        assert told == {
            "labels": [{"label": outputs.predicted_class_names[i], "score": score}],
            "is_familiar": outputs.is_familiar[i].item(),
            "unfamiliarity": pytest.approx(outputs.unfamiliarity[i].item(), rel=1e-4),
            "prediction_set": outputs.prediction_sets(float(alpha or 0.1))[i],
            "alpha": float(alpha or 0.1),
            "context_patches": 25,
        }
    one = toolkit.post(
        handler, file_of(images[0]), "image/png", "details=true&top_k=1" + (f"&alpha={alpha}" * bool(alpha))
    )
    assert one[0] == 200
    assert (one[1]["prediction_set"], one[1]["alpha"]) == (answer[0]["prediction_set"], answer[0]["alpha"])


def test_a_model_that_has_lost_its_memory_answers_in_json(knowing_handler, monkeypatch):
    handler = knowing_handler[0]
    lost = lambda embeddings, _: torch.full((len(embeddings),), torch.inf)  # noqa: E731
    monkeypatch.setattr(handler.model.familiarity, "forward", lost)
    status, answer = toolkit.post(handler, {"inputs": text_of(region()), "parameters": {"details": True}})
    assert (status, answer["is_familiar"], answer["unfamiliarity"]) == (200, False, None)


def test_threads_get_their_own_answers(handler):
    images = [region(seed) for seed in range(6)]
    alone = [handler({"inputs": image}) for image in images]
    found = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: handler({"inputs": images[i]})}))
        for i in range(len(images))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(images))] == alone


def test_bfloat16_is_asked_for_by_the_environment(endpoint_folder, expected, monkeypatch):
    monkeypatch.setenv("SPIDER_ENDPOINT_DTYPE", "bfloat16")
    handler = toolkit.start(endpoint_folder)
    assert handler.model.dtype == torch.bfloat16
    status, answer = toolkit.post(handler, {"inputs": text_of(region())})
    assert status == 200
    exact = {entry["label"]: entry["score"].expected for entry in expected(region())}
    assert all(entry["score"] == pytest.approx(exact[entry["label"]], abs=0.05) for entry in answer)
    monkeypatch.setenv("SPIDER_ENDPOINT_DTYPE", "int8")
    with pytest.raises(ValueError, match="SPIDER_ENDPOINT_DTYPE must be one of float32, bfloat16, got 'int8'"):
        toolkit.start(endpoint_folder)


def test_a_folder_without_a_model_is_told_and_the_own_folder_is_the_default(endpoint_folder, handler, tmp_path):
    assert type(handler)().model.config.class_names == CLASS_NAMES
    for wrong in (tmp_path, "org/name"):
        with pytest.raises(
            ValueError, match=r"Expected the folder of a SPIDER model, got '.*', which has no config\.json"
        ):
            type(handler)(wrong)
    broken = type(handler)(endpoint_folder)
    torch.nn.init.constant_(broken.model.classifier.bias, torch.nan)
    with pytest.raises(ValueError, match="scores are not finite"):
        broken({"inputs": region()})


SERVES_ALONE = """
import base64, importlib, json, sys
toolkit, folder, image = sys.argv[1:]
for name in ("spider_tools", "accelerate", "datasets", "matplotlib", "sklearn", "scipy", "pandas", "torchvision"):
    sys.modules[name] = None
def watch(event, arguments):
    assert event not in ("socket.connect", "socket.getaddrinfo"), arguments
sys.addaudithook(watch)
sys.path.insert(0, toolkit)
import endpoint_toolkit
from pathlib import Path
sys.path.remove(toolkit)
handler = endpoint_toolkit.start(Path(folder))
content = Path(image).read_bytes()
print(json.dumps([
    endpoint_toolkit.post(handler, content, "image/png"),
    endpoint_toolkit.post(handler, {"inputs": [base64.b64encode(content).decode()]}),
]))
"""


def test_a_bare_copy_serves_where_there_is_no_checkout(endpoint_folder, expected, tmp_path):
    alone = shutil.copytree(endpoint_folder, tmp_path / "bare-endpoint")
    (tmp_path / "toolkit").mkdir()
    shutil.copy(ROOT / "tests" / "endpoint_toolkit.py", tmp_path / "toolkit")
    region().save(tmp_path / "region.png")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = [sys.executable, "-c", SERVES_ALONE, tmp_path / "toolkit", alone, tmp_path / "region.png"]
    run = warm_python.run(program, cwd=tmp_path, env=environment)
    assert run.returncode == 0, run.stderr
    bytes_told, json_told = json.loads(run.stdout.splitlines()[-1])
    assert bytes_told == [200, expected(region())]
    assert json_told == [200, [expected(region())]]
