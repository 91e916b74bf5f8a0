"""The registry's side: lead, follow, answer, watch leases."""

from rollcall.worker.governing import GoverningSettings
from rollcall.worker.identity import IdentitySettings, Rule, Signatures
from rollcall.worker.settings import WorkerSettings
from rollcall.worker.worker import Worker, serving

__all__ = ["GoverningSettings", "IdentitySettings", "Rule", "Signatures", "Worker", "WorkerSettings", "serving"]
