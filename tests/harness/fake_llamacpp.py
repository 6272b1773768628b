"""A stand-in for the package xllamacpp: a server that counts words, answers in words, and shows what it was started with."""

from __future__ import annotations

from pathlib import Path

PACKAGE = r"""
import json, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
class CommonParams(SimpleNamespace):
    def __init__(self):
        super().__init__(model=SimpleNamespace(), mmproj=SimpleNamespace(), cpuparams=SimpleNamespace())
class Server:
    def __init__(self, params):
        if "broken" in params.model.path:
            raise RuntimeError("error loading model")
        shown = json.dumps(params, default=lambda v: sorted(v) if isinstance(v, set) else vars(v)).encode()
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send(shown)
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                words = sum(len(str(m["content"]).split()) for m in body["messages"])
                self.send(json.dumps({"input_tokens": 7 + words}).encode())
            def send(self, data):
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            def log_message(self, *_):
                pass
        server = ThreadingHTTPServer(("127.0.0.1", params.port), Handler)
        threading.Thread(target=server.serve_forever, args=(0.005,), daemon=True).start()
        self.listening_address = f"http://127.0.0.1:{params.port}"
"""


def install(folder: Path) -> Path:
    """Write the package, and a small one with a model file `tiny_gguf/tiny.gguf`; the folder belongs on PYTHONPATH."""
    for name, files in {
        "xllamacpp": {"__init__.py": PACKAGE},
        "xllamacpp-2.0.dist-info": {"METADATA": "Name: xllamacpp\nVersion: 2.0\n"},
        "tiny_gguf": {"__init__.py": "raise ImportError('never imported')", "tiny.gguf": "GGUF"},
    }.items():
        (folder / name).mkdir(parents=True)
        for file, text in files.items():
            (folder / name / file).write_text(text)
    return folder
