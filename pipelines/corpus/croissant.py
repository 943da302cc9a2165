"""Croissant metadata: a corpus described for machines, as JSON-LD.

The format is that of docs.mlcommons.org/croissant, version 1.0, which every reader knows. What
only a publisher can say (URL, creator, date, licence) is left out.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from mswitch.pipelines.records import COLUMN_MEANINGS, SPLITS

_CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
_PARQUET = "application/x-parquet"

#: Finds the split in a shard's path, and in a split: `mlcroissant` applies it to its own outcome.
_SPLIT_PATTERN = "(?:.*/)?({})(?:-(?:added-[0-9]+-)?[0-9]+-of-[0-9]+[.]parquet)?$"

_NAMES = (
    "citeAs column dataBiases dataCollection equivalentProperty extract field fileObject "
    "fileProperty fileSet format includes isLiveDataset jsonPath key md5 parentField path "
    "personalSensitiveInformation recordSet references regex repeated replace samplingRate "
    "separator source subField transform"
)
_CONTEXT_BESIDES = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}
#: The context that the specification prescribes.
_CONTEXT = dict(
    sorted({**{name: f"cr:{name}" for name in _NAMES.split()}, **_CONTEXT_BESIDES}.items())
)


def croissant(
    description: str,
    shards: Sequence[Mapping[str, Any]],
    langs: Sequence[str],
    schema: pa.Schema,
) -> str:
    """Return the text of `croissant.json`.

    Args:
        description: what the data set is, in a line.
        shards: path, bytes and sha256 of every shard, as in manifest.json.
        langs: ISO 639 codes.
        schema: columns of the shards.
    """
    document = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": "mswitch-corpus",
        "description": description,
        "conformsTo": _CONFORMS_TO,
        "inLanguage": list(langs),
        "distribution": [
            {
                "@type": "cr:FileSet",
                "@id": "shards",
                "description": "All shards, whatever their language and split.",
                "encodingFormat": _PARQUET,
                "includes": "data/*/*.parquet",
            },
            *map(_file_object, shards),
        ],
        "recordSet": [_splits(), _documents(schema)],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _file_object(shard: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": shard["path"],
        "contentUrl": shard["path"],
        "contentSize": f"{shard['bytes']} B",
        "encodingFormat": _PARQUET,
        "sha256": shard["sha256"],
    }


def _splits() -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [{"@type": "cr:Field", "@id": "splits/name", "dataType": "sc:Text"}],
        "data": [{"splits/name": split} for split in SPLITS],
    }


def _documents(schema: pa.Schema) -> dict[str, Any]:
    split = {
        "@type": "cr:Field",
        "@id": "documents/split",
        "description": "train or validation, from the name of the file",
        "dataType": "sc:Text",
        "references": {"field": {"@id": "splits/name"}},
        "source": {
            "fileSet": {"@id": "shards"},
            "extract": {"fileProperty": "fullpath"},
            "transform": {"regex": _SPLIT_PATTERN.format("|".join(SPLITS))},
        },
    }
    return {
        "@type": "cr:RecordSet",
        "@id": "documents",
        "description": "One record per document.",
        "key": {"@id": "documents/id"},
        "field": [split, *map(_field, schema)],
    }


def _field(column: pa.Field) -> dict[str, Any]:
    field: dict[str, Any] = {
        "@type": "cr:Field",
        "@id": f"documents/{column.name}",
        "dataType": _data_type(column.type),
        "source": {"fileSet": {"@id": "shards"}, "extract": {"column": column.name}},
    }
    if column.name in COLUMN_MEANINGS:
        field["description"] = COLUMN_MEANINGS[column.name]
    if pa.types.is_list(column.type):
        field["repeated"] = True
    return field


def _data_type(kind: pa.DataType) -> str:
    """Return Croissant's name of an Arrow type; of a list, that of its items."""
    if pa.types.is_list(kind):
        return _data_type(kind.value_type)
    for matches, name in (
        (pa.types.is_boolean, "sc:Boolean"),
        (pa.types.is_integer, "sc:Integer"),
        (pa.types.is_floating, "sc:Float"),
        (pa.types.is_string, "sc:Text"),
    ):
        if matches(kind):
            return name
    raise TypeError(f"Croissant metadata knows no name for columns of type {kind}")
