"""Run inside the proxy. Only this package may import litellm or fastapi. It never imports a package of the operator's side."""
