"""The ledger of the local runtime: a file. Errors are LmError with a hint."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmstack.errors import LmError, NoLedgerError
from lmstack.ledger import backup


def ask_ledger(path: Path, name: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the answer of a ledger query; raise LmError when the file is missing or not readable."""
    from lmstack.ledger import queries

    with ledger_errors(path):
        return queries.ask(path, name, arguments)


@contextlib.contextmanager
def ledger_errors(path: Path) -> Iterator[None]:
    """Turn the errors of reading or replacing a ledger into LmError."""
    import sqlite3

    from lmstack.ledger.keys import KeyChangeError
    from lmstack.ledger.schema import LedgerVersionError

    try:
        yield
    except FileNotFoundError:
        raise NoLedgerError(
            f"there is no ledger at {path} yet", "it appears with the first request; start with: lm up"
        ) from None
    except LedgerVersionError as error:
        raise LmError(str(error), "pip install -U lmstack") from None
    except KeyChangeError as error:
        raise LmError(f"{error}; nothing was changed", "lm key list") from None
    except backup.BackupError as error:
        raise LmError(f"this is no backup of a ledger, or a damaged one: {error}") from None
    except (sqlite3.Error, OSError) as error:
        raise LmError(f"the ledger {path} cannot be read or written: {error}", "lm doctor") from None
