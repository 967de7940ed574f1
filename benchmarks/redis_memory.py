"""What one logout takes in Redis: key, expiry and log entry.

python -m benchmarks.redis_memory [--fences 1000000]
"""

from __future__ import annotations

import argparse
import os

from tests.servers import RedisServer, running
from wsgi_rollsession.revocation import StoreOptions
from wsgi_rollsession.revocation.fence import ENDED, EVERYTHING
from wsgi_rollsession.revocation.redis import RedisRevocations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--fences", type=int, default=1_000_000)
    target = parser.parse_args().fences
    with running(RedisServer()) as server:
        store = RedisRevocations.from_url(server.url, StoreOptions(lifetime_ms=3_600_000))
        store.lookup_now([EVERYTHING])
        with server.client() as client:
            before = client.info("memory")["used_memory"]
            info = client.info("server")
            print(f"Redis {info['redis_version']}, {client.info('memory')['mem_allocator']}")
            print("| fences | bytes per fence (used_memory) | of these the log | resident set |")
            print("|---:|---:|---:|---:|")
            done, goal = 0, min(10_000, target)
            while done < target:
                store.fence([os.urandom(16) for _ in range(100)], ENDED)
                done += 100
                if done >= goal:
                    memory = client.info("memory")
                    each = (memory["used_memory"] - before) / done
                    log = client.memory_usage("rollsession:{0}:log", samples=0) / done
                    print(f"| {done:,} | {each:.0f} | {log:.0f} | {memory['used_memory_rss'] / 1e6:.0f} MB |")
                    goal = min(goal * 10, target) if goal < target else target + 1
        store.close()


if __name__ == "__main__":
    main()
