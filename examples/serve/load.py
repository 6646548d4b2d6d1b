"""Load a running service: `python examples/serve/load.py http://127.0.0.1:8000 --seconds=60 --clients=22`.

Prints how many requests were answered and lost, and the median and the 99th percentile of their time.
"""

import argparse
import http.client
import json
import random
import threading
import time
from urllib.parse import urlsplit


def client(address: str, ends: float, seed: int, times: list[float], lost: list[str]) -> None:
    """Search by vectors until the time is over, one request after another."""
    rng, place = random.Random(seed), urlsplit(address).netloc
    connection = http.client.HTTPConnection(place, timeout=60)
    connection.request("GET", "/conditions")
    about = json.loads(connection.getresponse().read())
    while time.monotonic() < ends:
        weights = {name: rng.choice((1.0, 0.5)) for name in rng.sample([*about["conditions"]], 1)}
        body = {"vector": [rng.gauss(0, 1) for _ in range(about["width"])], "weights": weights, "k": 10}
        began = time.monotonic()
        try:
            connection.request("POST", "/search", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                lost.append(str(answer.status))
        except (OSError, http.client.HTTPException) as error:
            lost.append(repr(error))
            connection = http.client.HTTPConnection(place, timeout=60)
        times.append(time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("address")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=22)
    args = parser.parse_args()
    times: list[float] = []
    lost: list[str] = []
    ends = time.monotonic() + args.seconds
    threads = [
        threading.Thread(target=client, args=(args.address, ends, seed, times, lost)) for seed in range(args.clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times.sort()
    p50, p99 = (1000 * times[int(len(times) * share)] for share in (0.5, 0.99))
    print(f"{len(times):,} requests, {len(lost)} lost, p50 {p50:.0f} ms, p99 {p99:.0f} ms", *lost[:3])


if __name__ == "__main__":
    main()
