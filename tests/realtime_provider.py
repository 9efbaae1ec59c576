"""A provider of realtime sessions for the tests: a WebSocket server that speaks OpenAI's events.

No mock that other people wrote speaks WebSocket. What a client asks for is in its events:
``response.create`` gets a response with the usage in USAGE; its ``metadata.do`` chooses another course.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

USAGE = {
    "total_tokens": 400, "input_tokens": 300, "output_tokens": 100,
    "input_token_details": {
        "text_tokens": 120, "audio_tokens": 180, "image_tokens": 0, "cached_tokens": 100,
        "cached_tokens_details": {"text_tokens": 40, "audio_tokens": 60, "image_tokens": 0},
    },
    "output_token_details": {"text_tokens": 30, "audio_tokens": 70},
}  # fmt: skip


class RealtimeProvider:
    """Serve sessions on a port of 127.0.0.1. ``asked``: path, key and events of each session."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.refuse_with: int | None = None
        self.redirect_to = ""  # with ``refuse_with``: where the refusal points to
        self._server: Server = serve(self._session, "127.0.0.1", 0, process_request=self._admit)
        self.port = int(self._server.socket.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End all sessions and the server."""
        self._server.shutdown()
        self._thread.join(10)

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        self.asked.append({"path": request.path, "key": request.headers.get("authorization"), "events": []})
        if self.refuse_with is None:
            return None
        answer = connection.respond(HTTPStatus(self.refuse_with), "no")
        if self.redirect_to:
            answer.headers["location"] = self.redirect_to
        return answer

    def _session(self, connection: ServerConnection) -> None:
        seen = self.asked[-1]["events"]
        session = {"type": "realtime", "audio": {"input": {"transcription": {"model": "whisper-1"}}}}
        _say(connection, "session.created", session=session)
        try:
            for text in connection:
                event = json.loads(text)
                seen.append(event)
                if event["type"] == "input_audio_buffer.commit":
                    _hear(connection)
                elif (
                    event["type"] == "response.create" and "response" in event
                ):  # LiteLLM sends one after each transcription
                    self._respond(connection, (event["response"].get("metadata") or {}).get("do", ""))
        except ConnectionClosed:
            pass

    def _respond(self, connection: ServerConnection, do: str) -> None:
        courses: dict[str, Callable[[], None]] = {
            "": lambda: _answer(connection, USAGE),
            "hang": lambda: None,
            "break": lambda: connection.close(1011, "the model has gone"),
            "no usage": lambda: _answer(connection, None),
            "transcribe": lambda: _transcribe(connection),
            "fail": lambda: _say(
                connection, "response.done",
                response={"status": "failed", "status_details": {"error": {"message": "no room for 'the merger closes on Friday'"}}, "usage": None},
            ),
        }  # fmt: skip
        _say(connection, "response.created", response={"id": "resp_1", "status": "in_progress"})
        courses[do]()


def _answer(connection: ServerConnection, usage: dict[str, Any] | None) -> None:
    _say(connection, "response.output_audio.delta", delta="UklGRg==")
    _say(connection, "response.done", response={"id": "resp_1", "status": "completed", "output": [], "usage": usage})


def _transcribe(connection: ServerConnection) -> None:
    _hear(connection)
    _answer(connection, USAGE)


def _hear(connection: ServerConnection) -> None:
    kind = "conversation.item.input_audio_transcription.completed"
    _say(connection, kind, transcript="hello", usage={"type": "duration", "seconds": 30})


def _say(connection: ServerConnection, kind: str, **more: Any) -> None:
    connection.send(json.dumps({"type": kind, "event_id": "event_1", **more}))
