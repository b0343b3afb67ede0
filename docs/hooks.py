"""Generates the workflow reference from the pydantic models, so that it cannot go stale."""

from __future__ import annotations

from typing import Any

import yaml

from wsi_pipeline.workflow import Workflow

MARKER = "<!-- workflow-reference -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(MARKER, workflow_reference()) if MARKER in markdown else markdown


def workflow_reference() -> str:
    """One table per section of the workflow file."""
    schema = Workflow.model_json_schema(by_alias=True, mode="serialization")
    parts = ["## Top level", _table(schema)]
    for name, section in schema["$defs"].items():
        if "properties" in section and name != "Length":
            parts += [f"## {_heading(section)}", section.get("description", ""), _table(section)]
    return "\n\n".join(parts)


def _heading(section: dict[str, Any]) -> str:
    source = section["properties"].get("source", {}).get("const")
    title = section["title"].removesuffix("Settings").removesuffix("Prompts").lower()
    return f"`prompts: {{source: {source}}}`" if source else f"`{title}`"


def _table(section: dict[str, Any]) -> str:
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, field in section["properties"].items():
        rows.append(f"| `{key}` | {_type(field)} | {_default(field)} | {field.get('description', '')} |")
    return "\n".join(rows)


def _type(field: dict[str, Any]) -> str:
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if "anyOf" in field or "oneOf" in field:
        options = [_type(option) for option in field.get("anyOf") or field["oneOf"]]
        return " or ".join(dict.fromkeys(options))
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[1]
        return "section `prompts`" if name.endswith("Prompts") else f"section `{name.removesuffix('Settings').lower()}`"
    if field.get("type") == "array":
        items = field.get("prefixItems") or [field["items"]]
        return f"list of {' and '.join(dict.fromkeys(_type(item) for item in items))}"
    return {
        "null": "nothing",
        "number": "number",
        "integer": "whole number",
        "boolean": "true or false",
        "object": "keys and values",
    }.get(field.get("type", ""), "text")


def _default(field: dict[str, Any]) -> str:
    """The default as a workflow file would say it."""
    default = field.get("default", "")
    if isinstance(default, dict) or default == "":
        return ""
    return "—" if default is None else f"`{yaml.safe_dump(default, default_flow_style=True).splitlines()[0]}`"
