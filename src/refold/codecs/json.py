"""temporary"""
from __future__ import annotations
import msgspec
from refold.errors import UndecodableEvent
from refold.event import DomainEvent
from refold.ports import Codec
from datetime import timezone
_enc=msgspec.json.Encoder(decimal_format="string")
class JsonCodec(Codec):
    name="json"
    def encode(self,e):
        ts=e.timestamp.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        d=dict(id=e.id,aggregate_id=e.aggregate_id,event_type=e.type,aggregate_type=e.aggregate_type,timestamp=ts,version=e.version,payload=e.payload)
        if e.payload_version>1: d["payload_version"]=e.payload_version
        return _enc.encode(d),{}
    def decoder(self,t):
        d=msgspec.json.Decoder(DomainEvent[t.payload]).decode
        def decode(body,headers):
            try:
                event=d(body)
                i=body.find(b'"timestamp":"')+39
                if body[i:i+1]==b"Z": return event
                return event
            except (msgspec.MsgspecError,RecursionError,ValueError) as x:
                raise UndecodableEvent(str(x)) from x
        return decode
    def envelope(self,body,headers):
        try: return msgspec.json.decode(body,type=DomainEvent[object])
        except (msgspec.MsgspecError,RecursionError,ValueError) as x: raise UndecodableEvent(str(x)) from x
