"""A certificate authority for one cluster, and the API server's certificate, by openssl."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

_NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def make_certificates(directory: Path, addresses: Sequence[str]) -> None:
    """Write ca.crt, server.crt, server.key, and accounts.key with accounts.pub for ServiceAccounts."""
    names = ",".join(["DNS:kubernetes.default.svc", *(f"IP:{address}" for address in addresses)])
    authority = ["-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=kubefunc-test"]
    server = ["-keyout", "server.key", "-out", "server.crt", "-subj", "/CN=kube-apiserver"]
    _request(directory, authority, ["keyUsage=critical,keyCertSign,cRLSign"])
    # Python 3.13 verifies strictly: key usage and key identifiers must be there.
    extensions = [
        f"subjectAltName={names}",
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        "extendedKeyUsage=serverAuth",
    ]
    _request(directory, [*server, "-CA", "ca.crt", "-CAkey", "ca.key"], extensions)
    curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    _openssl(directory, ["genpkey", *curve, "-out", "accounts.key"])
    _openssl(directory, ["pkey", "-in", "accounts.key", "-pubout", "-out", "accounts.pub"])


def _request(directory: Path, what: Sequence[str], extensions: Sequence[str]) -> None:
    added = [part for extension in extensions for part in ("-addext", extension)]
    _openssl(directory, ["req", "-x509", *_NEW_KEY, "-days", "3650", *what, *added])


def _openssl(directory: Path, arguments: Sequence[str]) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=directory, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"openssl {' '.join(arguments)}: {done.stderr.strip()}")
