"""`signal-engine token`, and the session with tokens in docs/auth.md."""

import base64
import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
import trustme

import kit
from minted import KEYS, SECRET, Guest, bearer, knock, write_pem

PRIME239 = """\
-----BEGIN EC PRIVATE KEY-----
MHECAQEEHmY8hGfMA9C+q6UWT00SDt4ssAsDLBiX0iyw3Fdp+qAKBggqhkjOPQMB
BKFAAz4ABAezsXR8O1O0f9+JDgtIgipdhQKiOshCH4FdGLEvEgyh5I043CtMpNxR
RDwA/DwZrxTY0oP9pAqWGJX51Q==
-----END EC PRIVATE KEY-----
"""  # for a curve that cryptography does not know
PAGE = Path(__file__).parents[2] / "docs" / "auth.md"


def mint(*flags: str, **environment: str) -> str:
    done = kit.run("token", *flags, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def complaint(*words: str) -> str:
    done = kit.run("token", *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == "", done.stderr
    return done.stderr


def test_flags_become_claims() -> None:
    flags = ["--sub=ann", "--rooms=a.*", "--rooms=b", "--max-rooms=3", "--no-to", "--ttl=60"]
    flags += ["--audience=x", "--issuer=y"]
    made = mint(*flags, SIGNAL_ENGINE_AUTH_KEY=SECRET)
    claims: dict[str, Any] = jwt.decode(made, SECRET, algorithms=["HS256"], audience="x", issuer="y")
    assert 50 < claims.pop("exp") - time.time() <= 60 and abs(claims.pop("iat") - time.time()) < 10
    assert claims == {
        "sub": "ann", "rooms": ["a.*", "b"], "max_rooms": 3, "to": False, "aud": "x", "iss": "y",
    }  # fmt: skip
    shown = json.loads(kit.run("token", "inspect", made).stdout)
    assert shown["header"] == {"alg": "HS256", "typ": "JWT"} and shown["claims"]["sub"] == "ann"


def test_separate_rooms_and_no_exp() -> None:
    made = mint("--rooms-sub", "a", "--ttl", "0", "--kid", "k", "--key", SECRET)
    claims = jwt.decode(made, SECRET, algorithms=["HS256"])
    assert claims["rooms"] == {"sub": ["a"], "pub": []} and "exp" not in claims and "sub" not in claims
    assert jwt.get_unverified_header(made)["kid"] == "k"


@pytest.mark.parametrize("algorithm", KEYS)
def test_private_keys(algorithm: str, tmp_path: Path) -> None:
    key = KEYS[algorithm]()
    private, public = write_pem(key, tmp_path / "private.pem", private=True), write_pem(key, tmp_path / "public.pem")
    made = mint("--sub", "ann", "--key-file", str(private))
    with kit.engine(auth="jwt", auth_key_file=public) as engine:
        assert knock(engine.port, "/", bearer(made)).status == 101
    assert "public" in complaint("--key-file", str(public))


@pytest.mark.parametrize("before", [b"ann's key\n", b"\xef\xbb\xbf", b"Bag Attributes\n    x: y\n\n"])
def test_text_before_a_key(before: bytes, tmp_path: Path) -> None:
    """It is ignored (RFC 7468 §2): the key is not taken for a secret."""
    key = KEYS["ES256"]()
    private, public = write_pem(key, tmp_path / "private.pem", private=True), write_pem(key, tmp_path / "public.pem")
    for file in (private, public):
        file.write_bytes(before + file.read_bytes())
    made = mint("--sub", "ann", "--key-file", str(private))
    with kit.engine(auth="jwt", auth_key_file=public) as engine:
        assert knock(engine.port, "/", bearer(made)).status == 101


def test_a_key_after_its_curve(tmp_path: Path) -> None:
    """As `openssl ecparam -name prime256v1 -genkey` writes it."""
    private = write_pem(KEYS["ES256"](), tmp_path / "private.pem", private=True)
    curve = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    private.write_bytes(curve + private.read_bytes())
    assert jwt.get_unverified_header(mint("--sub", "ann", "--key-file", str(private)))["alg"] == "ES256"


def test_a_certificate_is_not_a_key(tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    file.write_bytes(trustme.CA().cert_pem.bytes())
    done = kit.run("serve", "--auth=jwt", f"--auth-key-file={file}")
    assert done.returncode == 2 and "openssl x509" in done.stderr and str(file) in done.stderr, done.stderr
    assert "is a certificate: name the private key" in complaint("--key-file", str(file))


def test_misuse(tmp_path: Path) -> None:
    assert "--key" in complaint("--sub", "ann")
    assert "--rooms" in complaint("--key", "k", "--rooms", "a", "--rooms-pub", "b")
    assert "user" in complaint("--key", "k", "--sub", "a b")
    assert "pattern" in complaint("--key", "k", "--rooms", "a*")
    assert "inspect" in complaint("nonsense")
    assert "JSON Web Token" in complaint("inspect", "nonsense")
    assert "can't be read" in complaint("--key-file", str(tmp_path / "none"))
    (tmp_path / "empty").touch()
    assert "empty" in complaint("--key-file", str(tmp_path / "empty"))


def test_bad_keys(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----\n")
    for flag, file, wanted in (
        ("--auth-key-file", bad, "holds no usable key"),
        ("--auth-key-file", tmp_path / "none", "can't be read"),
        ("--auth-jwks", tmp_path / "none", "can't be used"),
        ("--auth-jwks", bad, "can't be used"),
        ("--auth-jwks", "ftp://h/keys", "its scheme is not http, https or file"),
    ):
        done = kit.run("serve", "--auth", "jwt", flag, str(file))
        assert done.returncode == 2 and flag in done.stderr and wanted in done.stderr, done.stderr
    done = kit.run("serve", "--auth=jwt", "--auth-key=k", "--auth-algorithms=RS256")
    assert done.returncode == 2 and "HS256" in done.stderr


@pytest.mark.parametrize("ttl", ["nan", "inf", "-5", "1e300"])
def test_bad_ttls(ttl: str) -> None:
    assert f"--ttl is {float(ttl):g}: use 0 to 1e+10" in complaint("--key", SECRET, "--ttl", ttl)


def test_a_ttl_below_a_second() -> None:
    claims = json.loads(kit.run("token", "inspect", mint("--key", SECRET, "--ttl", "0.5")).stdout)["claims"]
    assert claims["exp"] == claims["iat"] + 1


def test_a_public_key_is_not_a_secret(tmp_path: Path) -> None:
    """Neither an ssh key, nor a PEM with text before it."""
    file = tmp_path / "key"
    for text in (
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFoo ann@h",
        "x\n-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----",
    ):
        file.write_text(text)
        error = complaint("--key-file", str(file))
        assert "--key-file is a key or certificate, not a secret" in error or "is a public key" in error
        assert "--key is a key or certificate, not a secret" in complaint("--key", text)
        for flag, value in (("--auth-key-file", str(file)), ("--auth-key", text)):
            error = kit.complaint(kit.run("serve", "--auth", "jwt", flag, value, "--listen", "127.0.0.1:0"))
            assert flag in error
            assert "is a key or certificate, not a secret" in error or "holds no usable key" in error


def test_an_unknown_curve(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(PRIME239)
    assert "--key-file" in complaint("--key-file", str(file))


def test_a_token_that_is_nested_too_deeply() -> None:
    parts = (json.dumps({"alg": "HS256"}), "[" * 6000 + "]" * 6000)
    head, claims = (base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
    assert "not a JSON Web Token" in complaint("inspect", f"{head}.{claims}.c2ln")


def test_a_token_that_is_not_text() -> None:
    assert "not a JSON Web Token" in complaint("inspect", "a.\udcff.c")


def test_a_short_secret() -> None:
    """The engine accepts it, and logs the setting once; PyJWT's warning is not shown."""
    with kit.engine(auth="jwt", auth_key="k") as engine:
        assert knock(engine.port, "/", bearer(mint("--key", "k"))).status == 101
        lines = engine.log().splitlines()
        assert len(engine.events()) == len(lines), lines
        warnings = [line for line in engine.events() if line["level"] == "warning"]
        assert [(line["setting"], line["bytes"]) for line in warnings] == [("--auth-key", 1)]
        assert "use 32 random bytes or more" in warnings[0]["event"]


def test_callback_is_only_for_programs() -> None:
    done = kit.run("serve", "--auth", "callback")
    assert done.returncode == 2 and "embed" in done.stderr and done.stderr.count("\n") == 1


def test_the_session_with_tokens_of_the_docs() -> None:
    """Each command, in order; the engine is one of the test."""
    text = PAGE.read_text(encoding="utf-8")
    block = re.search(r"((?:    (?:export|signal-engine) .*\n)+)", text[text.index("## Try it") :])
    assert block
    lines = [line.strip() for line in block[1].splitlines()]
    assert lines.pop(1) == "signal-engine serve --auth jwt &" and len(lines) == 6
    make_key = lines.pop(0) + '; printf %s "$SIGNAL_ENGINE_AUTH_KEY"'
    secret = subprocess.run(["bash", "-c", make_key], capture_output=True, text=True, check=True).stdout
    program = f'signal-engine() {{ {shlex.join(kit.python())} -m signal_py "$@"; }}\nset -e\n'
    with kit.engine(auth="jwt", auth_key=secret) as engine:
        ann = Guest(engine.port, token=mint("--sub", "ann", "--key", secret))
        ann.join("lobby.a")
        done = subprocess.run(
            ["bash", "-c", program + "\n".join(lines)],
            env=kit.clean_environment(SIGNAL_ENGINE_URL=engine.url, SIGNAL_ENGINE_AUTH_KEY=secret),
            cwd=os.path.sep,
            capture_output=True,
            text=True,
            timeout=kit.PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.startswith("signal-engine: denied: ")
        assert done.stdout.startswith("denied, as it should be\n{")
        assert [ann.read().payload, ann.read().payload] == [
            b"hello from ann", b"to all other connections of ann, on every node",
        ]  # fmt: skip
        assert ann.settle() == []
        ann.close()
