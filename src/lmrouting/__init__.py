"""Which model a request goes to: shared by the CLI, which plans, and the proxy, which decides.

Standard library only; it reads no file, clock or environment, and knows neither lmstack, lmledger nor LiteLLM.
"""
