"""Keys and signatures: made once, refused where others may read them, never shown; envelopes as DSSE has them."""

import base64
import contextlib
import errno
import hashlib
import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from helpers import fast
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core import versions
from edgekd.core.errors import EdgeKDError, UsageError
from edgekd.security import keys, signing

PAYLOAD = b'{"name": "tiny"}\n'
# RFC 8032, 7.1, test 2: a key's 32 bytes
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")


def nobody(path):
    raise AssertionError("nobody is to be asked")


def pair(folder, name="release.key"):
    public = keys.make_key(folder / name)
    return keys.open_signer(folder / name, nobody), public


def pem(key, password=None):
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


def private_file(path, content):
    path.write_bytes(content)
    path.chmod(0o600)
    return path


# ---- the envelope


def test_what_is_signed_is_dsse_s_encoding():
    """protocol.md's own example, with our type: PAE(type, body)."""
    assert signing.encoding(b"hello world") == b"DSSEv1 36 application/vnd.edgekd.manifest+json 11 hello world"


def test_the_signature_is_ed25519_s_over_it(tmp_path):
    signer = keys.open_signer(
        private_file(tmp_path / "k", pem(ed25519.Ed25519PrivateKey.from_private_bytes(SEED))), nobody
    )
    der = bytes.fromhex("302a300506032b6570032100") + PUBLIC  # RFC 8410
    assert signer.key_id == hashlib.sha256(der).hexdigest()
    kind = signing.PAYLOAD_TYPE.encode()
    body = b"DSSEv1 " + str(len(kind)).encode() + b" " + kind + b" 17 " + PAYLOAD
    ed25519.Ed25519PublicKey.from_public_bytes(PUBLIC).verify(signer.sign(PAYLOAD).value, body)


def test_an_envelope_comes_back(tmp_path):
    first, second = pair(tmp_path, "a")[0], pair(tmp_path, "b")[0]
    made = signing.Envelope(PAYLOAD, ()).signed([first, second])
    assert signing.parse_envelope(made.text().encode()) == made
    values = json.loads(made.text())
    assert list(values) == ["payload", "payloadType", "signatures"]
    assert base64.b64decode(values["payload"]) == PAYLOAD
    assert [one["keyid"] for one in values["signatures"]] == [first.key_id, second.key_id]
    assert made.signed([second, first]).text() == made.text(), "the same bytes each time, each where it stood"


def test_url_safe_base64_is_taken_as_well(tmp_path):
    made = signing.Envelope(b"\xfb\xff" * 20, ()).signed([pair(tmp_path)[0]])
    values = json.loads(made.text())
    values["payload"] = base64.urlsafe_b64encode(made.payload).decode()
    assert "_" in values["payload"]
    assert signing.parse_envelope(json.dumps(values).encode()).payload == made.payload


def envelope(tmp_path, **changes):
    values = json.loads(signing.Envelope(PAYLOAD, ()).signed([pair(tmp_path)[0]]).text())
    return json.dumps({key: value for key, value in (values | changes).items() if value is not ...}).encode()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"payload": ...}, "other fields"),
        ({"extra": 1}, "other fields"),
        ({"signatures": ...}, "other fields"),
        ({"payloadType": "application/json"}, "payloadType"),
        ({"payload": 5}, "no base64"),
        ({"payload": "a b="}, ""),
        ({"payload": "eyJ"}, ""),
        ({"payload": "YR=="}, "stray bits"),
        ({"payload": "Ω"}, "no base64"),
        ({"signatures": []}, "1 to 32"),
        ({"signatures": [{}] * 33}, "1 to 32"),
        ({"signatures": {}}, "1 to 32"),
        ({"signatures": [5]}, "keyid and sig"),
        ({"signatures": [{"sig": ""}]}, "keyid and sig"),
        ({"signatures": [{"sig": "", "keyid": "0" * 64, "x": 1}]}, "keyid and sig"),
        ({"signatures": [{"sig": "", "keyid": "../x"}]}, "keyid and sig"),
        ({"signatures": [{"sig": "", "keyid": "0" * 64}] * 2}, "two signatures of one key"),
    ],
)
def test_a_hostile_envelope_is_told(tmp_path, changes, words):
    path = tmp_path / "x.sig"
    path.write_bytes(envelope(tmp_path, **changes))
    with pytest.raises(EdgeKDError, match=f"^x.sig is no signature of a bundle: .*{words}"):
        signing.read_envelope(path)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"[" * 99_999, b"\xff", b'{"payload": NaN}', b" " * (9 << 20)])
