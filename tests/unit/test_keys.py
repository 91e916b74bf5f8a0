"""Keys and their files: who may read them, what is no key, and that a seed is shown nowhere."""

import base64
import os
import re
import stat
import subprocess
import sys
import traceback

import nkeys
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from rollcall.core.errors import Invalid, Misconfigured, RollcallError
from rollcall.embedded.authority import Authority
from rollcall.identity.keys import (
    ACCOUNT,
    OPERATOR,
    Keyring,
    checked_public,
    kept_key,
    key_of,
    load_jwt,
    load_key,
    new_key,
    public_bytes,
    save_key,
)
from rollcall.identity.signing import SenderSigner
from rollcall.sdk.login import login

KEY = new_key()
SEED = re.compile(r"S[UAO][A-Z2-7]{56}")
BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.nk"
    save_key(path, KEY)
    return path


@pytest.fixture
def keyring(tmp_path):
    return Keyring(tmp_path / "config" / "keys")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def refusal(of, *arguments):
    """The error, whole: with whatever caused it, as a log would have it."""
    with pytest.raises((Invalid, Misconfigured)) as refused:
        of(*arguments)
    return "".join(traceback.format_exception(refused.value))


def test_a_key_is_of_the_kind_that_was_asked_for():
    assert new_key().public.startswith("U")
    assert new_key(ACCOUNT).public.startswith("A")
    assert new_key(OPERATOR).public.startswith("O")
    assert new_key() != new_key()


def test_a_key_signs_as_the_library_of_nats_does():
    theirs = nkeys.from_seed(bytearray(KEY.seed.encode()))

    assert theirs.public_key.decode() == KEY.public
    assert KEY.pair[0] == public_bytes(KEY.public)


def test_a_key_file_is_for_its_owner_only_and_so_is_its_directory(tmp_path):
    path = tmp_path / "deep" / "keys" / "a.nk"
    save_key(path, KEY)

    assert mode(path) == 0o600
    assert mode(path.parent) == mode(path.parent.parent) == 0o700
    assert load_key(path) == KEY
    assert [one.name for one in path.parent.iterdir()] == ["a.nk"]


@pytest.mark.parametrize("bits", [0o600, 0o400, 0o700])
def test_a_file_that_only_its_owner_reads_is_loaded(file, bits):
    file.chmod(bits)

    assert load_key(file) == KEY


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o644, 0o620, 0o602, 0o610, 0o601, 0o660, 0o666, 0o777])
def test_a_file_that_others_may_touch_is_refused_with_what_to_do(file, bits):
    file.chmod(bits)

    said = refusal(load_key, file)
    assert f"chmod 600 {file}" in said
    assert f"{bits:04o}" in said
    assert not SEED.search(said)
    with pytest.raises(Misconfigured):
        load_jwt(file)


def test_a_link_is_as_private_as_what_it_leads_to(file, tmp_path):
    link = tmp_path / "link.nk"
    link.symlink_to(file)
    assert load_key(link) == KEY

    file.chmod(0o644)
    with pytest.raises(Misconfigured):
        load_key(link)


def test_a_link_to_nothing_a_directory_and_a_missing_file_are_clear_errors(tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "directory").mkdir(mode=0o700)
    for name in ("dangling", "directory", "missing"):
        with pytest.raises(Misconfigured, match=name):
            load_key(tmp_path / name)


def test_a_pipe_is_no_key_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    # Held open, so that opening it does not wait.
    held = os.open(pipe, os.O_RDWR)
    try:
        with pytest.raises(Misconfigured, match="not a file"):
            load_key(pipe)
    finally:
        os.close(held)


@pytest.mark.parametrize("text", [b"", b"\n", b"hello", b"SU", b"SU" + b"A" * 40, b"su" + b"a" * 56, bytes(range(256))])
def test_a_file_without_a_seed_is_refused(file, text):
    file.write_bytes(text)

    with pytest.raises(Invalid, match="holds no NKEY seed"):
        load_key(file)


@pytest.mark.parametrize("around", ["{}", "{}\n", "\n\n{}  \r\n", "-----BEGIN USER NKEY SEED-----\n{}\n------END"])
def test_a_seed_is_found_with_whatever_is_around_it(file, around):
    file.write_text(around.format(KEY.seed))

    assert load_key(file) == KEY
    assert load_jwt(file) == ""


