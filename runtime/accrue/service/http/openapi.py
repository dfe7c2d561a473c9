"""The OpenAPI document, made from the table of operations.

    python -m accrue.service.http.openapi > docs/reference/openapi.json

A test holds the file in docs/reference against what this makes.
"""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

from accrue.service.http.app import operations
from accrue.service.http.problems import STATUS
from accrue.service.http.schema import Schemas
from accrue.service.http.table import Images, Labelled, Operation

VERSION = "3.1.0"
_PARAMETER = re.compile(r"{(\w+)(?::(\w+))?}")
_KINDS = {"int": "integer"}
_TITLES = {status: title for _, status, title in STATUS}
PROBLEM = {
    "type": "object",
    "description": "What went wrong (RFC 9457), with what to do about it.",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "one line"},
        "hint": {"type": "string", "description": "what to do; may be empty"},
        "kind": {"type": "string", "description": "as in the table of exit codes"},
        "retryable": {"type": "boolean"},
        "fields": {"type": "object", "description": "what the line was made of"},
    },
    "required": ["type", "title", "status", "detail", "hint", "kind", "retryable", "fields"],
}


def document() -> dict[str, Any]:
    """The whole API."""
    schemas = Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations():
        url = _PARAMETER.sub(r"{\1}", operation.url)
        method = "get" if operation.method == "WS" else operation.method.lower()
        paths.setdefault(url, {})[method] = _operation(operation, schemas)
    return {
        "openapi": VERSION,
        "info": {
            "title": "Accrue",
            "version": "1",
            "description": "The API of one device. Every verb is one of the command line, under "
            "the same name. docs/api.md says how to use it.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"cookie": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "accrue"},
            },
            "schemas": {"Problem": PROBLEM, **dict(sorted(schemas.found.items()))},
        },
    }


def _operation(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    doc = inspect.getdoc(operation.handler) or ""
    more = "\n".join(doc.split("\n\n", 1)[1:])
    role = "open to all" if operation.role is None else f"for a {operation.role} or above"
    description = "\n\n".join(text for text in (more.strip(), f"Who: {role}.") if text)
    found: dict[str, Any] = {
        "operationId": operation.handler.__name__,
        "summary": operation.summary,
        "description": description,
        "x-role": operation.role,
        "parameters": _parameters(operation, schemas),
        "responses": _responses(operation, schemas),
    }
    if operation.role is None:
        found["security"] = []
    if operation.method == "WS":
        found["x-websocket"] = True
    body = _body(operation, schemas)
    if body is not None:
        found["requestBody"] = body
    return found


def _parameters(operation: Operation, schemas: Schemas) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": _KINDS.get(kind, "string")},
        }
        for name, kind in _PARAMETER.findall(operation.url)
    ]
    if query := operation.wants.get("query"):
        own = Schemas()
        own.of(query)
        for name, schema in own.found[query.__name__]["properties"].items():
            found.append({"name": name, "in": "query", "required": False, "schema": schema})
    for wanted, name in ((operation.retry, "Idempotency-Key"), (operation.match, "If-Match")):
        if wanted:
            text = {"type": "string"}
            found.append({"name": name, "in": "header", "required": False, "schema": text})
    return found


def _body(operation: Operation, schemas: Schemas) -> dict[str, Any] | None:
    if operation.upload:
        return {"required": True, "content": {operation.upload: {"schema": {"type": "string"}}}}
    wants = operation.wants
    if wants.get("images") == Images:
        file = {"type": "string", "contentMediaType": "image/*"}
        form = {
            "type": "object",
            "properties": {"image": {"type": "array", "items": file}},
            "required": ["image"],
        }
        content = {"multipart/form-data": {"schema": form}, "image/*": {"schema": file}}
        return {"required": True, "content": content}
    if wants.get("photos") == Labelled:
        labelled = {"type": "string", "contentMediaType": "image/*"}
        about = "each with the file name CLASS/photo.jpg"
        array = {"type": "array", "items": labelled, "description": about}
        return {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"image": array},
                        "required": ["image"],
                    }
                }
            },
        }
    if "body" in wants:
        return {
            "required": True,
            "content": {"application/json": {"schema": schemas.of(wants["body"])}},
        }
    return None


def _responses(operation: Operation, schemas: Schemas) -> dict[str, Any]:
    if operation.method == "WS":
        found: dict[str, Any] = {"101": {"description": "The WebSocket is open."}}
    elif operation.media:
        content = {operation.media: {"schema": {"type": "string"}}}
        found = {str(operation.status): {"description": "Done.", "content": content}}
    elif operation.gives in (None, type(None)):
        found = {"204": {"description": "Done."}}
    else:
        content = {"application/json": {"schema": schemas.of(operation.gives)}}
        found = {str(operation.status): {"description": "Done.", "content": content}}
    for status, text in operation.also.items():
        found[str(status)] = {"description": text}
    statuses = [] if operation.rooted else [400, 429]
    if operation.role is not None:
        statuses += [401, 403]
    if _PARAMETER.search(operation.url):
        statuses.append(404)
    if operation.method not in ("GET", "WS") and operation.role not in (None, "viewer"):
        statuses.append(409)
    if operation.match:
        statuses.append(412)
    if operation.upload or {"images", "photos"} & operation.wants.keys():
        statuses.append(413)
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for status in sorted(statuses):
        found[str(status)] = {"description": _TITLES[status], "content": problem}
    if not operation.rooted:
        found["default"] = {"description": "Something else went wrong.", "content": problem}
    return found


def text() -> str:
    """As it stands in docs/reference/openapi.json."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(text(), end="")
