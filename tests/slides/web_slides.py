"""A web server in a thread of the tests, which gives files and misbehaves in all the ways that servers do."""

import base64
import contextlib
import http.server
import threading
from urllib.parse import unquote, urlsplit

USER, PASSWORD, TOKEN = "anna", "s3cret-word", "tok3n"


class _Handler(http.server.SimpleHTTPRequestHandler):
    """The first part of a path says how its last part is given: /whole/a.tif, /cut/a.tif, /elsewhere/a.tif ..."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.asked.append((self.command, self.path))
        self.server.authorizations.append(self.headers.get("Authorization"))
        parts = urlsplit(self.path)
        way, _, name = unquote(parts.path).lstrip("/").partition("/")
        if way == "elsewhere":
            return self._answer(302, {"Location": f"{self.server.elsewhere}/whole/{name}"})
        if way == "circle":
            return self._answer(302, {"Location": f"/circle/{name}"})
        if way == "nowhere":
            return self._answer(304)
        if way == "token" and f"sig={TOKEN}" not in parts.query:
            return self._answer(403)
        if way == "login":
            wanted = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            if self.headers.get("Authorization") != f"Basic {wanted}":
                return self._answer(401, {"WWW-Authenticate": "Basic"})
        if way == "broken":
            return self._answer(500)
        if way == "list" and not name:
            links = "".join(f'<a href="{link}">x</a>' for link in self.server.links)
            return self._answer(200, {"Content-Type": "text/html"}, f"<html>{links}</html>".encode())
        try:
            content = self.server.files[name]
        except KeyError:
            return self._answer(404)
        headers = {"ETag": f'"{hash(content)}"'} if way != "nothing-known" else {}
        if way == "no-size":
            self.close_connection = True
            headers["Content-Length"] = None
        sent = content[: len(content) // 2] if way == "cut" else content
        if way == "short" and self.command == "GET":  # as a proxy does that cached half of it
            content = sent = content[: len(content) // 2]
        self._answer(200, {"Content-Length": str(len(content)), **headers}, sent)
        if way == "cut":
            self.close_connection = True

    def _answer(self, status, headers=None, content=b""):
        self.send_response(status)
        headers = {"Content-Length": str(len(content)), **(headers or {})}
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content)


@contextlib.contextmanager
def serving(files, links=()):
    """`(address, server)` of a server of files, bytes by name; `server.asked` tells what came, as (method, path)."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.files, server.links, server.asked = files, links, []
    server.authorizations, server.elsewhere = [], ""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
