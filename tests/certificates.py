"""Certificates of the tests' own, made by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """PEM files: a certificate and its private key."""

    cert: Path
    key: Path


def make_certificate(folder: Path, *names: str, authority: Pair | None = None, key: str = "ec:P-256") -> Pair:
    """A certificate for `names`, such as "DNS:localhost" or "IP:127.0.0.1".

    Args:
        folder: where it is written; made here.
        names: the alternative names.
        authority: who vouches for it; None: it does so itself.
        key: its kind, and with a colon the curve, as openssl names them.
    """
    folder.mkdir(parents=True)
    kind, _, curve = key.partition(":")
    parameters = ["-pkeyopt", f"ec_paramgen_curve:{curve}"] if curve else []
    pair = Pair(folder / "cert.pem", folder / "key.pem")
    signed_by = ["-CA", str(authority.cert), "-CAkey", str(authority.key)] if authority else []
    alternative_names = ["-addext", f"subjectAltName={','.join(names)}"] if names else []
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", kind, *parameters),
            *(
                "-nodes",
                "-days",
                "2",
                "-subj",
                f"/CN={folder.name}",
                "-addext",
                "keyUsage=digitalSignature,keyCertSign",
            ),
            *("-keyout", str(pair.key), "-out", str(pair.cert), *alternative_names, *signed_by),
        ],
        check=True,
        capture_output=True,
    )
    return pair
