"""Content credentials: signed here, read back by c2pa's own reader, and by a walk through the boxes of the file."""

import json

import c2pa
import pytest
from doubles.releases import small_clip

from dubmill import media
from dubmill.dubbing.credentials import ASSERTION, DEVELOPMENT, ContentCredentials
from dubmill.errors import UsageError

FACTS = {"source_sha256": "a" * 64, "language": "es", "release": "r"}


@pytest.fixture(scope="module")
def credentials(tmp_path_factory):
    return ContentCredentials.open(DEVELOPMENT, None, tmp_path_factory.mktemp("keys"))


@pytest.fixture
def signed(credentials, tmp_path):
    path = tmp_path / "dub.mp4"
    path.write_bytes(media.mp4_bytes(small_clip()))
    credentials.sign(path, FACTS)
    return path


def read_manifest(path):
    with c2pa.Reader("video/mp4", path.open("rb")) as reader:
        return json.loads(reader.json())


def failures(store):
    return {one["code"] for one in store["validation_results"]["activeManifest"]["failure"]}


def test_a_dub_says_what_it_is_and_plays_as_before(signed):
    store = read_manifest(signed)
    manifest = store["manifests"][store["active_manifest"]]
    assertions = {one["label"]: one["data"] for one in manifest["assertions"]}
    assert assertions[ASSERTION] == FACTS
    actions = next(data for label, data in assertions.items() if label.startswith("c2pa.actions"))["actions"]
    assert actions[0]["digitalSourceType"].endswith("compositeWithTrainedAlgorithmicMedia")
    assert failures(store) <= {"signingCredential.untrusted"}  # nobody trusts a development certificate
    assert media.probe(signed).num_frames == 13


def test_one_flipped_bit_is_found(signed):
    data = bytearray(signed.read_bytes())
    data[data.rindex(b"mdat") + 100] ^= 1
    signed.write_bytes(data)
    assert "assertion.bmffHash.mismatch" in failures(read_manifest(signed))


def test_the_manifest_is_a_box_that_other_readers_find(signed):
    """ISO 14496-12: boxes of a size, a name, and for `uuid` an extended type; C2PA's is d8fec3d6-…"""
    data, place, found = signed.read_bytes(), 0, []
    while place < len(data):
        size, name = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        found.append(data[place + 8 : place + 24] if name == b"uuid" else name)
        place += size
    assert bytes.fromhex("d8fec3d61b0e483c92975828877ec481") in found


def test_the_development_certificate_is_made_once_and_a_key_needs_certificates(tmp_path):
    first, again = (ContentCredentials.open(DEVELOPMENT, None, tmp_path) for _ in range(2))
    assert first == again
    with pytest.raises(UsageError, match="without certificates"):
        ContentCredentials.open(str(tmp_path / "development-key.pem"), None, tmp_path)
    with pytest.raises(UsageError):
        ContentCredentials.open(str(tmp_path / "none.pem"), tmp_path / "none.pem", tmp_path)
