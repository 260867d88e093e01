"""The parts that are measured with: Kafka and S3 as the environment names them, and events to read."""

import gzip
import itertools
import os
import pathlib
import shutil
import tempfile
import time
import uuid

import boto3
import orjson
from botocore.config import Config
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from generate import events

SEED = 42
# Several objects, as a logger leaves them.
OBJECTS = 8
# As many buckets as weir makes at most, and a partition more than one in some of them.
PARTITIONS = 12
ADMIN_SECONDS_MAX = 60
# A consumer that gets nothing for so long will get nothing any more.
READ_SECONDS_MAX = 30


class Data:
    """Events of one size, generated once and kept in `cache`."""

    def __init__(self, cache, name, count, large):
        self.name, self.count, self.large = name, count, large
        self.folder = cache / f"events-{name}-{count}-{SEED}"
        facts = self.folder / "facts.json"
        if not facts.exists():
            self._generate(facts)
        known = orjson.loads(facts.read_bytes())
        self.raw_bytes = known["rawBytes"]
        self.last_ms = known["lastMs"]
        self.paths = sorted(self.folder.glob("*.jsonl.gz"))
        self.gzip_bytes = sum(path.stat().st_size for path in self.paths)

    def _generate(self, facts):
        self.folder.mkdir(parents=True, exist_ok=True)
        raw_bytes, written, each = 0, 0, -(-self.count // OBJECTS)
        stream, out = events(self.count, SEED, self.large), None
        for event in stream:
            if written % each == 0:
                if out:
                    out.close()
                out = gzip.open(self.folder / f"{written // each:03d}.jsonl.gz", "wb", compresslevel=6)
            line = orjson.dumps(event) + b"\n"
            raw_bytes += len(line)
            written += 1
            out.write(line)
        out.close()
        # Last, so that a generation that was cut off is begun again.
        facts.write_bytes(orjson.dumps({"rawBytes": raw_bytes, "lastMs": event["ts"]}))


class World:
    """A bucket and topics of this measurement's own, removed by `remove`."""

    def __init__(self, launcher):
        self.launcher = launcher
        self.bootstrap = os.environ["KAFKA_BOOTSTRAP"]
        self.endpoint = os.environ["AWS_ENDPOINT_URL"]
        self.region = os.environ.get("AWS_REGION", "us-east-1")
        self.key = (os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
        self.name = f"weir-bench-{uuid.uuid4().hex[:8]}"
        self.s3 = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=self.key[0],
            aws_secret_access_key=self.key[1],
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )
        self.admin = AdminClient({"bootstrap.servers": self.bootstrap})
        self.topics, self.numbers = [], itertools.count()
        self.s3.create_bucket(Bucket=self.name)
        # The operator makes it where there is one.
        self.topics.append(f"weir.{self.name}.progress")
        self._create_topic(self.topics[0], 1, {"cleanup.policy": "compact"})

    def service(self):
        """How weir reaches the S3 server."""
        return {"endpoint": self.endpoint, "region": self.region, "pathStyle": True}

    def upload(self, data):
        """Puts the events where weir reads them."""
        for path in data.paths:
            self.s3.upload_file(str(path), self.name, f"source/{data.name}/{path.name}")

    def upload_whole(self, data):
        """Puts all events as one object: gzip allows members behind each other."""
        with tempfile.TemporaryFile() as whole:
            for path in data.paths:
                with open(path, "rb") as part:
                    shutil.copyfileobj(part, whole)
            whole.seek(0)
            self.s3.upload_fileobj(whole, self.name, f"source/{data.name}-whole/all.jsonl.gz")

    def topic(self):
        """A new topic."""
        name = f"{self.name}-{next(self.numbers)}"
        self._create_topic(name, PARTITIONS, {"retention.ms": "-1"})
        self.topics.append(name)
        return name

    def _create_topic(self, name, partitions, config):
        topic = NewTopic(name, partitions, 1, config=config)
        self.admin.create_topics([topic], operation_timeout=ADMIN_SECONDS_MAX)[name].result(ADMIN_SECONDS_MAX)
        # The answer comes before every partition has a leader that knows it.
        deadline, consumer = time.monotonic() + ADMIN_SECONDS_MAX, self._consumer()
        for partition in range(partitions):
            while True:
                try:
                    consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=ADMIN_SECONDS_MAX)
                    break
                except KafkaException:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
        consumer.close()

    def _consumer(self, **settings):
        return Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": self.name,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                **settings,
            }
        )

    def put(self, key, body):
        """Puts an object."""
        self.s3.put_object(Bucket=self.name, Key=key, Body=body)

    def get(self, key):
        """An object's bytes."""
        return self.s3.get_object(Bucket=self.name, Key=key)["Body"].read()

    def stored(self, prefix):
        """Bytes of all objects below a prefix."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return sum(found["Size"] for page in pages for found in page.get("Contents", []))

    def read(self, topic, wanted, see):
        """Shows `see` all records of a topic, which must be `wanted`. Returns how many bytes its consumer received."""
        received = 0

        def statistics(text):
            nonlocal received
            received = sum(broker["rxbytes"] for broker in orjson.loads(text)["brokers"].values())

        consumer = self._consumer(**{"statistics.interval.ms": 200, "stats_cb": statistics})
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
        found, deadline = 0, time.monotonic() + READ_SECONDS_MAX
        while found < wanted and time.monotonic() < deadline:
            for message in consumer.consume(10_000, 1.0):
                if message.error():
                    raise KafkaException(message.error())
                found += 1
                see(message)
                deadline = time.monotonic() + READ_SECONDS_MAX
        # The last statistics come behind the last record.
        consumer.poll(0.5)
        consumer.close()
        if found != wanted:
            raise ValueError(f"topic {topic} has {found} records, not {wanted}")
        return received

    def drop_topic(self, name):
        """Deletes a topic, so that its bytes do not push others out of the page cache."""
        self.admin.delete_topics([name], operation_timeout=ADMIN_SECONDS_MAX)[name].result(ADMIN_SECONDS_MAX)
        self.topics.remove(name)

    def remove(self):
        """Removes everything that was made, older versions too."""
        for name in list(self.topics):
            self.drop_topic(name)
        for page in self.s3.get_paginator("list_object_versions").paginate(Bucket=self.name):
            for found in page.get("Versions", []) + page.get("DeleteMarkers", []):
                self.s3.delete_object(Bucket=self.name, Key=found["Key"], VersionId=found["VersionId"])
        self.s3.delete_bucket(Bucket=self.name)


def cache_folder():
    """Outside of the checkout."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(base) / "weir" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