def test_what_is_no_envelope_is_told(tmp_path, raw):
    path = tmp_path / "x.sig"
    path.write_bytes(raw)
    with pytest.raises(EdgeKDError, match=r"^x\.sig is no signature of a bundle: "):
        signing.read_envelope(path)


@pytest.mark.parametrize("kind", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_device_in_place_of_an_envelope_waits_for_nothing(tmp_path, kind):
    kind(tmp_path / "x.sig")
    with pytest.raises(EdgeKDError, match=r"^x\.sig is no signature of a bundle: "):
        signing.read_envelope(tmp_path / "x.sig")


# ---- making keys


def test_a_pair_is_made_for_its_owner_alone(tmp_path):
    public = keys.make_key(tmp_path / "release.key")
    assert stat.S_IMODE((tmp_path / "release.key").stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"release.key", "release.key.pub"}
    assert keys.read_public(tmp_path / "release.key.pub").key_id == public.key_id
    signer = keys.open_signer(tmp_path / "release.key", nobody)
    assert signer.key_id == public.key_id
    assert public.holds(PAYLOAD, signer.sign(PAYLOAD).value)
    assert not public.holds(PAYLOAD + b" ", signer.sign(PAYLOAD).value)
    assert not public.holds(PAYLOAD, b"")


def test_the_file_is_never_readable_by_others_not_even_empty(tmp_path, monkeypatch):
    seen = []
    opened = os.open

    def watched(path, flags, mode=0o777, **rest):
        handle = opened(path, flags, mode, **rest)
        if flags & os.O_CREAT:
            seen.append((flags & os.O_EXCL, stat.S_IMODE(os.fstat(handle).st_mode)))
        return handle

    before = os.umask(0)
    try:
        monkeypatch.setattr(os, "open", watched)
        keys.make_key(tmp_path / "k")
    finally:
        os.umask(before)
    assert [bool(excl) for excl, _ in seen] == [True, True]
    assert {mode for _, mode in seen} == {0o600}


@pytest.mark.parametrize("there", ["k", "k.pub"])
def test_neither_file_is_ever_overwritten(tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(UsageError, match=f"{there} is there already; a key is never overwritten"):
        keys.make_key(tmp_path / "k")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


@pytest.mark.parametrize("there", ["k", "k.pub"])
def test_not_even_by_who_comes_between(tmp_path, monkeypatch, there):
    link = os.link

    def slower(source, place):
        if place.name == there:
            place.write_text("mine")
        link(source, place)

    monkeypatch.setattr(os, "link", slower)
    with pytest.raises(UsageError, match="is there already"):
        keys.make_key(tmp_path / "k")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


def test_a_pair_is_made_where_folders_cannot_be_flushed(tmp_path, monkeypatch):
    flushed = os.fsync

    def files_alone(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        flushed(handle)

    monkeypatch.setattr(os, "fsync", files_alone)
    keys.make_key(tmp_path / "k")
    assert {path.name for path in tmp_path.iterdir()} == {"k", "k.pub"}


def test_a_dangling_link_is_there_already(tmp_path):
    (tmp_path / "k").symlink_to("nowhere")
    with pytest.raises(UsageError, match="is there already"):
        keys.make_key(tmp_path / "k")


def test_where_no_key_can_be_made(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="is a folder") as folder:
        keys.make_key(tmp_path)
    assert folder.value.fix == f"give the key a name: {tmp_path}/release.key"
    with pytest.raises(UsageError, match=r"there is no folder .*/none") as none:
        keys.make_key(tmp_path / "none" / "k")
    assert none.value.fix == f"mkdir -p {tmp_path}/none"

    def refuses(*_, **__):
        raise OSError(30, "Read-only file system", "x")

    monkeypatch.setattr(os, "open", refuses)
    with pytest.raises(UsageError, match=r"cannot write .*/k: Read-only file system"):
        keys.make_key(tmp_path / "k")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_keeps_no_permissions_gets_no_key(tmp_path, monkeypatch):
    whole = os.fstat
    monkeypatch.setattr(os, "fchmod", lambda *_: None)
    monkeypatch.setattr(
        os, "fstat", lambda handle: os.stat_result((whole(handle).st_mode | 0o777, *tuple(whole(handle))[1:]))
    )
    with pytest.raises(UsageError, match="this disk keeps no permissions"):
        keys.make_key(tmp_path / "k")
    assert list(tmp_path.iterdir()) == []


# ---- opening keys


def broken(folder):
    good = pem(ed25519.Ed25519PrivateKey.generate())
    return {
        "empty": b"",
        "text": b"secret words\n",
        "cut": good[:60],
        "other": pem(ec.generate_private_key(ec.SECP256R1())),
        "two": good + good,
        "public": (folder / "good.pub").read_bytes(),
        "der": base64.b64decode(good.split(b"\n")[1]),
        "large": good + b"x" * (20 << 10),
        "rubbish": b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    }


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "other", "two", "public", "der", "large", "rubbish"])
def test_what_is_no_private_key_is_told_without_its_content(tmp_path, kind):
    keys.make_key(tmp_path / "good")
    content = broken(tmp_path)[kind]
    with pytest.raises(UsageError) as refused:
        keys.open_signer(private_file(tmp_path / "k", content), nobody)
    no_key = "is a public key: a private one signs" if kind == "public" else "is no Ed25519 private key in PEM"
    assert refused.value.message == f"{tmp_path}/k {no_key}"
    assert "words" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_what_is_no_private_key_keeps_its_mode(tmp_path):
    """`chmod 600 /etc/passwd` would lock every other user out; nor may devices lose the public key."""
    keys.make_key(tmp_path / "k")
    (tmp_path / "loose.pem").write_bytes((tmp_path / "k.pub").read_bytes())
    (tmp_path / "garbage").write_bytes(b"\0" * 99)
    for path, words, fix in (
        (tmp_path / "k.pub", "is a public key: a private one signs", f"give the private key beside it: {tmp_path}/k"),
        (tmp_path / "loose.pem", "is a public key: a private one signs", keys._GIVE),
        (tmp_path / "garbage", "is no Ed25519 private key in PEM", keys._GIVE),
        (Path("/etc/passwd"), "is no Ed25519 private key in PEM", keys._GIVE),
    ):
        with pytest.raises(UsageError) as refused:
            keys.open_signer(path, nobody)
        assert (refused.value.message, refused.value.fix) == (f"{path} {words}", fix)
    keys.make_key(tmp_path / "locked", "correct horse")
    (tmp_path / "locked").chmod(0o644)
    with pytest.raises(UsageError, match="can be read by others"):  # before it is asked for a passphrase
        keys.open_signer(tmp_path / "locked", nobody)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o644])