def test_credentials_hold_a_key_and_a_jwt(tmp_path):
    authority = Authority(tmp_path)
    authority.prepare("r")
    issued = authority.agent("r", "worker", "a1")
    path = tmp_path / "a.creds"
    path.write_text(issued.credentials)
    path.chmod(0o600)

    assert load_key(path).public == issued.public
    assert load_jwt(path).count(".") == 2


@given(st.integers(0, 57), st.sampled_from(BASE32))
def test_a_seed_with_another_letter_is_no_other_key(at, letter):
    changed = KEY.seed[:at] + letter + KEY.seed[at + 1 :]
    try:
        assert key_of(changed).public == KEY.public
    except Invalid as error:
        assert changed != KEY.seed
        assert not SEED.search("".join(traceback.format_exception(error)))


@given(st.integers(0, 55), st.sampled_from(BASE32))
def test_a_public_key_with_another_letter_is_none(at, letter):
    changed = KEY.public[:at] + letter + KEY.public[at + 1 :]
    if changed == KEY.public:
        return

    with pytest.raises(Invalid):
        public_bytes(changed)
    with pytest.raises(Invalid):
        checked_public(changed)


NO_SEEDS = {
    "nothing": "",
    "a letter": "x",
    "SU": "SU",
    "a public key": KEY.public,
    "small letters": KEY.seed.lower(),
    "a letter less": KEY.seed[:-1],
    "a letter more": KEY.seed + "A",
    "a blank": f" {KEY.seed}",
    "a wrong checksum": "SU" + "A" * 56,
    "not ASCII": "é" * 58,
}


@pytest.mark.parametrize("seed", NO_SEEDS.values(), ids=NO_SEEDS)
def test_what_is_no_seed_is_refused_and_not_repeated(seed):
    said = refusal(key_of, seed)

    assert "rollcall keys new" in said
    assert KEY.seed not in said
    assert not SEED.search(said)


@pytest.mark.parametrize(
    "public",
    [
        pytest.param("", id="nothing"),
        pytest.param("U", id="U"),
        pytest.param(KEY.public.lower(), id="in small letters"),
        pytest.param(KEY.public + "A", id="a letter more"),
        pytest.param(KEY.public[:-1], id="a letter less"),
        pytest.param(f"{KEY.public}\n", id="a line feed"),
        pytest.param(KEY.seed, id="a seed"),
    ],
)
def test_what_is_no_public_key_is_refused(public):
    assert not SEED.search(refusal(checked_public, public))


