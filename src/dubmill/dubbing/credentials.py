"""Content credentials (C2PA): a signed manifest in the file says that a machine dubbed it, from what, and with which release."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dubmill import __version__
from dubmill.errors import UsageError

DEVELOPMENT = "development"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
ASSERTION = "org.dubmill.dub"
DEVELOPMENT_ISSUER = "dubmill development"
UNTRUSTED = "signingCredential.untrusted"  # of every certificate, where no list of trusted ones is given


@dataclass(frozen=True)
class ContentCredentials:
    """A private key (ES256) and its certificates, the signer's first, both PEM."""

    key: bytes
    certificates: bytes
    name: str  # of the key, as results show it

    @classmethod
    def open(cls, key: str, certificates: Path | None, folder: Path) -> ContentCredentials:
        """Returns the credentials of a key file, or of a development certificate that is made and kept in `folder`.

        Raises:
            UsageError: a file cannot be read, or there are no certificates for the key.
        """
        if key == DEVELOPMENT:
            paths = _development_files(folder)
        elif certificates is None:
            raise UsageError("a key without certificates", where=key, cure="give --c2pa_certificates, a PEM file")
        else:
            paths = (Path(key), certificates)
        try:
            contents = [path.read_bytes() for path in paths]
        except OSError as error:
            raise UsageError(
                f"it cannot be read ({error.strerror})", where=str(error.filename), cure="give a PEM file"
            ) from error
        credentials = cls(contents[0], contents[1], DEVELOPMENT if key == DEVELOPMENT else Path(key).name)
        credentials._signer().close()
        return credentials

    def sign(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Replace the MP4 at `path` by the same with a manifest that holds `facts`.

        Raises:
            UsageError: the key or the certificates cannot sign.
        """
        import c2pa

        action = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE, "description": "dubbed by a machine"}
        manifest = {
            "claim_generator_info": [{"name": "dubmill", "version": __version__}],
            "format": "video/mp4",
            "title": "machine-generated dub",
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": [action]}},
                {"label": ASSERTION, "data": dict(facts)},
            ],
        }
        signed = path.with_name(f".{path.name}.signed")
        try:
            with (
                self._signer() as signer,
                c2pa.Builder(json.dumps(manifest)) as builder,
                path.open("rb") as source,
                signed.open("w+b") as target,
            ):
                builder.sign(signer, "video/mp4", source, target)
            signed.replace(path)
        except c2pa.C2paError as error:
            raise UsageError(f"the dub cannot be signed ({error})", where=self.name, cure="give another key") from error
        finally:
            signed.unlink(missing_ok=True)

    def _signer(self) -> Any:
        import c2pa

        try:
            return c2pa.Signer.from_info(c2pa.C2paSignerInfo(b"es256", self.certificates, self.key, None))
        except c2pa.C2paError as error:
            raise UsageError(
                f"the key cannot sign ({error})", where=self.name, cure="give an ES256 key in PEM"
            ) from error


def read_credentials(path: Path) -> dict[str, Any]:
    """What the manifest in the MP4 at `path` says, and whether the file is as it was signed.

    Keys: `has_manifest`; with one `issuer`, `signer`, `is_development`, `is_unchanged`, `failures` (C2PA's codes), `generator` and
    `claims` (what was signed). Of a damaged file or manifest `is_readable` is false, and `failures` has one sentence.
    """
    import c2pa

    try:
        with path.open("rb") as stream, c2pa.Reader("video/mp4", stream) as reader:
            return _facts(json.loads(reader.json()))
    except c2pa.C2paError as error:  # its kinds are added at import, where no type checker sees them
        return {"has_manifest": False} if "ManifestNotFound" in type(error).__name__ else _unreadable(str(error))
    except (LookupError, TypeError, AttributeError) as error:  # c2pa returns a damaged manifest without some parts
        return _unreadable(f"the manifest lacks a part ({error})")


def _unreadable(reason: str) -> dict[str, Any]:
    return {"has_manifest": False, "is_readable": False, "failures": [reason[:300]]}


def _facts(store: Mapping[str, Any]) -> dict[str, Any]:
    manifest, failed = store["manifests"][store["active_manifest"]], store["validation_results"]["activeManifest"]
    signature, generator = manifest.get("signature_info", {}), manifest["claim_generator_info"][0]
    failures = {one["code"] for one in failed["failure"]} - {UNTRUSTED}
    assertions = {one["label"]: one["data"] for one in manifest["assertions"]}
    return {
        "has_manifest": True,
        "issuer": signature.get("issuer", ""),
        "signer": signature.get("common_name", ""),
        "is_development": signature.get("issuer") == DEVELOPMENT_ISSUER,
        "is_unchanged": not failures,
        "failures": sorted(failures),
        "generator": f"{generator.get('name', '')} {generator.get('version', '')}",
        "claims": {name: str(value) for name, value in assertions.get(ASSERTION, {}).items()},
    }


def _development_files(folder: Path) -> tuple[Path, Path]:
    """A key and certificates that no viewer trusts, made once."""
    key, certificates = folder / "development-key.pem", folder / "development-certificates.pem"
    if not certificates.exists():
        folder.mkdir(parents=True, exist_ok=True)
        key_pem, chain_pem = development_certificates()
        key.touch(mode=0o600)
        key.write_bytes(key_pem)
        certificates.write_bytes(chain_pem)
    return key, certificates


def development_certificates() -> tuple[bytes, bytes]:
    """Returns a new key and its certificates in PEM: a signer's, below an authority that is forgotten at once."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def name(common: str) -> x509.Name:
        pairs = ((NameOID.ORGANIZATION_NAME, DEVELOPMENT_ISSUER), (NameOID.COMMON_NAME, common))
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs])

    def usage(*, signs_certificates: bool) -> x509.KeyUsage:
        no = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
        rest = {"encipher_only": False, "decipher_only": False, "crl_sign": False}
        return x509.KeyUsage(digital_signature=True, key_cert_sign=signs_certificates, **no, **rest)

    authority_key, signer_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority, signer = name("development authority"), name("development signer")
    now = datetime.datetime.now(datetime.UTC)

    def certificate(subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_authority: bool) -> x509.Certificate:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(usage(signs_certificates=is_authority), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(identifier, critical=False)
        )
        if not is_authority:
            builder = builder.add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
            )
        return builder.sign(authority_key, hashes.SHA256())

    chain = [
        certificate(signer, signer_key, is_authority=False),
        certificate(authority, authority_key, is_authority=True),
    ]
    key_pem = signer_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key_pem, b"".join(one.public_bytes(serialization.Encoding.PEM) for one in chain)
