"""Operators' connections that can't begin."""

import asyncio
from pathlib import Path

import pytest

from signal_py.config.nats_url import Server
from signal_py.nats.client import NatsError, _Client, close, connect
from signal_py.nats.credentials import Credentials
from signal_py.nats.tls import Tls


@pytest.mark.parametrize("what", ["creds", "seed", "certificate"])
def test_a_file_that_is_replaced_just_now(tmp_path: Path, what: str) -> None:
    half = tmp_path / "half"
    half.write_text("half of it")
    credentials = Credentials(creds_file=str(half)) if what == "creds" else Credentials()
    if what == "seed":
        credentials = Credentials(seed_file=str(half))
    tls = Tls(cert=str(half), key=str(half)) if what == "certificate" else Tls()

    async def main() -> None:
        with pytest.raises(NatsError):
            await connect(Server("127.0.0.1", 1), credentials, tls, "x", lambda _: None, lambda: None)

    asyncio.run(main())


def test_a_connection_that_never_began_can_be_closed() -> None:
    async def main() -> None:
        await close(_Client(Server("127.0.0.1", 1)))

    asyncio.run(main())
