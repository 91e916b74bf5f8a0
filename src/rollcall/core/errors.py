"""Everything that can go wrong, with one root.

======================  ======  =================================================
error                   status  what to do
======================  ======  =================================================
Invalid                 400     mend the request
Waits                   202     wait: an operator has to approve it
Unauthorized            401     sign in, or sign the command
Denied                  403     somebody else owns it, or a policy refused
NotFound                404     register first, or look for another id
Conflict                409     wait, take a newer incarnation, or take over
TooLarge                413     send less
Busy                    429     a bound is reached; wait and try again
Unavailable             503     nobody could be asked; try again
Misconfigured           500     an operator has to mend the set-up; never sent on the bus
======================  ======  =================================================
"""

from typing import Any, ClassVar


class RollcallError(Exception):
    """What happened, to whom, and the next step.

    ``details`` are further facts for programs, such as ``holder`` and ``revision`` of a conflict.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500

    def __init__(self, message: str, **details: Any) -> None:  # Any: whatever JSON can hold
        super().__init__(message)
        self.message = message
        self.details = details


class Invalid(RollcallError):
    """The request itself is wrong; nothing changed."""

    code = "invalid"
    status = 400


class Waits(RollcallError):
    """Nothing is wrong, and nothing happened yet: the command waits for an approval."""

    code = "pending"
    status = 202


class Unauthorized(RollcallError):
    """Who asks is not proved."""

    code = "unauthorized"
    status = 401


class Denied(RollcallError):
    """Who asks is known and may not."""

    code = "denied"
    status = 403


class NotFound(RollcallError):
    """No such agent on the roll."""

    code = "not_found"
    status = 404


class Conflict(RollcallError):
    """Somebody else holds the place, or it changed meanwhile."""

    code = "conflict"
    status = 409


class TooLarge(RollcallError):
    """Larger than a record may be."""

    code = "too_large"
    status = 413


class Busy(RollcallError):
    """A bound of the realm is reached."""

    code = "busy"
    status = 429


class Unavailable(RollcallError):
    """The registry could not be asked, or did not answer in time. It says nothing about the agents."""

    code = "unavailable"
    status = 503


class Misconfigured(RollcallError):
    """The set-up is wrong and nothing was changed; an operator has to decide."""

    code = "misconfigured"
    status = 500


BY_CODE: dict[str, type[RollcallError]] = {
    kind.code: kind for kind in (Invalid, Waits, Unauthorized, Denied, NotFound, Conflict, TooLarge, Busy, Unavailable)
}
"""The errors that travel on the bus, by the code they carry there."""
