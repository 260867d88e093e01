"""A shop's events as JSON lines, the same for the same seed: about 1 kB each, or 5.3 kB with `large`.

    python generate.py COUNT SEED [large] | gzip -6 > events.jsonl.gz
"""

import hashlib
import random
import sys

import orjson

# 2026-01-01T00:00:00Z; an event follows its predecessor by 25 ms on average.
START_MS = 1_767_225_600_000
TYPES = ["order_placed", "page_view", "cart_add", "payment_captured", "refund_issued"]
COUNTRIES = ["DE", "FR", "US", "GB", "JP"]


def events(count, seed, large):
    """Yields `count` events as dictionaries."""
    draw = random.Random(seed)
    vocabulary = [hashlib.md5(str(n).encode()).hexdigest()[: draw.randint(4, 9)] for n in range(4000)]

    def words(n):
        return draw.choices(vocabulary, k=n)

    def item():
        price = round(draw.random() * 99, 2)
        return {"sku": f"SKU-{draw.randint(0, 99_999):05d}", "qty": draw.randint(1, 5), "price": price}

    ts = START_MS
    for _ in range(count):
        ts += draw.randint(0, 50)
        user = draw.randint(1, 2_000_000)
        items = draw.randint(8, 30) if large else draw.randint(1, 5)
        yield {
            "event_id": draw.randbytes(16).hex(),
            "type": draw.choice(TYPES),
            "ts": ts,
            "user": {
                "id": f"u-{user}",
                "email": f"user{user}@example.com",
                "country": draw.choice(COUNTRIES),
                "session": draw.randbytes(12).hex(),
            },
            "order": {
                "id": f"o-{draw.randint(1, 10**9)}",
                "amount": round(draw.random() * 500, 2),
                "currency": "EUR",
                "items": [item() for _ in range(items)],
            },
            "ctx": {
                "ip": f"192.0.2.{draw.randint(0, 255)}",
                "ua": "Mozilla/5.0 " + " ".join(words(12)),
                "ref": "https://shop.example/" + "/".join(words(5)),
                "trace": draw.randbytes(16).hex(),
            },
            "tags": words(6),
            "schema_version": draw.choice([1, 2]),
            "note": " ".join(words(520 if large else 30)),
        }


def main():
    count, seed, large = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["large"]
    for event in events(count, seed, large):
        sys.stdout.buffer.write(orjson.dumps(event) + b"\n")


if __name__ == "__main__":
    main()
