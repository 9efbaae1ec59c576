"""A port is checked on its address: our own gateway is not in the way, another program on another address is."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmstack.errors import LmError
from lmstack.runtime.base import Address, Service, State, save_state
from lmstack.runtime.choose import own_address
from lmstack.runtime.local import LocalRuntime
from lmstack.runtime.ports import check_port_free
from lmstack.stack.project import Project


@pytest.fixture
def port() -> Iterator[int]:
    """Listen on a port of 127.0.0.1, as our own gateway does."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        yield own.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "127.0.0.2"])
def test_our_own_gateway_is_not_in_the_way(port: int, host: str) -> None:
    check_port_free(Address(host, port), own=Address("127.0.0.1", port))


@pytest.mark.parametrize("host", ["127.0.0.2", "0.0.0.0"])
def test_another_program_on_a_new_address_is_found(port: int, host: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.2", port))
        other.listen()
        with pytest.raises(LmError, match=rf"port {port} on {host} cannot be used: Address already in use; .* has it"):
            check_port_free(Address(host, port), own=Address("127.0.0.1", port))
        check_port_free(Address("127.0.0.1", port), own=Address("127.0.0.1", port))


def test_without_a_gateway_of_our_own_a_taken_port_is_found(port: int) -> None:
    for host in ("127.0.0.1", "0.0.0.0"):
        with pytest.raises(LmError, match="cannot be used"):
            check_port_free(Address(host, port))
    with pytest.raises(LmError, match="cannot be used"):
        check_port_free(Address("127.0.0.1", port), own=Address("127.0.0.1", port + 1))


def test_the_address_of_the_running_gateway_comes_from_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path)
    assert own_address(project) is None
    monkeypatch.setattr(LocalRuntime, "services", lambda _: [Service("litellm-proxy", "running", pid=1)])
    state = State("local", "d", "http://localhost:4917", [], 0.0, settings={"LITELLM_HOST": "0.0.0.0"})
    save_state(project, state)
    assert own_address(project) == Address("0.0.0.0", 4917)
    save_state(project, State("local", "d", "http://localhost:4917", [], 0.0))
    assert own_address(project) == Address("localhost", 4917)
