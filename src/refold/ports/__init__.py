"""What the engine asks of the world: streams, codecs and stores. Adapters implement these."""

from refold.ports.codec import Codec, PayloadDecoder
from refold.ports.events import (
    AggregateIndexer,
    EventReader,
    EventSource,
    PublishAck,
    RawBatch,
    RawMessage,
    StreamPublisher,
    StreamReader,
    StreamState,
)
from refold.ports.views import (
    Condition,
    GenerationWriter,
    Operator,
    Order,
    Page,
    SeenRow,
    ViewRepository,
    ViewStore,
)

__all__ = [
    "AggregateIndexer",
    "Codec",
    "Condition",
    "EventReader",
    "EventSource",
    "GenerationWriter",
    "Operator",
    "Order",
    "Page",
    "PayloadDecoder",
    "PublishAck",
    "RawBatch",
    "RawMessage",
    "SeenRow",
    "StreamPublisher",
    "StreamReader",
    "StreamState",
    "ViewRepository",
    "ViewStore",
]
