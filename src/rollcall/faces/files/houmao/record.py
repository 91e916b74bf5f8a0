"""The documents of the shared registry directory: what they must say, and their one form as bytes.

Times are kept as they are written: UTC, whole seconds, ``+00:00``.
"""

import json
import re
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import jsonschema_rs
import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from rollcall.core.errors import Invalid
from rollcall.faces.files.houmao.names import reserved, wrong_with

ISSUES_SHOWN = 3


def time_of(text: str) -> datetime:
    """The instant that a field of a record names."""
    return datetime.fromisoformat(text)


def time_text(time: datetime) -> str:
    """An instant as it is written."""
    return time.astimezone(UTC).isoformat(timespec="seconds")


def _time(text: str, info: ValidationInfo) -> str:
    _filled(text)
    try:
        time = datetime.fromisoformat(text.strip())
        if time.tzinfo is None or time.utcoffset() is None:
            raise ValueError(f"{info.field_name} must be a timezone-aware ISO-8601 timestamp")
        return time_text(time)
    except OverflowError as error:
        raise ValueError(f"{info.field_name} must be a valid ISO-8601 timestamp") from error
    except ValueError as error:
        if "timezone-aware" in str(error):
            raise
        raise ValueError(f"{info.field_name} must be a valid ISO-8601 timestamp") from error


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _name(text: str, info: ValidationInfo) -> str:
    what = str(info.field_name)
    wrong = wrong_with(text, what)
    if not wrong and text != text.strip():
        wrong = f"{what} must not include leading or trailing whitespace"
    if wrong:
        raise ValueError(wrong)
    return text


def _own_name(text: str, info: ValidationInfo) -> str:
    wrong = reserved(_name(text, info))
    if wrong:
        raise ValueError(wrong)
    return text


def _port(port: int) -> int:
    if not 1 <= port <= 65535:
        raise ValueError("must be between 1 and 65535")
    return port


def _base_url(text: str) -> str:
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"is no URL: {error}") from error
    if parts.scheme.lower() != "http":
        raise ValueError("must be an http URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not carry a user or a password")
    if not host or port is None:
        raise ValueError("must name host and port")
    if parts.path.strip("/") or parts.query or parts.fragment or re.search(r"[?#]", text):
        raise ValueError("must not carry a path, a query or a fragment")
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


Time = Annotated[str, AfterValidator(_time)]
Filled = Annotated[str, AfterValidator(_filled)]
Name = Annotated[str, AfterValidator(_name)]
OwnName = Annotated[str, AfterValidator(_own_name)]
Port = Annotated[int, AfterValidator(_port)]
State = Literal["active", "stopped", "relaunching", "retired"]
LIVE_STATES = frozenset({"active", "relaunching"})


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Lifecycle(_Part):
    """What is intended with an agent."""

    state: State
    relaunchable: bool
    state_updated_at: Time
    stopped_at: Time | None = None
    stop_reason: Filled | None = None

    @model_validator(mode="after")
    def _fits_its_state(self) -> "Lifecycle":
        if self.state not in LIVE_STATES and self.stopped_at is None:
            raise ValueError("stopped_at is required when lifecycle.state is stopped or retired")
        for name in ("stopped_at", "stop_reason"):
            if self.state in LIVE_STATES and getattr(self, name) is not None:
                raise ValueError(f"{name} is only valid for stopped or retired lifecycle states")
        if self.state == "retired" and self.relaunchable:
            raise ValueError("retired lifecycle records must not remain relaunchable")
        return self


class Identity(_Part):
    """Which tool the agent is, and how it is run."""

    backend: Literal[
        "local_interactive",
        "codex_headless",
        "codex_app_server",
        "claude_headless",
        "kimi_headless",
        "cao_rest",
        "houmao_server_rest",
    ]
    tool: Filled


class Runtime(_Part):
    """Where its files are."""

    manifest_path: Filled
    session_root: Filled | None = None
    agent_def_dir: Filled | None = None


class Terminal(_Part):
    """The terminal session in which it runs, or ran last."""

    kind: Literal["tmux"] = "tmux"
    current_session_name: Filled | None = None
    last_session_name: Filled | None = None

    @model_validator(mode="after")
    def _names_a_session(self) -> "Terminal":
        if self.last_session_name is None:
            if self.current_session_name is None:
                raise ValueError("current_session_name or last_session_name must be present for tmux records")
            raise ValueError("terminal.last_session_name is required")
        return self


class Liveness(_Part):
    """How long the agent is believed."""

    published_at: Time
    lease_expires_at: Time

    @model_validator(mode="after")
    def _lasts(self) -> "Liveness":
        if time_of(self.lease_expires_at) <= time_of(self.published_at):
            raise ValueError("lease_expires_at must be later than published_at")
        return self


class Gateway(_Part):
    """Where the agent is talked to."""

    host: Literal["127.0.0.1", "0.0.0.0"]
    port: Port
    state_path: Filled
    protocol_version: Literal["v1"]


class FilesystemMailbox(_Part):
    """A mailbox of files."""

    transport: Literal["filesystem"]
    principal_id: Filled
    address: Filled
    filesystem_root: Filled
    bindings_version: Filled