def test_a_key_that_others_can_read_is_refused(tmp_path, mode):
    keys.make_key(tmp_path / "k")
    (tmp_path / "k").chmod(mode)
    with pytest.raises(UsageError, match="can be read by others") as refused:
        keys.open_signer(tmp_path / "k", nobody)
    assert refused.value.fix == f"chmod 600 {tmp_path}/k"
    (tmp_path / "k").chmod(0o400)
    keys.open_signer(tmp_path / "k", nobody)


@pytest.mark.parametrize("kind", [lambda path: None, Path.mkdir, os.mkfifo])
def test_a_key_that_cannot_be_read_is_told(tmp_path, kind):
    kind(tmp_path / "k")
    with pytest.raises(UsageError, match=r"cannot read the key|can be read by others"):
        keys.open_signer(tmp_path / "k", nobody)


def test_a_key_with_a_passphrase(tmp_path, monkeypatch):
    monkeypatch.delenv(keys.PASSPHRASE, raising=False)
    keys.make_key(tmp_path / "k", "correct horse")
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in (tmp_path / "k").read_bytes()
    asked = []

    def ask(path):
        asked.append(path)
        return "correct horse"

    signer = keys.open_signer(tmp_path / "k", ask)
    assert asked == [tmp_path / "k"]
    with pytest.raises(UsageError, match="does not open: the passphrase is another, or the file is damaged") as wrong:
        keys.open_signer(tmp_path / "k", lambda path: "battery staple")
    assert "battery" not in str(wrong.value)
    with pytest.raises(UsageError, match="does not open"):
        keys.open_signer(tmp_path / "k", lambda path: "\udcff")
    monkeypatch.setenv(keys.PASSPHRASE, "correct horse")
    assert keys.open_signers([tmp_path / "k", tmp_path / "k"], nobody) == (signer,)
    assert keys.PASSPHRASE not in os.environ, "no child process inherits it"
    with pytest.raises(UsageError, match="a passphrase of 2000 bytes"):
        keys.make_key(tmp_path / "other", "x" * 2000)


