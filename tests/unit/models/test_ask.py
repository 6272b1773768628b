"""A model that the server counts: one question for each kind of request, kept for the next run."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from src.errors import InputError
from src.media.geometry import Size
from src.models.families import family_of, with_cap
from src.models.family import Family, Media
from src.models.qwen import Qwen
from src.worker.job_settings import EngineSettings
from tests.harness.records import ENGINE, MODEL

ASK = replace(MODEL, name="some-model", family="ask")


class Server:
    """Counts 100 tokens for a picture, 1500 for a clip, 7 for the template, 1 for a word; refuses a text that says so."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.status, self.clip_tokens = 200, 1500
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(200, {"data": [{"id": "some-model"}], "version": "1"})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                parts = [p for m in body["messages"] for p in (m["content"] if isinstance(m["content"], list) else [m])]
                text = " ".join(p.get("text") or p.get("content") or "" for p in parts)
                tokens = (
                    7
                    + len(text.split())
                    + sum({"image_url": 100, "video_url": outer.clip_tokens}.get(p.get("type", ""), 0) for p in parts)
                )
                status = 400 if "refuse" in text else outer.status
                self._send(status, {"count": tokens} if status == 200 else {"error": {"message": "no such thing"}})

            def _send(self, status: int, data: dict[str, Any]) -> None:
                raw = json.dumps(data).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True).start()
        self.engine: EngineSettings = replace(
            ENGINE, name="endpoint", base_url=f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def counts(server: Server, folder: Path) -> Family:
    family_of.cache_clear()
    return family_of(ASK, server.engine, str(folder))


def total(family: Family, system: str, text: str, frames: int) -> int:
    media = family.media_tokens(Size(640, 360), Media(frames)) if frames else 0
    return media + family.wrapper_tokens(system) + family.text_tokens(system, text, with_media=frames > 0)


def test_parts_add_up_to_the_servers_count(server: Server, tmp_path: Path) -> None:
    family = counts(server, tmp_path)
    assert total(family, "", "three more words", 2) == 7 + 3 + 200
    assert total(family, "be kind", "three more words", 0) == 7 + 5


def test_equal_shapes_are_asked_once_over_runs(server: Server, tmp_path: Path) -> None:
    first = total(counts(server, tmp_path), "", "a text", 2)
    asked = len(server.asked)
    assert total(counts(server, tmp_path), "", "a text", 2) == first and len(server.asked) == asked


def test_pictures_that_the_server_refuses_never_fit(server: Server, tmp_path: Path) -> None:
    family = counts(server, tmp_path)
    server.status = 400
    assert "no such thing" in family.refusal(Size(1, 999), Media(1))
    assert family.media_tokens(Size(1, 999), Media(1)) > 1_000_000


def test_refused_text_is_an_input_error(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such thing"):
        counts(server, tmp_path).text_tokens("", "refuse this", with_media=True)


@pytest.mark.parametrize("status", [404, 500])
def test_server_without_tokenize_is_named(server: Server, tmp_path: Path, status: int) -> None:
    family = counts(server, tmp_path)
    server.status = status
    with pytest.raises(InputError, match=f"HTTP {status}"):
        family.media_tokens(Size(64, 64), Media(1))


def test_server_that_is_away_is_named(server: Server, tmp_path: Path) -> None:
    server.close()
    with pytest.raises(InputError, match="cannot be reached"):
        counts(server, tmp_path).media_tokens(Size(64, 64), Media(1))


@pytest.mark.parametrize("capped", [False, True])
def test_server_decides_whether_frames_are_capped(server: Server, cache_dir: Path, small: str, capped: bool) -> None:
    model = replace(ASK, family="qwen3_vl", tokenizer=small)
    rule = family_of(replace(model, cap_pixels_per_frame=capped), server.engine, str(cache_dir))
    server.clip_tokens = rule.media_tokens(Size(1280, 736), Media(4, 2.0)) + rule.wrapper_tokens("") + 1 - 8
    found = with_cap(model, server.engine, str(cache_dir))
    assert found.cap_pixels_per_frame is capped
    note = family_of(found, server.engine, str(cache_dir))
    assert isinstance(note, Qwen) and "as this server counts" in note.note


def test_clip_count_of_neither_rule_is_an_error(server: Server, cache_dir: Path, small: str) -> None:
    with pytest.raises(InputError, match="is not what family qwen3_vl counts"):
        with_cap(replace(ASK, family="qwen3_vl", tokenizer=small), server.engine, str(cache_dir))


def test_unverified_model_only_estimates(tmp_path: Path) -> None:
    family = family_of(replace(ASK, family="unverified"), ENGINE, str(tmp_path))
    assert not family.verified and family.media_tokens(Size(640, 360), Media(2)) > 0