class StalwartMailbox(_Part):
    """A mailbox on a mail server; `credential_ref` is a name, never the credential."""

    transport: Literal["stalwart"]
    principal_id: Filled
    address: Filled
    bindings_version: Filled
    jmap_url: Filled
    management_url: Filled
    login_identity: Filled
    credential_ref: Filled


Mailbox = Annotated[FilesystemMailbox | StalwartMailbox, Field(discriminator="transport")]


def _version(number: int) -> Any:  # Any: pydantic's own kind of annotation
    def check(value: int) -> int:
        if value != number:
            raise ValueError(f"schema_version must be {number}")
        return value

    return Annotated[int, AfterValidator(check), Field(json_schema_extra={"const": number})]


class LocalRecord(_Part):
    """An agent of this directory: ``live_agents/<agent_id>/record.json``, schema 3."""

    schema_version: _version(3) = 3  # type: ignore[valid-type]
    agent_name: Name
    agent_id: Name
    generation_id: Filled
    lifecycle: Lifecycle
    identity: Identity
    runtime: Runtime
    terminal: Terminal
    liveness: Liveness | None = None
    gateway: Gateway | None = None
    mailbox: Mailbox | None = None

    @model_validator(mode="after")
    def _fits_its_state(self) -> "LocalRecord":
        live = self.lifecycle.state in LIVE_STATES
        if live and self.liveness is None:
            raise ValueError("active or relaunching lifecycle records require liveness")
        if live and self.terminal.current_session_name is None:
            raise ValueError("active or relaunching lifecycle records require terminal.current_session_name")
        if not live and self.liveness is not None:
            raise ValueError("stopped or retired lifecycle records must not carry liveness")
        if not live and self.gateway is not None:
            raise ValueError("stopped or retired lifecycle records must not carry gateway")
        if not live and self.terminal.current_session_name is not None:
            raise ValueError("stopped or retired lifecycle records must clear terminal.current_session_name")
        return self

    @property
    def session(self) -> str:
        """The terminal session that is shown."""
        return self.terminal.current_session_name or self.terminal.last_session_name or ""


class _LegacyTerminal(_Part):
    kind: Literal["tmux"] = "tmux"
    session_name: Filled


class LegacyRecord(_Part):
    """An agent as schema 2 has it; read only."""

    schema_version: _version(2) = 2  # type: ignore[valid-type]
    agent_name: Name
    agent_id: Name
    generation_id: Filled
    published_at: Time
    lease_expires_at: Time
    identity: Identity
    runtime: Runtime
    terminal: _LegacyTerminal
    gateway: Gateway | None = None
    mailbox: Mailbox | None = None

    def upgraded(self) -> LocalRecord:
        """The same agent in schema 3."""
        session = self.terminal.session_name
        return LocalRecord(
            agent_name=self.agent_name,
            agent_id=self.agent_id,
            generation_id=self.generation_id,
            lifecycle=Lifecycle(
                state="active",
                relaunchable=self.runtime.session_root is not None,
                state_updated_at=self.published_at,
            ),
            identity=self.identity,
            runtime=self.runtime,
            terminal=Terminal(current_session_name=session, last_session_name=session),
            liveness=Liveness(published_at=self.published_at, lease_expires_at=self.lease_expires_at),
            gateway=self.gateway,
            mailbox=self.mailbox,
        )


class CachedIdentity(_Part):
    """What the remote registry said of an agent when it was last asked."""

    tracked_agent_id: Filled
    transport: Literal["tui", "headless"]
    tool: Filled
    session_name: Filled | None = None
    terminal_id: Filled | None = None
    runtime_session_id: Filled | None = None
    tmux_session_name: Filled | None = None
    tmux_window_name: Filled | None = None
    manifest_path: Filled | None = None
    session_root: Filled | None = None
    agent_name: Filled | None = None
    agent_id: Filled | None = None
    external_agent_id: Filled | None = None
    remote_pair_api_base_url: Filled | None = None
    remote_agent_ref: Filled | None = None
    lifecycle_state: State | None = None
    management_kind: Literal["local_lifecycle", "external_communication_only"] | None = None
    lifecycle_owner: Literal["local", "remote"] | None = None


class ExternalRecord(_Part):
    """An agent that another registry owns: ``external_agents/<external_agent_id>/record.json``, schema 1."""

    schema_version: _version(1) = 1  # type: ignore[valid-type]
    kind: Literal["external_communication_only"] = "external_communication_only"
    lifecycle_owner: Literal["remote"] = "remote"
    gateway_expected: bool = False
    local_name: OwnName
    external_agent_id: Name
    generation_id: Filled
    pair_api_base_url: Annotated[str, AfterValidator(_base_url)]
    remote_agent_ref: Filled
    created_at_utc: Time
    updated_at_utc: Time
    verified_at_utc: Time | None = None
    cached_identity: CachedIdentity

    @model_validator(mode="after")
    def _goes_forward(self) -> "ExternalRecord":
        created = time_of(self.created_at_utc)
        for name in ("updated_at_utc", "verified_at_utc"):
            later = getattr(self, name)
            if later is not None and time_of(later) < created:
                raise ValueError(f"{name} must not be before created_at_utc")
        return self


AnyRecord = LocalRecord | ExternalRecord


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