def test_no_representation_shows_a_key(tmp_path):
    signer, public = pair(tmp_path)
    raw = (tmp_path / "release.key").read_text().splitlines()[1]
    for text in (repr(signer), str(signer), repr(public), str(public), repr([signer])):
        assert raw not in text
        assert "Ed25519PrivateKey" not in text
    assert str(public) == f"release.key.pub ({public.key_id[:16]})"


# ---- public keys from strangers


@pytest.mark.parametrize(
    "raw", [b"", b"x", b"\0" * 999, b"-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n", b"y" * 20_000]
)
def test_what_is_no_public_key_is_told(tmp_path, raw):
    (tmp_path / "k.pub").write_bytes(raw)
    with pytest.raises(UsageError, match=r"k\.pub"):
        keys.read_public(tmp_path / "k.pub")


def test_public_keys_of_other_kinds_and_private_ones_are_told(tmp_path):
    keys.make_key(tmp_path / "k")
    with pytest.raises(UsageError, match="holds a private key") as private:
        keys.read_public(tmp_path / "k")
    assert private.value.fix == f"give {tmp_path}/k.pub"
    form = serialization
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "ec.pub").write_bytes(other.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(UsageError, match=r"ec\.pub is no Ed25519 public key"):
        keys.read_public(tmp_path / "ec.pub")
    (tmp_path / "two.pub").write_bytes((tmp_path / "k.pub").read_bytes() * 2)
    with pytest.raises(UsageError, match=r"two\.pub is no Ed25519 public key"):
        keys.read_public(tmp_path / "two.pub")
    os.mkfifo(tmp_path / "pipe.pub")
    with pytest.raises(UsageError, match=r"cannot read the public key .*: it is no file"):
        keys.read_public(tmp_path / "pipe.pub")
    with pytest.raises(UsageError, match=r"cannot read the public key .*: No such file"):
        keys.read_public(tmp_path / "none.pub")


def test_a_folder_of_keys(tmp_path):
    with pytest.raises(UsageError, match=r"has no \*\.pub"):
        keys.read_publics(tmp_path)
    made = [keys.make_key(tmp_path / name) for name in ("a", "b")]
    assert keys.read_publics(tmp_path) == made


# ---- versions


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "1.0",
        "1.0.0.0",
        "v1.0.0",
        "1.0.0-rc1",
        "1.0.0+x",
        "01.0.0",
        "1.0.-1",
        " 1.0.0",
        "1.0.0\n",
        "1.0.٣",
        "9999999999.0.0",
        "1e3.0.0",
        "nan",
    ],
)
def test_what_is_no_version_is_refused(text):
    with pytest.raises(UsageError, match="is no version"):
        versions.numbers(text)


