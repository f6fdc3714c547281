"""What handler.py does not answer: one sentence that names the image, before the model has done anything."""

import builtins
import io
import socket
import struct
import zlib

import pytest
from endpoint_toolkit import SIDE, file_of, post, region, text_of
from PIL import Image


@pytest.fixture(autouse=True)
def idle_model(handler, monkeypatch):
    """Nothing in this file reaches the model."""
    monkeypatch.setattr(handler.model, "forward", lambda **_: pytest.fail("the model was asked"))


def refusal(handler, body, content_type="application/json", query=""):
    status, told = post(handler, body, content_type, query)
    assert status == 400
    return told["error"]


NO_IMAGE = "expected an image, its bytes, a string with an image file in base64, or a list of these."


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], '"inputs" is a list of 0 images, expected 1 to 32.'),
        (["x"] * 33, '"inputs" is a list of 33 images, expected 1 to 32.'),
        (None, f"inputs is NoneType, {NO_IMAGE}"),
        (7, f"inputs is int, {NO_IMAGE}"),
        (True, f"inputs is bool, {NO_IMAGE}"),
        ({"image": "aGVsbG8="}, f"inputs is dict, {NO_IMAGE}"),
        ([[[255, 0, 0]]], f"inputs[0] is list, {NO_IMAGE}"),
        ([1.5], f"inputs[0] is float, {NO_IMAGE}"),
        ("", "inputs is an empty string, expected an image file in base64."),
        ("data:image/png;base64,", "inputs is an empty string, expected an image file in base64."),
        (" \n", "inputs is an empty string, expected an image file in base64."),
        ("aGVsbG8=", "inputs is 5 bytes that are no image file, expected PNG, JPEG, TIFF, BMP, GIF, WEBP."),
        (["/var/lib/nonexistent"], "inputs[0] is 15 bytes that are no image file, expected PNG,"),
    ],
)
def test_what_is_no_image(handler, inputs, message):
    assert refusal(handler, {"inputs": inputs}).startswith(message)


@pytest.mark.parametrize(
    "address",
    [
        "https://example.com/region.png",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "s3://bucket/region.png",
        "/etc/hosts.png",
        "../region.png",
        "region.png",
        "C:\\region.png",
        "data:text/html;base64,aGVsbG8=",
        "data:image/png,aGVsbG8=",
        "aGVsbG8",
        "ä" * 10,
    ],
)
def test_addresses_and_paths_are_not_opened(handler, address, monkeypatch, tmp_path):
    region().save(tmp_path / "region.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtins, "open", lambda *_, **__: pytest.fail("a file was opened"))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was opened"))
    told = refusal(handler, {"inputs": [text_of(region()), address]})
    assert told.startswith(
        f"inputs[1] is a string that is no base64, {address[:40]!r}, expected an image file in base64"
    )
    assert told.endswith("Addresses and paths are not opened: send the image itself.")


