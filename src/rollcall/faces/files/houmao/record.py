"""The documents of the shared registry directory: what they must say."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rollcall.faces.files.houmao.fields import Filled, Name, OwnName, Port, Time, Url, time_of, version

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


class LocalRecord(_Part):
    """An agent of this directory: ``live_agents/<agent_id>/record.json``, schema 3."""

    schema_version: version(3) = 3  # type: ignore[valid-type]
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

    schema_version: version(2) = 2  # type: ignore[valid-type]
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

    schema_version: version(1) = 1  # type: ignore[valid-type]
    kind: Literal["external_communication_only"] = "external_communication_only"
    lifecycle_owner: Literal["remote"] = "remote"
    gateway_expected: bool = False
    local_name: OwnName
    external_agent_id: Name
    generation_id: Filled
    pair_api_base_url: Url
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
