"""A certificate authority for development, and what it signs: TLS on one's own machine in one command."""

import datetime
import ipaddress
import re
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rollcall.core.errors import Invalid
from rollcall.store.files import make_private, write_whole

LASTS = datetime.timedelta(days=365)
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")

HOSTS = ("localhost", "127.0.0.1", "::1")

_Pair = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def make_development_certificates(directory: Path, hosts: Sequence[str], now: datetime.datetime) -> dict[str, Path]:
    """Writes an authority, a server's certificate for `hosts`, and a client's; returns the files by what they are.

    Raises:
        Invalid: there are some already, or a host is none.
    """
    names = ("ca", "server", "client")
    files = {name: directory / f"{name}.pem" for name in names}
    keys = {f"{name}_key": directory / f"{name}.key" for name in names}
    there = [path for path in (*files.values(), *keys.values()) if path.exists()]
    if there:
        raise Invalid(f"{there[0]} exists already; remove it, or choose another directory with --out")
    make_private(directory)
    authority = _authority(now)
    made = {
        "ca": authority,
        "server": _signed(authority, "rollcall server", ExtendedKeyUsageOID.SERVER_AUTH, hosts, now),
        "client": _signed(authority, "rollcall client", ExtendedKeyUsageOID.CLIENT_AUTH, (), now),
    }
    for name, (certificate, key) in made.items():
        write_whole(files[name], certificate.public_bytes(serialization.Encoding.PEM))
        write_whole(keys[f"{name}_key"], _pem(key), mode=0o600)
    return {**files, **keys}


def _authority(now: datetime.datetime) -> _Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("rollcall development authority")
    made = (
        _certificate(name, name, key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made, key


def _signed(
    authority: _Pair, common_name: str, use: x509.ObjectIdentifier, hosts: Sequence[str], now: datetime.datetime
) -> _Pair:
    issuer, issuer_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        _certificate(_name(common_name), issuer.subject, key, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        # The server's own clients show it where certificates are asked of everybody.
        .add_extension(x509.ExtendedKeyUsage([use, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if hosts:
        made = made.add_extension(x509.SubjectAlternativeName([_host(one) for one in hosts]), critical=False)
    return made.sign(issuer_key, hashes.SHA256()), key


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + LASTS)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass  # a name, then
    try:
        # In certificates names are spelled in ASCII.
        spelled = text.encode("idna").decode()
    except UnicodeError:
        spelled = ""
    if not _HOST.fullmatch(spelled):
        raise Invalid(f"--host {text!r} is no name or address of a machine")
    return x509.DNSName(spelled)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
