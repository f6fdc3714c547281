"""The real client of the Hub, of this process, talking to a server in memory."""

from contextlib import contextmanager
from types import SimpleNamespace

from hub_contents import Account, Hub
from hub_server import serve
from huggingface_hub import constants, file_download
from huggingface_hub.utils import _http as hub_http

WRITER, READER, STRANGER = "hf_writer", "hf_reader", "hf_stranger"


@contextmanager
def talk_to_a_hub(monkeypatch):
    """Gives the state of a server with three accounts; this process's client talks to it while the block runs."""
    accounts = {
        WRITER: Account("anna", ("lab",)),
        READER: Account("bert", ("lab",), role="read"),
        STRANGER: Account("carl"),
    }
    hub = Hub(accounts)
    forget_sessions = getattr(hub_http, "reset_sessions", None) or hub_http.close_session
    with serve(hub) as endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for module in (constants, file_download):  # where older and newer clients read it
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        # The client waits up to 8 s between attempts.
        monkeypatch.setattr(hub_http, "time", SimpleNamespace(sleep=lambda seconds: None, time=lambda: 0.0))
        forget_sessions()
        yield hub
        forget_sessions()
