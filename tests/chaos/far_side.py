"""A place behind a router that can lose every packet: two network namespaces, in a row behind this machine."""

import random
import subprocess
from collections.abc import Iterator

import pytest


class FarSide:
    """`address` is this machine, as seen from there. Processes run there with `command` before their own.

    The links stay up when it is cut, so neither side is told.
    """

    def __init__(self) -> None:
        number = random.randrange(1, 65_000)
        net = f"10.{200 + number // 256 % 50}.{number % 256}"
        self._router, self._far = f"rollcall{number}r", f"rollcall{number}f"
        self.address = f"{net}.1"
        self.command = ["ip", "netns", "exec", self._far]
        ip("netns", "add", self._router)
        ip("netns", "add", self._far)
        near, left, right, far = (f"rc{number}{end}" for end in "nlrf")
        ip("link", "add", near, "type", "veth", "peer", "name", left, "netns", self._router)
        ip("-n", self._router, "link", "add", right, "type", "veth", "peer", "name", far, "netns", self._far)
        for where, link, address in (
            ([], near, f"{net}.1/30"),
            (["-n", self._router], left, f"{net}.2/30"),
            (["-n", self._router], right, f"{net}.5/30"),
            (["-n", self._far], far, f"{net}.6/30"),
        ):
            ip(*where, "addr", "add", address, "dev", link)
            ip(*where, "link", "set", link, "up")
        ip("route", "add", f"{net}.4/30", "via", f"{net}.2")
        ip("-n", self._far, "route", "add", "default", "via", f"{net}.5")
        self.mend()  # it forwards nothing before it is told to

    def cut(self) -> None:
        """Every packet is lost from now on."""
        self._forward("0")

    def mend(self) -> None:
        self._forward("1")

    def remove(self) -> None:
        ip("netns", "del", self._far)
        ip("netns", "del", self._router)

    def _forward(self, flag: str) -> None:
        ip("netns", "exec", self._router, "sh", "-c", f"echo {flag} > /proc/sys/net/ipv4/ip_forward")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def far_side() -> Iterator[FarSide]:
    try:
        there = FarSide()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespace can be made here: {getattr(error, 'stderr', '') or error}")
    yield there
    there.remove()
