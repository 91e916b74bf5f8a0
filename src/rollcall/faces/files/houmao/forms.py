"""Records as documents and as bytes: read, made, and written in their one form."""

import json
from functools import cache
from typing import Any

import jsonschema_rs
import msgspec
from pydantic import ValidationError

from rollcall.core.errors import Invalid
from rollcall.faces.files.houmao.record import AnyRecord, ExternalRecord, LegacyRecord, LocalRecord

ISSUES_SHOWN = 3


def read_local(data: bytes, path: str) -> LocalRecord:
    """The record in a file, schema 2 or 3.

    Raises:
        Invalid: it is none; the message names the file and the fields.
    """
    try:
        return _model(_document(data, "registry record", path))
    except ValidationError as error:
        raise Invalid(f"Invalid registry record `{path}`: {_issues(error)}") from error


def read_external(data: bytes, path: str) -> ExternalRecord:
    """The external record in a file.

    Raises:
        Invalid: it is none; the message names the file and the fields.
    """
    try:
        return ExternalRecord.model_validate(_document(data, "external registry record", path))
    except ValidationError as error:
        raise Invalid(f"Invalid external registry record `{path}`: {_issues(error)}") from error


def _model(document: dict[str, Any]) -> LocalRecord:
    # One that does not say is of the schema whose fields it has.
    said = document.get("schema_version", 3 if "lifecycle" in document else 2)
    return LegacyRecord.model_validate(document).upgraded() if said == 2 else LocalRecord.model_validate(document)


def local(document: dict[str, Any]) -> LocalRecord:
    """A record that is to be published; one of schema 2 is upgraded.

    Raises:
        Invalid: it may not be; the message names the fields.
    """
    try:
        return _model(document)
    except ValidationError as error:
        raise Invalid(f"{_before_publish(document.get('agent_id'))}: {_issues(error)}") from error


def external(document: dict[str, Any]) -> ExternalRecord:
    """An external record that is to be published.

    Raises:
        Invalid: it may not be; the message names the fields.
    """
    try:
        return ExternalRecord.model_validate(document)
    except ValidationError as error:
        prefix = _external_before_publish(document.get("external_agent_id"))
        raise Invalid(f"{prefix}: {_issues(error)}") from error


def written(record: AnyRecord) -> bytes:
    """A record as it stands in its file, checked against the JSON Schema of its kind.

    Raises:
        Invalid: the schema does not allow it.
    """
    document = record.model_dump()
    if isinstance(record, LocalRecord):
        schema, prefix = _compiled(LocalRecord), _before_publish(record.agent_id)
    else:
        schema, prefix = _compiled(ExternalRecord), _external_before_publish(record.external_agent_id)
    if not schema.is_valid(document):
        found = [(issue.instance_path, issue.message) for issue in schema.iter_errors(document)]
        raise Invalid(f"{prefix}: {_told(found)}")
    data = msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2) + b"\n"
    # Houmao escapes what is beyond ASCII; msgspec, ten times faster, does not.
    return data if data.isascii() else json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"


def local_schema() -> dict[str, Any]:
    """``managed_agent_registry_record.v3.schema.json``."""
    return LocalRecord.model_json_schema()


def external_schema() -> dict[str, Any]:
    """``external_managed_agent_registry_record.v1.schema.json``."""
    return ExternalRecord.model_json_schema()


@cache
def _compiled(model: type[LocalRecord] | type[ExternalRecord]) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(model.model_json_schema())


def _document(data: bytes, what: str, path: str) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"Invalid JSON in {what} `{path}`.") from error
    if not isinstance(document, dict):
        raise Invalid(f"Invalid {what} `{path}`: $: must be an object")
    return document


def _before_publish(id: object) -> str:
    return f"Shared registry record schema validation failed before publish for `{id}`"


def _external_before_publish(id: object) -> str:
    return f"External managed-agent registry record schema validation failed before publish for `{id}`"


def _issues(error: ValidationError) -> str:
    return _told([(issue["loc"], issue["msg"].removeprefix("Value error, ")) for issue in error.errors()])


def _told(found: list[tuple[Any, str]]) -> str:
    def where(path: Any) -> str:  # Any: each library has its own kind of path
        return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)

    return "; ".join(f"{where(path)}: {message}" for path, message in found[:ISSUES_SHOWN])
