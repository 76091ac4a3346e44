"""Who signed an archive: real keys and certificates, and what is not signed."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eideticnet.export.archive.delta import apply_delta, write_delta
from eideticnet.export.archive.signature import check_signature, fingerprint, read_trusted, sign, signature_of
from eideticnet.export.errors import ArchiveError
from tests.export.test_command_line import inside
from tests.support.example_counts import examples
from tests.support.signing_keys import copies, make_keys, openssl
from tests.support.smallest_archive import small_archives


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return small_archives(tmp_path_factory.mktemp("archives"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def trusted(keys):
    return read_trusted(keys / "ours.pub")


@pytest.fixture
def copied(archives, tmp_path):
    """``copied("1")``: a copy of that archive, which no other test signs."""
    return copies(archives, tmp_path)


@pytest.fixture(scope="module")
def certificates(keys):
    """In the same folder: root.pem, and ours.pem, the publisher's certificate that the root stands behind."""
    openssl(keys, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "root.key")
    root = ["req", "-x509", "-new", "-key", "root.key", "-subj", "/CN=root", "-days", 2, "-out", "root.pem"]
    openssl(keys, *root, "-addext", "keyUsage=critical,keyCertSign")
    openssl(keys, "req", "-new", "-key", "ours.key", "-subj", "/CN=ours", "-out", "ours.csr")
    (keys / "usage").write_text("keyUsage=digitalSignature\n")
    made = ["x509", "-req", "-in", "ours.csr", "-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial"]
    openssl(keys, *made, "-days", 2, "-extfile", "usage", "-out", "ours.pem")
    return keys


def test_a_signature_holds_for_just_these_bytes_under_any_name(copied, keys, trusted, tmp_path):
    archive = copied("1", keys / "ours.key")
    assert check_signature(archive, trusted) == trusted[0]
    renamed = tmp_path / "other-9.9.mar"
    renamed.write_bytes(archive.read_bytes())
    signature_of(renamed).write_bytes(signature_of(archive).read_bytes())
    assert check_signature(renamed, trusted) == trusted[0]
    assert check_signature(renamed, (*read_trusted(keys / "theirs.pub"), *trusted)) == trusted[0]


@examples(20, 200)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_no_other_bytes_have_it(archives, keys, trusted, tmp_path_factory, place, bit, cut):
    folder = tmp_path_factory.mktemp("bytes")
    data = bytearray(archives["1"].read_bytes())
    (folder / "a.mar").write_bytes(data)
    sign(folder / "a.mar", keys / "ours.key")
    at = int(place * len(data))
    data = data[:at] if cut else data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
    (folder / "a.mar").write_bytes(data)
    with pytest.raises(ArchiveError, match="its signature is of other bytes than these"):
        check_signature(folder / "a.mar", trusted)


@examples(20, 200)
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_no_signature_that_was_changed_trusts_somebody_else(archives, keys, tmp_path_factory, place, byte):
    """A changed byte of it may say the same in other words; it never makes another key's."""
    folder = tmp_path_factory.mktemp("changed")
    (folder / "a.mar").write_bytes(archives["1"].read_bytes())
    data = bytearray(sign(folder / "a.mar", keys / "theirs.key").read_bytes())
    data[int(place * len(data))] = byte
    (folder / "a.mar.sig").write_bytes(data)
    with pytest.raises(ArchiveError, match="of nobody who is trusted"):
        check_signature(folder / "a.mar", read_trusted(keys / "ours.pub"))


def test_an_archive_that_a_delta_gave_has_the_signature_of_what_it_became(archives, keys, trusted, tmp_path):
    new = tmp_path / "new.mar"
    new.write_bytes(archives["2"].read_bytes())
    signature = sign(new, keys / "ours.key").read_bytes()
    write_delta(archives["1"], new, tmp_path / "net.delta")
    apply_delta(archives["1"], tmp_path / "net.delta", tmp_path / "made.mar")
    (tmp_path / "made.mar.sig").write_bytes(signature)
    assert check_signature(tmp_path / "made.mar", trusted) == trusted[0]


def test_a_certificate_stands_behind_a_key_if_its_issuer_is_trusted(copied, certificates):
    archive = copied("1")
    sign(archive, certificates / "ours.key", certificates / "ours.pem")
    root = read_trusted(certificates / "root.pem")
    assert check_signature(archive, root) == root[0]
    with pytest.raises(ArchiveError, match="of nobody who is trusted"):
        check_signature(archive, read_trusted(certificates / "theirs.pub"))
    sign(archive, certificates / "theirs.key")
    with pytest.raises(ArchiveError, match="of nobody who is trusted"):
        check_signature(archive, root)


def test_a_file_of_keys_gives_each_of_them_and_never_a_private_one(keys, tmp_path):
    both = tmp_path / "both.pem"
    both.write_text(
        "".join((keys / f"{name}").read_text() for name in ("ours.pub", "theirs.pub", "ours.key"))
    )
    trusted = read_trusted(both)
    assert trusted == (*read_trusted(keys / "ours.pub"), *read_trusted(keys / "theirs.pub"))
    assert "PRIVATE" not in "".join(trusted)


def test_a_file_that_names_nobody_is_refused(keys, tmp_path):
    openssl(tmp_path, "genrsa", "-out", "rsa.key", 2048)
    openssl(tmp_path, "rsa", "-in", "rsa.key", "-pubout", "-out", "rsa.pub")
    (tmp_path / "text.pem").write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    for name in (keys / "ours.key", tmp_path / "rsa.pub", tmp_path / "text.pem", tmp_path, tmp_path / "none"):
        with pytest.raises(ArchiveError) as error:
            read_trusted(name)
        assert str(name) in str(error.value)
        assert "\n" not in str(error.value)


def test_the_commands_sign_offline_and_say_who_signed(copied, keys, tmp_path, monkeypatch):
    archive = copied("1")
    openssl(
        tmp_path, *("ec", "-in", keys / "ours.key", "-aes256", "-passout", "pass:open", "-out", "safe.key")
    )

    refused = inside("sign", archive, "--private-key", tmp_path / "safe.key")
    assert (refused.returncode, "safe.key can't sign" in refused.stderr) == (1, True)
    assert not signature_of(archive).exists()
    monkeypatch.setenv("EIDETIC_SIGNING_PASSWORD", "open")
    done = inside("sign", archive, "--private-key", tmp_path / "safe.key")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{archive}.sig\n", "")
    both = "--public-key", keys / "theirs.pub", "--public-key", keys / "ours.pub"
    told = inside("verify-signature", archive, *both)
    (ours,) = read_trusted(keys / "ours.pub")
    assert (told.returncode, told.stdout) == (0, f"{archive} is as {fingerprint(ours)} signed it\n")
    assert inside("verify-signature", archive, *both[:2]).returncode == 1


@pytest.mark.slow
def test_the_tool_of_model_signing_makes_and_takes_the_same_signatures(copied, keys, trusted):
    def tool(*arguments):
        command = [sys.executable, "-m", "model_signing", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False).returncode

    archive = copied("1", keys / "ours.key")
    where = "--signature", signature_of(archive)
    assert tool("verify", "key", archive, *where, "--public_key", keys / "ours.pub") == 0
    signature_of(archive).unlink()
    assert tool("sign", "key", archive, *where, "--private_key", keys / "ours.key") == 0
    assert check_signature(archive, trusted) == trusted[0]
