"""Content credentials: signed here, read back by c2pa's own reader, and by one that shares nothing with it."""

import json

import c2pa
import pytest
from doubles import c2pa_reader
from doubles.releases import small_clip

from dubmill import media
from dubmill.dubbing.credentials import ASSERTION, DEVELOPMENT, ContentCredentials, read_credentials
from dubmill.dubbing.watermark import watermark_of
from dubmill.errors import ServiceUnavailableError, UsageError
from dubmill.serving.openapi import CredentialsView
from dubmill.serving.runner import Runner

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


def test_another_reader_finds_the_manifest_and_its_signature_in_order(signed):
    found = c2pa_reader.read(signed.read_bytes())
    assert (found.is_signed, found.has_its_assertions, found.is_unchanged) == (True, True, True)
    assert found.claim["claim_generator_info"]["name"] == "dubmill"
    assert found.certificate.subject.rfc4514_string() == "CN=development signer,O=dubmill development"


@pytest.mark.parametrize(
    ("place", "what"),
    [(b"mdat", "is_unchanged"), (b"moov", "is_unchanged"), (FACTS["source_sha256"].encode(), "has_its_assertions")],
)
def test_one_flipped_bit_is_found_by_both_readers(signed, place, what):
    """In the picture, in the description of the streams, and in what was signed."""
    data = bytearray(signed.read_bytes())
    data[data.rindex(place) + 40] ^= 1
    signed.write_bytes(data)
    assert not getattr(c2pa_reader.read(data), what)
    told = read_credentials(signed)
    assert not told["is_unchanged"]
    assert {failure.rpartition(".")[2] for failure in told["failures"]} == {"mismatch"}


def test_a_signature_of_another_key_is_found(signed):
    data = signed.read_bytes()
    place = data.index(b"dubmill", data.index(b"c2pa.claim"))  # in the claim, which is what is signed
    assert not c2pa_reader.read(data[:place] + b"d0bmill" + data[place + 7 :]).is_signed


def test_what_a_file_says_is_read_from_the_file(signed, tmp_path):
    told = read_credentials(signed)
    assert (told["issuer"], told["signer"]) == ("dubmill development", "development signer")
    assert (told["is_development"], told["is_unchanged"], told["claims"]) == (True, True, FACTS)
    (tmp_path / "bare.mp4").write_bytes(media.mp4_bytes(small_clip()))
    assert read_credentials(tmp_path / "bare.mp4") == {"has_manifest": False}
    data = signed.read_bytes()
    signed.write_bytes(data.replace(b"c2pa.signature", b"c2pa.sognature"))  # no store of manifests any more
    told = read_credentials(signed)
    assert not told["is_unchanged"]
    assert told["failures"]


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut off", "bytes of the manifest"])
def test_a_damaged_file_is_told_as_one_that_cannot_be_read(signed, damage):
    """It was told as signed by undefined and changed since; a store without its active manifest was an error 500."""
    data = signed.read_bytes()
    begin = data.index(b"urn:c2pa:")
    damages = {
        "empty": b"",
        "garbage": b"garbage" * 100,
        "cut off": data[:1000],
        "bytes of the manifest": data[:begin] + b"\xff" + data[begin + 1 :],
    }
    signed.write_bytes(damages[damage])
    told = read_credentials(signed)
    assert (told["has_manifest"], told["is_readable"], len(told["failures"])) == (False, False, 1)
    assert CredentialsView(**told).is_unchanged is False


def test_the_development_certificate_is_made_once_and_a_key_needs_certificates(tmp_path):
    first, again = (ContentCredentials.open(DEVELOPMENT, None, tmp_path) for _ in range(2))
    assert first == again
    with pytest.raises(UsageError, match="without certificates"):
        ContentCredentials.open(str(tmp_path / "development-key.pem"), None, tmp_path)
    with pytest.raises(UsageError):
        ContentCredentials.open(str(tmp_path / "none.pem"), tmp_path / "none.pem", tmp_path)


def test_a_watermark_is_any_function_of_a_file(monkeypatch, tmp_path):
    (tmp_path / "marking.py").write_text(
        "def mark(path, facts):\n    path.write_bytes(path.read_bytes() + b'!')\n\nNUMBER = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name, line in {"fails": "raise RuntimeError", "leaves": "raise SystemExit", "unreadable": "def"}.items():
        (tmp_path / f"marking_{name}.py").write_text(line)
    (tmp_path / "dub.mp4").write_bytes(b"dub")
    watermark_of("marking:mark")(tmp_path / "dub.mp4", {})
    assert (tmp_path / "dub.mp4").read_bytes() == b"dub!"
    assert watermark_of("") is None
    wrong = ("marking:none", "marking:NUMBER", "no_such_module:mark", "marking", ":")
    for name in (*wrong, "marking_fails:mark", "marking_leaves:mark", "marking_unreadable:mark"):
        with pytest.raises(UsageError, match="watermark"):
            watermark_of(name)


def test_a_watermark_that_fails_is_a_problem_of_the_job_and_leaves_no_unmarked_result(tmp_path, caplog):
    """The job had no end that was reported, and its upload and its dub without a mark stayed."""

    def fail(path, facts):
        raise RuntimeError("no licence for this machine")

    for watermark in (fail, lambda path, facts: path.unlink()):
        runner, out = Runner.__new__(Runner), tmp_path / "result.mp4"
        runner._watermark, runner._credentials = watermark, None
        out.write_bytes(b"dub")
        with pytest.raises(ServiceUnavailableError, match=r"no watermark.*failed \((RuntimeError|FileNotFoundError)\)"):
            runner._sealed(out, FACTS)
        assert not out.exists()
    assert "no licence for this machine" in caplog.text
