"""What every service has before it serves."""

from __future__ import annotations

import resource

from services.runtime.rpc.server import run_service


def test_a_service_takes_as_many_open_files_as_the_system_gives() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, limits[1]), limits[1]))
    found: list[tuple[int, int]] = []

    async def main() -> None:
        found.append(resource.getrlimit(resource.RLIMIT_NOFILE))

    try:
        run_service(main)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found == [(limits[1], limits[1])]
