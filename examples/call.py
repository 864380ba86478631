"""Call functions in a worker as if they were here: one after the other, or several at a time."""

import math

import execgw


def primes(first: int, last: int) -> int:
    """How many primes there are in a range.  Goes to the worker by its source."""
    return sum(1 for n in range(max(first, 2), last) if all(n % d for d in range(2, int(n**0.5) + 1)))


with execgw.Group() as group:
    one, two = group.makegateways(["popen", "popen"])

    print(one.call(math.factorial, 20))  # of the standard library: goes by its name

    halves = [one.submit(primes, 0, 5000), two.submit(primes, 5000, 10000)]
    print(sum(half.result() for half in halves), "primes below 10000")
