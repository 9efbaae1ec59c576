"""The labelled prompts: read, completed with their documents, and split once and for all."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import yaml

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Prompt:
    """``level``: 0 any model can do it, 1 a middling one, 2 only a strong one; labelled by hand."""

    level: int
    kind: str
    language: str
    text: str

    @property
    def held_out(self) -> bool:
        """Half of the prompts, chosen by their hash, are never fitted on."""
        return hashlib.sha256(self.text.encode()).digest()[0] % 2 == 1


def load(file: Path = HERE / "prompts.tsv") -> list[Prompt]:
    """Return every prompt of a file with the columns level, kind, language, text."""
    documents = yaml.safe_load((HERE / "documents.yaml").read_text(encoding="utf-8"))
    prompts = []
    for line in file.read_text(encoding="utf-8").splitlines():
        level, kind, language, text = line.split("\t")
        for name, document in documents.items():
            text = text.replace(f"{{{name}}}", f"\n\n{document}")
        prompts.append(Prompt(int(level), kind, language, text.replace("\\n", "\n").strip()))
    return prompts
