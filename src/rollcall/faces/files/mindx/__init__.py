"""The `mindx` dialect: a registry file kept in step with the agents that run, and a wallet for everybody in it."""

from rollcall.faces.files.mindx.guardian import GuardianAgent
from rollcall.faces.files.mindx.identities import IdentityManager
from rollcall.faces.files.mindx.identity_sync import IdentitySyncTool
from rollcall.faces.files.mindx.manager import RegistryManagerTool
from rollcall.faces.files.mindx.sync import RegistrySync
from rollcall.faces.files.mindx.tool import RegistrySyncTool
from rollcall.faces.files.mindx.wallets import FileWallets, KeyringWallets, KeyStore, VaultFirst
from rollcall.faces.files.mindx.watching import keep_in_sync

__all__ = [
    "FileWallets",
    "GuardianAgent",
    "IdentityManager",
    "IdentitySyncTool",
    "KeyStore",
    "KeyringWallets",
    "RegistryManagerTool",
    "RegistrySync",
    "RegistrySyncTool",
    "VaultFirst",
    "keep_in_sync",
]
