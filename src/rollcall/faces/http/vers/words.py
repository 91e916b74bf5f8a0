"""Values as JavaScript prints, trims and judges them: clients of this dialect compare the texts."""

from typing import Any

UNDEFINED = object()
"""A member that is not there."""

# What String.prototype.trim takes away: white space and line ends of ECMAScript, the byte order mark among them.
_BLANKS = "\t\n\v\f\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff".replace(
    "\u2000-\u200a", "".join(chr(code) for code in range(0x2000, 0x200B))
)


def trimmed(value: object) -> str:
    """A text without the blanks around it; empty for whatever is no text."""
    return value.strip(_BLANKS) if isinstance(value, str) else ""


def truthy(value: object) -> bool:
    """Whether JavaScript takes the value for true: of objects and arrays it takes every one."""
    return isinstance(value, dict | list) or (value is not UNDEFINED and bool(value))


def printed(value: Any) -> str:  # Any: whatever JSON can hold
    """What ``String(value)`` says."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case dict():
            return "[object Object]"
        case list():
            return ",".join("" if item is None else printed(item) for item in value)
        case int() | float():
            return _number(float(value))
        case _:
            return "undefined"


def _number(value: float) -> str:
    digits = repr(value)
    if value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    mantissa, e, exponent = digits.partition("e")
    if not e:
        return digits
    power = int(exponent)
    if -7 < power < 0:
        # Python turns to exponents two places earlier.
        return f"{value:.{len(mantissa.replace('.', '').lstrip('-')) - 1 - power}f}"
    return f"{mantissa.removesuffix('.0')}e{'+' if power > 0 else '-'}{abs(power)}"
