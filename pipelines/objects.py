"""Reads gs:// and s3:// objects, replaces them if unchanged, and transfers whole files.

Both stores can replace an object only if it still has the version that was read. A lease needs this
(`mswitch.pipelines.lease`). The stores' own clients transfer whole files; they retry, and upload
large files in parts.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.storage import (
    amazon_object,
    file_systems,
    find_innermost_reason,
    google_bucket,
    join,
)

#: Seconds for which Google's client retries; later, renewing a lease would be useless.
_RETRY_SECS = 20
_AMAZON_REQUEST_BYTES = 5 << 30


class ChangedError(Exception):
    """The object does not have the version that should be replaced."""


class BucketError(UserError):
    """A bucket cannot be reached or refuses a request, perhaps temporarily."""


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn errors of buckets' clients into a `BucketError` with one line.

    Raises:
        BucketError: the body raised an error, except those of `replace_version` and missing files.
    """
    try:
        yield
    except (BucketError, ChangedError, FileNotFoundError):
        raise
    except UserError as error:
        raise BucketError(str(error)) from error
    except Exception as error:  # each client library has errors of its own
        reason = find_innermost_reason(error) or type(error).__name__
        raise BucketError(
            f"cannot reach {url}: {reason}; check its name, your access and the network"
        ) from error


def check_url(url: str) -> None:
    """Check that a place in a bucket can be reached.

    Without credentials, Beam tries to list for minutes; clients that read fail at once.
    """
    if not url.startswith(("gs://", "s3://")):
        raise UserError(f"{url} is not a bucket that can be written to: give gs:// or s3://")
    file_systems(url)
    read_version(join(url, "config.json"))


def read_version(url: str) -> tuple[bytes, str] | None:
    """Return an object's content and version, or None if it does not exist."""
    with reaching(url):
        if url.startswith("gs://"):
            from google.api_core.exceptions import NotFound

            bucket, name = google_bucket(url)
            if (blob := bucket.get_blob(name)) is None:
                return None
            version = str(blob.generation)
            try:
                return blob.download_as_bytes(), version
            except NotFound:  # the object was removed after its version was read
                return None
        client, place = amazon_object(url)
        try:
            answer = client.get_object(**place)
        except client.exceptions.NoSuchKey:
            return None
        return answer["Body"].read(), answer["ETag"]


def replace_version(url: str, data: bytes, version: str | None) -> str:
    """Write an object only if its version is still `version` (None: only if there is no object).

    `version` comes from `read_version` or this function, which returns the new version. On s3://
    the version is a hash of the content.

    Raises:
        ChangedError: the object has another version.
    """
    with reaching(url):
        if url.startswith("gs://"):
            from google.api_core.exceptions import PreconditionFailed
            from google.cloud.storage.retry import DEFAULT_RETRY

            bucket, name = google_bucket(url)
            blob = bucket.blob(name)
            try:
                blob.upload_from_string(
                    data,
                    if_generation_match=int(version or 0),
                    retry=DEFAULT_RETRY.with_timeout(_RETRY_SECS),
                    timeout=_RETRY_SECS,
                )
            except PreconditionFailed as error:
                raise ChangedError(url) from error
            return str(blob.generation)
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        return _put_amazon(url, data, **condition)


def _put_amazon(url: str, body: bytes | BinaryIO, **condition: str) -> str:
    from botocore.exceptions import ClientError

    client, place = amazon_object(url)
    try:
        return client.put_object(**place, Body=body, **condition)["ETag"]
    except ClientError as error:
        # 409: another conditional write was under way; 404: the object is gone.
        if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412) or (
            "IfMatch" in condition and error.response["Error"]["Code"] == "NoSuchKey"
        ):
            raise ChangedError(url) from error
        raise


def upload(path: Path, url: str) -> None:
    """Upload the present content of a file to an object, even if the file grows meanwhile."""
    with reaching(url):
        if url.startswith("gs://"):
            bucket, name = google_bucket(url)
            bucket.blob(name).upload_from_filename(str(path))
        else:
            client, place = amazon_object(url)
            client.upload_file(str(path), place["Bucket"], place["Key"])


def create(path: Path, url: str) -> None:
    """Upload a complete file to an object that does not exist yet.

    On s3://, a file of more than 5 GiB needs several requests, and replaces an existing object.

    Raises:
        ChangedError: the object exists.
    """
    with reaching(url):
        if url.startswith("gs://"):
            from google.api_core.exceptions import PreconditionFailed

            bucket, name = google_bucket(url)
            try:
                bucket.blob(name).upload_from_filename(str(path), if_generation_match=0)
            except PreconditionFailed as error:
                raise ChangedError(url) from error
        elif path.stat().st_size > _AMAZON_REQUEST_BYTES:
            upload(path, url)
        else:
            with path.open("rb") as body:
                _put_amazon(url, body, IfNoneMatch="*")


def download(url: str, path: Path) -> None:
    """Download an object to a file; the file's directory must exist."""
    with reaching(url):
        if url.startswith("gs://"):
            bucket, name = google_bucket(url)
            bucket.blob(name).download_to_filename(str(path))
        else:
            client, place = amazon_object(url)
            client.download_file(place["Bucket"], place["Key"], str(path))
