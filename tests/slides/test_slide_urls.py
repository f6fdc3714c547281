"""Slides by URL: downloaded whole or refused in a sentence, named like files, and their secrets stay secret."""

import json
import logging
from dataclasses import replace

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from slide_files import draw_slide, write_mirax, write_pyramid
from web_slides import PASSWORD, TOKEN, USER, serving

from spider_tools.cohorts.many import segment_slide, segment_slides
from spider_tools.slide_files.slide_error import SlideError
from spider_tools.slide_sources import remote_slides
from spider_tools.slide_sources.addresses import file_of_url, is_url, public_address, without_secrets
from spider_tools.slide_sources.finding import find_slides

pytestmark = pytest.mark.usefixtures("fresh_accelerator", "plain_pictures")


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("drawn") / "a.tif"
    return write_pyramid(path, draw_slide(260, 200, seed=1), 0.5).read_bytes()


@pytest.fixture
def memory():
    """The file system in memory, empty again after the test."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def everything_written(folder, caplog):
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return b"\n".join([*files, caplog.text.encode()])


# --- Addresses


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/a.svs", "https://h/a.svs"),
        ("HTTPS://h/a.svs", "https://h/a.svs"),
        ("https://u:p@h:8443/x/a.svs?X-Amz-Signature=1#f", "https://h:8443/x/a.svs"),
        ("https://u:p@ss@h/a.svs", "https://h/a.svs"),
        ("https://u:p/w@h/a.svs", "https://..."),
        ("https://u:1/w@h/a.svs", "https://..."),
        ("https://u:p?w@h/a.svs", "https://..."),
        ("https://u:1#w@h/a.svs", "https://..."),
        ("s3://bucket/key with @.svs?versionId=1", "s3://bucket/key with @.svs"),
        ("simplecache::https://u:p@h/a.svs", "simplecache::..."),
        ("zip://a.svs::https://u:p@h/b.zip", "zip://..."),
        ("https://h/a\x1b[31m.svs", "https://h/a\\x1b[31m.svs"),
    ],
)
def test_what_is_shown_of_a_url_holds_no_secret(url, shown):
    assert public_address(url) == shown


def test_urls_in_a_text_are_shown_alike():
    text = "GET 'https://u:p@h/a.svs?sig=1' and <s3://b/k?x=2>: no"
    assert without_secrets(text) == "GET 'https://h/a.svs' and <s3://b/k>: no"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://h/x/a%20b.svs?n=c.svs", "a b.svs"),
        ("s3://b/k/a.svs", "a.svs"),
        ("https://h", ""),
        ("https://h/x/", ""),
    ],
)
def test_a_file_is_called_as_its_url_says_decoded(url, name):
    assert file_of_url(url) == name


@pytest.mark.parametrize("text", ["a.svs", "/x/a.svs", "C:\\a.svs", "a:b.svs", "x/http://h", "./s3://b"])
def test_paths_are_no_urls(text):
    assert not is_url(text)


@pytest.mark.parametrize(
    "url",
    [
        "https://h/..%2F..%2Fa.svs",
        "https://h/%2e%2e",
        "https://h/a%00b.svs",
        "https://h/a%0Ab.svs",
        "s3://b/%5C%5Cserver%5Ca.svs",
        "https://h/.hidden.svs",
        "https://h/con.svs",
        "memory://x/" + "a" * 300 + ".svs",
        "https://h/a%FF.svs",
        "https://h?x=a.svs",
        "https://h/cohort.csv.svs",
    ],
)
def test_names_that_would_leave_their_folder_are_refused(url):
    with pytest.raises(ValueError, match=r"names? .*(folder|file)"):
        find_slides([url], urls=True)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gopher://h/a.svs", "begins with gopher, expected one of http://"),
        ("zip://a.svs::s3://b/x.zip", "begins with zip"),
        ("simplecache::https://u:p@h/a.svs", "begins with simplecache"),
        ("https://h/a.dcm", "one of the many files of a slide"),
        ("s3://b/a.vms", "one of the many files of a slide"),
    ],
)
def test_what_cannot_be_downloaded_fails_alone(url, message, tmp_path):
    (task,) = [task for task in find_slides([url], urls=True) if task.url]
    assert message in task.problem
    assert "u:p" not in task.problem


def test_urls_that_are_no_slides_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"https://h/m\.csv is a manifest at a URL: download it first"):
        find_slides(["https://u:p@h/m.csv?sig=1"], urls=True)
    with pytest.raises(ValueError, match=r"https://h/a\.svs is a URL in a Path: give URLs as text"):
        find_slides(["https:/h/a.svs"], urls=True)
    with pytest.raises(ValueError, match=r"https://h/a\.svs is a URL, which only segment_slide\.py takes"):
        find_slides(["https://u:p@h/a.svs?sig=1"])
    (tmp_path / "m.csv").write_text("slide,mask\nhttps://h/a.svs,https://h/m.png\n")
    with pytest.raises(ValueError, match="has its mask at a URL, expected a file"):
        find_slides([str(tmp_path / "m.csv")], urls=True)


def test_a_list_without_a_header_does_not_tell_the_secrets_in_it(tmp_path):
    (tmp_path / "m.csv").write_text("https://u:p4ss@h/a.svs?sig=tok3n,x\nhttps://h/b.svs,y\n")
    with pytest.raises(ValueError, match="has the columns") as refused:
        find_slides([str(tmp_path / "m.csv")], urls=True)
    assert "p4ss" not in str(refused.value)
    assert "tok3n" not in str(refused.value)


def test_manifests_and_lists_name_slides_by_url(tmp_path):
    (tmp_path / "m.csv").write_text("slide,name,mpp\nhttps://h/a.svs?sig=1,first,0.25\nlocal.svs,,\n")
    (tmp_path / "l.txt").write_text("s3://b/c.svs\n\nmemory://d.svs\n")
    tasks = find_slides([str(tmp_path / "m.csv"), str(tmp_path / "l.txt")], urls=True)
    assert [(t.name, t.address, t.mpp) for t in tasks] == [
        ("first", "https://h/a.svs", 0.25),
        ("local", str(tmp_path / "local.svs"), None),
        ("c", "s3://b/c.svs", None),
        ("d", "memory://d.svs", None),
    ]
    assert "sig" not in repr(tasks)


def test_file_urls_are_files(tmp_path, content):
    (tmp_path / "a b.tif").write_bytes(content)
    (tmp_path / "c%20d.tif").write_bytes(content)
    found = find_slides([f"file://{tmp_path}/a%20b.tif", f"file://localhost{tmp_path}/c%20d.tif"])
    assert [(task.path.name, task.url) for task in found] == [("a b.tif", ""), ("c%20d.tif", "")]
    assert [task.name for task in find_slides([f"file://{tmp_path}"])] == ["a b", "c%20d"]
    with pytest.raises(ValueError, match="is on another computer, expected file:///path"):
        find_slides(["file://server/share/a.svs"])


# --- Downloads


def test_a_slide_by_url_gets_the_results_of_the_file(tmp_path, content, settings, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "a.tif").write_bytes(content)
    segment_slide(tmp_path / "a.tif", replace(settings, output_dir=tmp_path / "file"))
    with serving({"a.tif": content}) as (address, _):
        netloc = address.removeprefix("http://")
        urls = [f"{address}/token/a.tif?sig={TOKEN}", f"http://{USER}:{PASSWORD}@{netloc}/login/a.tif"]
        (tmp_path / "l.csv").write_text(f"slide,name\n{urls[0]},a\n{urls[1]},second\n")
        results = segment_slides([tmp_path / "l.csv"], settings)
    assert [(r.name, r.status) for r in results] == [("a", "done"), ("second", "done")]
    one, two = (json.loads((tmp_path / where / "a" / "slide.json").read_text()) for where in ("file", "R"))
    assert one["request"] == two["request"]
    assert {**one["facts"], "Made": ""} == {**two["facts"], "Made": ""}  # to the minute
    tables = [pq.read_table(tmp_path / where / "a" / "predictions.parquet") for where in ("file", "R")]
    assert tables[0].equals(tables[1])
    written = everything_written(settings.output_dir, caplog)
    assert TOKEN.encode() not in written
    assert PASSWORD.encode() not in written
    assert f"{address}/token/a.tif".encode() in written
    assert f"fetched {len(content) / 1000:.1f} kB in" in caplog.text
    assert not (settings.output_dir / ".stage").exists()


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("missing", "there is no such file (404)"),
        ("token", "it may not be read with what the URL says (403)"),
        ("login", "it may not be read with what the URL says (401)"),
        ("broken", "the server answers with status 500"),
        ("circle", "the server leads from one address to the next without an end"),
        ("nowhere", "the server answers with status 304"),
        ("no-size", "has no size that the server tells"),
        ("cut", "cut off"),
        ("short", "was cut off"),
    ],
)
def test_what_does_not_come_whole_is_refused_and_the_others_go_on(content, settings, memory, way, message, caplog):
    memory.pipe("/good.tif", content)
    with serving({"a.tif": content} if way != "missing" else {}) as (address, _):
        results = segment_slides([f"{address}/{way}/a.tif?secret=hush", "memory://good.tif"], settings)
    assert [(r.name, r.status) for r in results] == [("a", "failed"), ("good", "done")]
    assert message in results[0].message
    assert results[0].message.startswith(f"{address}/{way}/a.tif ")
    assert b"hush" not in everything_written(settings.output_dir, caplog)
    assert not (settings.output_dir / "a").exists()
    assert "Traceback" not in caplog.text


def test_a_server_may_lead_to_another_which_learns_no_password(tmp_path):
    """As the Hub and archives do, whose files lie elsewhere."""
    with serving({"a.tif": b"pixels"}) as (other, theirs), serving({}) as (address, ours):
        ours.elsewhere = other.replace("127.0.0.1", "localhost")
        url = address.replace("://", f"://{USER}:{PASSWORD}@") + "/elsewhere/a.tif"
        (file,) = remote_slides.files_of_url(url)
        remote_slides.download(file, tmp_path / "a.tif", lambda count: None)
    assert (file.name, file.size) == ("a.tif", 6)
    assert (tmp_path / "a.tif").read_bytes() == b"pixels"
    assert all(ours.authorizations)
    assert theirs.asked
    assert not any(theirs.authorizations)


def test_a_server_that_is_not_there_is_told(settings):
    with pytest.raises(SlideError, match=r"http://127\.0\.0\.1:9/a\.tif cannot be read: the server cannot be reached"):
        segment_slide("http://u:p@127.0.0.1:9/a.tif", settings)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/a.svs", "s3:// needs the package s3fs: pip install s3fs"),
        ("gs://bucket/a.svs", "gs:// needs the package gcsfs: pip install gcsfs"),
        ("memory://nothing/a.svs", "there is no such file, folder or bucket"),
    ],
)
def test_what_a_service_needs_or_lacks_is_told(url, message, monkeypatch):
    for name in ("s3fs", "gcsfs"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(SlideError) as refused:
        remote_slides.files_of_url(url)
    assert message in str(refused.value)


class Hostile(fsspec.AbstractFileSystem):
    """A service whose errors tell all that they know."""

    protocol = "s3"
    error: Exception = OSError("never")

    def info(self, path, **_):
        raise self.error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError("Access Denied"), "it may not be read with the credentials that are there"),
        (type("NoCredentialsError", (Exception,), {})("none"), "it may not be read with the credentials"),
        (FileNotFoundError("The specified bucket does not exist"), "there is no such file, folder or bucket"),
        (TimeoutError(), "nothing came for 60 seconds"),
        (RuntimeError("bad s3://k:t0p@b/a.svs?sig=hush and sig=hush"), "RuntimeError: bad s3://b/a.svs and "),
    ],
)
def test_a_services_own_errors_are_told_without_secrets(error, message, monkeypatch):
    monkeypatch.setattr(Hostile, "error", error)
    monkeypatch.setattr(remote_slides, "_open", lambda url: (Hostile(), url))
    with pytest.raises(SlideError) as refused:
        remote_slides.files_of_url("s3://k:t0p@b/a.svs?sig=hush")
    assert message in str(refused.value)
    assert "hush" not in str(refused.value)
    assert "t0p" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


def test_a_folder_by_url_gives_the_slides_in_it(content, memory, settings):
    for name in ("f/b.tif", "f/a.tif", "f/notes.txt", "f/deeper/c.tif", "f/.hidden.tif", "f/con.tif"):
        memory.pipe(f"/{name}", content)
    for url in ("memory://f/", "memory://f"):
        found = find_slides([url], urls=True)
        assert [(task.name, bool(task.problem)) for task in found] == [
            ("a", False),
            ("b", False),
            ("con", True),
        ]
    with pytest.raises(ValueError, match="memory://g/ cannot be read: there is no such file, folder or bucket"):
        find_slides(["memory://g/"], urls=True)
    memory.pipe("/h/notes.txt", b"")
    with pytest.raises(ValueError, match="The folder memory://h/ holds no slides"):
        find_slides(["memory://h/"], urls=True)
    assert {result.name: result.status for result in segment_slides(["memory://f/"], settings)} == {
        "a": "done",
        "b": "done",
        "con": "failed",
    }


def test_a_page_of_links_is_a_folder_and_leads_nowhere_else(content, settings):
    links = [
        "b.tif",
        "../",
        "?C=N",
        "sub/",
        "sub/c.tif",
        "/whole/d.tif",
        "http://127.0.0.1:9/e.tif",
        "a%20b.tif",
        "n.txt",
    ]
    with serving({"b.tif": content, "a b.tif": content}, links) as (address, _):
        found = find_slides([f"{address}/list/"], urls=True)
        assert [task.name for task in found] == ["a b", "b"]
        assert {r.name: r.status for r in segment_slides([f"{address}/list/"], settings)} == {
            "a b": "done",
            "b": "done",
        }
        with pytest.raises(ValueError, match=r"cannot be read: there is no such file \(404\)"):
            find_slides([f"{address}/whole/"], urls=True)


def test_a_mirax_slide_comes_with_its_folder(tmp_path, settings, memory):
    path = write_mirax(tmp_path / "m.mrxs", draw_slide(256, 192, seed=3), (0, 0), (256, 192))
    for file in (path, *path.with_suffix("").iterdir()):
        memory.pipe(f"/x/{file.relative_to(tmp_path)}", file.read_bytes())
    ways = {"file": str(path), "url": "memory://x/m.mrxs"}
    for way, source in ways.items():
        assert segment_slide(source, replace(settings, output_dir=tmp_path / way)).status == "done"
    one, two = (pq.read_table(tmp_path / way / "m" / "predictions.parquet") for way in ways)
    assert one.equals(two)


def test_what_is_done_is_not_downloaded_again_until_it_changes(content, settings, tmp_path):
    other = write_pyramid(tmp_path / "o.tif", draw_slide(260, 200, seed=9), 0.5).read_bytes()
    with serving({"a.tif": content}) as (address, server):

        def run(way="whole", **changes):
            server.asked.clear()
            (result,) = segment_slides([f"{address}/{way}/a.tif"], replace(settings, **changes))
            return result.status, ("GET", f"/{way}/a.tif") in server.asked

        assert run() == ("done", True)
        assert run() == ("skipped", False)
        assert run(batch_size=3) == ("skipped", False)
        assert run(stride=14) == ("done", True)
        server.files["a.tif"] = other
        assert run(stride=14) == ("done", True)
        assert run(stride=14) == ("skipped", False)
        (settings.output_dir / "a" / "overview.png").unlink()
        assert run(stride=14) == ("done", True)
        assert run("nothing-known", stride=14) == ("skipped", True), "its server says nothing that tells a change"
        assert run("nothing-known", stride=14) == ("skipped", True)


def test_a_download_never_takes_more_than_was_said(content, tmp_path):
    with serving({"a.tif": content}) as (address, server):
        (file,) = remote_slides.files_of_url(f"{address}/whole/a.tif")
        server.files["a.tif"] = content * 3
        with pytest.raises(SlideError, match="has more bytes than the"):
            remote_slides.download(file, tmp_path / "a.tif", np.add.reduce)
