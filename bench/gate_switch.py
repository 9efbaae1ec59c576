"""The gate and the middleware around LiteLLM's app, with a switch for each request.

``LITELLM_WORKER_STARTUP_HOOKS=bench.gate_switch:install`` takes the place of our own hook. A request with the header
``x-bench: without-gate`` goes to LiteLLM's app directly. So requests with and without the gate run in the same process.
"""

from starlette.types import ASGIApp, Receive, Scope, Send

from lmstack.gateway.app import startup

_WITHOUT = (b"x-bench", b"without-gate")


class Switch:
    """ASGI middleware that chooses for each request."""

    def __init__(self, gated: ASGIApp, plain: ASGIApp) -> None:
        self._gated, self._plain = gated, plain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request with the gate or without it."""
        app = self._plain if _WITHOUT in scope.get("headers", ()) else self._gated
        await app(scope, receive, send)


def install() -> None:
    """Install lmstack in a worker as always, with the switch around it."""
    gated = startup._wrapped
    startup._wrapped = lambda app: Switch(gated(app), app)
    startup.install()
