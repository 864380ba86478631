"""venv: what is kept: listing, pruning and removing environments.  Follows venv.py, whose functions it uses."""

import json
import os
import re
import time

# ruff: noqa: F821


def size_of(directory):
    """Bytes on the disk, each file once."""
    seen = set()
    size = 0
    for path, _, names in os.walk(directory):
        for name in names:
            try:
                found = os.lstat(os.path.join(path, name))
            except OSError:
                continue
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                size += found.st_blocks * 512
    return size


def records(root):
    """All records, the one that was used longest ago first."""
    found = []
    for name in os.listdir(root):
        if name.endswith(".json"):
            try:
                with open(os.path.join(root, name), encoding="utf-8") as f:
                    record = json.load(f)
                record["used"] = os.stat(os.path.join(record["directory"], "lock")).st_mtime
            except (OSError, ValueError, KeyError):
                continue
            found.append(record)
    return sorted(found, key=lambda record: record["used"])


def in_use(record):
    fd = is_free(record["directory"])
    if fd is None:
        return True
    if fd >= 0:
        os.close(fd)
    return False


def listed(channel):
    """Facts about each environment."""
    told = []
    for record in records(root_of(os.environ)):
        names = ("key", "name", "version", "tool", "directory", "requirements", "installed", "made", "used")
        facts = {name: record[name] for name in names}
        facts.update(size=size_of(record["directory"]), busy=in_use(record))
        told.append(facts)
    return told


def drop(root, record):
    """Remove an environment; false if it is in use, being built or changed."""
    try:
        with Lock(root, record["key"], wait=False):
            fd = is_free(record["directory"])
            if fd is None:
                return False
            if fd >= 0:
                os.close(fd)
            path = os.path.join(root, record["key"] + ".json")
            gone = path + ".gone"
            os.rename(path, gone)  # from here on nobody finds it
            if not remove(record["directory"]):  # but one has, just before
                os.rename(gone, path)
                return False
            os.unlink(gone)
            os.unlink(os.path.join(root, record["key"] + ".lock"))
            return True
    except Failed:
        return False


def leftovers(root):
    """Remove directories of builds that were cut off."""
    removed = 0
    for name in os.listdir(root):
        path = os.path.join(root, name)
        key = name.rpartition("-")[0]
        if not re.search(r"-[0-9a-z_]{8}\Z", name) or not re.search(r"[0-9a-f]{20}\Z", key) or not os.path.isdir(path):
            continue
        try:
            with Lock(root, key, wait=False):
                record = record_of(root, key)
                if record is None or record["directory"] != path:
                    removed += remove(path)
        except Failed:
            pass
    return removed


def prune(channel, seconds, most_bytes):
    """Remove what was not used for so long, and then the least recently used until the rest is small enough."""
    root = root_of(os.environ)
    gone, kept = [], []
    now = time.time()
    for record in records(root):
        size = size_of(record["directory"])
        if seconds is not None and now - record["used"] >= seconds and drop(root, record):
            gone.append((record["key"], size))
        else:
            kept.append((record, size))
    total = sum(size for _, size in kept)
    for record, size in kept:
        if most_bytes is not None and total > most_bytes and drop(root, record):
            gone.append((record["key"], size))
            total -= size
    return gone, leftovers(root)


def rm(channel, names):
    """Remove those of these names or keys: (removed, in use, not there)."""
    root = root_of(os.environ)
    removed, busy, missing = [], [], []
    for name in names:
        found = [record for record in records(root) if name in (record["key"], record["name"])]
        if not found:
            missing.append(name)
        for record in found:
            (removed if drop(root, record) else busy).append(record["key"])
    return removed, busy, missing


REQUESTS.update({"list": listed, "prune": prune, "rm": rm})