def cut(content):
    return content[: len(content) * 2 // 3]


def spoilt(content):
    middle = len(content) // 2
    return content[:middle] + bytes(64) + content[middle + 64 :]


@pytest.mark.parametrize(
    ("kind", "damage"), [("png", cut), ("png", spoilt), ("gif", cut), ("gif", spoilt), ("webp", cut)]
)
def test_damaged_files(handler, kind, damage):
    content = damage(file_of(region(), kind))
    told = refusal(handler, {"inputs": [text_of(region()), text_of(content)]})
    assert told.startswith("inputs[1] cannot be decoded") or told.startswith("inputs[1] is ")
    assert "expected" in told


@pytest.mark.parametrize("kind", ["jpeg", "tiff", "bmp"])
def test_files_that_end_early(handler, kind):
    told = refusal(handler, {"inputs": text_of(cut(file_of(region(), kind)))})
    assert told.startswith("inputs cannot be decoded")


@pytest.mark.parametrize("kind", ["gif", "tiff", "webp", "png", "mpo"])
def test_files_of_several_pages_are_no_region(handler, kind):
    content = file_of(region(), kind, save_all=True, append_images=[region(1)])
    told = refusal(handler, {"inputs": text_of(content)})
    assert told == "inputs holds several pages or frames, expected one image for each region."


@pytest.mark.parametrize("kind", ["eps", "pcx", "ico", "ppm", "jpeg2000"])
def test_kinds_that_no_region_comes_in(handler, kind):
    content = file_of(region(side=SIDE), kind)
    assert "bytes that are no image file, expected PNG" in refusal(handler, {"inputs": text_of(content)})


def png_of(width, height):
    """A PNG file that says that it is that large, and holds nothing."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    )
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in chunks:
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return content


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [7_072, 9_500, 14_000, 60_000])
def test_bombs_are_not_decoded(handler, side):
    told = refusal(handler, {"inputs": [text_of(region()), text_of(png_of(side, side))]})
    assert told.startswith("inputs[1] has ")
    assert told.endswith("a region.")
    assert "50,000,000" in told


def test_a_file_may_not_be_too_large(handler, monkeypatch):
    monkeypatch.setitem(type(handler).__call__.__globals__, "MAX_BYTES", 1000)
    told = refusal(handler, {"inputs": text_of(bytes(1001))})
    assert told == "inputs is a file of 1,001 bytes, expected at most 1,000: a region."
    assert (
        refusal(handler, {"inputs": "A" * 2000})
        == "inputs is a string of 2,000 characters, expected a file of 1,000 bytes."
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([], '"parameters" must be an object, got list.'),
        ("top_k", '"parameters" must be an object, got str.'),
        ({"topk": 3, "size": 1}, "Unknown parameters: size, topk. Expected top_k, allow_missing_context, details, "),
        *(
            ({"top_k": value}, '"top_k" must be an integer from 1 to 4,')
            for value in (0, 5, -1, 1.0, True, "2", [1], 10**99)
        ),
        *(
            ({name: value}, f'"{name}" must be true or false, got {value!r}.')
            for name in ("details", "allow_missing_context")
            for value in (1, 0, "True", [], 0.5)
        ),
        ({"function_to_apply": "sigmoid"}, '"function_to_apply" must be "softmax", got \'sigmoid\'.'),
        *(
            ({"alpha": value, "details": True}, '"alpha" must be a number above 0 and below 1, got ')
            for value in (0, 1, -0.1, True, "nan", "much", [0.1], {}, 10**400, float("inf"))
        ),
        ({"alpha": 0.1}, '"alpha" is of the prediction set, which answers hold with "details": true alone.'),
    ],
)
def test_parameters_that_cannot_be_honoured(handler, parameters, message):
    told = refusal(handler, {"inputs": text_of(region()), "parameters": parameters})
    assert told.startswith(message)
    assert len(told) < 200


def test_bodies_that_are_no_request(handler):
    for body, message in (
        ({"image": "x"}, "Expected an object with \"inputs\", got the keys ['image']."),
        ({}, 'Expected an object with "inputs", got the keys [].'),
        ([1], 'Expected an object with "inputs", got list.'),
        ("x", 'Expected an object with "inputs", got str.'),
    ):
        with pytest.raises(ValueError, match=r".") as error:
            handler(body)
        assert str(error.value) == message
    told = refusal(handler, {"inputs": text_of(region()), "parameter": {"top_k": 1}, "options": {"use_cache": False}})
    assert told == 'Unknown beside "inputs": parameter. Settings go into "parameters".'
    assert refusal(handler, file_of(region()), "image/png", "top=3").startswith("Unknown parameters: top. ")
    for body in ({"x" * 10_000: 1}, {"inputs": "", "x" * 10_000: 1}, {"inputs": "", "parameters": {"x" * 10_000: 1}}):
        with pytest.raises(ValueError, match=r"^.{,400}$"):
            handler(body)


def test_images_that_the_processor_refuses_are_named(handler):
    closed = Image.open(io.BytesIO(file_of(region())))
    closed.close()
    for image, message in (
        (Image.new("F", (SIDE, SIDE)), "has the mode 'F', expected RGB"),
        (closed, "cannot be decoded"),
    ):
        with pytest.raises(ValueError, match=rf"^inputs\[1\] {message}"):
            handler({"inputs": [region(), image]})
