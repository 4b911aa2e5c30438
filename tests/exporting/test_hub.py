"""Uploading: what would go where, and a whole upload to a hub of our own."""

import base64
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from ppo_lm.cli.main import main
from ppo_lm.config import ExportConfig
from ppo_lm.errors import UserError
from ppo_lm.exporting import run_export
from ppo_lm.exporting.hub import check_can_push, push

pytestmark = pytest.mark.fast


def test_a_dry_run_asks_no_network(trained, tmp_path, capsys, monkeypatch):
    def refuse(*_):
        raise AssertionError("a dry run may not ask the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    options = ["--parts", "adapter", "--out", str(tmp_path / "out"), "--push_to_hub", "me/it", "--dry_run", "true"]
    main(["export", str(trained[1]), *options])
    shown = capsys.readouterr()
    assert "would be uploaded to me/it (which is created as a private repository if it does not exist), 6 files" in (
        shown.out
    )
    names = [line.split()[-1] for line in shown.out.splitlines() if " KiB  " in line]
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors", "learning_curve.png"} < set(names)
    assert "library_name: peft" in shown.out and "uploaded to https" not in shown.out
    assert "which others cannot load from the hub" in shown.err
    card = (tmp_path / "out" / "README.md").read_text()
    assert "PeftModel.from_pretrained(base, 'me/it')" in card


class Hub(BaseHTTPRequestHandler):
    """Creates repositories, and takes commits of files that are sent whole."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, self.headers["Authorization"], body))
        answer = {}
        if self.path == "/api/repos/create":
            answer = {"url": f"{constants.ENDPOINT}/me/it", "name": "me/it", "id": "1"}
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            answer = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        elif "/commit/" in self.path:
            answer = {"commitUrl": f"{constants.ENDPOINT}/me/it/commit/1", "commitOid": "1", "success": True}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield server
    server.shutdown()
    server.server_close()


def test_an_upload_creates_a_private_repository_and_commits_every_file(hub, trained, tmp_path):
    config = ExportConfig(run=str(trained[1]), parts=["value"], out=str(tmp_path / "out"), push_to_hub="me/it")
    exported = run_export(config)
    assert "uploaded to" in exported.lines()[-1]
    (_, token, created), *_, (path, _, commit) = hub.asked
    assert token == "Bearer hf_test" and path.startswith("/api/models/me/it/commit/main")
    assert json.loads(created)["name"] == "it" and json.loads(created)["organization"] == "me"
    lines = [json.loads(line) for line in commit.splitlines()]
    files = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines[1:]}
    expected = {file.name: file.read_bytes() for file in exported.folder.rglob("*") if file.is_file()}
    assert files == expected  # at the root, as it is the only part


def test_what_stands_in_the_way_is_said_in_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="there is no Hugging Face token; log in with `hf auth login` or set HF_TOKEN"):
        check_can_push()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="push_to_hub 'me/it': the hub said: .*; check the network") as error:
        push("me/it", {"file": tmp_path / "file"}, private=True)
    assert "\n" not in str(error.value)
