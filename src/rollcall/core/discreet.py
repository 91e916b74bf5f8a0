"""Structs that hold a secret, and do not show it: neither as text nor to whoever prints them prettily."""

from typing import Any, ClassVar

from msgspec import Struct


class Discreet(Struct, frozen=True):
    """A Struct of which only the members named in `shown` are ever shown."""

    shown: ClassVar[tuple[str, ...]] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # Any: whatever the members are
        return [(name, getattr(self, name)) for name in self.shown]
