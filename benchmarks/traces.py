"""How many requests a second `prl data traces` keeps on the wire (`make bench-traces`).

An endpoint in a process of its own answers each request after `--latency` seconds; `--concurrency` requests
at a time make `concurrency / latency` a second the most there can be. Beside the whole command, which keeps
every answer and judges some, stands the `openai` client alone, in its own way (`chat.completions.create`
behind a semaphore). The seconds are those of the asking, without the start of Python and without the building
of the set.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import re
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "traces"))

from faulty_endpoint import served  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=6000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    ideal = given.concurrency / given.latency
    print(f"{given.problems} problems, {given.concurrency} at a time, {given.latency * 1000:g} ms each")
    print(f"  the most there can be  {ideal:7.1f} a second")
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there, given.latency))
    server.start()
    try:
        url = here.recv()
        with tempfile.TemporaryDirectory() as folder:
            found = {"openai alone": [], "prl data traces": []}
            for number in range(given.rounds):
                found["openai alone"].append(asyncio.run(alone(url, given.problems, given.concurrency)))
                found["prl data traces"].append(
                    command(url, Path(folder) / str(number), given.problems, given.concurrency)
                )
        here.send("end")
        most = here.recv()
    finally:
        server.join()
    for name, rates in found.items():
        rate = statistics.median(rates)
        each = ", ".join(f"{one:.1f}" for one in rates)
        print(f"  {name:22} {rate:7.1f} a second, {rate / ideal:.1%} (median of {each})")
    print(f"  at once on the wire    {most:5}")


def serve(pipe: Connection, latency: float) -> None:
    """The endpoint, until told to end; says how many requests it had at a time."""
    with served(latency=latency) as endpoint:
        pipe.send(endpoint.url)
        pipe.recv()
        pipe.send(endpoint.most_at_once)


async def alone(url: str, problems: int, concurrency: int) -> float:
    """Requests a second of the client library, its answers thrown away."""
    import openai

    places = asyncio.Semaphore(concurrency)
    client = openai.AsyncOpenAI(
        api_key="none", base_url=url, max_retries=0, http_client=openai.DefaultAioHttpClient()
    )

    async def one(number: int) -> None:
        async with places:
            await client.chat.completions.create(
                model="teacher", messages=[{"role": "user", "content": f"Problem: {number} + 1"}]
            )

    started = time.perf_counter()
    async with client:
        await asyncio.gather(*map(one, range(problems)))
    return problems / (time.perf_counter() - started)


def command(url: str, folder: Path, problems: int, concurrency: int) -> float:
    """Requests a second of `prl data traces`, as it says itself."""
    file = folder.with_suffix(".jsonl")
    rows = ({"problem": f"{number % 97 + 3} + {number}", "answer": str(number % 97 + 3 + number)}
            for number in range(problems))  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run(
        [sys.executable, "-m", "prl", "data", "traces", str(file), "--base_url", url, "--model", "teacher",
         "--output_dir", str(folder), "--concurrency", str(concurrency)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r"asked ([\d,]+) requests in [\d,.]+ s, ([\d,.]+) a second", done.stderr)
    assert found, done.stderr
    assert int(found[1].replace(",", "")) == problems
    return float(found[2].replace(",", ""))


if __name__ == "__main__":
    main()
