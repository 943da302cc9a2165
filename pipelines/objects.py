"""Objects of gs:// and s3:// by version and as whole files, as `storage` does not give them.

Both stores replace an object on the condition that it is still the version that was read. That is
what a lease needs (`mswitch.pipelines.lease`). Whole files go through the stores' own clients,
which send large ones in parts and try again.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.storage import (
    amazon_object,
    file_systems,
    google_bucket,
    innermost_reason,
    join,
)

#: Seconds that Google's client tries again for; a lease is renewed in time or lost.
_RETRY_SECS = 20
#: What Amazon takes in one request.
_AMAZON_REQUEST_BYTES = 5 << 30


class ChangedError(Exception):
    """The object is not the version that was to be replaced."""


class BucketError(UserError):
    """A bucket cannot be reached, or refuses; later it may not."""


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """Make one error in one line of all that clients of buckets raise.

    Raises:
        BucketError: any other was raised, but for those of `replace_version` and of missing files.
    """
    try:
        yield
    except (BucketError, ChangedError, FileNotFoundError):
        raise
    except UserError as error:
        raise BucketError(str(error)) from error
    except Exception as error:  # each client raises others
        reason = innermost_reason(error) or type(error).__name__
        raise BucketError(
            f"cannot reach {url}: {reason}; check its name, your access and the network"
        ) from error


def check_url(url: str) -> None:
    """Check that a place in a bucket can be reached.

    Beam tries for minutes to list without credentials: clients that read say so at once.
    """
    if not url.startswith(("gs://", "s3://")):
        raise UserError(f"{url} is not a bucket that can be written to: give gs:// or s3://")
    file_systems(url)
    read_version(join(url, "config.json"))


def read_version(url: str) -> tuple[bytes, str] | None:
    """Return an object's content and its version; None if there is no such object."""
    with reaching(url):
        if url.startswith("gs://"):
            from google.api_core.exceptions import NotFound

            bucket, name = google_bucket(url)
            if (blob := bucket.get_blob(name)) is None:
                return None
            version = str(blob.generation)
            try:
                return blob.download_as_bytes(), version
            except NotFound:  # removed in between
                return None
        client, place = amazon_object(url)
        try:
            found = client.get_object(**place)
        except client.exceptions.NoSuchKey:
            return None
        return found["Body"].read(), found["ETag"]


def replace_version(url: str, data: bytes, version: str | None) -> str:
    """Write an object if it is still of this version, or, for None, not there.

    Args:
        url: of the object.
        data: its content; on s3:// the version is a hash of it.
        version: what `read_version` or this function returned.

    Returns:
        The new version.

    Raises:
        ChangedError: it is of another version.
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
        return _amazon_put(url, data, **condition)


def _amazon_put(url: str, body: bytes | BinaryIO, **condition: str) -> str:
    """Write an object on a condition; give its new version."""
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
    """Make an object of a file, which may grow meanwhile: what it holds now is sent."""
    with reaching(url):
        if url.startswith("gs://"):
            bucket, name = google_bucket(url)
            bucket.blob(name).upload_from_filename(str(path))
        else:
            client, place = amazon_object(url)
            client.upload_file(str(path), place["Bucket"], place["Key"])


def create(path: Path, url: str) -> None:
    """Make an object of a complete file, if there is no such object.

    On s3:// a file of more than 5 GiB, which takes several requests, replaces what is there.

    Raises:
        ChangedError: there is one.
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
                _amazon_put(url, body, IfNoneMatch="*")


def download(url: str, path: Path) -> None:
    """Make a file of an object; its directory must exist."""
    with reaching(url):
        if url.startswith("gs://"):
            bucket, name = google_bucket(url)
            bucket.blob(name).download_to_filename(str(path))
        else:
            client, place = amazon_object(url)
            client.download_file(place["Bucket"], place["Key"], str(path))
