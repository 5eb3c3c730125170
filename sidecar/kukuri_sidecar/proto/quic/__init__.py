"""QUIC v1 between raw public keys, on aioquic's sans-IO core, with every buffer bounded.

Knows datagrams and time; knows no sockets and no topics. RFC 9000, 9001, 9002 and 7250; what iroh adds:
iroh-wire.md sections 0-2. Read in this order: ``limits``, ``endpoint``, ``connection``, ``bounded``, ``rpk``.
"""

import aioquic

from kukuri_sidecar.stand_ins import stand_ins

TESTED_AIOQUIC = "1.7.2"

if aioquic.__version__ != TESTED_AIOQUIC:
    raise ImportError(
        f"kukuri-sidecar overrides private methods of aioquic {TESTED_AIOQUIC}, and {aioquic.__version__} is "
        f"installed. Install aioquic=={TESTED_AIOQUIC}. To move to another release: run tests/proto/quic and "
        "tests/interop with it, review what proto/quic/library.py lists, then change TESTED_AIOQUIC and the "
        "dependency in pyproject.toml."
    )

# X.509: what aioquic.tls checks the path and the host name of certificates with. A raw public key has neither
# (rpk.py). tests/test_stand_ins.py proves that nobody else gets hold of these.
with stand_ins(
    {
        "certifi": {},
        "cryptography.x509": {"Certificate": object},  # for annotations
        "OpenSSL": {},
        "OpenSSL.crypto": {},
        "service_identity": {},
    }
):
    import aioquic.tls
