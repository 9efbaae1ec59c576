"""Where the proxy runs: a Docker stack or a local process, behind one interface (base.Runtime)."""