@fast
@given(st.tuples(*[st.integers(0, 999_999_999)] * 3), st.tuples(*[st.integers(0, 999_999_999)] * 3))
def test_versions_compare_as_numbers(one, other):
    spelled = [".".join(map(str, each)) for each in (one, other)]
    assert (versions.numbers(spelled[0]) < versions.numbers(spelled[1])) == (one < other)


# ---- the command


def run(*arguments, env=None, stdin=subprocess.DEVNULL):
    return subprocess.run(
        [sys.executable, "-m", "edgekd", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | (env or {}),
        stdin=stdin,
    )


def test_keygen_says_what_comes_next(tmp_path):
    done = run("keygen", tmp_path / "k")
    assert done.returncode == 0, done.stderr
    assert f"key id  {keys.read_public(tmp_path / 'k.pub').key_id}\n" in done.stdout
    assert f"edgekd build ... --sign {tmp_path}/k\n" in done.stdout
    assert (tmp_path / "k").read_text().splitlines()[1] not in done.stdout + done.stderr
    again = run("keygen", tmp_path / "k")
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.splitlines() == [
        f"error: {tmp_path}/k is there already; a key is never overwritten",
        "  fix: give another PATH",
    ]


def test_keygen_with_a_passphrase_and_no_terminal(tmp_path):
    done = run("keygen", tmp_path / "k", "--passphrase")
    assert done.returncode == 2
    assert "no terminal to ask on\n  fix: set $EDGEKD_PASSPHRASE" in done.stderr
    done = run("keygen", tmp_path / "k", "--passphrase", env={"EDGEKD_PASSPHRASE": "correct horse"})
    assert done.returncode == 0, done.stderr
    assert "correct horse" not in done.stdout + done.stderr
    keys.open_signer(tmp_path / "k", lambda path: "correct horse")


def typed(words, *arguments):
    """A command on a terminal of its own, on which these lines are typed: its exit code and all that stood there."""
    here, there = pty.openpty()
    # a session without a terminal: the passphrase is asked for on standard input
    with subprocess.Popen(
        [sys.executable, "-m", "edgekd", *map(str, arguments)],
        stdin=there,
        stdout=there,
        stderr=there,
        start_new_session=True,
        env={key: value for key, value in os.environ.items() if key != keys.PASSPHRASE},
    ) as child:
        os.close(there)
        seen = b""
        for line in words:
            while b"passphrase" not in seen.rpartition(b"\n")[2] and b"epeat" not in seen.rpartition(b"\n")[2]:
                seen += os.read(here, 1024)
            os.write(here, line.encode() + b"\n")
            seen += b"\n"
        with contextlib.suppress(OSError):  # the other end was closed
            while more := os.read(here, 1024):
                seen += more
        os.close(here)
    return child.returncode, seen.decode()


def test_a_passphrase_is_asked_for_twice_and_never_shown(tmp_path):
    code, seen = typed(["correct horse", "correct horse"], "keygen", tmp_path / "k", "--passphrase")
    assert code == 0, seen
    assert "horse" not in seen
    keys.open_signer(tmp_path / "k", lambda path: "correct horse")
    build = ["build", "--target", "none.yaml", "--sign", tmp_path / "k"]
    code, seen = typed(["correct horse"], *build)
    assert "cannot read the target profile none.yaml" in seen, "the key was opened, and first"
    code, seen = typed(["battery staple"], *build)
    assert (code, "does not open: the passphrase is another" in seen) == (2, True)
    assert "staple" not in seen


def test_keygen_as_nobody_in_particular(tmp_path):
    """A folder that cannot be written, as it is for anyone but root."""
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o555)
        done = run("keygen", tmp_path / "locked" / "k")
    else:
        done = run("keygen", "/proc/k")
    assert done.returncode == 2
    assert "error: cannot write " in done.stderr
    assert "Traceback" not in done.stderr
