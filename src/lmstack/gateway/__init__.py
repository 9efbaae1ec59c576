"""Inside the proxy: the only room that may import litellm, fastapi or starlette. Never imports the operator's rooms."""
