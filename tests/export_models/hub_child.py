"""Commands of accrue-export against a hub on this machine, in a process whose hub is that one.

    hub_child.py FILE FOLDER

First nobody answers; then the hub has FILE as the weights of timm/test_vit.r160_in1k and breaks the
first download off half way. Prints a JSON line for each command, then one with the ranges asked.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

REPO = "timm/test_vit.r160_in1k"
NO_NETWORK = [
    ["test_vit", "--pretrained", "r160_in1k"],
    ["hf-hub:nobody/nothing"],
    ["ViT-B-32", "--pretrained", "datacomp_xl_s13b_b90k"],
]
content = Path(sys.argv[1]).read_bytes()
folder = Path(sys.argv[2])
asked: list[str] = []


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        if not self.path.startswith(f"/{REPO}/resolve/main/model.safetensors"):
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        wanted = self.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        rest = content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", '"0123456789abcdef"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(rest)))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            asked.append(wanted)
            half = len(asked) == 1
            self.wfile.write(rest[: len(rest) // 2] if half else rest)
            if half:
                self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def run(words: list[str]) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    from accrue_export.cli import main

    constants.DOWNLOAD_CHUNK_SIZE = 65_536  # bytes; else half of so small a file is never kept
    _http.time = SimpleNamespace(sleep=lambda s: time.sleep(s / 20))  # its waits between tries
    said = io.StringIO()
    code: object = 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(["build", *words, "-o", str(folder / "bundle")])
        except SystemExit as left:
            code = left.code
    print(json.dumps({"code": code, "said": said.getvalue()}), flush=True)


server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
address = f"http://127.0.0.1:{server.server_port}"
os.environ |= {"HF_ENDPOINT": address, "HF_HOME": str(folder / "hub"), "HF_HUB_DISABLE_XET": "1"}
server.server_close()  # its port is free again: nobody answers there
for words in NO_NETWORK:
    run(words)
server = ThreadingHTTPServer(("127.0.0.1", server.server_port), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
run(NO_NETWORK[0])
print(json.dumps(asked), flush=True)
