"""Run inside the proxy. Only this room may import litellm or fastapi. It never imports a room of the operator's side."""
