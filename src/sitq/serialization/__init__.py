"""Calls, values and errors as bytes: the usual pickles, other formats, and what may stand around them."""

from sitq.serialization.about import About, CallParts, Purpose, Serializer
from sitq.serialization.child import from_parent, to_child
from sitq.serialization.codec import Codec, make_codec
from sitq.serialization.compressed import Compressed
from sitq.serialization.encrypted import Encrypted
from sitq.serialization.envelope import pack, unpack
from sitq.serialization.formats import JSONSerializer, MsgpackSerializer, TreeSerializer
from sitq.serialization.pickles import (
    CloudpickleSerializer,
    decode_call,
    decode_value,
    encode_call,
    encode_value,
)
from sitq.serialization.signed import Signed
from sitq.serialization.versioned import OldPayload, Upcaster, Versioned
from sitq.serialization.wrapper import Wrapper

__all__ = [
    "About",
    "CallParts",
    "CloudpickleSerializer",
    "Codec",
    "Compressed",
    "Encrypted",
    "JSONSerializer",
    "MsgpackSerializer",
    "OldPayload",
    "Purpose",
    "Serializer",
    "Signed",
    "TreeSerializer",
    "Upcaster",
    "Versioned",
    "Wrapper",
    "decode_call",
    "decode_value",
    "encode_call",
    "encode_value",
    "from_parent",
    "make_codec",
    "pack",
    "to_child",
    "unpack",
]
