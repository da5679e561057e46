"""What `mkdocs.yml` uses beside plugins: generated reference pages, and equations without scripts.

The pages under reference/ that describe code come from the code: `on_files` adds them.
"""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any, get_args, get_origin

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages. A file of the same name holds the page's introduction."""
    for name, generate in PAGES.items():
        path = f"reference/{name}.md"
        introduction = files.get_file_from_path(path)
        text = introduction.content_string if introduction else f"# {name}\n"
        if introduction:
            files.remove(introduction)
        page = f"{text.rstrip()}\n\n{generate()}"
        files.append(File.generated(config, path, content=page))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Drop the notebook template's diagram loader; refuse pages that load from elsewhere."""
    del config
    output = re.sub(
        r"<script(?:(?!</script>).)*mermaid(?:(?!</script>).)*</script>", "", output, flags=re.S
    )
    loaded = re.search(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=.?https?://[^>]*>", output)
    if loaded and 'rel="canonical"' not in loaded[0]:
        raise PluginError(f"{page.file.src_path} loads from elsewhere: {loaded[0]}")
    return output


def display_math(source: str, *_: Any, **__: Any) -> str:
    """A fenced block `math` as MathML, which browsers show without scripts."""
    return "\n".join(
        f'<p class="equation">{convert(line, display="block")}</p>'
        for line in source.strip().splitlines()
    )


# --- command line -------------------------------------------------------------------------------


def command_line() -> str:
    """Every command with its options, from the command line itself."""
    import typer.main
    from typer.cli import get_docs_for_click

    from indexer.cli import app

    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name="p4r"), name="p4r")
    text = re.sub(r"^# `p4r`\n", "", text)
    text = re.sub(r"^\*\*Commands\*\*:\n\n(?:\* .*\n)+", "", text, count=1, flags=re.M)
    # What comes last in a command are its examples, one a line.
    return re.sub(r"^(Examples?: .*)$", _example, text, flags=re.M)


def _example(found: re.Match[str]) -> str:
    lines = [line.strip() for line in re.split(r"  +", found[1].partition(":")[2]) if line.strip()]
    return "```sh\n" + "\n".join(lines) + "\n```"


# --- settings -----------------------------------------------------------------------------------


def settings() -> str:
    """Every setting: environment variable, default, what it does; one section a table."""
    from p4r_qdrant.settings import Settings

    parts = []
    for name, field in Settings.model_fields.items():
        section = typing.cast("type[BaseModel]", field.annotation)
        about = _first_paragraph(inspect.getdoc(section) or "")
        parts.append(f"## {name}\n\n{about}\n\n" + _table(_HEAD, _settings(section, name)))
    return "\n\n".join(parts)


_HEAD = ("Environment variable", "Default", "What it does")


def _settings(section: type[BaseModel], *path: str) -> Iterator[tuple[str, str, str]]:
    for name, field in section.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is not None:
            variable = _variable(*path, name, "*")
            yield variable, "unset", field.description or _first_paragraph(inspect.getdoc(inner))
            continue
        yield _variable(*path, name), _default(field), field.description or ""


def _variable(*path: str) -> str:
    return f"`P4R_{'__'.join(path).upper()}`"


def _model_in(annotation: Any) -> type[BaseModel] | None:
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value is PydanticUndefined or isinstance(value, SecretStr) or value == "":
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (list, tuple)):
        return f"`{', '.join(map(str, value))}`" if value else "none"
    return f"`{value}`"


# --- HTTP ---------------------------------------------------------------------------------------


def http() -> str:
    """Every route of the service, from its OpenAPI document."""
    from p4r_qdrant.service.app import create_app
    from p4r_qdrant.service.backend import Backend
    from p4r_qdrant.service.state import Service
    from p4r_qdrant.settings import Settings

    document = create_app(Service(Backend(Settings()))).openapi()
    parts = []
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            about = (route.get("description") or route.get("summary") or "").strip()
            answers = [
                (f"`{code}`", answer["description"]) for code, answer in route["responses"].items()
            ]
            parts.append(
                f"### `{method.upper()} {path}`\n\n{about}\n\n" + _table(("Status", ""), answers)
            )
    return "\n\n".join(parts)


