"""Where the proxy runs: a compose stack or a local process, behind one interface (base.Runtime)."""