@pytest.mark.parametrize(
    "spelled",
    [
        pytest.param(f"{KEY.seed}\n", id="a line feed"),
        pytest.param(f" {KEY.seed}", id="a blank"),
        pytest.param(f"{KEY.seed}A", id="a letter more"),
        pytest.param(new_key(ACCOUNT).seed, id="of an account"),
    ],
)
def test_a_seed_that_is_misspelled_is_not_repeated(spelled, tmp_path, monkeypatch):
    """It may be understood all the same."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    try:
        assert login(spelled).key == KEY
    except RollcallError as error:
        assert not SEED.search("".join(traceback.format_exception(error)))


@pytest.mark.parametrize("kind", [ACCOUNT, OPERATOR])
def test_agents_and_people_have_keys_of_users(kind):
    with pytest.raises(Invalid, match=r"user keys, U"):
        checked_public(new_key(kind).public)


def test_a_seed_is_in_no_form_in_which_things_are_shown(file, tmp_path):
    creds = tmp_path / "issued"
    authority = Authority(creds)
    authority.prepare("r")
    issued = authority.agent("r", "worker", "a1", key=KEY)
    for one in (KEY, SenderSigner(KEY, "A"), login(key=file), login(credentials=file), issued):
        for shown in (repr(one), str(one), f"{one}", f"{one!r}", repr([one]), repr({"x": one})):
            assert not SEED.search(shown), type(one)
        assert KEY.public in repr(one)


@pytest.mark.parametrize("what", ["key", "login", "issued"])
def test_a_pretty_printer_shows_no_seed_either(what, file, tmp_path):
    """rich asks a struct for its members: so do tracebacks that show local variables."""
    authority = Authority(tmp_path / "issued")
    authority.prepare("r")
    one = {
        "key": KEY,
        "login": login(credentials=file),
        "issued": authority.agent("r", "worker", "a1", key=KEY),
    }[what]

    assert not SEED.search(pretty_repr(one))


def test_a_kept_key_is_made_once(tmp_path):
    path = tmp_path / "kept.nk"

    first = kept_key(path)

    assert kept_key(path) == first
    assert mode(path) == 0o600


def test_a_key_is_private_whatever_a_crash_has_left_in_the_way(tmp_path):
    """A process with the same id may have died while it wrote."""
    path = tmp_path / "a.nk"
    left = tmp_path / f".{path.name}.{os.getpid()}"
    left.write_text("left")
    left.chmod(0o644)

    save_key(path, KEY)

    assert mode(path) == 0o600
    assert load_key(path) == KEY


def test_a_seed_is_not_written_through_a_link_that_somebody_laid(tmp_path):
    """`--out /tmp/a.nk`: anybody may make files there, and the name of the scratch file can be guessed."""
    path, stolen = tmp_path / "a.nk", tmp_path / "stolen"
    stolen.write_text("")
    (tmp_path / f".{path.name}.{os.getpid()}").symlink_to(stolen)
    try:
        save_key(path, KEY)
    except OSError:
        pass

    assert not SEED.search(stolen.read_text())


def test_a_umask_gives_nobody_more(tmp_path):
    script = (
        "import os, pathlib, sys; os.umask(0); from rollcall.identity.keys import Keyring; "
        "Keyring(pathlib.Path(sys.argv[1]) / 'd').new('a')"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60)

    assert mode(tmp_path / "d") == 0o700
    assert mode(tmp_path / "d" / "a.nk") == 0o600


def test_a_keyring_keeps_keys_by_name(keyring):
    assert keyring.names() == []
    made = keyring.new("billing")
    keyring.new("other", KEY)

    assert keyring.load("billing") == made
    assert keyring.load("other") == KEY
    assert keyring.names() == ["billing", "other"]
    assert mode(keyring.path("billing").parent) == 0o700


def test_a_name_that_is_taken_is_not_overwritten(keyring):
    made = keyring.new("billing")

    with pytest.raises(Invalid, match="already"):
        keyring.new("billing")
    assert keyring.load("billing") == made


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "../up", "a/b", "/etc/passwd", "a b", "a\n", "a\0", "é", "x" * 65, "*", "~"]
)
def test_a_name_leads_nowhere_else(keyring, name):
    for asked in (keyring.path, keyring.load, keyring.new):
        with pytest.raises(Invalid):
            asked(name)


@pytest.mark.parametrize("bits", [0o750, 0o705, 0o755, 0o710, 0o701, 0o777])
def test_a_directory_that_others_may_look_into_is_refused(keyring, bits):
    keyring.new("billing")
    directory = keyring.path("billing").parent
    directory.chmod(bits)

    for asked in (keyring.load, keyring.new):
        said = refusal(asked, "billing")
        assert f"chmod 700 {directory}" in said


def test_a_key_that_is_not_there_is_a_clear_error(keyring):
    with pytest.raises(Misconfigured, match="nobody"):
        keyring.load("nobody")


def test_a_key_that_is_replaced_is_kept_beside_the_new_one(keyring):
    former, second, third = keyring.new("billing"), new_key(), new_key()

    aside = keyring.replace("billing", second)

    assert keyring.load("billing") == second
    assert load_key(aside) == former
    assert mode(aside) == mode(keyring.path("billing")) == 0o600
    assert keyring.names() == ["billing"]

    again = keyring.replace("billing", third)
    assert (load_key(aside), load_key(again)) == (former, second)
    assert keyring.load("billing") == third


def test_a_key_that_cannot_be_read_is_not_replaced(keyring):
    former = keyring.new("billing")
    keyring.path("billing").chmod(0o644)

    with pytest.raises(Misconfigured):
        keyring.replace("billing", new_key())

    keyring.path("billing").chmod(0o600)
    assert keyring.load("billing") == former


def test_a_key_of_another_user_is_refused(file, monkeypatch):
    if os.geteuid() == 0:
        os.chown(file, 4711, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 4711)

    with pytest.raises(Misconfigured, match="another user"):
        load_key(file)


def test_the_words_of_a_seed_are_base32_of_its_bytes():
    """What the patterns of these tests look for is what a seed looks like."""
    assert SEED.fullmatch(KEY.seed)
    assert len(base64.b32decode(KEY.seed + "======")) == 36