# --- artifacts ----------------------------------------------------------------------------------


def artifacts() -> str:
    """The fields of each file's records, from the records themselves."""
    from p4r_qdrant import records

    files: dict[str, type[BaseModel]] = {
        "items.jsonl": records.Item,
        "reviews.jsonl": records.Review,
        "splits.jsonl": records.Split,
        "summaries.jsonl": records.Summary,
        "aspects.jsonl": records.Aspects,
        "personas.jsonl": records.ItemPersonas,
        "one of its `personas`": records.Persona,
        "alignments.jsonl": records.Alignment,
        "candidates.jsonl": records.CandidateList,
        "one of its `results`": records.Candidate,
    }
    parts = []
    for name, model in files.items():
        title = f"`{name}`" if name.endswith("jsonl") else name.capitalize()
        rows = [
            (
                f"`{field}`",
                _type(info.annotation),
                "required" if info.is_required() else "optional",
                info.description or "",
            )
            for field, info in model.model_fields.items()
        ]
        head = ("Field", "Type", "", "Meaning")
        parts.append(f"## {title}\n\n{inspect.getdoc(model)}\n\n{_table(head, rows)}")
    return "\n\n".join(parts)


def _type(annotation: Any) -> str:
    """A type in the words of JSON."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _type(inside[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "object"
    if origin in (list, tuple):
        return f"list of {_type(inside[0])}"
    if origin is dict:
        return f"object of {_type(inside[1])}"
    if inside:
        return " or ".join(_type(one) for one in inside)
    words = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return words.get(annotation, "null" if annotation is type(None) else "any")


# --- errors -------------------------------------------------------------------------------------


def errors() -> str:
    """The exception tree, with exit codes, from the sources: importing all of them takes long."""
    below: dict[str, list[ast.ClassDef]] = defaultdict(list)
    root = Path(__file__).parent.parent
    for package in ("p4r_qdrant", "indexer"):
        for path in sorted((root / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    for base in node.bases:
                        below[ast.unparse(base).rpartition(".")[2]].append(node)
    [top] = (one for one in below["Exception"] if one.name == "P4RError")
    return _table(("Exception", "Exit code", "Meaning"), _errors(top, below, 0, ""))


def _errors(
    error: ast.ClassDef, below: dict[str, list[ast.ClassDef]], depth: int, exit_code: str
) -> Iterator[tuple[str, str, str]]:
    for line in error.body:
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "exit_code":
            exit_code = ast.unparse(line.value)
    about = _first_paragraph(ast.get_docstring(error))
    yield f"{'&emsp;' * depth}`{error.name}`", exit_code, about
    for one in below[error.name]:
        if not one.name.startswith("_"):
            yield from _errors(one, below, depth + 1, exit_code)


# --- metrics ------------------------------------------------------------------------------------


def metrics() -> str:
    """Every metric of the service, from its registry."""
    from p4r_qdrant.service.metrics import Metrics

    rows = []
    for family in Metrics().registry.collect():
        total = "_total" if family.type == "counter" else ""
        rows.append((f"`{family.name}{total}`", family.type, family.documentation))
    return _table(("Metric", "Type", "Meaning"), rows)


# --- shared -------------------------------------------------------------------------------------


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heading = list(head)
    lines = [heading, ["---"] * len(heading), *map(list, rows)]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _first_paragraph(text: str | None) -> str:
    return escape((text or "").partition("\n\n")[0], quote=False)


PAGES: dict[str, Callable[[], str]] = {
    "command-line": command_line,
    "settings": settings,
    "http": http,
    "artifacts": artifacts,
    "errors": errors,
    "metrics": metrics,
}
