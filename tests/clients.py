"""A client that sends requests until it is stopped, and notes what it did not get."""

import ssl
import threading

import httpx

from small_server import Server


def send_until(server: Server, stop: threading.Event, path: str, faults: list[str], counts: list[int]) -> None:
    """Send requests, each on a connection of its own, until ``stop``. Note what is refused or cut."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used, but httpx would load all certificates each time
    while not stop.is_set():
        try:
            answer = httpx.get(f"http://127.0.0.1:{server.port}{path}", trust_env=False, timeout=30, verify=context)
            if answer.status_code != 200 or (path == "/stream" and not answer.text.endswith("[DONE]")):
                faults.append(f"{path}: {answer.status_code}, {answer.text[-20:]}")
            counts.append(1)
        except httpx.HTTPError as error:
            faults.append(f"{path}: {type(error).__name__}: {error}")
