"""The wire format, version 1: message objects to bytes and back. No sockets, no clocks.

In: message objects, or a topic and a body from anyone. Out: bytes, or checked message objects, or one `WireError`.
Must hold: no NaN on the wire, and foreign bytes raise nothing but `WireError`. WIRE.md is the specification.
"""

from rtskel.errors import WireError as WireError
from rtskel.flags import Flag as Flag
from rtskel.wire.codec import decode as decode
from rtskel.wire.codec import decode_answer as decode_answer
from rtskel.wire.codec import encode as encode
from rtskel.wire.codec import streams_of as streams_of
from rtskel.wire.fields import MAX_BODY as MAX_BODY
from rtskel.wire.fields import MAX_COUNT as MAX_COUNT
from rtskel.wire.fields import MAX_ELEMENTS as MAX_ELEMENTS
from rtskel.wire.fields import MAX_FPS as MAX_FPS
from rtskel.wire.fields import MAX_JOINTS as MAX_JOINTS
from rtskel.wire.fields import MAX_SIDE as MAX_SIDE
from rtskel.wire.fields import MAX_SPAN_S as MAX_SPAN_S
from rtskel.wire.fields import MAX_TEXT as MAX_TEXT
from rtskel.wire.fields import MAX_TIME as MAX_TIME
from rtskel.wire.fields import MIN_FPS as MIN_FPS
from rtskel.wire.fields import VERSION as VERSION
from rtskel.wire.fields import clean_joints as clean_joints
from rtskel.wire.messages import F32 as F32
from rtskel.wire.messages import I64 as I64
from rtskel.wire.messages import ROW as ROW
from rtskel.wire.messages import About as About
from rtskel.wire.messages import Event as Event
from rtskel.wire.messages import Heartbeat as Heartbeat
from rtskel.wire.messages import Message as Message
from rtskel.wire.messages import RawBatch as RawBatch
from rtskel.wire.messages import RawPose as RawPose
from rtskel.wire.messages import RefinedBatch as RefinedBatch
from rtskel.wire.messages import RefinedPose as RefinedPose
from rtskel.wire.messages import Source as Source
from rtskel.wire.messages import StreamEnd as StreamEnd
from rtskel.wire.messages import Sync as Sync
from rtskel.wire.messages import Taken as Taken
from rtskel.wire.shards import SHARDS_PREFIX as SHARDS_PREFIX
from rtskel.wire.shards import choose as choose
from rtskel.wire.shards import reached as reached
from rtskel.wire.shards import shard_names as shard_names
from rtskel.wire.shards import shards_topic as shards_topic
from rtskel.wire.shards import told_shards as told_shards
from rtskel.wire.templates import RawTemplate as RawTemplate
from rtskel.wire.templates import RefinedBatchEncoder as RefinedBatchEncoder
from rtskel.wire.templates import RefinedEncoder as RefinedEncoder
from rtskel.wire.templates import raw_template as raw_template
from rtskel.wire.topics import AGAIN_PREFIX as AGAIN_PREFIX
from rtskel.wire.topics import EVENT_PREFIX as EVENT_PREFIX
from rtskel.wire.topics import HEARTBEAT_TOPIC as HEARTBEAT_TOPIC
from rtskel.wire.topics import RAW_BATCH_PREFIX as RAW_BATCH_PREFIX
from rtskel.wire.topics import RAW_ENDPOINT as RAW_ENDPOINT
from rtskel.wire.topics import RAW_PREFIX as RAW_PREFIX
from rtskel.wire.topics import REFINED_BATCH_PREFIX as REFINED_BATCH_PREFIX
from rtskel.wire.topics import REFINED_ENDPOINT as REFINED_ENDPOINT
from rtskel.wire.topics import REFINED_PREFIX as REFINED_PREFIX
from rtskel.wire.topics import SYNC_TOPIC as SYNC_TOPIC
from rtskel.wire.topics import TAKEN_TOPIC as TAKEN_TOPIC
from rtskel.wire.topics import again_topic as again_topic
from rtskel.wire.topics import asked_again as asked_again
from rtskel.wire.topics import event_topic as event_topic
from rtskel.wire.topics import raw_batch_topic as raw_batch_topic
from rtskel.wire.topics import raw_topic as raw_topic
from rtskel.wire.topics import refined_batch_topic as refined_batch_topic
from rtskel.wire.topics import refined_topic as refined_topic
from rtskel.wire.topics import stream_of as stream_of
