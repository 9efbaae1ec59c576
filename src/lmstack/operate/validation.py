"""Checks the files of a stack, or any other file, and returns the problems. Changes nothing."""

import os
from pathlib import Path

from lmstack import files
from lmstack.catalog.models import Catalog, parse_catalog
from lmstack.config.check_env import env_problems
from lmstack.config.validate import check_file
from lmstack.errors import ConfigError, LmError, Problem
from lmstack.stack.project import Project, shipped_catalog


def checked_files(project: Project) -> list[str]:
    """Return the names of the files that ``problems_of_project`` reads, without those that do not exist."""
    paths = (project.env_file, project.models_file, *_other_files(project))
    return [path.name for path in paths if path.exists()]


def problems_of_project(project: Project) -> list[Problem]:
    """Return all problems in the files of a stack."""
    problems = _problems_of_models(project)
    problems += _problems_of_env(project, catalog_or_shipped(project))
    # No environment for our own config: the shipped one refers to the key of every provider, set or not.
    for path in _other_files(project):
        text = files.read(path)
        problems += check_file(text, path.name) if text is not None else []
    return problems


def problems_of_file(project: Project, file: Path) -> list[Problem]:
    """Return the problems of one file. References in it may be set in .env or in the environment. Raises LmError."""
    text = files.read(file)
    if text is None:
        raise LmError(f"there is no file {file}", "check the path")
    known = {name: entry.value for name, entry in project.env_entries().items()}
    return check_file(text, str(file), {**known, **os.environ})


def _other_files(project: Project) -> tuple[Path, ...]:
    return project.config_file, project.compose_file, project.root / "Dockerfile"


def catalog_or_shipped(project: Project) -> Catalog:
    """Return the catalog with models.yaml, or the shipped one while models.yaml has errors."""
    try:
        return project.catalog()
    except ConfigError:
        return parse_catalog(shipped_catalog())


def _problems_of_models(project: Project) -> list[Problem]:
    try:
        project.catalog()
    except ConfigError as error:
        return list(error.problems)
    return []


def _problems_of_env(project: Project, catalog: Catalog) -> list[Problem]:
    try:
        settings = project.settings(None, catalog)
    except ConfigError as error:
        return list(error.problems)
    for_docker = settings.get("LITELLM_RUNTIME") != "local"
    return [*settings.notes, *env_problems(files.read(project.env_file) or "", for_docker)]
