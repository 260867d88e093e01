"""What weir's documents promise, as an outsider reads them: how a line becomes an event, and an event a record.

Shares no code with weir and none with the generator. Whatever is decided here is decided from the documents: the types of
declared columns, the rule for late rows, the precedence of duplicates, the JSON of values, the Java client's partitioner.
"""

import functools
import json
import math
import re
from datetime import datetime, timedelta, timezone
from decimal import Context, Decimal

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MICROSECOND = timedelta(microseconds=1)
HOUR_US = 3600 * 1_000_000

# The job, as demo/backfill.yaml declares it.
WINDOW = (datetime(2026, 11, 3, 6, tzinfo=timezone.utc), datetime(2026, 11, 3, 15, tzinfo=timezone.utc))
WINDOW_US = tuple((at - EPOCH) // MICROSECOND for at in WINDOW)
SLICE_US = 15 * 60 * 1_000_000
LATENESS_US = 2 * HOUR_US
SKEW_US = 5 * 60 * 1_000_000
SOURCE = "api_logs"
MAX_MESSAGE_BYTES = 1_048_588


class Invalid(Exception):
    """The row is no row: one value of it is not exactly what was declared."""


class NumberText(str):
    """A JSON number with a point or an exponent, as it was written."""


def _object(pairs):
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Invalid("a key twice")
    return found


def _constant(_):
    raise Invalid("not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=NumberText, parse_constant=_constant)


def parse_line(line):
    """The JSON object of a line."""
    try:
        row = _DECODER.decode(line.decode("utf-8"))
    except (UnicodeDecodeError, ValueError) as error:
        raise Invalid(str(error)) from error
    if not isinstance(row, dict):
        raise Invalid("not an object")
    return row


def _integer(bits):
    bound = 1 << (bits - 1)

    def read(value):
        if isinstance(value, NumberText):
            exact = Decimal(value)
            if exact != exact.to_integral_value():
                raise Invalid("a fraction")
            value = int(exact)
        if isinstance(value, bool) or not isinstance(value, int):
            raise Invalid("not a number")
        if not -bound <= value < bound:
            raise Invalid("too large")
        return value

    return read


def _text(value):
    if isinstance(value, NumberText) or not isinstance(value, str):
        raise Invalid("not text")
    return value


def _decimal(precision, scale):
    def read(value):
        if isinstance(value, bool) or not isinstance(value, (int, NumberText)):
            raise Invalid("not a number")
        exact = Decimal(value)
        scaled = exact.scaleb(scale)
        if scaled != scaled.to_integral_value():
            raise Invalid("too many digits behind the point")
        if abs(scaled) >= 10**precision:
            raise Invalid("too large")
        return exact

    return read


def _double(value):
    if isinstance(value, bool) or not isinstance(value, (int, NumberText)):
        raise Invalid("not a number")
    number = float(value)
    if not math.isfinite(number):
        raise Invalid("too large")
    if not isinstance(value, NumberText) and int(number) != value:
        raise Invalid("a double would round it")
    return number


_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)\Z")


def _timestamp(value):
    """Microseconds since the epoch."""
    found = _RFC3339.match(_text(value))
    if not found:
        raise Invalid("no time")
    seconds, fraction, offset = found.groups()
    fraction = (fraction or "").rstrip("0")
    if len(fraction) > 6:
        raise Invalid("finer than a microsecond")
    try:
        whole_us = _whole_second(seconds + ("+00:00" if offset == "Z" else offset))
    except ValueError as error:
        raise Invalid("no time") from error
    return whole_us + int(fraction.ljust(6, "0"))


@functools.lru_cache(maxsize=100_000)
def _whole_second(text):
    return (datetime.fromisoformat(text) - EPOCH) // MICROSECOND


def _struct(fields):
    def read(value):
        if not isinstance(value, dict):
            raise Invalid("not an object")
        return {name: None if value.get(name) is None else kind(value[name]) for name, kind in fields.items()}

    return read


def _array(kind):
    def read(value):
        if not isinstance(value, list):
            raise Invalid("not a list")
        return [None if item is None else kind(item) for item in value]

    return read


_BIGINT, _INT = _integer(64), _integer(32)
_ROW = _struct({
    "ts": _timestamp, "event_key": _text, "path": _text, "status": _INT, "method": _text,
    "user": _struct({"id": _BIGINT, "device": _text, "locale": _text}),
    "app": _text, "attempt": _INT, "product_id": _BIGINT, "item_id": _BIGINT, "qty": _INT, "price": _decimal(12, 2),
    "score": _double, "referrer": _text, "tags": _array(_text), "items": _array(_struct({"sku": _text, "qty": _INT})),
})


def select(row):
    """The event of a row, as the job's `select` says; None where its condition does not hold."""
    row = _ROW(row)
    path, status = row["path"], row["status"]
    if path is None or status is None or status >= 400:
        return None
    if path.startswith("/v2/products/"):
        event_type = "product_view"
    elif path == "/v2/cart/items":
        event_type = "add_to_cart"
    elif path == "/v2/checkout/start":
        event_type = "checkout_start"
    else:
        return None
    if not row["event_key"] or row["ts"] is None:
        raise Invalid("no id or no time")
    user = row["user"] or {}
    return {
        "event_id": row["event_key"], "event_type": event_type, "event_time": row["ts"], "user_id": user.get("id"),
        "device": user.get("device"), "locale": user.get("locale"), "app_version": row["app"], "attempt": row["attempt"],
        "product_id": row["item_id"] if row["product_id"] is None else row["product_id"],
        "quantity": row["qty"], "price": row["price"], "score": row["score"], "referrer": row["referrer"],
        "tags": row["tags"], "items": row["items"],
    }


def placement(event, hour_us):
    """"outside" the window, "late" for the hour in which its line arrived, or "selected"."""
    at = event["event_time"]
    if not WINDOW_US[0] <= at < WINDOW_US[1]:
        return "outside"
    if at < hour_us - LATENESS_US or at >= hour_us + HOUR_US + SKEW_US:
        return "late"
    return "selected"


def slice_of(time_us):
    """The id of a slice: its start."""
    return _slice_id(time_us - (time_us - WINDOW_US[0]) % SLICE_US)


@functools.cache
def _slice_id(start_us):
    return (EPOCH + timedelta(microseconds=start_us)).strftime("%Y%m%dT%H%M%SZ")


def without_nulls(value):
    """`nulls: Omit`: a field that is null is left out, in structs too; an item of a list stays."""
    if isinstance(value, dict):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    return value


def record_value(event):
    """What the record's JSON says, times in epoch milliseconds; None where milliseconds do not hold the time."""
    if event["event_time"] % 1000:
        return None
    return without_nulls({**event, "event_time": event["event_time"] // 1000})


def canonical(value):
    """Text that two values share exactly when they are equal, to the last digit and in the order of their fields."""
    kind = type(value)
    if kind is str:
        return repr(value)
    if kind is int:
        return str(value)
    if kind is dict:
        return "{%s}" % ",".join(["%r:%s" % (name, canonical(inner)) for name, inner in value.items()])
    if kind is list:
        return "[%s]" % ",".join([canonical(inner) for inner in value])
    if kind in (float, NumberText, Decimal):
        return _number(Decimal(repr(value) if kind is float else value))
    return repr(value)


# More digits than any number here has: nothing is rounded.
_EXACT = Context(prec=4096)


def _number(value):
    """12, 12.0 and 1.2e1 are one number."""
    plain = value.normalize(_EXACT)
    exponent = plain.as_tuple().exponent
    # An absurd exponent, from whoever writes to the topic, must not become as many digits.
    return str(int(plain)) if 0 <= exponent <= 400 else str(plain)


def murmur2(data):
    """MurmurHash2 as Kafka's Java client computes it, on 32 bits."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at:at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = h * m & mask ^ k
    rest = data[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def partition(key, partitions):
    """Where the Java client puts a key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
