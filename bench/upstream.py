"""A provider that is not the bottleneck: OpenAI's chat completions, one canned answer, plain asyncio.

``python -m bench.upstream PORT``. Tests use llmock; this one only has to be fast.
"""

import asyncio
import json
import sys

WORDS = ("Simulated ", "answer ", "from ", "a ", "fast ", "upstream.")
USAGE = {"prompt_tokens": 8, "completion_tokens": 8, "total_tokens": 16}
_HEAD = {"id": "chatcmpl-bench", "created": 1, "model": "gpt-4o-mini"}


def _plain() -> bytes:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "".join(WORDS)}}
    body = json.dumps({**_HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def _stream() -> bytes:
    deltas = [{"role": "assistant", "content": ""}, *({"content": word} for word in WORDS)]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": USAGE}]
    events = [json.dumps({**_HEAD, "object": "chat.completion.chunk", **chunk}) for chunk in chunks]
    body = "".join(f"data: {event}\n\n" for event in (*events, "[DONE]")).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(body) + body


class Upstream(asyncio.Protocol):
    """Keeps the connection, answers each complete request."""

    plain, stream = _plain(), _stream()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer each complete request."""
        self.buffer += data
        while True:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            lower = head.lower()
            at = lower.find(b"content-length:")
            size = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(rest) < size:
                return
            body, self.buffer = rest[:size], rest[size:]
            streamed = b'"stream":true' in body or b'"stream": true' in body
            self.transport.write(self.stream if streamed else self.plain)  # type: ignore[attr-defined]


async def main(port: int) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
